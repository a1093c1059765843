"""The corpus: datasets and their shards.

A shard of a dataset is done when a file holds it under its final name: its own, or a merged one. Nothing
else keeps count, and what was committed once is never altered by a later writer.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs

from pipelines.files import CorpusError, Files
from pipelines.identity import DatasetInfo, DriftError, check_same, columns_of, fingerprint
from pipelines.parquet import parquet_bytes
from pipelines.shards import SHARD_NAME, Listing, Part, part_of, shard_file
from stages.schemas import ROW_BITS

__all__ = [
    "FILE",
    "FINGERPRINT",
    "LOCK",
    "QUARANTINE",
    "SHARD_NAME",
    "Corpus",
    "CorpusError",
    "DatasetInfo",
    "DriftError",
    "RowMissingError",
    "StaleWriterError",
    "fingerprint",
    "shard_file",
    "write_parquet",
    "write_row_groups",
]

LOCK = "LOCK"
QUARANTINE = "quarantine"
FINGERPRINT = "darkroom.fingerprint"
"""The key of a shard's Parquet metadata that names the fingerprint of its values."""

FILE = "darkroom.file"
"""The key that names the file itself, of the plan and of journals: their rows do not tell."""


class StaleWriterError(CorpusError):
    """The writer's run is over: another one has the corpus, or the dataset holds other values."""


class RowMissingError(CorpusError):
    """A dataset has no row for an id: the item is gone, or its shard is damaged."""


class Corpus(Files):
    """A folder or a bucket prefix. Cheap to make and to pickle.

    `fence`: the token of the run that holds the lock; shards are then committed only while it does.
    """

    def __init__(self, location: str, fence: str | None = None) -> None:
        super().__init__(location)
        self.fence = fence
        self._written: dict[
            str, str | None
        ] = {}  # the fingerprint that a writer of each dataset started with
        self._found: dict[str, Listing] = {}  # where shards were seen last; a hint that every read proves

    def __getstate__(self) -> dict[str, Any]:
        return {"location": self.location, "fence": self.fence, "_written": self._written, "_found": {}}

    # Shards

    def listing(self, dataset: str) -> Listing:
        """Which file holds which shard.

        While compaction runs, one look may see neither a merged file that came after the look began nor a
        shard that went before it ended: so look until a look sees no less than the one before.
        """
        before = self._look(dataset)
        while not (after := self._look(dataset)).covers(before):
            before = after
        self._found[dataset] = after
        return after

    def _look(self, dataset: str) -> Listing:
        parts = (part_of(info.base_name, info.size or 0) for info in self.entries(dataset))
        return Listing(part for part in parts if part is not None)

    def shards(self, dataset: str) -> list[int]:
        """The numbers of the finished shards, ascending."""
        return sorted(self.listing(dataset).places)

    def write_shard(self, dataset: str, shard: int, table: pa.Table) -> None:
        """Commits a shard, once: where it is there already, that one stays and this one is dropped.

        Raises: StaleWriterError where the run was taken over, or the dataset's fingerprint is another than
        when this corpus object claimed it or first wrote to it.
        """
        if dataset not in self._written:
            self._written[dataset] = self._fingerprint(dataset)
        started = self._written[dataset]
        data = parquet_bytes([table], metadata=None if started is None else {FINGERPRINT: started})

        def refuse_stale() -> None:
            self.check_fence()
            if (present := self._fingerprint(dataset)) != started:
                raise StaleWriterError(
                    f"{dataset} holds values of fingerprint {present}, this writer made {started}"
                )

        try:
            self.create(data, dataset, shard_file(shard), check=refuse_stale)
        except FileNotFoundError as error:
            raise StaleWriterError(f"another run removed the partial file of {dataset} {shard}") from error

    def check_fence(self) -> None:
        """Raises: StaleWriterError where the lock is no longer that of this run."""
        if self.fence is None:
            return
        try:
            holder = json.loads(self.read_bytes(LOCK))["token"]
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            holder = None
        if holder != self.fence:
            raise StaleWriterError(f"{self.location} was taken over by another run: this one writes no more")

    def _fingerprint(self, dataset: str) -> str | None:
        info = self.info(dataset)
        return None if info is None else info.fingerprint

    def read_shard(self, dataset: str, shard: int, columns: Iterable[str] | None = None) -> pa.Table:
        """Raises: FileNotFoundError where there is no such shard; CorpusError where it is damaged."""
        ((_, table),) = self.scan(dataset, columns, [shard])
        return table

    def scan(
        self, dataset: str, columns: Iterable[str] | None = None, shards: Sequence[int] | None = None
    ) -> Iterator[tuple[int, pa.Table]]:
        """The shards of these numbers, or all, ascending, one at a time; a file is opened once.

        Never disturbed by a compaction beside it: a file that is open stays readable, and for one that
        vanished before it was opened there is another that holds its shards. Raises: as `read_shard`.
        """
        names = None if columns is None else list(columns)
        wanted = self.shards(dataset) if shards is None else sorted(shards)
        at = 0
        while at < len(wanted):
            start, part = at, self.place(dataset, wanted[at])
            try:
                with self.open_parquet(dataset, part.file) as file:
                    while at < len(wanted) and wanted[at] in part.shards:
                        table = (
                            file.read_row_group(wanted[at] - part.first, names)
                            if part.merged
                            else file.read(names)
                        )
                        yield wanted[at], table.replace_schema_metadata(None)
                        at += 1
            except FileNotFoundError:
                # Seen, and gone when it was to be opened. Seen again at another look, it is not compaction.
                if self.listing(dataset).places.get(wanted[start]) == part:
                    raise

    def place(self, dataset: str, shard: int) -> Part:
        """The file that held a shard when last seen. Raises: FileNotFoundError where none does."""
        known = self._found.get(dataset)
        if known is None or shard not in known.places:
            known = self.listing(dataset)
        if shard not in known.places:
            raise FileNotFoundError(f"{self.path(dataset)} has no shard {shard}")
        return known.places[shard]

    def read_rows(self, dataset: str, ids: Sequence[int], columns: Sequence[str]) -> pa.Table:
        """One row for each id, in their order, of a dataset with one row an item.

        Raises: RowMissingError, naming an id without a row; FileNotFoundError for a shard that is not there.
        """
        wanted = np.asarray(ids, dtype=np.int64)
        if not len(wanted):
            return pa.table({name: pa.nulls(0) for name in columns})
        shards = np.unique(wanted >> ROW_BITS).tolist()
        names = list(dict.fromkeys(["image_id", *columns]))
        rows = pa.concat_tables(table for _, table in self.scan(dataset, names, shards))
        # Shards are ascending, and so are the ids in each of them.
        stored = rows["image_id"].to_numpy()
        found = np.searchsorted(stored, wanted)
        missing = np.append(stored, -1)[found] != wanted
        if missing.any():
            raise RowMissingError(f"{dataset} has no row for image_id {wanted[missing][0]}")
        return rows.take(found).select(columns)

    # Datasets

    def datasets(self) -> list[str]:
        """The names of all datasets, such as `items` or `captions/pocket`."""
        folders = [entry.base_name for entry in self.entries() if entry.type == pafs.FileType.Directory]
        kinds = [name for name in folders if name != QUARANTINE]
        named = [f"{kind}/{entry.base_name}" for kind in kinds for entry in self.entries(kind)]
        return [name for name in sorted(kinds + named) if self.exists(name, "_dataset.json")]

    def info(self, dataset: str) -> DatasetInfo | None:
        """None where there is no such dataset, or its `_dataset.json` is torn or damaged."""
        try:
            return DatasetInfo.from_json(self.read_bytes(dataset, "_dataset.json"))
        except (FileNotFoundError, ValueError):
            return None

    def check(self, info: DatasetInfo) -> None:
        """Raises `DriftError` where the dataset holds values of another fingerprint, or other columns."""
        stored = self.info(info.name)
        if stored is not None:
            check_same(stored, info)
        elif not all(self._is_of(info, part) for part in self.listing(info.name).visible):
            raise DriftError(
                f"{info.name} has shards of other values and no readable _dataset.json: "
                f"drop them with overwrite=[{info.name}]"
            )

    def _is_of(self, info: DatasetInfo, part: Part) -> bool:
        with self.open_parquet(info.name, part.file) as file:
            schema = file.schema_arrow
        return stamp(schema) == info.fingerprint and columns_of(schema) == info.columns

    def claim(self, info: DatasetInfo) -> None:
        """Records what the dataset holds, before its first shard is written.

        A record that was lost is written again, where all shards say that they are of these values.
        """
        self.check(info)
        if self.info(info.name) is None:
            self.write_bytes(info.to_json(), info.name, "_dataset.json")
        self._written[info.name] = info.fingerprint

    def drop(self, dataset: str) -> None:
        """Removes the shards, and last the record: killed in between, the drift is still seen."""
        listing = self.listing(dataset)
        for part in [*listing.hidden, *listing.visible]:
            self.delete(dataset, part.file)
        self.delete(dataset, "_dataset.json")
        self._written.pop(dataset, None)


def stamp(schema: pa.Schema) -> str | None:
    """The fingerprint that a shard's metadata names."""
    found = (schema.metadata or {}).get(FINGERPRINT.encode())
    return None if found is None else str(found.decode(errors="replace"))


def write_parquet(corpus: Corpus, table: pa.Table, *parts: str) -> None:
    """Any sorted table of the corpus: zstd, page checksums, atomic."""
    write_row_groups(corpus, [table], *parts)


def write_row_groups(corpus: Corpus, tables: Iterable[pa.Table], *parts: str) -> None:
    """As `write_parquet`: tables of one schema, one or more, a row group each."""
    corpus.write_bytes(parquet_bytes(tables, {FILE: "/".join(parts)}), *parts)
