"""From a JSON schema to an Arrow type, and from the values it allows to values of that type."""

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from stages.generators.checks.structured import json_schema
from stages.generators.protocol import clean

Schema = Mapping[str, Any]


@dataclass(frozen=True)
class Typed:
    """The Arrow type of a schema's values. `convert` raises: ValueError for a number beyond it."""

    type: pa.DataType
    convert: Callable[[Any], Any]


@functools.cache
def typed_answer(schema: str) -> Typed:
    """object -> struct, array -> list, string, integer -> int64, number -> double, boolean; enum and const by
    the type of their values. Each is nullable. What has no such type is a JSON text: several types at once,
    objects without `properties`, arrays without `items`, schemas that hold themselves.

    `schema`: a JSON schema, as text. Raises: ValueError for what is none, or refers to what it does not hold.
    """
    json_schema(schema)
    whole = json.loads(schema)
    _require_refs(whole, whole)
    return _typed(whole, whole, ("#",))


def _typed(schema: Any, whole: Any, seen: tuple[str, ...]) -> Typed:
    found = _of_kind(schema, whole, seen) if isinstance(schema, dict) else None
    return _nullable(found or Typed(pa.string(), _as_json))


def _nullable(typed: Typed) -> Typed:
    return Typed(typed.type, lambda value: None if value is None else typed.convert(value))


def _of_kind(schema: Schema, whole: Any, seen: tuple[str, ...]) -> Typed | None:
    if "$ref" in schema:
        ref = schema["$ref"]
        return None if ref in seen else _typed(_referred(whole, ref), whole, (*seen, ref))
    if "enum" in schema or "const" in schema:
        return _of_values(schema["enum"] if "enum" in schema else [schema["const"]])
    if "type" not in schema:
        choices = [one for key in ("anyOf", "oneOf", "allOf") for one in schema.get(key, ())]
        choices = [one for one in choices if not (isinstance(one, dict) and one.get("type") == "null")]
        return _typed(choices[0], whole, seen) if len(choices) == 1 else None
    kinds = schema["type"]
    named = [kind for kind in ([kinds] if isinstance(kinds, str) else kinds) if kind != "null"]
    match named:
        case ["object"] if schema.get("properties"):
            return _struct({name: _typed(one, whole, seen) for name, one in schema["properties"].items()})
        case ["array"] if isinstance(schema.get("items"), dict) and "prefixItems" not in schema:
            return _list(_typed(schema["items"], whole, seen))
        case [("string" | "integer" | "number" | "boolean") as kind]:
            return _SIMPLE[kind]
    return None


def _of_values(values: list[Any]) -> Typed | None:
    kinds = {type(value) for value in values if value is not None}
    for name, allowed in (
        ("string", {str}),
        ("boolean", {bool}),
        ("integer", {int}),
        ("number", {int, float}),
    ):
        if kinds and kinds <= allowed:
            return _SIMPLE[name]
    return None


def _struct(fields: Mapping[str, Typed]) -> Typed:
    kind = pa.struct([pa.field(name, field.type) for name, field in fields.items()])
    return Typed(kind, lambda value: {name: field.convert(value.get(name)) for name, field in fields.items()})


def _list(item: Typed) -> Typed:
    return Typed(pa.list_(item.type), lambda value: [item.convert(one) for one in value])


def _as_json(value: Any) -> str:
    return clean(json.dumps(value, ensure_ascii=False))


def _integer(value: float) -> int:
    """JSON knows no bounds, and takes 1.0 for a whole number."""
    if not -(2**63) <= value < 2**63:
        raise ValueError("a whole number does not fit into 64 bits")
    return int(value)


def _number(value: float) -> float:
    try:
        return float(value)
    except OverflowError as error:
        raise ValueError("a number does not fit into 64 bits") from error


_SIMPLE = {
    "string": Typed(pa.string(), clean),
    "integer": Typed(pa.int64(), _integer),
    "number": Typed(pa.float64(), _number),
    "boolean": Typed(pa.bool_(), bool),
}


def _require_refs(part: Any, whole: Any) -> None:
    """A reference to nothing would be found only at the first answer. Raises: ValueError."""
    for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        _require_refs(inner, whole)
    if isinstance(part, dict) and isinstance(part.get("$ref"), str):
        _referred(whole, part["$ref"])


def _referred(whole: Any, ref: str) -> Any:
    """JSON pointers of RFC 6901, as in `#/$defs/colour`."""
    found = whole
    try:
        for key in ref.removeprefix("#").split("/")[1:]:
            key = key.replace("~1", "/").replace("~0", "~")
            found = found[int(key)] if isinstance(found, list) else found[key]
    except (KeyError, IndexError, ValueError, TypeError):
        found = None
    if found is None or not (ref == "#" or ref.startswith("#/")):
        raise ValueError(f"$ref must be a place in the schema itself, such as #/$defs/NAME, got {ref!r}")
    return found
