from collections.abc import Callable

import numpy as np
import pytest

from stages.metrics.scores import Scores
from stages.metrics.vqa import Normalization, anls, textvqa_accuracy, vqa_accuracy
from tests.stages.metrics.frozen import frozen

KNOWN = frozen("vqa")
PREDICTIONS = [row[0] for row in KNOWN]
ANSWERS = [row[1] for row in KNOWN]


def test_scores_are_those_of_the_official_code() -> None:
    found = vqa_accuracy(PREDICTIONS, ANSWERS)
    np.testing.assert_allclose(found.items(), [row[2] for row in KNOWN], atol=1e-9)
    assert found.score() == pytest.approx(0.539312332759, abs=1e-10)


@pytest.mark.parametrize(
    ("found", "column"),
    [
        (vqa_accuracy(PREDICTIONS, ANSWERS, Normalization.ALWAYS), 3),
        (textvqa_accuracy(PREDICTIONS, ANSWERS), 4),
        (anls(PREDICTIONS, ANSWERS), 5),
    ],
    ids=["vqa, always normalised", "textvqa", "anls"],
)
def test_scores_are_those_of_lmms_eval(found: Scores, column: int) -> None:
    np.testing.assert_allclose(found.items(), [row[column] for row in KNOWN], atol=1e-12)


@pytest.mark.parametrize(("matches", "expected"), list(enumerate([0, 0.3, 0.6, 0.9, 1, 1, 1, 1, 1, 1, 1])))
def test_accuracy_follows_from_how_many_of_ten_agree(matches: int, expected: float) -> None:
    answers = ["cat"] * matches + [f"other {i}" for i in range(10 - matches)]
    assert vqa_accuracy(["cat"], [answers]).score() == pytest.approx(expected)


def test_equal_answers_are_compared_as_written_unless_always_normalised() -> None:
    assert vqa_accuracy(["Yes"], [["yes"] * 10]).score() == 0
    assert vqa_accuracy(["Yes"], [["yes"] * 10], Normalization.ALWAYS).score() == 1
    assert vqa_accuracy(["Yes"], [["yes"] * 9 + ["no"]]).score() == 1


@pytest.mark.parametrize(
    ("written", "same"),
    [
        ("The two dogs", "2 dogs"),
        ("dont", "don't"),
        ("none", "0"),
        ("red/blue", "red blue"),
        ("1,000", "1000"),
        ("st. bernard", "st bernard"),
        ("3.5", "3.5"),
        ("somebody'd", "somebodyd"),
    ],
)
def test_normal_forms_match(written: str, same: str) -> None:
    assert vqa_accuracy([written], [[same] * 9 + ["x"]]).score() == 1


def test_only_the_first_32_periods_are_left_out() -> None:
    answers = [["x"] * 9 + ["y"]] * 2
    assert vqa_accuracy(["x" + "." * 32, "x" + "." * 33], answers).items().tolist() == [1, 0]


def test_the_order_of_questions_and_answers_changes_nothing() -> None:
    order = np.random.default_rng(4).permutation(len(KNOWN))
    turned = [ANSWERS[i][::-1] for i in order]
    for metric in (vqa_accuracy, textvqa_accuracy, anls):
        expected = metric(PREDICTIONS, ANSWERS).items()[order]
        np.testing.assert_allclose(metric([PREDICTIONS[i] for i in order], turned).items(), expected)


@pytest.mark.parametrize(
    ("prediction", "answer", "expected"),
    [
        ("Hello  World", "hello world", 1),
        ("kitten", "sitting", 1 - 3 / 7),
        ("abc", "xyz", 0),
        ("ab", "ax", 0.5),
        ("", "", 1),
        ("", "a", 0),
        ("a" * 100, "a" * 99 + "b", 0.99),
    ],
)
def test_anls_is_one_minus_the_share_of_edits_and_0_below_a_half(
    prediction: str, answer: str, expected: float
) -> None:
    assert anls([prediction], [[answer]]).score() == pytest.approx(expected)


def test_anls_takes_the_best_answer() -> None:
    assert anls(["dog"], [["elephant", "dog", "cat"]]).score() == 1


@pytest.mark.parametrize("metric", [vqa_accuracy, textvqa_accuracy, anls])
def test_questions_without_answers_are_refused(metric: Callable[..., Scores]) -> None:
    with pytest.raises(ValueError, match="question 1 has no answer"):
        metric(["a", "b"], [["a"], []])
