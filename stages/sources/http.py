"""Objects of lists by HTTP and HTTPS, from any server, of which none is trusted."""

import os
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from stages.background import Background
from stages.sources.config import HttpRun, SourceConfig, SourceRun
from stages.sources.outcome import Outcome

if TYPE_CHECKING:
    from stages.sources.http_network import Edge


class HttpReader:
    """Fetches what URLs name, many at a time, over connections that are kept.

    Several threads may call it at once: the requests of all share the connections and the limits, also those
    of other readers of this process. A URL never leads to an address that is not public unless
    `config.allow_private`: whatever its spelling, what its name means, or where a redirect points. `edge`:
    for another network than this machine's.
    """

    def __init__(self, config: SourceConfig, run: SourceRun, edge: "Edge | None" = None) -> None:
        self._key = run.http, config.max_bytes, config.allow_private, edge
        self._client: _Client | None = None

    def read(self, urls: Sequence[str]) -> list[Outcome]:
        """In the order of the URLs. What a server, its name or its certificate fails at is `missing` with the
        reason: a dead host is data. Raises OSError where this machine itself cannot connect.
        """
        if not urls:
            return []
        client = self._client
        if client is None or client.process != os.getpid():  # a forked process has no thread of its parent's
            client = self._client = _shared_client(*self._key)
        return client.read(urls)


class _Client:
    """The connections of a process. One that is forgotten closes itself, some time later."""

    def __init__(self, run: HttpRun, max_bytes: int, allow_private: bool, edge: "Edge | None") -> None:
        # On first use: importing the client takes 0.1 s, and a list may hold no URL.
        from stages.sources.http_fetch import Fetcher
        from stages.sources.http_network import Edge

        self.process = os.getpid()
        self._fetcher = Fetcher(run, max_bytes, allow_private, edge or Edge())
        self._background = Background(self._fetcher.close)

    def read(self, urls: Sequence[str]) -> list[Outcome]:
        return self._background.run(self._fetcher.fetch_all(urls))


_lock = threading.Lock()
_clients: WeakValueDictionary[tuple[object, ...], _Client] = WeakValueDictionary()


def _shared_client(run: HttpRun, max_bytes: int, allow_private: bool, edge: "Edge | None") -> _Client:
    """Each of several shards in flight has a reader, and all together keep the limits of the run."""
    with _lock:
        key = (os.getpid(), run, max_bytes, allow_private, edge)
        client = _clients.get(key)
        if client is None:
            client = _clients[key] = _Client(run, max_bytes, allow_private, edge)
        return client
