"""The corpus on disk: names, listing, atomic writes and fingerprints, on any file system of pyarrow.

A shard of a dataset is done when its file exists under its final name. Nothing else keeps count.
"""

import hashlib
import json
import os
import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from stages.schemas import ROW_BITS

SHARD_NAME = re.compile(r"shard-(\d{10})\.parquet")
PLAN_NAME = re.compile(r"plan-(\d{6})\.parquet")
LOCK = "LOCK"
_PARTIAL = ".partial-"


class CorpusError(Exception):
    """The corpus cannot be used as asked; the message is one line for the user."""


class DriftError(CorpusError):
    """A dataset holds the values of another configuration than the current one."""


def fingerprint(identity: Mapping[str, Any]) -> str:
    """16 hex digits over everything that changes a dataset's values, whatever the order of the keys."""
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class DatasetInfo:
    """What `dataset.json` records. `identity` is what the fingerprint was taken over."""

    name: str
    identity: Mapping[str, Any]
    columns: Mapping[str, str]
    properties: Mapping[str, Any] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.identity)

    @classmethod
    def of(
        cls, name: str, schema: pa.Schema, identity: Mapping[str, Any], **properties: Any
    ) -> "DatasetInfo":
        # Through JSON once, so that an info from a config equals the same info read back.
        columns = {column.name: str(column.type) for column in schema}
        return cls(name, json.loads(json.dumps(identity, default=str)), columns, properties)

    def to_json(self) -> bytes:
        return json.dumps({**asdict(self), "fingerprint": self.fingerprint}, indent=2).encode()

    @classmethod
    def from_json(cls, text: bytes) -> "DatasetInfo":
        stored = json.loads(text)
        stored.pop("fingerprint")
        return cls(**stored)


def _drifted(name: str, stored: DatasetInfo, wanted: DatasetInfo) -> DriftError:
    old, new = _leaves(stored.identity), _leaves(wanted.identity)
    keys = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    changes = ", ".join(f"{key} {old.get(key)!r} -> {new.get(key)!r}" for key in keys[:4])
    return DriftError(
        f"{name} holds values of fingerprint {stored.fingerprint}, the configuration makes "
        f"{wanted.fingerprint} ({changes}): give it a new name, or drop the old values with "
        f"overwrite=[{name}]"
    )


def _leaves(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {prefix: value}
    leaves: dict[str, Any] = {}
    for key, child in value.items():
        leaves |= _leaves(child, f"{prefix}.{key}" if prefix else str(key))
    return leaves


class Corpus:
    """A folder or a bucket prefix. Cheap to make and to pickle: only the location and the fence travel.

    `fence` is the token of the run that holds the corpus's lock, None for whoever writes no shards.
    """

    def __init__(self, location: str, fence: str | None = None) -> None:
        self.location = location
        self.fence = fence

    def __reduce__(self) -> tuple[type["Corpus"], tuple[str, str | None]]:
        return Corpus, (self.location, self.fence)

    @cached_property
    def _opened(self) -> tuple[pafs.FileSystem, str]:
        if "://" in self.location:
            filesystem, root = pafs.FileSystem.from_uri(self.location)
            return filesystem, root.rstrip("/")
        return pafs.LocalFileSystem(), str(Path(self.location).expanduser().absolute())

    @property
    def filesystem(self) -> pafs.FileSystem:
        return self._opened[0]

    @property
    def local_root(self) -> Path | None:
        """The folder, where the corpus is one; None in a bucket."""
        filesystem, root = self._opened
        return Path(root) if isinstance(filesystem, pafs.LocalFileSystem) else None

    def path(self, *parts: str) -> str:
        return "/".join([self._opened[1], *parts])

    # Files

    def exists(self, *parts: str) -> bool:
        return bool(self.filesystem.get_file_info(self.path(*parts)).type != pafs.FileType.NotFound)

    def entries(self, *parts: str, recursive: bool = False) -> list[pafs.FileInfo]:
        """What lies in a folder, sorted by path; empty where there is no such folder."""
        selector = pafs.FileSelector(self.path(*parts), allow_not_found=True, recursive=recursive)
        return sorted(self.filesystem.get_file_info(selector), key=lambda info: info.path)

    def read_bytes(self, *parts: str) -> bytes:
        with self.filesystem.open_input_file(self.path(*parts)) as stream:
            return bytes(stream.read())

    def write_bytes(self, data: bytes | pa.Buffer, *parts: str) -> None:
        """Under its final name there is the whole file or none: temporary name, fsync, rename.

        On an object store it is one upload, which is atomic by itself.
        """
        target = self.path(*parts)
        if self.local_root is None:
            with self.filesystem.open_output_stream(target) as stream:
                stream.write(data)
            return
        _write_atomically(Path(target), data)

    def remove_partial_files(self) -> int:
        """Removes what writers that were killed left behind; returns how many files."""
        if self.local_root is None:
            return 0
        partial = list(self.local_root.rglob(f"{_PARTIAL}*"))
        for path in partial:
            path.unlink(missing_ok=True)
        return len(partial)

    # Shards

    def shards(self, dataset: str) -> list[int]:
        """The numbers of the finished shards, ascending."""
        return sorted(
            int(match.group(1))
            for info in self.entries(dataset)
            if (match := SHARD_NAME.fullmatch(info.base_name))
        )

    def write_shard(self, dataset: str, shard: int, table: pa.Table) -> None:
        self.write_bytes(_parquet(table), dataset, shard_file(shard))

    def read_shard(self, dataset: str, shard: int, columns: Iterable[str] | None = None) -> pa.Table:
        return self.read_parquet(dataset, shard_file(shard), columns=columns)

    def read_rows(self, dataset: str, ids: Sequence[int], columns: Sequence[str]) -> pa.Table:
        """One row for each id, in their order, of a dataset with one row an item."""
        wanted = np.asarray(ids, dtype=np.int64)
        shards, position = np.unique(wanted >> ROW_BITS, return_inverse=True)
        tables = [self.read_shard(dataset, int(shard), columns) for shard in shards]
        starts = np.cumsum([0, *(len(table) for table in tables)])[:-1]
        if not tables:
            return pa.table({name: pa.nulls(0) for name in columns})
        rows = starts[position] + (wanted & (1 << ROW_BITS) - 1)
        return pa.concat_tables(tables).take(rows)

    def read_parquet(
        self, *parts: str, columns: Iterable[str] | None = None, row_group: int | None = None
    ) -> pa.Table:
        """Page checksums are verified: a flipped bit raises `CorpusError`, naming the file."""
        path = self.path(*parts)
        names = None if columns is None else list(columns)
        try:
            with pq.ParquetFile(path, filesystem=self.filesystem, page_checksum_verification=True) as file:
                return file.read(names) if row_group is None else file.read_row_group(row_group, names)
        except (pa.ArrowInvalid, OSError) as error:
            if isinstance(error, FileNotFoundError):
                raise
            raise CorpusError(f"{path} cannot be read: {error}") from error

    # Datasets

    def datasets(self) -> list[str]:
        """The names of all datasets, such as `items` or `captions/pocket`."""
        kinds = [entry.base_name for entry in self.entries() if entry.type == pafs.FileType.Directory]
        named = [f"{kind}/{entry.base_name}" for kind in kinds for entry in self.entries(kind)]
        return [name for name in sorted(kinds + named) if self.exists(name, "dataset.json")]

    def info(self, dataset: str) -> DatasetInfo | None:
        """None where there is no such dataset, or its `dataset.json` is torn."""
        try:
            return DatasetInfo.from_json(self.read_bytes(dataset, "dataset.json"))
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            return None

    def check(self, info: DatasetInfo) -> None:
        """Raises `DriftError` where the dataset holds values of another fingerprint."""
        stored = self.info(info.name)
        if stored is not None and stored.fingerprint != info.fingerprint:
            raise _drifted(info.name, stored, info)
        if stored is None and self.shards(info.name):
            raise DriftError(
                f"{info.name} has shards but no readable dataset.json: "
                f"drop its values with overwrite=[{info.name}]"
            )

    def claim(self, info: DatasetInfo) -> None:
        """Records what the dataset holds, before its first shard is written."""
        self.check(info)
        if self.info(info.name) is None:
            self.write_bytes(info.to_json(), info.name, "dataset.json")

    def drop(self, dataset: str) -> None:
        """Removes the shards, and last the record: killed in between, the drift is still seen."""
        for shard in self.shards(dataset):
            self.filesystem.delete_file(self.path(dataset, shard_file(shard)))
        if self.exists(dataset, "dataset.json"):
            self.filesystem.delete_file(self.path(dataset, "dataset.json"))


def shard_file(shard: int) -> str:
    return f"shard-{shard:010d}.parquet"


def _parquet(table: pa.Table, row_group_size: int | None = None) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        compression="zstd",
        row_group_size=row_group_size,
        write_page_checksum=True,
        sorting_columns=[pq.SortingColumn(table.schema.get_field_index("image_id"))],
    )
    return sink.getvalue()


def _write_atomically(target: Path, data: bytes | pa.Buffer) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{_PARTIAL}{uuid.uuid4().hex}")
    try:
        with partial.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_parquet(corpus: Corpus, table: pa.Table, *parts: str, row_group_size: int | None = None) -> None:
    """Any sorted table of the corpus: zstd, page checksums, atomic."""
    corpus.write_bytes(_parquet(table, row_group_size), *parts)
