"""The thinking of a reasoning model never becomes its answer."""

import pytest

from stages.generators.thinking import is_primed, part_thinking


@pytest.mark.parametrize(
    ("text", "primed", "thinking", "answer"),
    [
        ("one, two</think>\n\n2", True, "one, two", "2"),
        ("<think>\none, two\n</think>\n\n2", False, "one, two", "2"),
        ("<think>one</think>2", True, "one", "2"),
        ("is it </think>? no</think>4", True, "is it </think>? no", "4"),
        ("</think>\nred", True, None, "red"),
        ("red", False, None, "red"),
        ("", False, None, ""),
    ],
)
def test_part_thinking_answer_is_what_follows_the_last_end(
    text: str, primed: bool, thinking: str | None, answer: str
) -> None:
    assert part_thinking(text, primed) == (thinking, answer)


@pytest.mark.parametrize(
    ("text", "primed", "thinking"),
    [
        ("one, two, three", True, "one, two, three"),
        ("<think>\nit might be 4", False, "it might be 4"),
        ("well <think> it might be 4", False, "well <think> it might be 4"),
        ("one</think>\n", True, "one"),
        ("one</think><think>two", True, "one"),
        ("", True, None),
    ],
)
def test_part_thinking_that_never_ends_is_no_answer(text: str, primed: bool, thinking: str | None) -> None:
    assert part_thinking(text, primed) == (thinking, "")


def test_is_primed_only_by_a_think_at_the_very_end() -> None:
    assert is_primed("<\uff5cAssistant\uff5c><think>\n")
    assert not is_primed("what does <think> mean?<\uff5cAssistant\uff5c>")
