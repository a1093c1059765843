import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest

from stages.generators.config import GeneratorConfig, GeneratorRun
from stages.generators.protocol import (
    FinishReason,
    GenerationError,
    Request,
    Result,
    clean,
    generate_matched,
)


class Scripted:
    """Answers with the ids that it is told to, whatever was asked."""

    def __init__(self, ids: Sequence[int]) -> None:
        self.ids = ids

    notes = ()

    def generate(self, requests: Sequence[Request], /) -> list[Result]:
        return [Result(id, f"text {id}", FinishReason.STOP, 1, 1) for id in self.ids]


def requests(*ids: int) -> list[Request]:
    return [Request(id, (np.zeros((2, 2, 3), dtype=np.uint8),), "what is it?") for id in ids]


def test_generate_matched_any_order_gives_the_order_of_the_requests() -> None:
    results = generate_matched(Scripted([3, 1, 2]), requests(1, 2, 3))
    assert [result.id for result in results] == [1, 2, 3]


def test_generate_matched_no_requests_asks_nobody() -> None:
    assert generate_matched(Scripted([1]), []) == []


@pytest.mark.parametrize(
    ("asked", "answered", "message"),
    [
        ((1, 2), (1,), "lost 2"),
        ((1, 2), (1, 2, 2), "answered twice 2"),
        ((1, 2), (1, 2, 9), "never asked 9"),
        ((1, 1), (1,), "asked twice 1"),
    ],
)
def test_generate_matched_results_that_do_not_fit_raise(
    asked: tuple[int, ...], answered: tuple[int, ...], message: str
) -> None:
    with pytest.raises(GenerationError, match=message):
        generate_matched(Scripted(answered), requests(*asked))


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("\x1b[31mred\x1b[0m", "[31mred[0m"),
        ("a\x00b\x7fc\x9b", "abc"),
        (" two\nlines\t ", "two\nlines"),
        ("user\u202egnp.exe", "usergnp.exe"),
        ("a \ud800 b", "a  b"),
        ("Zürich 東京 🙂", "Zürich 東京 🙂"),
    ],
)
def test_clean_control_characters_are_taken_out(text: str, cleaned: str) -> None:
    assert clean(text) == cleaned


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", ""),
        ("max_new_tokens", 0),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("seed", -1),
        ("max_side", 0),
    ],
)
def test_generator_config_bad_value_names_the_key(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"^generator\.{field} must [^\n]*$"):
        dataclasses.replace(GeneratorConfig("pocket:captioner"), **{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(("field", "value"), [("batch_size", 0), ("threads", 0), ("max_kept_mb", -1)])
def test_generator_run_bad_value_names_the_key(field: str, value: int) -> None:
    with pytest.raises(ValueError, match=rf"^captioner\.{field} must be at least .*, got {value}$"):
        dataclasses.replace(GeneratorRun(), **{field: value})  # type: ignore[arg-type]
