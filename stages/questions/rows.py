"""The rows of a shard as questions see them: a picture, and what is known about it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from stages.base import Image, unpack_views
from stages.generators.known import embeddings_of
from stages.questions.plan import Needs
from stages.questions.templates import as_text
from stages.schemas import Status


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


def read_rows(shard: pa.Table, view: str, needs: Needs, asked: bool) -> list[Row]:
    """Raises: ValueError for a column that the questions need and the table lacks."""
    _require(shard, needs, asked)
    read = {name: _column(shard, name) for name in ("status", "error", "image_id", "asked", "group", "guest")}
    values, vectors = list(_values(shard)), embeddings_of(shard)
    return [
        Row(
            image=image,
            status=read["status"][row],
            error=read["error"][row],
            image_id=read["image_id"][row],
            values=values[row],
            asked=[(one["name"], one["question"]) for one in read["asked"][row] or ()] if asked else (),
            group=read["group"][row],
            guest=bool(read["guest"][row]),
            embedding=vectors[row],
        )
        for row, image in enumerate(unpack_views(shard, view))
    ]


def _column(shard: pa.Table, name: str) -> list[Any]:
    return shard[name].to_pylist() if name in shard.column_names else [None] * len(shard)


def _require(shard: pa.Table, needs: Needs, asked: bool) -> None:
    wanted = {
        "caption": needs.captions,
        "tags": needs.tags,
        "metadata": bool(needs.metadata),
        "group": needs.group is not None,
        "image_id": needs.group is not None,
        "asked": asked,
        **{f"text:{name}": True for name in needs.texts},
    }
    absent = [name for name, needed in wanted.items() if needed and name not in shard.column_names]
    if absent:
        raise ValueError(f"the questions need the column {absent[0]}, and the rows have none")
    fields = {one.name for one in shard.schema.field("metadata").type} if needs.metadata else set()
    unknown = sorted(set(needs.metadata) - fields)
    if unknown:
        raise ValueError(
            f"metadata.{unknown[0]} is not there: columns of metadata are {', '.join(sorted(fields))}"
        )


def _values(shard: pa.Table) -> Iterator[dict[str, str]]:
    names = ("caption", "tags", "text:ocr", "metadata")
    for caption, tags, ocr, metadata in zip(*(_column(shard, name) for name in names), strict=True):
        found = {"caption": _caption(caption), "tags": _tags(tags), "ocr": as_text(ocr)}
        found |= {f"metadata.{name}": as_text(value) for name, value in (metadata or {}).items()}
        yield {name: value for name, value in found.items() if value is not None}


def _caption(caption: Mapping[str, Any] | None) -> str | None:
    """A caption that is a refusal, or goes round in a loop, describes no picture."""
    return as_text(caption["caption"]) if caption and caption["status"] == Status.OK else None


def _tags(tags: Sequence[str] | None) -> str | None:
    """A picture without any tag is as good as any other: only null is missing."""
    return None if tags is None else ", ".join(tags)
