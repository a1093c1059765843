"""Values of JSON objects: whichever way a batch is read, its columns are the same."""

import json
import math
import random
from typing import Any

import pyarrow as pa
import pytest

from stages.told import Value, ValueKind, at_name, parsed, value_columns

KINDS = [kind for kind in ValueKind if kind is not ValueKind.MEMBER]


def _columns(texts: list[str | None], values: list[Value]) -> list[list[Any]]:
    return [column.to_pylist() for column in value_columns(pa.array(texts, pa.string()), values)]


def _expected(text: str | None, value: Value) -> Any:
    """By Python's json alone."""
    try:
        found = json.loads(text or "{}")
    except (ValueError, RecursionError):
        found = {}
    for key in value.path:
        found = found.get(key) if isinstance(found, dict) else None
    if isinstance(found, float) and math.isnan(found):
        found = None
    match value.kind:
        case ValueKind.PRESENCE:
            return found is not None
        case ValueKind.NUMBER:
            return float(found) if type(found) in (int, float) else None
        case ValueKind.INTEGER:
            return found if type(found) is int and -(2**63) <= found < 2**63 else None
        case ValueKind.TEXT:
            return found if isinstance(found, str) else None
        case ValueKind.BOOLEAN:
            return found if isinstance(found, bool) else None
    raise AssertionError(value.kind)


def _random_value(generator: random.Random, depth: int = 0) -> Any:
    choices: list[Any] = [
        None,
        generator.random() < 0.5,
        generator.randrange(-5, 5),
        generator.choice([2**53 + 1, -(2**63), 2**63, 10**30]),
        generator.uniform(-1e6, 1e6),
        generator.choice([1e-300, -0.0, math.inf, math.nan, 0.1]),
        "".join(
            generator.choice('ab "\\\n\u00e9\u4e2d\U0001f600\x00') for _ in range(generator.randrange(6))
        ),
    ]
    if depth < 2:
        choices.append([_random_value(generator, depth + 1) for _ in range(generator.randrange(3))])
        choices.append(
            {key: _random_value(generator, depth + 1) for key in "xyz" if generator.random() < 0.7}
        )
    return generator.choice(choices)


def _random_objects(generator: random.Random, uniform: bool) -> list[str | None]:
    """`uniform`: `x` is a number or null, so that a batch can be read in one pass."""
    objects = []
    for _ in range(generator.randrange(1, 20)):
        told = {key: _random_value(generator) for key in ["x", "y", "o d d"] if generator.random() < 0.8}
        if uniform and "x" in told:
            told["x"] = generator.choice([None, 1, 2.5, -7, 1e300])
        if generator.random() < 0.5:
            told["a"] = {"b": _random_value(generator)}
        text = json.dumps(told, ensure_ascii=generator.random() < 0.5)
        objects.append(None if generator.random() < 0.1 else text)
    return objects


@pytest.mark.parametrize("seed", range(60))
def test_values_of_a_batch_are_those_of_its_texts_one_by_one(seed: int) -> None:
    generator = random.Random(seed)
    texts = _random_objects(generator, uniform=seed % 2 == 0)
    values = [
        Value(path, kind) for path in [("x",), ("y",), ("a", "b"), ("o d d",), ("a",)] for kind in KINDS
    ]
    expected = [[_expected(text, value) for text in texts] for value in values]
    assert repr(_columns(texts, values)) == repr(expected), texts
    for value, own in zip(values, expected, strict=True):
        assert repr(_columns(texts, [value])) == repr([own]), (value, texts)
    chosen = generator.sample(range(len(values)), 3)
    found = _columns(texts, [values[place] for place in chosen])
    assert repr(found) == repr([expected[place] for place in chosen]), texts


@pytest.mark.parametrize(
    "odd",
    [
        '{"x": "a text"}',
        '{"x": true}',
        '{"x": [1]}',
        '{"x": {"y": 1}}',
        '{"x": NaN}',
        '{"x": 1e400}',
        '{"x": 1, "x": 2}',
        '{"x": 1} {"x": 2}',
        '{"x": ',
        "",
        "null",
        "[1]",
        "7",
        '{"y": "\\ud800", "x": 4}',
        '{\n  "x": 5\n}',
        "[" * 5000,
        '{"y": "' + "z" * 3_000_000 + '", "x": 6}',
    ],
)
def test_values_beside_an_odd_text_stay_where_they_are(odd: str) -> None:
    texts: list[str | None] = ['{"x": 1.5}', odd, None, '{"x": 3}']
    values = [Value(("x",), ValueKind.NUMBER)]
    found = _columns(texts, values)
    assert found == [[_expected(text, values[0]) for text in texts]]


def test_half_of_a_surrogate_pair_is_a_question_mark() -> None:
    assert _columns(['{"x": "a\\ud800"}'], [Value(("x",), ValueKind.TEXT)]) == [["a?"]]


def test_values_of_no_texts_are_empty_columns_of_their_types() -> None:
    values = [Value(("x",), kind) for kind in ValueKind]
    columns = value_columns(pa.array([], pa.string()), values)
    assert [column.type for column in columns] == [value.type for value in values]


def test_names_with_dots_are_keys_before_they_are_paths() -> None:
    told = parsed('{"a.b": 1, "a": {"b": 2, "c": 3}}')
    assert (at_name(told, "a.b"), at_name(told, "a.c"), at_name(told, "a.d")) == (1, 3, None)
