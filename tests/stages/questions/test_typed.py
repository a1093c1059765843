import json
from typing import Any

import pyarrow as pa
import pytest

from stages.questions.typed import typed_answer

TEXT = {"type": "string"}


@pytest.mark.parametrize(
    ("schema", "kind"),
    [
        (TEXT, pa.string()),
        ({"type": "integer"}, pa.int64()),
        ({"type": "number"}, pa.float64()),
        ({"type": "boolean"}, pa.bool_()),
        ({"type": ["integer", "null"]}, pa.int64()),
        ({"anyOf": [{"type": "null"}, {"type": "boolean"}]}, pa.bool_()),
        ({"enum": ["a", None, "b"]}, pa.string()),
        ({"enum": [True, False]}, pa.bool_()),
        ({"enum": [1, 2]}, pa.int64()),
        ({"enum": [1, 2.5]}, pa.float64()),
        ({"const": 3}, pa.int64()),
        ({"type": "array", "items": {"type": "integer"}}, pa.list_(pa.int64())),
        ({"type": "object", "properties": {"a": TEXT}}, pa.struct([("a", pa.string())])),
        (
            {
                "type": "object",
                "properties": {"b": {"$ref": "#/$defs/c~1d"}},
                "$defs": {"c/d": {"type": "number"}},
            },
            pa.struct([("b", pa.float64())]),
        ),
        # What has no type of its own is a JSON text.
        ({}, pa.string()),
        ({"type": "object"}, pa.string()),
        ({"type": "array"}, pa.string()),
        ({"type": ["string", "integer"]}, pa.string()),
        ({"enum": [1, "a"]}, pa.string()),
        ({"type": "array", "items": {"$ref": "#"}}, pa.list_(pa.string())),
    ],
)
def test_typed_answer_has_the_arrow_type_of_its_schema(schema: Any, kind: pa.DataType) -> None:
    assert typed_answer(json.dumps(schema)).type == kind


@pytest.mark.parametrize(
    ("schema", "value", "stored"),
    [
        ({"type": "integer"}, 3.0, 3),
        ({"type": "number"}, 3, 3.0),
        (
            {"type": "object", "properties": {"a": {"type": "integer"}, "b": TEXT}},
            {"a": 1, "c": 2},
            {"a": 1, "b": None},
        ),
        ({"type": "array", "items": {"type": ["string", "null"]}}, ["a", None], ["a", None]),
        ({"type": "object"}, {"é": [1]}, '{"é": [1]}'),
        ({"type": ["string", "integer"]}, "a", '"a"'),
        (TEXT, "a\ud800\x1b[2J", "a[2J"),
        (TEXT, None, None),
    ],
)
def test_typed_answer_value_fits_its_column(schema: Any, value: Any, stored: Any) -> None:
    typed = typed_answer(json.dumps(schema))
    assert pa.array([typed.convert(value)], typed.type).to_pylist() == [stored]


@pytest.mark.parametrize(
    ("kind", "value"), [("integer", 2**63), ("integer", -(2**63) - 1), ("number", 10**400)]
)
def test_typed_answer_number_beyond_64_bits_is_refused(kind: str, value: int) -> None:
    with pytest.raises(ValueError, match="does not fit into 64 bits"):
        typed_answer(json.dumps({"type": kind})).convert(value)


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ('{"type": "text"}', "'text' is not valid"),
        ('{"$ref": "https://example.com/a.json"}', "https://example.com/a.json"),
        ('{"properties": {"a": {"$ref": "other.json"}}}', "other.json"),
        ('{"properties": {"a": {"$ref": "#/$defs/b"}}}', "#/\\$defs/b"),
    ],
)
def test_typed_answer_bad_schema_is_refused_in_one_line(schema: str, told: str) -> None:
    with pytest.raises(ValueError, match=told) as caught:
        typed_answer(schema)
    assert "\n" not in str(caught.value)
