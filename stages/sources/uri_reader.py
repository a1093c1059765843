"""Files of which only the URI is known: local, in buckets, or behind http(s)."""

import os
import posixpath
import re
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote, urlsplit

from stages.sources.config import SourceConfig, SourceRun
from stages.sources.containers import container_store
from stages.sources.files import open_file, path_below
from stages.sources.outcome import Outcome, judged, missing, too_large
from stages.stores import Store, open_store

if TYPE_CHECKING:
    from stages.sources.http import HttpReader

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_HTTP = ("http", "https")
_DENIED = ("ACCESS_DENIED", "PERMISSION_DENIED")  # all that pyarrow tells of a bucket that refuses


class Target(NamedTuple):
    """A file in a store; `path` as its file system has it."""

    store: Store
    path: str


def scheme_of(uri: str) -> str:
    """In lower case; empty for a path."""
    found = _SCHEME.match(uri)
    return found.group(1).lower() if found else ""


def is_http(uri: str) -> bool:
    return scheme_of(uri) in _HTTP


class UriReader:
    """Reads URIs, each by its scheme; several threads may call it at once.

    Paths are relative to `config.root`, else to the folder of the source, and do not lead out of it; absolute
    paths and URIs lead where they say. Raises OSError where a storage itself fails.
    """

    def __init__(self, config: SourceConfig, run: SourceRun) -> None:
        """Raises: ValueError for a location that no file system is known for."""
        self._config, self._run = config, run
        self.root = container_store(config.path) if config.root is None else open_store(config.root)
        self._lock = threading.Lock()
        self._reader: HttpReader | None = None

    def read(self, uris: Sequence[str], root: Store | None = None) -> list[Outcome]:
        """In the order of the URIs. `root`: what paths are relative to, instead of that of the source."""
        outcomes: dict[int, Outcome] = {}
        remote = [number for number, uri in enumerate(uris) if is_http(uri)]
        others = [number for number, uri in enumerate(uris) if not is_http(uri)]
        with ThreadPoolExecutor(self._run.threads) as pool:
            found = pool.map(lambda number: self._read_file(uris[number], root), others)
            outcomes |= zip(remote, self._read_http([uris[number] for number in remote]), strict=True)
            outcomes |= zip(others, found, strict=True)
        return [outcomes[number] for number in range(len(uris))]

    def locate(self, uri: str, root: Store | None = None) -> Target | Outcome:
        """Where a URI that is not http(s) leads; or why nowhere."""
        if "\0" in uri:
            return missing("the URI names no file")
        scheme, root = scheme_of(uri), root or self.root
        if not scheme:
            return Target(root, uri) if root.is_local and uri.startswith("/") else _below(root, uri)
        if scheme == "file":
            parts = urlsplit(uri)
            if parts.netloc not in ("", "localhost"):
                return missing(f"file://{parts.netloc} is another machine")
            return Target(_LOCAL, unquote(parts.path))
        return self._in_bucket(scheme, uri)

    def _in_bucket(self, scheme: str, uri: str) -> Target | Outcome:
        place, mark, options = uri[len(scheme) + 3 :].partition("?")
        bucket, _, key = place.partition("/")
        if not bucket or not key or key.endswith("/"):
            return missing("the URI names no file")
        try:
            store = open_store(f"{scheme}://{bucket}{mark}{options}")
        except ValueError as error:
            return missing(_line(error))
        except OSError as error:
            if "not found" not in str(error):
                raise
            return missing(f"there is no bucket {bucket}")  # where its region has to be asked for
        return Target(store, store.path(unquote(key)))

    def local_path(self, uri: str) -> str | None:
        """Where a URI leads on this machine's disk; None where it leads elsewhere, or nowhere."""
        if scheme_of(uri) not in ("", "file"):
            return None
        target = self.locate(uri)
        return target.path if isinstance(target, Target) and target.store.is_local else None

    def _read_http(self, urls: Sequence[str]) -> list[Outcome]:
        if not self._config.allow_http:
            return [missing("http(s) is not allowed: source.allow_http=true allows it")] * len(urls)
        return self._http().read(urls) if urls else []

    def _http(self) -> "HttpReader":
        """Made when it is needed: its client takes a while to import."""
        from stages.sources.http import HttpReader

        with self._lock:
            if self._reader is None:
                self._reader = HttpReader(self._config, self._run)
            return self._reader

    def _read_file(self, uri: str, root: Store | None) -> Outcome:
        target = self.locate(uri, root)
        if isinstance(target, Outcome):
            return target
        try:
            with open_file(target.store.filesystem, target.path) as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(0)
                limit = self._config.max_bytes
                return judged(file.read()) if size <= limit else too_large(limit)
        except (FileNotFoundError, NotADirectoryError):
            return missing("the file is not there")
        except PermissionError:
            return missing("the file may not be read")
        except ValueError as error:  # a bucket's path with an empty part
            return missing(f"the URI names no file: {_line(error)}")
        except OSError as error:
            if any(sign in str(error) for sign in _DENIED):
                return missing("the file may not be read")
            raise


_LOCAL = open_store("/")


def _below(store: Store, name: str) -> Target | Outcome:
    path = path_below(store, name)
    return missing("the path leads out of the source folder") if path is None else Target(store, path)


def parent_of(store: Store, name: str) -> Store:
    """The folder of a file as a store."""
    return Store(store.filesystem, posixpath.dirname(store.path(name)))


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
