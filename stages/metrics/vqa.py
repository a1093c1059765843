"""Accuracy of short answers: VQA v2 and TextVQA as their evaluations compute it, and ANLS."""

from collections.abc import Callable, Sequence
from enum import StrEnum
from functools import cache

from stages.metrics import answer_words
from stages.metrics.scores import Scores, mean_scores

_THRESHOLD = 0.5


class Normalization(StrEnum):
    """When answers are brought to their normal form before they are compared."""

    OFFICIAL = "official"  # where the people's answers differ; so "Yes" is wrong where ten said "yes"
    ALWAYS = "always"  # as lmms-eval does since its version 0.6


def vqa_accuracy(
    predictions: Sequence[str],
    answers: Sequence[Sequence[str]],
    normalization: Normalization = Normalization.OFFICIAL,
) -> Scores:
    """The mean over questions of min(1, matches / 3), averaged over leaving out each person's answer in turn.

    Of ten answers, 0, 1, 2, 3 and more that equal the prediction give 0, 0.3, 0.6, 0.9 and 1. Another number
    of answers is treated alike, so that a single one always gives 0. From 0 to 1, where the official code
    prints per cent with two decimals. Raises: ValueError where a question has no answer.
    """
    always = normalization is Normalization.ALWAYS
    line = cache(answer_words.one_line)
    normal = cache(answer_words.served if always else answer_words.official)

    def accuracy(prediction: str, given: Sequence[str]) -> float:
        own, theirs = line(prediction), [line(answer) for answer in given]
        if always or len(set(theirs)) > 1:
            own, theirs = normal(own), [normal(answer) for answer in theirs]
        return _agreement(theirs.count(own), len(theirs))

    return mean_scores("VQA accuracy", _each(accuracy, predictions, answers))


def textvqa_accuracy(predictions: Sequence[str], answers: Sequence[Sequence[str]]) -> Scores:
    """The same of TextVQA, where all answers are always brought to the normal form of EvalAI's server.

    Raises: ValueError where a question has no answer.
    """
    normal = cache(answer_words.evalai)

    def accuracy(prediction: str, given: Sequence[str]) -> float:
        own = normal(prediction)
        return _agreement(sum(normal(answer) == own for answer in given), len(given))

    return mean_scores("TextVQA accuracy", _each(accuracy, predictions, answers))


def anls(predictions: Sequence[str], answers: Sequence[Sequence[str]]) -> Scores:
    """Average normalised Levenshtein similarity (Biten et al. 2019), with the threshold of 0.5 of DocVQA.

    Of each question the best over its answers of 1 - distance / length of the longer, 0 below the threshold.
    Case and runs of white space do not count in the distance, and do in the length, as there.
    Raises: ValueError where a question has no answer.
    """
    distance = cache(_distance)

    def similarity(prediction: str, given: Sequence[str]) -> float:
        own = " ".join(prediction.lower().split())
        costs = []
        for answer in given:
            longer = max(len(answer.upper()), len(prediction.upper()))
            costs.append(distance(" ".join(answer.lower().split()), own) / longer if longer else 0.0)
        best = 1 - min(costs)
        return best if best >= _THRESHOLD else 0.0

    return mean_scores("ANLS", _each(similarity, predictions, answers))


def _each(
    score: Callable[[str, Sequence[str]], float], predictions: Sequence[str], answers: Sequence[Sequence[str]]
) -> list[float]:
    if len(predictions) != len(answers):
        raise ValueError(f"{len(predictions)} predictions for the answers of {len(answers)} questions")
    for number, given in enumerate(answers):
        if not len(given):
            raise ValueError(f"question {number} has no answer")
    return [score(prediction, given) for prediction, given in zip(predictions, answers, strict=True)]


def _agreement(matches: int, answers: int) -> float:
    """Mean over leaving out each of the answers, of which so many match."""
    without_match = matches * min(1.0, (matches - 1) / 3) if matches else 0.0
    return (without_match + (answers - matches) * min(1.0, matches / 3)) / answers


def _distance(first: str, second: str) -> int:
    """Levenshtein's distance by bits (Myers 1999, Hyyrö 2003): a column of the table is two integers."""
    if not first:
        return len(second)
    places: dict[str, int] = {}
    for place, character in enumerate(first):
        places[character] = places.get(character, 0) | 1 << place
    full, last = (1 << len(first)) - 1, 1 << (len(first) - 1)
    up, down, cost = full, 0, len(first)
    for character in second:
        match = places.get(character, 0)
        diagonal = (((match & up) + up) ^ up) | match | down
        raised, lowered = down | (full & ~(diagonal | up)), up & diagonal
        cost += bool(raised & last) - bool(lowered & last)
        raised = (raised << 1 | 1) & full
        up, down = (lowered << 1 & full) | (full & ~(diagonal | raised)), raised & diagonal
    return cost
