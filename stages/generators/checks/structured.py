"""JSON that models write, held against the schema of the question."""

import json
import re
from collections.abc import Iterator
from functools import cache
from typing import Any, NoReturn

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from jsonschema.protocols import Validator
from jsonschema.validators import validator_for
from referencing import Registry
from referencing.exceptions import Unresolvable

_FENCED = re.compile(r"```[a-zA-Z]*[ \t]*\n?(.*?)```", re.DOTALL)
_LONGEST = 160


class InvalidJsonError(ValueError):
    """A text that is not JSON, or not what its schema asks for. The message is one line."""


@cache
def json_schema(text: str) -> Validator:
    """Raises: ValueError for what is no JSON schema, or refers to another document: none is fetched."""
    try:
        schema = json.loads(text)
        kind = validator_for(schema, default=Draft202012Validator)
        kind.check_schema(schema)
    except SchemaError as error:
        raise ValueError(f"not a JSON schema: {_line(error.message)}") from error
    except ValueError as error:
        raise ValueError(f"a JSON schema must be JSON: {error}") from error
    outside = [reference for reference in _references(schema) if not reference.startswith("#")]
    if outside:
        raise ValueError(f"a JSON schema must hold all that it refers to, got $ref {outside[0]!r}")
    validator: Validator = kind(schema, registry=Registry())  # this one never goes to the network
    return validator


def parse(text: str, schema: str) -> Any:
    """The value that a text states, alone or between the ``` of a code block.

    Raises: InvalidJsonError; ValueError as `json_schema` does.
    """
    validator = json_schema(schema)
    value = _value(text)
    try:
        faults = sorted(validator.iter_errors(value), key=lambda fault: list(map(str, fault.absolute_path)))
    except Unresolvable as error:
        raise ValueError(f"the JSON schema refers to {error.ref!r}, which it does not hold") from error
    if faults:
        raise InvalidJsonError(f"{faults[0].json_path}: {_line(faults[0].message)}")
    return value


def stated(text: str) -> Any | None:
    """The JSON object or list that a text states, alone or in a code block; None where it states none."""
    try:
        value = _value(text) if text.lstrip().startswith(("{", "[", "```")) else None
    except InvalidJsonError:
        return None
    return value if isinstance(value, (dict, list)) else None


def texts_of(value: Any) -> Iterator[str]:
    """All strings in a JSON value."""
    match value:
        case str():
            yield value
        case list():
            for part in value:
                yield from texts_of(part)
        case dict():
            for part in value.values():
                yield from texts_of(part)


def _value(text: str) -> Any:
    fenced = _FENCED.search(text)
    try:
        return json.loads(fenced[1] if fenced else text, parse_constant=_no_constant)
    except RecursionError as error:
        raise InvalidJsonError("not JSON: nested too deeply") from error
    except ValueError as error:
        raise InvalidJsonError(f"not JSON: {_line(str(error))}") from error


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _references(schema: Any) -> Iterator[str]:
    match schema:
        case list():
            for part in schema:
                yield from _references(part)
        case dict():
            for key, part in schema.items():
                if key in ("$ref", "$dynamicRef", "$recursiveRef") and isinstance(part, str):
                    yield part
                yield from _references(part)


def _line(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
