"""The rows of a shard as questions see them: a picture, and what is known about it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from stages.base import Image, unpack_views
from stages.generators.known import embeddings_of
from stages.questions.templates import as_text
from stages.schemas import Status
from stages.told import at_name, merged

_ALWAYS = ("status", "error", "image_id", "guest", "context")
_KNOWN = ("caption", "tags", "text:ocr", "original_caption", "metadata", "context")


@dataclass(frozen=True, eq=False)
class Row:
    """`values`: what templates may ask for, by name; what is missing is not there. `asked`: the picture's own
    questions, as (name, text). `group`: the ids of its group, on the first row of that. `guest`: the row is
    only there for its picture."""

    image: Image | None
    status: str
    error: str | None
    image_id: int | None = None
    values: Mapping[str, str] = field(default_factory=dict)
    asked: Sequence[tuple[str | None, str]] = ()
    group: Sequence[int] | None = None
    guest: bool = False
    embedding: npt.NDArray[np.float16] | None = None


@dataclass(frozen=True)
class Reads:
    """What is read of the rows beside their status: a view, columns, and values of `metadata` by name.

    Nothing else: which columns happen to be there differs between the nights of one dataset.
    """

    view: str
    columns: tuple[str, ...] = ()
    metadata: tuple[str, ...] = ()


def read_rows(shard: pa.Table, reads: Reads) -> list[Row]:
    """Raises: ValueError for a column that the questions need and the table lacks."""
    _require(shard, reads)
    always = [name for name in _ALWAYS if name in shard.column_names]
    table = shard.select([*always, *dict.fromkeys(name for name in reads.columns if name not in always)])
    known = [name for name in _KNOWN if name in table.column_names]
    values = [_values(row, reads.metadata) for row in table.select(known).to_pylist()] or [{}] * len(table)
    read = {name: _column(table, name) for name in ("status", "error", "image_id", "asked", "group", "guest")}
    vectors = embeddings_of(table)
    return [
        Row(
            image=image,
            status=read["status"][row],
            error=read["error"][row],
            image_id=read["image_id"][row],
            values=values[row],
            asked=[(one["name"], one["question"]) for one in read["asked"][row] or ()],
            group=read["group"][row],
            guest=bool(read["guest"][row]),
            embedding=vectors[row],
        )
        for row, image in enumerate(unpack_views(shard, reads.view))
    ]


def _column(table: pa.Table, name: str) -> list[Any]:
    return table[name].to_pylist() if name in table.column_names else [None] * len(table)


def _require(shard: pa.Table, reads: Reads) -> None:
    absent = [name for name in reads.columns if name not in shard.column_names]
    if absent:
        raise ValueError(f"the questions need the column {absent[0]}, and the rows have none")


def _values(row: Mapping[str, Any], names: Sequence[str]) -> dict[str, str]:
    """What templates may ask for; a value that is missing is left out. A file says more than the source."""
    found = {
        "caption": _caption(row.get("caption")),
        "tags": _tags(row.get("tags")),
        "ocr": as_text(row.get("text:ocr")),
        "original_caption": as_text(row.get("original_caption")),
    }
    told = merged(row.get("metadata"), row.get("context")) if names else {}
    found |= {f"metadata.{name}": as_text(at_name(told, name)) for name in names}
    return {name: value for name, value in found.items() if value is not None}


def _caption(caption: Mapping[str, Any] | None) -> str | None:
    """A caption that is a refusal, or goes round in a loop, describes no picture."""
    return as_text(caption["caption"]) if caption and caption["status"] == Status.OK else None


def _tags(tags: Sequence[str] | None) -> str | None:
    """A picture without any tag is as good as any other: only null is missing."""
    return None if tags is None else ", ".join(tags)
