"""File systems by location: a local path, or the URI of a bucket."""

import os
from typing import NamedTuple

from pyarrow import fs


class Store(NamedTuple):
    """A file system, and the path of a location in it, without a slash at its end."""

    filesystem: fs.FileSystem
    root: str

    @property
    def is_local(self) -> bool:
        return isinstance(self.filesystem, fs.LocalFileSystem)

    def path(self, name: str) -> str:
        return f"{self.root}/{name}"


def open_store(location: str) -> Store:
    """Raises: ValueError for a URI that no file system is known for."""
    if "://" not in location:
        return Store(fs.LocalFileSystem(), os.path.abspath(os.path.expanduser(location)))
    filesystem, root = fs.FileSystem.from_uri(location)
    return Store(filesystem, root.rstrip("/"))


def is_remote(location: str) -> bool:
    """Whether every file of it comes over a network."""
    return "://" in location and not location.startswith("file://")
