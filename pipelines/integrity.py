"""Whether a file of a corpus is as it was written, and its rows are those that were planned."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.corpus import FILE, Corpus, CorpusError, DatasetInfo, stamp
from pipelines.identity import ASKED_OF_EACH, columns_of
from pipelines.parquet import SealBroken, check_all
from pipelines.shards import Part
from stages.index.vectors import Ids, VectorError, unit_float32, vectors_of
from stages.schemas import ROW_BITS, Status
from stages.stores import is_refused


class Remedy(StrEnum):
    """What can be done about a damaged file."""

    SHARDS = "shards"  # set aside: the next night makes its shards again
    RECORD = "record"  # likewise the record of a dataset
    INDEX = "index"  # likewise a template, a part or a generation of an index, or what names the current one
    NEIGHBOURS = "neighbours"  # likewise a file of neighbours: found again by the same command
    PLAN = "plan"  # rebuilt from `items`
    NONE = "none"


@dataclass(frozen=True)
class Fault:
    """`path`: below the corpus. `good`: the shards of a damaged merged file that can still be read."""

    path: str
    problem: str
    remedy: Remedy
    good: tuple[int, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """Of one file of a dataset: what is wrong with it, None if nothing; and which of its shards are good."""

    problem: str | None
    good: tuple[int, ...]


def seal_broken(corpus: Corpus, path: str) -> SealBroken | None:
    """Reads every byte of a Parquet file. Raises: FileNotFoundError; OSError of a bucket."""
    try:
        with corpus.filesystem.open_input_file(corpus.path(path)) as stream:
            check_all(stream)
    except SealBroken as broken:
        return broken
    except FileNotFoundError:
        raise
    except OSError as error:
        if is_refused(error):
            raise
        return SealBroken(f"it cannot be read: {error}", footer=True)
    return None


def read_sealed(corpus: Corpus, path: str, schema: pa.Schema) -> list[pa.Table]:
    """The row groups of a file of the plan or of a journal. Raises: CorpusError, saying what is wrong."""
    if broken := seal_broken(corpus, path):
        raise CorpusError(str(broken))
    with corpus.open_parquet(path) as file:
        found = file.schema_arrow
        name = (found.metadata or {}).get(FILE.encode(), b"").decode(errors="replace")
        if name != path:
            raise CorpusError(f"it was written as {name or 'something else'}")
        if not found.remove_metadata().equals(schema):
            raise CorpusError("it has other columns than this version writes")
        groups = (file.read_row_group(number) for number in range(file.num_row_groups))
        return [group.replace_schema_metadata(None) for group in groups]


def check_plan(groups: list[pa.Table]) -> Iterator[tuple[int, Ids]]:
    """The shards of a plan file with their ids, int64 [n]. Raises: CorpusError, saying what is wrong."""
    last = -1
    for group in groups:
        ids = group["image_id"].to_numpy()
        if not len(ids):
            continue
        shard = int(ids[0]) >> ROW_BITS
        if shard <= last or (ids >> ROW_BITS != shard).any() or (np.diff(ids) <= 0).any():
            raise CorpusError(f"its rows of shard {shard} are not in order")
        last = shard
        yield shard, ids


def check_part(
    corpus: Corpus, info: DatasetInfo | None, name: str, part: Part, planned: dict[int, Ids], gone: Ids
) -> Verdict:
    """Of one file of a dataset. `planned`: ids by shard; of a shard that is not in it, ids are not compared.

    Raises: FileNotFoundError.
    """
    broken = seal_broken(corpus, f"{name}/{part.file}")
    if broken and broken.footer:
        return Verdict(str(broken), ())
    problems, good = [str(broken)] if broken else [], []
    each = None if info is None else info.properties.get(ASKED_OF_EACH)
    with corpus.open_parquet(name, part.file) as file:
        if problem := _head_problem(file, part, info):
            return Verdict(problem, ())
        for shard in part.shards:
            problem = _group_problem(file, shard - part.first, Rows(shard, planned.get(shard), gone, each))
            if problem is None:
                good.append(shard)
            else:
                problems.append(f"shard {shard}: {problem}")
    return Verdict("; ".join(problems) or None, tuple(good))


def _head_problem(file: pq.ParquetFile, part: Part, info: DatasetInfo | None) -> str | None:
    schema = file.schema_arrow
    if file.num_row_groups != len(part.shards):
        return f"it has {file.num_row_groups} row groups, {len(part.shards)} shards"
    if info is not None and stamp(schema) != info.fingerprint:
        return f"it holds values of fingerprint {stamp(schema)}, the dataset's is {info.fingerprint}"
    if info is not None and columns_of(schema) != info.columns:
        return "its columns are not those of _dataset.json"
    return None


@dataclass(frozen=True)
class Rows:
    """The rows that a shard of a dataset is to have. `planned` None: its ids are not compared.

    `each`: of answers, the `question_id`s that every item has; None: all of them.
    """

    shard: int
    planned: Ids | None
    gone: Ids
    each: Sequence[int] | None = None


def _group_problem(file: pq.ParquetFile, group: int, wanted: Rows) -> str | None:
    try:
        table = file.read_row_group(group)
    except (pa.ArrowException, OSError) as error:
        if is_refused(error):
            raise
        return f"it cannot be read: {str(error).splitlines()[0]}"
    return rows_problem(table, wanted)


def rows_problem(table: pa.Table, wanted: Rows) -> str | None:
    """What is wrong with the rows of a shard of any dataset; None if nothing."""
    ids = table["image_id"].to_numpy()
    if len(ids) and (ids >> ROW_BITS != wanted.shard).any():
        return f"it holds rows of shard {int(ids[ids >> ROW_BITS != wanted.shard][0]) >> ROW_BITS}"
    if (np.diff(ids) < 0).any():
        return "its rows are not sorted by image_id"
    return (
        _repetition_problem(table, ids, wanted.each)
        or (None if wanted.planned is None else _ids_problem(ids, wanted))
        or _status_problem(table)
        or _vector_problem(table)
    )


def _repetition_problem(table: pa.Table, ids: Ids, each: Sequence[int] | None) -> str | None:
    """One row an item; of answers one for each question, those of `each` for every item."""
    items = len(np.unique(ids))
    if "question_id" not in table.column_names:
        return None if items == len(ids) else "it has several rows for an image_id"
    if not items:
        return None
    asked = table["question_id"].to_numpy()
    if each is not None:
        return _questions_problem(ids, asked, each)
    first = asked[ids == ids[0]]
    same = len(asked) == items * len(first) and (asked.reshape(items, -1) == first).all()
    return None if same and len(np.unique(first)) == len(first) else "its items were not asked the same"


def _questions_problem(ids: Ids, asked: npt.NDArray[np.int32], each: Sequence[int]) -> str | None:
    again = (np.diff(ids) == 0) & (np.diff(asked) <= 0)
    if again.any():
        return f"its questions of image_id {ids[1:][again][0]} are not in order"
    items = np.unique(ids)
    same = all(np.array_equal(ids[asked == question], items) for question in each)
    return None if same else "its items were not asked the same"


def _ids_problem(ids: Ids, wanted: Rows) -> str | None:
    assert wanted.planned is not None
    planned, gone = wanted.planned, wanted.gone
    missing = np.setdiff1d(np.setdiff1d(planned, gone), ids)
    # An item that no question is asked of has no row of answers.
    if len(missing) and wanted.each != []:
        return f"it lacks {len(missing)} rows, the first of image_id {missing[0]}"
    strange = np.setdiff1d(np.setdiff1d(ids, planned), gone)
    return (
        f"it has {len(strange)} rows that were not planned: image_id {strange[0]}" if len(strange) else None
    )


def _status_problem(table: pa.Table) -> str | None:
    if "status" not in table.column_names:
        return None
    found = set(table["status"].unique().to_pylist()) - {status.value for status in Status}
    return f"it has a status {min(map(str, found))}" if found else None


def _vector_problem(table: pa.Table) -> str | None:
    """Rows that are ok have a vector of unit length, all others a list of nulls."""
    if "embedding" not in table.column_names:
        return None
    ids, vectors = vectors_of(table)
    good = (
        table.filter(pc.equal(table["status"], Status.OK.value)) if "status" in table.column_names else table
    )
    if "status" in table.column_names and not np.array_equal(good["image_id"].to_numpy(), ids):
        return "its vectors are not those of the rows with status ok"
    values = sum(chunk.flatten().null_count for chunk in table["embedding"].chunks)
    if values != (len(table) - len(ids)) * table["embedding"].type.list_size:
        return "it has vectors with some values missing"
    try:
        unit_float32(vectors, table["embedding"].type.list_size)
    except VectorError as error:
        return str(error)
    return None
