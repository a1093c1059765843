"""Objects of lists by HTTP and HTTPS, from any server, of which none is trusted."""

import os
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from stages.background import Background
from stages.sources.config import SourceConfig, SourceRun
from stages.sources.outcome import Outcome

if TYPE_CHECKING:
    from stages.sources.http_fetch import Fetcher
    from stages.sources.http_network import Edge


class HttpReader:
    """Fetches what URLs name, many at a time, over connections that are kept.

    Several threads may call it at once: the requests of all share the connections and the limits. A URL
    never leads to an address that is not public unless `config.allow_private`: whatever its spelling, what
    its name means, or where a redirect points. `edge`: for another network than this machine's.
    """

    def __init__(self, config: SourceConfig, run: SourceRun, edge: "Edge | None" = None) -> None:
        self._config, self._run, self._edge = config, run, edge
        self._lock = threading.Lock()
        self._started: tuple[int, Background, Fetcher] | None = None

    def read(self, urls: Sequence[str]) -> list[Outcome]:
        """In the order of the URLs. What a server, its name or its certificate fails at is `missing` with the
        reason: a dead host is data. Raises OSError where this machine itself cannot connect.
        """
        if not urls:
            return []
        background, fetcher = self._start()
        return background.run(fetcher.fetch_all(urls))

    def close(self) -> None:
        """Ends the connections. A reader that is forgotten closes itself, but some time later."""
        with self._lock:
            if self._started is not None and self._started[0] == os.getpid():
                self._started[1].close()
            self._started = None

    def _start(self) -> "tuple[Background, Fetcher]":
        """On first use: importing the client takes 0.1 s, and a list may hold no URL. And in a forked process
        again, which has none of its parent's threads.
        """
        from stages.sources.http_fetch import Fetcher
        from stages.sources.http_network import Edge

        with self._lock:
            if self._started is None or self._started[0] != os.getpid():
                config = self._config
                edge = self._edge or Edge()
                fetcher = Fetcher(self._run.http, config.max_bytes, config.allow_private, edge)
                self._started = os.getpid(), Background(fetcher.close), fetcher
            return self._started[1:]
