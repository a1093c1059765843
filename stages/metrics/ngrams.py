"""Tokenised captions beside their references, and the n-grams of both as counted integers."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np

from stages.metrics.scores import Int64

ORDERS = 4
"""Up to 4-grams, as in BLEU-4 and CIDEr."""


@dataclass(frozen=True)
class Captions:
    """n predictions, each beside one or more references, as tokens with single spaces between them.

    Make one with `captions.tokenized`, which knows the tokenizer. Raises: ValueError where an item has no
    reference.
    predictions: n texts. references: r texts, those of the first item first. item: int64 [r], whose
    reference each is.
    """

    predictions: Sequence[str]
    references: Sequence[str]
    item: Int64

    def __len__(self) -> int:
        return len(self.predictions)

    def __post_init__(self) -> None:
        counts = np.bincount(self.item, minlength=len(self))
        if (
            len(self.item) != len(self.references)
            or (np.diff(self.item) < 0).any()
            or len(counts) > len(self)
        ):
            raise ValueError("every reference needs its item, in the order of the items")
        if not counts.all():
            raise ValueError(f"item {int(np.argmin(counts))} has no reference")

    @cached_property
    def references_each(self) -> Int64:
        """int64 [n]."""
        return np.bincount(self.item, minlength=len(self))

    @cached_property
    def grams(self) -> "list[Grams]":
        """Of each order from 1 to `ORDERS`."""
        words, tokens, lengths = _numbered(chain(self.predictions, self.references))
        return [_counted(numbering, lengths, words, len(self)) for numbering in _numberings(tokens, lengths)]


@dataclass(frozen=True)
class Counted:
    """How often each n-gram is in each text where it is: rows sorted by text, then by n-gram, each once."""

    text: Int64
    gram: Int64
    count: Int64


@dataclass(frozen=True)
class _Numbering:
    """The n-grams of one order, of which equal ones have equal numbers from 0.

    starts: int64 [g], the token that each of the g n-grams begins at. numbers: int64 [g]. first: int64
    [distinct], an n-gram of each number. tokens: int64, the numbers of all tokens.
    """

    order: int
    starts: Int64
    numbers: Int64
    first: Int64
    tokens: Int64


@dataclass(frozen=True)
class Grams:
    """All n-grams of one order. Equal n-grams have equal numbers from 0 to `distinct` - 1.

    In `references`, `text` is the number of the reference.
    """

    distinct: int
    predictions: Counted
    references: Counted
    words: Sequence[str]
    numbering: _Numbering

    def names(self) -> Iterator[str]:
        """Of each number in turn: the n-gram as tokens with single spaces between them."""
        numbering = self.numbering
        for start in numbering.starts[numbering.first].tolist():
            yield " ".join(self.words[i] for i in numbering.tokens[start : start + numbering.order].tolist())


def _numberings(tokens: Int64, lengths: Int64) -> Iterator[_Numbering]:
    """Of each order from 1. tokens: the numbers of all tokens, text after text of these lengths."""
    # How many tokens there are from each one to the end of its text, itself included.
    left = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(tokens))
    vocabulary = int(tokens.max(initial=0)) + 1
    gram = np.zeros(len(tokens), np.int64)
    for order in range(1, ORDERS + 1):
        # An n-gram is its first n - 1 tokens, which have a number already, and its last token: no hashes,
        # so no collisions. 10 million distinct n-grams times 100,000 tokens are far below 2^63.
        starts = np.flatnonzero(left >= order)
        pairs = gram[starts] * vocabulary + tokens[starts + order - 1]
        _, first, numbers = np.unique(pairs, return_index=True, return_inverse=True)
        gram[starts] = numbers
        yield _Numbering(order, starts, numbers, first, tokens)


def _numbered(texts: Iterable[str]) -> tuple[list[str], Int64, Int64]:
    """All words, every token's number among them, text after text, and the number of tokens of each text."""
    numbers: dict[str, int] = {}
    tokens: list[int] = []
    lengths: list[int] = []
    for text in texts:
        # The official code splits here at any white space, and ROUGE-L's at spaces only.
        words = text.split()
        lengths.append(len(words))
        tokens += [numbers.setdefault(word, len(numbers)) for word in words]
    return list(numbers), np.array(tokens, np.int64), np.array(lengths, np.int64)


def _counted(numbering: _Numbering, lengths: Int64, words: list[str], predictions: int) -> Grams:
    text = np.repeat(np.arange(len(lengths)), lengths)[numbering.starts]
    distinct = len(numbering.first)
    keys, counts = np.unique(text * max(1, distinct) + numbering.numbers, return_counts=True)
    texts, grams = np.divmod(keys, max(1, distinct))
    cut = int(np.searchsorted(texts, predictions))
    own = Counted(texts[:cut], grams[:cut], counts[:cut])
    theirs = Counted(texts[cut:] - predictions, grams[cut:], counts[cut:])
    return Grams(distinct, own, theirs, words, numbering)


def lookup(keys: Int64, wanted: Int64) -> tuple[Int64, Int64]:
    """Where wanted [w] are among sorted distinct keys [k]: (rows of wanted, rows of keys) of those found."""
    if not len(keys):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    found = np.flatnonzero(keys[at] == wanted)
    return found, at[found]
