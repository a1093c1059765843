"""Files that are read by a parser, and whether it was the storage that failed or what it holds."""

import weakref
from typing import Self

from pyarrow import fs

from stages.sources.files import open_file


class WatchedFile:
    """A file open for reading that remembers the error of its storage; `pyarrow` takes it for a file.

    pyarrow raises OSError for damaged bytes as well: where `failed` is None, the storage is well.
    """

    mode = "rb"

    def __init__(self, filesystem: fs.FileSystem, path: str) -> None:
        """Raises: as `open_file`."""
        self._file = open_file(filesystem, path)
        self.failed: OSError | None = None
        # Whoever decodes a row group by and by keeps it open, and forgets it at the end.
        weakref.finalize(self, self._file.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        return bool(self._file.closed)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def read(self, size: int = -1) -> bytes:
        try:
            data: bytes = self._file.read(size)
        except OSError as error:
            self.failed = error
            raise
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        place: int = self._file.seek(offset, whence)
        return place

    def tell(self) -> int:
        place: int = self._file.tell()
        return place

    def flush(self) -> None:
        """Nothing is written."""

    def close(self) -> None:
        self._file.close()
