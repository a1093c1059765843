"""Few big files for many small ones, and the end of rows and vectors whose items are gone.

A merged file comes under its final name before the files that it stands for go. Killed in between, both
lie there and say the same; the next compaction goes on.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines import containers, journal
from pipelines.changes import Change, about, read_changes, tombstones, without
from pipelines.corpus import FILE, FINGERPRINT, QUARANTINE, Corpus, CorpusError, stamp
from pipelines.facts import Compacted, Compaction
from pipelines.index import forgetting
from pipelines.index.layout import names as indexes
from pipelines.jobs import CompactConfig
from pipelines.lock import locked
from pipelines.shards import Part, merged_file
from stages.index.vectors import Ids
from stages.schemas import PLAN, ROW_BITS

# The footer of a merged file is read for each row that is wanted of it: with so many row groups it stays
# under a megabyte.
_MOST_SHARDS = 1024


@dataclass(frozen=True)
class _Lost:
    """Ids of items, ascending: all that are gone, and those of them that were taken down."""

    gone: Ids
    forgotten: Ids

    @classmethod
    def of(cls, corpus: Corpus) -> "_Lost":
        changes = read_changes(corpus)
        forgotten = changes.filter(pc.equal(changes["change"], Change.FORGOTTEN.value))
        return cls(tombstones(corpus), np.unique(forgotten["image_id"].to_numpy()))

    def kept(self, rows: pa.Table) -> pa.Table:
        """Without the rows of what is gone, and without answers that tell of others what was taken down."""
        rows = without(rows, self.gone)
        if "images" not in rows.column_names or not len(self.forgotten):
            return rows
        return rows.filter(pc.invert(about(rows, self.forgotten)))


@dataclass(frozen=True)
class _Totals:
    """The files of a dataset or of the plan."""

    files: int
    size: int


def compact(config: CompactConfig) -> Compaction:
    """Merges shards, drops what is gone, and rebuilds indexes that hold it; reads only in a dry run.

    Raises: CorpusError, LockedError, IndexDamaged, IndexConfigError.
    """
    corpus = Corpus(config.corpus)
    if not corpus.datasets():
        raise CorpusError(f"{corpus.location} holds no corpus: make one with darkroom nightly")
    if config.dry_run:
        return _preview(corpus, config.target_mb << 20)
    with locked(corpus, config.steal_lock) as fenced:
        return _compact(fenced, config.target_mb << 20)


def _preview(corpus: Corpus, target: int) -> Compaction:
    lost = _Lost.of(corpus)
    datasets = [_preview_dataset(corpus, name, lost, target) for name in corpus.datasets()]
    return Compaction(
        tuple(datasets), tuple(name for name in indexes(corpus) if forgetting.holds(corpus, name, lost.gone))
    )


def _preview_dataset(corpus: Corpus, name: str, lost: _Lost, target: int) -> Compacted:
    listing, before = corpus.listing(name), _totals(corpus, name)
    runs = _due(corpus, name, lost, target)
    files = before.files - len(listing.hidden) - sum(len(run) - 1 for run in runs)
    dropped = sum(_rows_lost(corpus, name, part, lost) for part in listing.visible)
    return Compacted(name, before.files, files, before.size, None, dropped)


def _compact(corpus: Corpus, target: int) -> Compaction:
    corpus.remove_partial_files()
    lost = _Lost.of(corpus)
    done = [_compact_dataset(corpus, name, lost, target) for name in corpus.datasets()]
    done.append(_compact_plan(corpus, lost.gone))
    containers.fold(corpus)
    if len(lost.forgotten):
        corpus.delete_tree(QUARANTINE)
    rebuilt = [name for name in indexes(corpus) if forgetting.holds(corpus, name, lost.gone)]
    for name in rebuilt:
        forgetting.drop_gone(corpus, name)
    for name in indexes(corpus):
        forgetting.remove_old(corpus, name)
    return Compaction(tuple(done), tuple(rebuilt))


# Datasets


def _compact_dataset(corpus: Corpus, name: str, lost: _Lost, target: int) -> Compacted:
    before, dropped = _totals(corpus, name), 0
    _remove_hidden(corpus, name)
    # Merged files may come out smaller than their parts, and then join with their neighbours: so go on until
    # there is nothing to do, and a second compaction finds nothing either.
    while runs := _due(corpus, name, lost, target):
        dropped += sum(_merge(corpus, name, run, lost) for run in runs)
    after = _totals(corpus, name)
    return Compacted(name, before.files, after.files, before.size, after.size, dropped)


def _totals(corpus: Corpus, name: str) -> _Totals:
    sizes = [info.size or 0 for info in corpus.entries(name) if info.extension == "parquet"]
    return _Totals(len(sizes), sum(sizes))


def _due(corpus: Corpus, name: str, lost: _Lost, target: int) -> list[list[Part]]:
    """Runs of neighbouring files to be merged, and single files that hold rows of items that are gone."""
    runs: list[list[Part]] = []
    for part in corpus.listing(name).visible:
        if runs and _joins(runs[-1], part, target):
            runs[-1].append(part)
        else:
            runs.append([part])
    return [run for run in runs if len(run) > 1 or _rows_lost(corpus, name, run[0], lost)]


def _joins(run: Sequence[Part], part: Part, target: int) -> bool:
    """A run grows by its neighbours to the wanted size; merged files of half that size stay as they are."""
    neighbours = run[-1].last + 1 == part.first
    if not neighbours or _is_full(run[-1], target) or _is_full(part, target):
        return False
    shards = sum(len(one.shards) for one in run) + len(part.shards)
    return sum(one.size for one in run) < target and shards <= _MOST_SHARDS


def _is_full(part: Part, target: int) -> bool:
    return part.merged and (part.size * 2 >= target or len(part.shards) * 2 >= _MOST_SHARDS)


def _rows_lost(corpus: Corpus, name: str, part: Part, lost: _Lost) -> int:
    """How many rows of a file go. Reads shards that had items which are gone; of answers, which may be about
    items of other shards, all of them.
    """
    here = lost.gone[(lost.gone >= part.first << ROW_BITS) & (lost.gone < (part.last + 1) << ROW_BITS)]
    shards = np.unique(here >> ROW_BITS).tolist()
    columns = ["image_id"]
    if name.startswith("answers/") and len(lost.forgotten):
        shards, columns = list(part.shards), ["image_id", "images"]
    tables = corpus.scan(name, columns, shards)
    return sum(len(table) - len(lost.kept(table)) for _, table in tables)


def _merge(corpus: Corpus, name: str, parts: Sequence[Part], lost: _Lost) -> int:
    """One file for its parts, a row group a shard, in the memory of one shard; returns the rows left out."""
    first, last = parts[0].first, parts[-1].last
    schema, made = _common(corpus, name, parts)
    file, dropped = merged_file(first, last), 0
    metadata = {FINGERPRINT: made}
    with corpus.writing_parquet(schema, name, file, metadata=metadata, check=corpus.check_fence) as writer:
        for _, table in corpus.scan(name, shards=range(first, last + 1)):
            kept = lost.kept(table)
            writer.write_table(kept, max(len(kept), 1))
            dropped += len(table) - len(kept)
    _remove_hidden(corpus, name)
    return dropped


def _common(corpus: Corpus, name: str, parts: Sequence[Part]) -> tuple[pa.Schema, str]:
    """The schema and the fingerprint of all parts. Raises: CorpusError where a file is of other values."""
    info = corpus.info(name)
    if info is None:
        raise CorpusError(f"{corpus.path(name, '_dataset.json')} is damaged: run darkroom nightly again")
    schema: pa.Schema | None = None
    for part in parts:
        with corpus.open_parquet(name, part.file) as opened:
            found: pa.Schema = opened.schema_arrow
        schema = found if schema is None else schema
        if stamp(found) not in (None, info.fingerprint) or not found.equals(schema):
            raise CorpusError(
                f"{corpus.path(name, part.file)} does not belong to {name}: run darkroom verify repair=true"
            )
    assert schema is not None
    return schema.remove_metadata(), info.fingerprint


def _remove_hidden(corpus: Corpus, name: str) -> None:
    """Files that a merged file stands for."""
    for part in corpus.listing(name).hidden:
        corpus.check_fence()
        corpus.delete(name, part.file)


# The plan


def _compact_plan(corpus: Corpus, gone: Ids) -> Compacted:
    before, dropped = _totals(corpus, "plan"), 0
    for file in journal.files(corpus, "plan"):
        ids = corpus.read_parquet("plan", file, columns=["image_id"])
        kept = len(without(ids, gone))
        if kept == 0:
            corpus.delete("plan", file)
        elif kept < len(ids):
            _rewrite_plan(corpus, file, gone)
        dropped += len(ids) - kept
    after = _totals(corpus, "plan")
    return Compacted("plan", before.files, after.files, before.size, after.size, dropped)


def _rewrite_plan(corpus: Corpus, file: str, gone: Ids) -> None:
    with corpus.writing_parquet(PLAN, "plan", file, metadata={FILE: f"plan/{file}"}) as writer:
        for table in _row_groups(corpus, file):
            if len(kept := without(table, gone)):
                writer.write_table(kept)


def _row_groups(corpus: Corpus, file: str) -> Iterator[pa.Table]:
    with corpus.open_parquet("plan", file) as opened:
        for group in range(opened.num_row_groups):
            yield opened.read_row_group(group).replace_schema_metadata(None)
