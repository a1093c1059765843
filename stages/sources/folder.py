"""A source that is a folder of image files, on a disk or in a bucket."""

import os
import posixpath
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice

import pyarrow as pa
from pyarrow import fs

from stages.codecs.header import sniff
from stages.sources.config import EXTENSIONS, SourceConfig, SourceRun
from stages.sources.files import File, is_hidden, open_file, path_below, walk
from stages.sources.listing import found_rows
from stages.sources.outcome import Outcome, judged, missing, too_large, with_outcomes
from stages.stores import Store, open_store, says_not_found

_BATCH = 1 << 14  # files listed before they become Arrow
_SNIFFED = 32  # bytes that `sniff` needs
_SNIFFERS = 16  # files that are looked into at a time: a bucket takes 10 to 100 ms for each


def list_folder(store: Store, extensions: tuple[str, ...] = EXTENSIONS) -> Iterator[pa.Table]:
    """The image files below a folder, schema `FOUND`, in no order.

    A file with an image extension counts whatever it holds, so that a broken one becomes a row with
    a reason; one without an extension counts if its first bytes are an image's; hidden files and
    folders do not count, and no link is followed out of the root. Raises FileNotFoundError and
    NotADirectoryError for the root.
    """
    kind = store.filesystem.get_file_info(store.root).type
    if kind == fs.FileType.NotFound:
        raise FileNotFoundError(f"source folder {store.root} does not exist")
    if kind != fs.FileType.Directory:
        raise NotADirectoryError(f"source folder {store.root} is not a folder")
    return filter(len, map(partial(_images, store, extensions), _batches(walk(store))))


def _batches(files: Iterator[File]) -> Iterator[list[File]]:
    # In Arrow a file takes 30 to 130 bytes, as Python objects 800.
    return iter(lambda: list(islice(files, _BATCH)), [])


def _images(store: Store, extensions: tuple[str, ...], files: list[File]) -> pa.Table:
    seen = [file for file in files if not is_hidden(file.name)]
    named = [file for file in seen if _extension(file) in extensions]
    bare = [file for file in seen if not _extension(file)]
    if bare:
        paths = [store.path(file.name) for file in bare]
        with ThreadPoolExecutor(_SNIFFERS) as pool:
            images = pool.map(partial(_is_image, store.filesystem), paths)
            named += [file for file, is_image in zip(bare, images, strict=True) if is_image]
    return _table(named)


def _extension(file: File) -> str:
    return posixpath.splitext(posixpath.basename(file.name))[1].lower()


def _table(files: list[File]) -> pa.Table:
    uris, sizes, times = zip(*files, strict=True) if files else ((), (), ())
    return found_rows(uri=uris, size=sizes, mtime_ns=times)


def _is_image(filesystem: fs.FileSystem, path: str) -> bool:
    try:
        with open_file(filesystem, path) as file:
            return sniff(file.read(_SNIFFED)) is not None
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return False


class ReadFolder:
    """(image_id, uri, size, mtime_ns) -> the same columns + bytes (large_binary), status, error.

    Status: `ok`, `missing`, `empty`, or `too_large`; the bytes are null where it is not `ok`. A path
    that leads out of the folder is `missing`. Raises OSError where the storage itself fails: what
    cannot be read tonight may be read tomorrow, and must not become a reason.
    """

    def __init__(self, config: SourceConfig, run: SourceRun) -> None:
        self._limit = config.max_bytes
        self._threads = run.threads
        self._store = open_store(config.path)

    def __call__(self, shard: pa.Table) -> pa.Table:
        with ThreadPoolExecutor(self._threads) as pool:
            return with_outcomes(shard, list(pool.map(self._read, shard.column("uri").to_pylist())))

    def _read(self, uri: str) -> Outcome:
        path = path_below(self._store, uri)
        if path is None:
            return missing("the path leads out of the source folder")
        try:
            with open_file(self._store.filesystem, path) as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(0)
                return judged(file.read()) if size <= self._limit else too_large(self._limit)
        except (FileNotFoundError, NotADirectoryError):
            return missing("the file is not there")
        except PermissionError:
            return missing("the file may not be read")
        except OSError as error:
            if says_not_found(error):
                return missing("the file is not there")
            raise
