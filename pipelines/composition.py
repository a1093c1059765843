"""Between frozen dataclasses and Hydra: the schema of a dataclass, the dataclass of composed values.

OmegaConf makes the schema of a frozen dataclass read-only, so that no YAML could set a field of it, and
knows no tuples. So Hydra is given a mutable twin of each class, and the frozen ones are built at the end.
"""

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Collection, Mapping
from enum import Enum
from functools import partial
from typing import Any

REQUIRED: Any = "???"
"""The default of a key that has none, as OmegaConf writes it."""


def thawed(schema: type[Any]) -> type[Any]:
    """The mutable twin of a frozen dataclass, always the same one: lists for tuples, texts for enums."""
    if schema not in _TWINS:
        _TWINS[schema] = _twin(schema)
    return _TWINS[schema]


_TWINS: dict[type[Any], type[Any]] = {}


def _twin(schema: type[Any]) -> type[Any]:
    hints = typing.get_type_hints(schema)
    fields = [
        (field.name, _thawed_type(hints[field.name]), _thawed_default(field, hints))
        for field in _fields(schema)
    ]
    return dataclasses.make_dataclass(schema.__name__, fields)


def _fields(schema: type[Any]) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(schema)


def _thawed_type(hint: Any) -> Any:
    inner = _without_none(hint)
    twin: Any = inner
    if dataclasses.is_dataclass(inner):
        twin = thawed(typing.cast(type[Any], inner))
    elif typing.get_origin(inner) is tuple:
        twin = types.GenericAlias(list, (_thawed_type(typing.get_args(inner)[0]),))
    elif _is_enum(inner):
        twin = str
    elif typing.get_origin(inner) in (types.UnionType, typing.Union):
        return Any  # OmegaConf 2.3 cannot fill a union inside an optional section; the dataclass checks it
    return twin if inner is hint else twin | None


def _is_enum(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Enum)


def _without_none(hint: Any) -> Any:
    """`X` for `X | None`, every other hint as it is."""
    if typing.get_origin(hint) not in (types.UnionType, typing.Union):
        return hint
    kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
    return kinds[0] if len(kinds) == 1 else hint


def _thawed_default(field: dataclasses.Field[Any], hints: Mapping[str, Any]) -> Any:
    inner, default = _without_none(hints[field.name]), field.default
    if dataclasses.is_dataclass(inner) and default not in (None, REQUIRED):
        return dataclasses.field(default_factory=thawed(typing.cast(type[Any], inner)))
    if isinstance(default, tuple):
        return dataclasses.field(default_factory=partial(list, default))
    if isinstance(default, Enum):
        return dataclasses.field(default=default.value)
    return dataclasses.field(default=REQUIRED if default is dataclasses.MISSING else default)


def build(hint: Any, value: Any, key: str = "") -> Any:
    """The frozen dataclass of composed values. Raises ValueError with the full key of what is wrong."""
    inner = _without_none(hint)
    if value is None:
        return None
    if dataclasses.is_dataclass(inner):
        return _build_dataclass(typing.cast(type[Any], inner), value, key)
    if typing.get_origin(inner) is tuple:
        return tuple(build(typing.get_args(inner)[0], item, key) for item in value)
    if _is_enum(inner):
        return _member(inner, value, key)
    return value


def _member(kind: type[Enum], value: Any, key: str) -> Enum:
    allowed = [member.value for member in kind]
    if value not in allowed:
        raise ValueError(f"{key} must be one of {', '.join(allowed)}, got {value}")
    return kind(value)


def _build_dataclass(schema: type[Any], values: Mapping[str, Any], key: str) -> Any:
    hints = typing.get_type_hints(schema)
    prefix = f"{key}." if key else ""
    arguments = {name: build(hints[name], value, prefix + name) for name, value in values.items()}
    try:
        return schema(**arguments)
    except ValueError as error:
        raise ValueError(_with_key(str(error), prefix, arguments)) from error


def _with_key(message: str, prefix: str, fields: Mapping[str, Any]) -> str:
    """A dataclass does not know where it stands in the tree: `batch_size must …` gets its full key."""
    first, _, rest = message.partition(" ")
    name = first.rpartition(".")[2]
    return f"{prefix}{name} {rest}" if name in fields else message


def checked(override: str, schema: type[Any], groups: Collection[str]) -> str:
    """One `key=value` of the command line as Hydra's grammar wants it. Raises ValueError for unknown keys.

    Texts are quoted, so that paths and sentences may hold commas and quotes; `group=none` leaves a group out;
    a list may go without its brackets.
    `groups` are choices that are no keys of the schema.
    """
    key, separator, value = override.partition("=")
    if not separator or not _KEY.fullmatch(key):
        raise ValueError(f"{override!r} is not of the form key=value")
    if key in groups and key not in typing.get_type_hints(schema):
        return override
    kind = _type_of(key, schema)
    if dataclasses.is_dataclass(kind) and value in ("none", "null"):
        return f"~{key}"
    if typing.get_origin(kind) is tuple and not value.startswith("[") and value not in ("null", "???"):
        return f"{key}=[{value}]"
    if kind is not str or value in ("null", "???") or value.startswith("${"):
        return override
    escaped = re.sub(r"(\\+)('|$)", r"\1\1\2", value).replace("'", "\\'")
    return f"{key}='{escaped}'"


def unset_sections(key: str, schema: Any) -> list[tuple[str, type[Any]]]:
    """The sections on the way to a key that are unset by default, outermost first, with their classes."""
    found = []
    path = key.split(".")
    for depth, name in enumerate(path[:-1], 1):
        field = next(field for field in _fields(schema) if field.name == name)
        schema = _without_none(typing.get_type_hints(schema)[name])
        if field.default is None:
            found.append((".".join(path[:depth]), schema))
    return found


_KEY = re.compile(r"[A-Za-z_]\w*(\.\w+)*")


def _type_of(key: str, schema: Any) -> Any:
    path = key.split(".")
    for depth, name in enumerate(path):
        hints = typing.get_type_hints(schema) if dataclasses.is_dataclass(schema) else {}
        if name not in hints:
            close = difflib.get_close_matches(name, hints, n=1)
            meant = f", did you mean {close[0]}?" if close else ""
            allowed = f" (allowed here: {', '.join(hints)})" if hints else ""
            raise ValueError(f"unknown key {'.'.join(path[: depth + 1])}{meant}{allowed}")
        schema = _without_none(hints[name])
    return schema


def explain(error: Exception) -> str:
    """One line out of an exception of Hydra or OmegaConf: the key, and what is allowed."""
    text = " ".join(str(error).split())
    key = getattr(error, "full_key", None)
    if "Missing mandatory value" in text:
        return f"{key} must be set: {key}=…"
    if found := re.search(
        r"Could not find '(\S+)/(\S+)' Available options in '\S+': (.*?) Config search", text
    ):
        group, choice, options = found.groups()
        return f"{group} must be one of {', '.join(options.split())} or none, got {choice}"
    first = str(error).splitlines()[0]
    return f"{key}: {first}" if key else first
