"""Captions against references: BLEU, ROUGE-L and CIDEr as the COCO caption evaluation reports them."""

from collections.abc import Sequence

import numpy as np

from stages.metrics.bleu import bleu
from stages.metrics.cider import cider
from stages.metrics.ngrams import Captions
from stages.metrics.ptb import tokens
from stages.metrics.rouge import rouge_l
from stages.metrics.scores import Scores


def tokenized(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Captions:
    """Predictions, and the references of each, as they were written; tokens are made as COCO makes them.

    Raises: ValueError where an item has no reference, or there are not equally many.
    """
    texts = [[" ".join(tokens(text)) for text in own] for own in references]
    return already_tokenized([" ".join(tokens(text)) for text in predictions], texts)


def already_tokenized(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Captions:
    """As `tokenized`, of texts that are tokens with single spaces between them. Raises: ValueError."""
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions for the references of {len(references)} items")
    item = np.repeat(np.arange(len(references)), [len(texts) for texts in references])
    return Captions(predictions, [text for texts in references for text in texts], item)


def caption_scores(captions: Captions) -> list[Scores]:
    """BLEU-1 to BLEU-4, ROUGE-L, CIDEr. METEOR needs Java: `meteor.meteor`."""
    return [*bleu(captions), rouge_l(captions), cider(captions)]
