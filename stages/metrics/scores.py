"""What every metric gives: numbers of each item, and how their sums become the score."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

Float64: TypeAlias = npt.NDArray[np.float64]
Int64: TypeAlias = npt.NDArray[np.int64]


class Resampled(Protocol):
    """A score over items that can be taken again with other weights of the items."""

    @property
    def name(self) -> str: ...

    def __len__(self) -> int: ...

    def score(self) -> float:
        """Of all items. Raises: ValueError where there are none."""
        ...

    def items(self) -> Float64:
        """float64 [n]: the score of each item by itself."""
        ...

    def weighted(self, weights: Float64) -> Float64:
        """float64 [r], with each of r rows of weights [r, n] in place of counting every item once."""
        ...

    def take(self, rows: npt.NDArray[Any]) -> "Resampled":
        """Of some items only: rows int64 [k], or bool [n]."""
        ...


@dataclass(frozen=True)
class Scores:
    """A score that is a function of sums over the items.

    per_item: float64 [n, m], what is summed: counts of n-grams for BLEU, (value, 1) for a mean.
    combine: float64 [..., m] -> float64 [...], from such sums to the score. A corpus BLEU is so the BLEU of
    summed counts and no mean of sentence BLEUs.
    """

    name: str
    per_item: Float64
    combine: Callable[[Float64], Float64]

    def __post_init__(self) -> None:
        if self.per_item.ndim != 2 or self.per_item.dtype != np.float64:
            raise ValueError(f"{self.name}: needs float64 [items, columns], not {self.per_item.dtype}")

    def __len__(self) -> int:
        return len(self.per_item)

    def score(self) -> float:
        """Of all items. Raises: ValueError where there are none."""
        if not len(self):
            raise ValueError(f"{self.name}: no items to score")
        return float(self.combine(self.per_item.sum(axis=0)))

    def items(self) -> Float64:
        """float64 [n]: the score of each item by itself."""
        return self.combine(self.per_item)

    def weighted(self, weights: Float64) -> Float64:
        """float64 [r] for weights float64 [r, n]."""
        return self.combine(weights @ self.per_item)

    def take(self, rows: npt.NDArray[Any]) -> "Scores":
        """Of some items only: rows int64 [k], or bool [n]."""
        return Scores(self.name, self.per_item[rows], self.combine)


def mean(sums: Float64) -> Float64:
    """From sums [..., 2] of (value, 1) to means [...]."""
    average: Float64 = sums[..., 0] / sums[..., 1]
    return average


def mean_scores(name: str, values: npt.ArrayLike) -> Scores:
    """The mean of the values [n] of the items."""
    column = np.asarray(values, np.float64)
    return Scores(name, np.stack([column, np.ones_like(column)], axis=1), mean)


@dataclass(frozen=True)
class Median:
    """The median of values float64 [n], which no sums over the items give."""

    name: str
    values: Float64

    def __len__(self) -> int:
        return len(self.values)

    def score(self) -> float:
        """The middle value, or half way between the middle two. Raises: ValueError without items."""
        if not len(self):
            raise ValueError(f"{self.name}: no items to score")
        return float(self.weighted(np.ones((1, len(self))))[0])

    def items(self) -> Float64:
        """float64 [n]: the values."""
        return self.values

    def weighted(self, weights: Float64) -> Float64:
        """float64 [r] for weights float64 [r, n]: the median as if each value came that often."""
        order = np.argsort(self.values, kind="stable")
        ordered, upto = self.values[order], np.cumsum(weights[:, order], axis=1)
        half = upto[:, -1:] / 2
        lower, upper = (upto < half).sum(axis=1), (upto <= half).sum(axis=1)
        low, high = ordered[lower], ordered[np.minimum(upper, len(ordered) - 1)]
        # Equal values meet without arithmetic: the middle of two infinite ranks is no number.
        middle: Float64 = np.where(low == high, low, low / 2 + high / 2)
        return middle

    def take(self, rows: npt.NDArray[Any]) -> "Median":
        """Of some items only: rows int64 [k], or bool [n]."""
        return Median(self.name, self.values[rows])


def grouped(scores: Resampled, labels: Sequence[str]) -> dict[str, Resampled]:
    """The score of each group of items by itself, in the order of the labels' names.

    labels: one for each item. Raises: ValueError where there are more or fewer.
    """
    if len(labels) != len(scores):
        raise ValueError(f"{scores.name}: {len(labels)} labels for {len(scores)} items")
    names, group = np.unique(np.asarray(labels, np.object_), return_inverse=True)
    return {str(name): scores.take(np.flatnonzero(group == i)) for i, name in enumerate(names)}
