"""What columns beside an image say of it: one JSON object a row, and the original caption."""

import json
import math
from collections.abc import Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.types as types

CAPTIONS = ("caption", "text")
"""Columns that are the original caption where none is named."""


def is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if types.is_dictionary(kind) else kind
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def is_binary(kind: pa.DataType) -> bool:
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind))


def can_be_json(kind: pa.DataType) -> bool:
    """Whether values of a type can be written as JSON: everything but bytes, at any depth."""
    if types.is_dictionary(kind):
        return can_be_json(kind.value_type)
    if types.is_struct(kind):
        return all(can_be_json(field.type) for field in kind)
    if types.is_map(kind):
        return can_be_json(kind.key_type) and can_be_json(kind.item_type)
    if types.is_nested(kind):
        return not types.is_union(kind) and can_be_json(kind.value_type)
    return not (is_binary(kind) or types.is_fixed_size_binary(kind))


def caption_column(names: Sequence[str], wanted: str | None) -> str | None:
    """The column of the original caption. `names`: of the columns of texts."""
    if wanted is not None:
        return wanted if wanted in names else None
    return next((name for name in CAPTIONS if name in names), None)


def python_values(column: pa.Array) -> list[Any]:
    """The values of a column; times to the microsecond, as Python has them."""
    kind = _in_microseconds(column.type)
    if kind != column.type:
        column = column.cast(kind, safe=False)
    values: list[Any] = column.to_pylist(maps_as_pydicts="lossy")
    return values


def _in_microseconds(kind: pa.DataType) -> pa.DataType:
    if types.is_timestamp(kind) and kind.unit == "ns":
        return pa.timestamp("us", kind.tz)
    if types.is_time64(kind):
        return pa.time64("us")
    if types.is_duration(kind) and kind.unit == "ns":
        return pa.duration("us")
    if types.is_struct(kind):
        return pa.struct([field.with_type(_in_microseconds(field.type)) for field in kind])
    if types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_in_microseconds(kind.value_type)))
    if types.is_large_list(kind):
        return pa.large_list(kind.value_field.with_type(_in_microseconds(kind.value_type)))
    return kind


def as_objects(columns: Mapping[str, Sequence[Any]], rows: int) -> list[str | None]:
    """A JSON object a row of what is not null; None where nothing is left."""
    names = list(columns)
    if not names:
        return [None] * rows
    return [as_object(dict(zip(names, row, strict=True))) for row in zip(*columns.values(), strict=True)]


def as_object(said: Mapping[str, Any]) -> str | None:
    """As JSON, nulls left out; None where nothing is left."""
    kept = {name: value for name, value in said.items() if value is not None}
    if not kept:
        return None
    try:
        return json.dumps(kept, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError):
        return json.dumps(_plain(kept), ensure_ascii=False)


def _plain(value: Any) -> Any:
    """With ISO 8601 for times, seconds for durations, floats for decimals, and null for what is no number."""
    match value:
        case dict():
            return {str(key): _plain(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_plain(inner) for inner in value]
        case datetime() | date() | time():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case Decimal():
            return _plain(float(value))
        case float():
            return value if math.isfinite(value) else None
        case _:
            return value
