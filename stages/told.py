"""What a source says of its items, JSON objects as texts: values one by one, and as columns of one type."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json


class ValueKind(StrEnum):
    """What a value is wanted as. Where it is of another kind it is null, as where it is missing."""

    NUMBER = "number"  # float64: integers beyond 2**53 are rounded
    INTEGER = "integer"  # int64
    TEXT = "text"
    BOOLEAN = "boolean"
    PRESENCE = "presence"  # bool: whether there is a value of any kind; never null
    MEMBER = "member"  # bool: whether a list holds `member`, or a text has it as a part


_TYPES = {
    ValueKind.NUMBER: pa.float64(),
    ValueKind.INTEGER: pa.int64(),
    ValueKind.TEXT: pa.string(),
    ValueKind.BOOLEAN: pa.bool_(),
    ValueKind.PRESENCE: pa.bool_(),
    ValueKind.MEMBER: pa.bool_(),
}


_DERIVED = (ValueKind.PRESENCE, ValueKind.MEMBER)


@dataclass(frozen=True)
class Value:
    """One value of each object: `path` are the keys that lead to it."""

    path: tuple[str, ...]
    kind: ValueKind
    member: str | float | None = None

    @property
    def name(self) -> str:
        """Of the column that holds it: no other value's, and no item's column."""
        asked = json.dumps([*self.path, self.kind.value, self.member])
        return f"metadata{asked}"

    @property
    def type(self) -> pa.DataType:
        return _TYPES[self.kind]


def parsed(text: str | None) -> dict[str, Any]:
    """The object. Empty for null, for a text that is no object, and one nested deeper than Python reads."""
    if text is None:
        return {}
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def merged(text: str | None, others: Mapping[str, Any] | None) -> dict[str, Any]:
    """The object, with other values over its own; one that is null says nothing."""
    return parsed(text) | {name: value for name, value in (others or {}).items() if value is not None}


def at_path(told: Mapping[str, Any], path: Sequence[str]) -> Any:
    """None where there is no such value, null, or not a number (NaN)."""
    value: Any = told
    for key in path:
        if not isinstance(value, Mapping) or key not in value:
            return None
        value = value[key]
    return None if isinstance(value, float) and math.isnan(value) else value


def at_name(told: Mapping[str, Any], name: str) -> Any:
    """The value of a key; of `a.b` where there is no such key, that of `b` in `a`."""
    found = at_path(told, (name,))
    return at_path(told, name.split(".")) if found is None and "." in name else found


def value_columns(texts: pa.Array, values: Sequence[Value]) -> list[pa.Array]:
    """A column for each value, of its type, a row a text; 65,536 texts of 300 bytes at a time are 20 MB.

    Arrow reads them in C++, four times as fast as Python's json, and refuses a batch in which a value has
    several types: then each text is read by itself, with the same result.
    """
    if not len(texts):
        return [pa.nulls(0, value.type) for value in values]
    lines = pc.binary_join_element_wise(pc.fill_null(texts, "{}"), "", "\n")
    plain = [value for value in values if value.kind not in _DERIVED]
    found: dict[Value, pa.Array] = {}
    for group in [plain] if _schema_of(plain) else [[value] for value in plain]:
        found |= _read_together(lines, group)
    for value in values:
        if value.kind is ValueKind.PRESENCE:
            found |= _presence(lines, value)
    others = [value for value in values if value not in found]
    if others:
        found |= zip(others, _read_each(texts, others), strict=True)
    return [found[value] for value in values]


def _presence(lines: pa.Array, value: Value) -> dict[Value, pa.Array]:
    """Where the value is of one plain type in all texts; else nothing."""
    for kind in (ValueKind.TEXT, ValueKind.NUMBER, ValueKind.BOOLEAN):
        for column in _read_together(lines, [Value(value.path, kind)]).values():
            return {value: pc.is_valid(column)}
    return {}


def _schema_of(values: Sequence[Value]) -> pa.Schema | None:
    """None where Arrow cannot read these values in one pass: one of two types, or one inside of another."""
    tree: dict[str, Any] = {}
    for value in values:
        node = tree
        for key in value.path[:-1]:
            node = node.setdefault(key, {})
            if not isinstance(node, dict):
                return None
        if node.setdefault(value.path[-1], value.type) != value.type:
            return None
    return pa.schema([pa.field(key, _type_of(node)) for key, node in tree.items()])


def _type_of(node: Any) -> pa.DataType:
    if not isinstance(node, dict):
        return node
    return pa.struct([pa.field(key, _type_of(inner)) for key, inner in node.items()])


def _read_together(lines: pa.Array, values: Sequence[Value]) -> dict[Value, pa.Array]:
    """Nothing where a value has a type of its own, or a text is not one object."""
    options = pa.json.ParseOptions(explicit_schema=_schema_of(values), unexpected_field_behavior="ignore")
    try:
        table = pa.json.read_json(pa.BufferReader(lines.buffers()[2]), parse_options=options)
    except pa.ArrowInvalid:
        return {}
    return {value: _column(table, value) for value in values} if len(table) == len(lines) else {}


def _column(table: pa.Table, value: Value) -> pa.Array:
    column = table[value.path[0]].combine_chunks()
    if len(value.path) > 1:
        column = pc.struct_field(column, list(value.path[1:]))
    if value.kind is ValueKind.NUMBER:
        column = pc.if_else(pc.is_nan(column), None, column)
    return column


def _read_each(texts: pa.Array, values: Sequence[Value]) -> list[pa.Array]:
    columns: list[list[Any]] = [[] for _ in values]
    for text in texts.to_pylist():
        told = parsed(text)
        for column, value in zip(columns, values, strict=True):
            column.append(_of_kind(at_path(told, value.path), value))
    return [pa.array(column, value.type) for column, value in zip(columns, values, strict=True)]


def _of_kind(found: Any, value: Value) -> Any:
    is_number = isinstance(found, int | float) and not isinstance(found, bool)
    match value.kind:
        case ValueKind.PRESENCE:
            return found is not None
        case ValueKind.NUMBER if is_number:
            return as_float(found)
        case ValueKind.INTEGER if is_number and isinstance(found, int) and -(1 << 63) <= found < 1 << 63:
            return found
        case ValueKind.TEXT if isinstance(found, str):
            return _encodable(found)
        case ValueKind.BOOLEAN if isinstance(found, bool):
            return found
        case ValueKind.MEMBER if isinstance(found, list):
            return any(type(one) is not bool and one == value.member for one in found)
        case ValueKind.MEMBER if isinstance(found, str) and isinstance(value.member, str):
            return value.member in found
    return None


def as_float(number: float) -> float:
    """Infinite where a float64 cannot hold it."""
    try:
        return float(number)
    except OverflowError:  # an integer of more than 308 digits
        return math.copysign(math.inf, number)


def _encodable(text: str) -> str:
    r"""JSON may name half of a surrogate pair (`\ud800`), which no text of Arrow holds: it becomes `?`."""
    return text.encode("utf-8", "replace").decode("utf-8")
