import pytest

from stages.metrics.ptb import tokens
from tests.stages.metrics.frozen import frozen


def test_tokens_are_those_of_the_official_program_on_frozen_lines() -> None:
    known = frozen("ptb_tokens")
    assert len(known) > 600
    assert [(line, " ".join(tokens(line))) for line, _ in known] == [(line, one) for line, one in known]


def test_tokens_are_those_of_the_official_example() -> None:
    known = frozen("coco_example")
    assert [" ".join(tokens(text)) for text in known["raw_predictions"]] == known["predictions"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A man's dog isn't here.", "a man 's dog is n't here"),
        ("Mr. Smith paid $5.00 in the U.S.", "mr. smith paid $ 5.00 in the u.s."),
        ("a red-and-white bus (no. 12)", "a red-and-white bus -lrb- no. 12 -rrb-"),
        ("You cannot gimme 1,000,000", "you can not gim me 1,000,000"),
        ("\u201cDon\u2019t\u201d \u2014 she said\u2026", "do n't she said"),
        ("really?! wow!!", "really ?! wow !!"),
        ("", ""),
        (" . , ", ""),
    ],
)
def test_tokens_of_captions(text: str, expected: str) -> None:
    assert " ".join(tokens(text)) == expected


def test_line_breaks_part_words_and_end_no_caption() -> None:
    assert tokens("a dog\nand\r\na cat\n") == ["a", "dog", "and", "a", "cat"]


def test_what_the_program_does_not_know_is_left_out() -> None:
    assert tokens("a \U0001f600 dog\x00\x07\ue000") == ["a", "dog"]


def test_text_without_a_space_takes_no_time_that_grows_with_its_square() -> None:
    assert len(tokens("=" * 20_000)) == 20_000
