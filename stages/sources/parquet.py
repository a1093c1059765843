"""Reading the images of Parquet files, a row group at a time."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import fs

from stages.schemas import Status
from stages.sources.config import SourceConfig, SourceRun
from stages.sources.containers import container_store
from stages.sources.image_columns import NoImageColumnError
from stages.sources.outcome import READ, Outcome, as_read, judged, missing, too_large, with_read
from stages.sources.row_groups import IMAGES, DamagedError, RowGroup, Rows, read_rows
from stages.sources.uri_reader import UriReader, parent_of


class ReadParquet:
    """Plan rows -> the same rows + bytes (large_binary), status, error.

    Status: `ok`, `missing`, `empty`, `too_large`, `unreadable` where a row group is damaged, `changed` where
    the file is another than was listed; the bytes are null where it is not `ok`. A row without bytes and with
    a path is read from there, as from a list in the folder of its file. Rows that lie in no file are URIs.
    Raises OSError where the storage itself fails.
    """

    def __init__(self, config: SourceConfig, run: SourceRun) -> None:
        self._column = config.column
        self._limit = config.max_bytes
        self._threads = run.threads
        self._store = container_store(config.path)
        self._uris = UriReader(config, run)

    def __call__(self, shard: pa.Table) -> pa.Table:
        runs = _runs(shard)
        with ThreadPoolExecutor(self._threads) as pool:
            parts = pool.map(self._read, [shard.take(run) for run in runs])
            read = pa.concat_tables([READ.empty_table(), *parts])
        back = np.argsort(np.concatenate(runs)) if runs else np.zeros(0, np.int64)
        if not np.array_equal(back, np.arange(len(back))):
            read = read.take(pa.array(back))
        return with_read(shard, read.combine_chunks())

    def _read(self, items: pa.Table) -> pa.Table:
        """Rows of one row group by their position, schema `READ`; or rows that lie in none."""
        file, number = items["container"][0].as_py(), items["row_group"][0].as_py()
        if file is None:
            return as_read(self._uris.read(items["uri"].to_pylist()))
        mtime_ns = items["mtime_ns"][0].as_py()
        outcome = self._whether_gone(file, mtime_ns)
        if outcome is not None:
            return as_read([outcome] * len(items))
        root = f"{self._store.filesystem.type_name}:{self._store.root}"
        group = RowGroup(self._store, root, file, mtime_ns, number, self._column)
        try:
            rows = read_rows(group, items["position"].to_numpy())
        except (DamagedError, NoImageColumnError) as error:
            rows = Rows(IMAGES.empty_table(), str(error))
        except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
            return as_read([missing(f"{file} cannot be opened: {error.strerror}")] * len(items))
        return pa.concat_tables([self._judged(rows.images, file), _not_there(rows, len(items), file, number)])

    def _whether_gone(self, file: str, mtime_ns: int) -> Outcome | None:
        info = self._store.filesystem.get_file_info(self._store.path(file))
        if info.type != fs.FileType.File:
            return missing(f"{file} is not there")
        if (info.mtime_ns or 0) != mtime_ns:
            return Outcome(None, Status.CHANGED.value, f"{file} is not as it was listed")
        return None

    def _judged(self, images: pa.Table, file: str) -> pa.Table:
        """Of images that were decoded, schema `READ`."""
        data, paths = images["bytes"].combine_chunks(), images["path"].combine_chunks()
        sizes = pc.fill_null(pc.binary_length(data), -1).to_numpy()
        good = (sizes > 0) & (sizes <= self._limit)
        if good.all():
            return _good(data)
        named = pc.fill_null(pc.greater(pc.binary_length(paths), 0), False).to_numpy(zero_copy_only=False)
        named &= sizes < 0
        elsewhere = paths.filter(pa.array(named)).to_pylist()
        outcomes = iter(self._uris.read(elsewhere, parent_of(self._store, file)))
        bad = [
            next(outcomes) if named[row] else _told(int(sizes[row]), self._limit)
            for row in np.flatnonzero(~good)
        ]
        read = pa.concat_tables([_good(data.filter(pa.array(good))), as_read(bad)])
        return read.take(pa.array(np.argsort(np.concatenate([np.flatnonzero(good), np.flatnonzero(~good)]))))


def _runs(shard: pa.Table) -> list[npt.NDArray[np.int64]]:
    """The numbers of rows that lie in one row group, by their position in it; of each row group."""
    if not len(shard):
        return []
    files = pc.fill_null(shard["container"].combine_chunks().dictionary_encode().indices, -1).to_numpy()
    groups = pc.fill_null(shard["row_group"], -1).to_numpy()
    order = np.lexsort((pc.fill_null(shard["position"], -1).to_numpy(), groups, files))
    begins = np.flatnonzero((np.diff(files[order]) != 0) | (np.diff(groups[order]) != 0)) + 1
    return np.split(order, begins)


def _good(data: pa.Array) -> pa.Table:
    status = pa.repeat(pa.scalar(Status.OK.value, pa.string()), len(data))
    return pa.table([data, status, pa.nulls(len(data), pa.string())], schema=READ)


def _told(size: int, limit: int) -> Outcome:
    """Of an image that is not good; `size` -1 where there is none."""
    return missing("the row has no image") if size < 0 else judged(b"") if not size else too_large(limit)


def _not_there(rows: Rows, wanted: int, file: str, number: int) -> pa.Table:
    """Of the last rows that were asked for, which a damaged row group lacks."""
    if rows.damage is None:
        outcome = missing(f"row group {number} of {file} has no such row")
    else:
        outcome = Outcome(None, Status.UNREADABLE.value, f"row group {number} of {file}: {rows.damage}")
    return as_read([outcome] * (wanted - len(rows.images)))
