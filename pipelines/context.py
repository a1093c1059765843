"""What else is known of a shard's items, for prompts: metadata, their own questions, groups of images.

Computed where the run starts and handed to workers with the shard that it belongs to, so that no worker ever
holds what is known of others.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from pipelines.corpus import Corpus, CorpusError
from pipelines.plan import PlannedShard, ipc_bytes, planned_shards, read_planned
from pipelines.stream import GUEST
from stages.questions import asked
from stages.questions.groups import GROUP_LIMIT, Grouping
from stages.questions.templates import as_text
from stages.schemas import PLAN, TOLD, shard_of
from stages.told import as_float, at_name, merged

_KEYS = ("uri", "image_id")
_METADATA = "context.metadata"
# Shards whose metadata is read at a time, for groups: 65,536 images.
_TOGETHER = 128
_PLACES = pa.schema(
    [
        pa.field("id", pa.int64()),
        pa.field("by", pa.string()),
        pa.field("number", pa.float64()),
        pa.field("text", pa.string()),
    ]
)
_GUESTS = [field for field in PLAN if field.name != "reused_from"]
ASKED = pa.list_(pa.struct([pa.field("name", pa.string()), pa.field("question", pa.string())]))


@dataclass(frozen=True, eq=False)
class Known:
    """Tables with the column `uri` or `image_id`: metadata that goes over what the plan says, a row an image;
    questions, any number of rows. `grouping`: by metadata of either."""

    metadata: pa.Table | None = None
    asked: pa.Table | None = None
    grouping: Grouping | None = None


def read_metadata(location: str) -> pa.Table:
    """Rows about images, from Parquet, CSV or JSON lines: `uri` (string) or `image_id` (int64), and more.

    Raises: CorpusError where it cannot be read, names its images neither by `uri` nor by `image_id`, or has
    two rows about one image.
    """
    table = _read_keyed(location)
    key = _key_of(table)
    counts = table[key].value_counts()
    twice = counts.filter(pc.greater(counts.field("counts"), 1))
    if len(twice):
        raise CorpusError(f"{_METADATA}: {location} has several rows of {key} {twice[0]['values']}")
    return table


def _read_keyed(location: str) -> pa.Table:
    path = Path(location).expanduser()
    readers = {".parquet": pq.read_table, ".csv": pa.csv.read_csv, ".jsonl": pa.json.read_json}
    if path.suffix not in readers:
        raise CorpusError(f"{_METADATA} must be a file of {', '.join(readers)}, got {location}")
    try:
        table = readers[path.suffix](path)
    except (pa.ArrowException, OSError) as error:
        raise CorpusError(f"{_METADATA}: {location} cannot be read: {str(error).splitlines()[0]}") from error
    named = [name for name in _KEYS if name in table.column_names]
    if len(named) != 1:
        raise CorpusError(
            f"{_METADATA}: {location} must have one of the columns {', '.join(_KEYS)}, "
            f"it has {', '.join(table.column_names)}"
        )
    kind = pa.string() if named[0] == "uri" else pa.int64()
    try:
        return table.set_column(table.column_names.index(named[0]), named[0], table[named[0]].cast(kind))
    except pa.ArrowInvalid as error:
        raise CorpusError(f"{_METADATA}: {location}: column {named[0]} must hold {kind}") from error


def read_asked(location: str) -> pa.Table:
    """Questions of single images: `question`, and `name` where there are names. Raises: CorpusError."""
    try:
        return asked.read_asked(str(Path(location).expanduser()))
    except ValueError as error:
        raise CorpusError(f"context.questions: {error}") from error


def with_known(corpus: Corpus, shards: Sequence[PlannedShard], known: Known) -> list[PlannedShard]:
    """The shards, each with what is known of its items beside what the plan says."""
    if not shards or (known.metadata is None and known.asked is None and known.grouping is None):
        return list(shards)
    groups = _Groups(corpus, known) if known.grouping else None
    parts = [_rows(corpus, shard, groups) for shard in shards]
    table = _described(pa.concat_tables(parts), known, groups)
    starts = np.cumsum([0, *map(len, parts)]).tolist()
    return [
        replace(shard, context=ipc_bytes(table.slice(start, len(part))))
        for shard, part, start in zip(shards, parts, starts, strict=False)
    ]


def with_context(rows: pa.Table, context: bytes) -> pa.Table:
    """Plan rows and what is known of them: columns `context`, `asked`, `group`; then the guests."""
    if not context:
        return rows
    known = pa.ipc.open_stream(context).read_all()
    own = known.filter(pc.invert(known[GUEST]))
    place = pc.index_in(rows["image_id"], own["image_id"].combine_chunks()).combine_chunks()
    guests = known.filter(known[GUEST])
    added = [name for name in known.column_names if name not in PLAN.names]
    for name in added:
        rows = rows.append_column(known.schema.field(name), own[name].combine_chunks().take(place))
    return pa.concat_tables([rows, guests.select(rows.column_names).cast(rows.schema)])


def _rows(corpus: Corpus, shard: PlannedShard, groups: "_Groups | None") -> pa.Table:
    """The plan rows of a shard, and behind them those of its guests.

    Its own have the plan's metadata again when the shard is worked on; the guests' travels with them.
    """
    rows = _without_told(read_planned(corpus, shard).select([field.name for field in _GUESTS]))
    guests = groups.guests(rows["image_id"]) if groups else rows.slice(0, 0)
    marks = np.repeat([False, True], [len(rows), len(guests)])
    return pa.concat_tables([rows, guests]).append_column(GUEST, pa.array(marks))


def _described(rows: pa.Table, known: Known, groups: "_Groups | None") -> pa.Table:
    """The rows with what is known of them."""
    described = rows
    if known.metadata is not None:
        described = described.append_column("context", _structs(rows, known.metadata))
    if known.asked is not None:
        described = described.append_column("asked", _lists(rows, known.asked))
    if groups:
        pairs = zip(rows["image_id"].to_pylist(), rows[GUEST].to_pylist(), strict=True)
        members = [None if guest else groups.of(item) for item, guest in pairs]
        described = described.append_column("group", pa.array(members, pa.list_(pa.int64())))
    return described


def _structs(rows: pa.Table, metadata: pa.Table) -> pa.Array:
    key = _key_of(metadata)
    columns = [name for name in metadata.column_names if name != key]
    place = pc.index_in(rows[key], metadata[key].combine_chunks()).combine_chunks()
    values = [metadata[name].combine_chunks() for name in columns]
    return pa.StructArray.from_arrays(values, names=columns).take(place)


def _lists(rows: pa.Table, asked: pa.Table) -> pa.Array:
    key = _key_of(asked)
    found: dict[object, list[dict[str, str | None]]] = {}
    for row in asked.to_pylist():
        found.setdefault(row[key], []).append({"name": row.get("name"), "question": row["question"]})
    return pa.array([found.get(one, []) for one in rows[key].to_pylist()], ASKED)


def _without_told(rows: pa.Table) -> pa.Table:
    for field in TOLD:
        place = rows.column_names.index(field.name)
        rows = rows.set_column(place, field, pa.nulls(len(rows), field.type))
    return rows


class _Groups:
    """Which images of the corpus belong together. The first of a group is asked about all of them.

    Holds of each image the group and its place in that, and no other metadata.
    """

    def __init__(self, corpus: Corpus, known: Known) -> None:
        assert known.grouping is not None
        self._corpus = corpus
        self._shards = {shard.shard: shard for shard in planned_shards(corpus)}
        shards = list(self._shards.values())
        parts = [shards[start : start + _TOGETHER] for start in range(0, len(shards), _TOGETHER)]
        tables = [
            _places(pa.concat_tables([read_planned(corpus, shard) for shard in part]), known.grouping, known)
            for part in parts
        ]
        keys = [("by", "ascending"), ("number", "ascending"), ("text", "ascending"), ("id", "ascending")]
        ordered = pa.concat_tables([_PLACES.empty_table(), *tables]).sort_by(keys)
        grouped = ordered.group_by("by", use_threads=False).aggregate([("id", "list")])["id_list"].to_pylist()
        self._of: dict[int, list[int]] = {members[0]: members for members in grouped}

    def of(self, anchor: int) -> list[int] | None:
        """All members, in order, of the group that this image is the first of."""
        return self._of.get(anchor)

    def guests(self, ids: pa.ChunkedArray) -> pa.Table:
        """Plan rows of members that are not among these images, of groups that can be asked about."""
        own = set(ids.to_pylist())
        groups = (self.of(item) or () for item in own)
        missing = {id for group in groups if len(group) <= GROUP_LIMIT for id in group} - own
        wanted = pa.array(sorted(missing), pa.int64())
        names = [field.name for field in _GUESTS]
        tables = [
            read_planned(self._corpus, self._shards[shard]).select(names)
            for shard in sorted({shard_of(item) for item in missing})
        ]
        rows = pa.concat_tables([pa.schema(_GUESTS).empty_table(), *tables])
        return rows.filter(pc.is_in(rows["image_id"], wanted))


def _places(rows: pa.Table, grouping: Grouping, known: Known) -> pa.Table:
    """Schema `_PLACES`: the plan rows that are in a group."""
    files: list[Any] = [None] * len(rows)
    if known.metadata is not None:
        files = _structs(rows, known.metadata).to_pylist()
    found = []
    for item, text, other in zip(
        rows["image_id"].to_pylist(), rows["metadata"].to_pylist(), files, strict=True
    ):
        told = merged(text, other)
        by, order = (at_name(told, name) for name in (grouping.by, grouping.order))
        if as_text(by) is not None and as_text(order) is not None:
            found.append((item, as_text(by), *_order(order)))
    columns = zip(*found, strict=True) if found else ((), (), (), ())
    return pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, _PLACES, strict=True)], _PLACES
    )


def _order(value: Any) -> tuple[float | None, str | None]:
    """Numbers by their value, and before texts; anything else as a text."""
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        return as_float(float(value) if isinstance(value, Decimal) else value), None
    return None, as_text(value)


def _key_of(table: pa.Table) -> str:
    return next(name for name in _KEYS if name in table.column_names)
