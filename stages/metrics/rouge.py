"""ROUGE-L (Lin 2004) as the COCO caption evaluation computes it."""

from collections.abc import Iterable, Sequence

from stages.metrics.ngrams import Captions
from stages.metrics.scores import Scores, mean_scores

# Recall counts 1.2 times as much as precision.
_BETA = 1.2


def rouge_l(captions: Captions) -> Scores:
    """The mean F-score of the longest common subsequences.

    The best precision and the best recall are taken separately, from different references perhaps. An empty
    text counts as one empty token, which matches other empty texts.
    """
    ends = captions.references_each.cumsum().tolist()
    values = [
        _f_score(prediction.split(" "), [text.split(" ") for text in captions.references[start:end]])
        for prediction, start, end in zip(captions.predictions, [0, *ends], ends, strict=False)
    ]
    return mean_scores("ROUGE-L", values)


def _f_score(prediction: Sequence[str], references: Iterable[Sequence[str]]) -> float:
    places: dict[str, int] = {}
    for place, token in enumerate(prediction):
        places[token] = places.get(token, 0) | 1 << place
    common = [(_longest(places, len(prediction), reference), len(reference)) for reference in references]
    precision = max(length for length, _ in common) / len(prediction)
    recall = max(length / tokens for length, tokens in common)
    if not precision:
        return 0.0
    return (1 + _BETA**2) * precision * recall / (recall + _BETA**2 * precision)


def _longest(places: dict[str, int], length: int, reference: Sequence[str]) -> int:
    """Tokens of the longest common subsequence, by bits (Hyyrö 2004): a row of the table is one integer.

    places: of each token, the bits of the places where the prediction of `length` tokens has it.
    """
    row = full = (1 << length) - 1
    for token in reference:
        matches = row & places.get(token, 0)
        row = (row + matches) | (row - matches)
    return length - (row & full).bit_count()
