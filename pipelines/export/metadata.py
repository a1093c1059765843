"""What a source says of items, a JSON object each, as columns of their own."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipelines.export.chosen import Chunk

# Metadata of more keys has no columns that a person would look at: it stays one of JSON.
_MOST_KEYS = 256
_INT64 = range(-(1 << 63), 1 << 63)


def read_object(text: str | None) -> dict[str, Any]:
    return {} if text is None else dict(json.loads(text))


def renamed(key: str, taken: frozenset[str]) -> str:
    """The name of a key beside an export's own columns, which keep theirs."""
    while key in taken:
        key = f"metadata_{key}"
    return key


@dataclass(frozen=True)
class MetadataColumns:
    """The columns of all metadata: `names` of them by key, and their types; None keys: one column of JSON."""

    fields: Mapping[str, pa.Field] | None

    @property
    def schema(self) -> list[pa.Field]:
        return [pa.field("metadata", pa.string())] if self.fields is None else list(self.fields.values())

    def arrays(self, metadata: Sequence[str | None]) -> list[pa.Array]:
        """In the order of `schema`."""
        if self.fields is None:
            return [pa.array(metadata, pa.string())]
        said = [read_object(text) for text in metadata]
        return [
            pa.array([_as(one.get(key), field.type) for one in said], field.type)
            for key, field in self.fields.items()
        ]


def metadata_columns(chunks: Iterable[Chunk], taken: frozenset[str]) -> MetadataColumns:
    """Of everything that is said: one pass over the metadata, in the memory of its keys."""
    kinds: dict[str, set[str]] = {}
    for chunk in chunks:
        for text in chunk.rows["metadata"].to_pylist():
            for key, value in read_object(text).items():
                if value is not None:
                    kinds.setdefault(key, set()).add(_kind_of(value))
                else:
                    kinds.setdefault(key, set())
        if len(kinds) > _MOST_KEYS:
            return MetadataColumns(None)
    fields: dict[str, pa.Field] = {}
    for key in sorted(kinds):
        name = renamed(key, taken | {field.name for field in fields.values()})
        fields[key] = pa.field(name, _type_of(kinds[key]))
    return MetadataColumns(fields)


def _kind_of(value: object) -> str:
    match value:
        case bool():
            return "bool"
        case int():
            return "int" if value in _INT64 else "text"
        case float():
            return "float"
        case _:
            return "text"


def _type_of(kinds: set[str]) -> pa.DataType:
    if kinds == {"bool"}:
        return pa.bool_()
    if kinds == {"int"}:
        return pa.int64()
    return pa.float64() if kinds and kinds <= {"int", "float"} else pa.string()


def _as(value: Any, kind: pa.DataType) -> Any:
    """What is no text, in a column of texts, is JSON."""
    if value is None or not pa.types.is_string(kind):
        return float(value) if value is not None and pa.types.is_floating(kind) else value
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
