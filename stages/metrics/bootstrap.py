"""How sure a score is: percentile intervals over resampled items (Efron and Tibshirani 1993, chapter 13)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from stages.metrics.scores import Float64, Resampled

RESAMPLES = 1000
LEVEL = 0.95
# Weights of one chunk: 32 MB.
_CHUNK = 1 << 22


@dataclass(frozen=True)
class Interval:
    """A score, and between what the middle 95% of its resamples lie."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference(Interval):
    """Of two scores over the same items, resampled together."""

    @property
    def within_noise(self) -> bool:
        """Whether the interval holds zero."""
        return self.low <= 0 <= self.high


def interval(scores: Resampled, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """Of one score; see `intervals`."""
    return intervals([scores], resamples, seed)[0]


def intervals(metrics: Sequence[Resampled], resamples: int = RESAMPLES, seed: int = 0) -> list[Interval]:
    """Of several scores over the same items, each resampled in the same way; in their order.

    What holds for all items together is not resampled with them: CIDEr's document frequencies stay those of
    the whole set. Raises: ValueError where there are no items, or not equally many.
    """
    scores = [metric.score() for metric in metrics]
    samples = _resampled(metrics, resamples, seed)
    low, high = _percentiles(samples)
    return [Interval(*row) for row in zip(scores, low.tolist(), high.tolist(), strict=True)]


def difference(first: Resampled, second: Resampled, resamples: int = RESAMPLES, seed: int = 0) -> Difference:
    """By how much `first` scores more than `second`, over the same items in the same order.

    Every resample draws the same items for both, so that items which are hard for both cancel.
    Raises: ValueError where there are no items, or not equally many.
    """
    samples = _resampled([first, second], resamples, seed)
    low, high = _percentiles(_minus(samples[:1], samples[1:]))
    scores = _minus(np.array(first.score()), np.array(second.score()))
    return Difference(float(scores), float(low[0]), float(high[0]))


def _minus(first: Float64, second: Float64) -> Float64:
    """Equal scores differ by nothing, also infinite ones."""
    return np.subtract(first, second, out=np.zeros_like(first), where=first != second)


def _resampled(metrics: Sequence[Resampled], resamples: int, seed: int) -> Float64:
    """[metrics, resamples]."""
    counts = {len(metric) for metric in metrics}
    if len(counts) != 1 or not min(counts):
        raise ValueError(f"scores over the same items are resampled together, not over {sorted(counts)}")
    chunks = [
        [one.weighted(weights) for one in metrics] for weights in _weights(counts.pop(), resamples, seed)
    ]
    return np.concatenate([np.stack(chunk) for chunk in chunks], axis=1)


def _weights(count: int, resamples: int, seed: int) -> Iterator[Float64]:
    """Chunks [r, count] of how often each item was drawn. The draws do not depend on the chunks."""
    rng = np.random.default_rng(seed)
    rows = max(1, _CHUNK // count)
    for start in range(0, resamples, rows):
        drawn = (rng.integers(count, size=count) for _ in range(min(rows, resamples - start)))
        yield np.stack([np.bincount(one, minlength=count).astype(np.float64) for one in drawn])


def _percentiles(samples: Float64) -> tuple[Float64, Float64]:
    """The ends [metrics] of the middle 95%. Each is a resample's own score, so that infinite ones stay so."""
    tail = 100 * (1 - LEVEL) / 2
    low = np.percentile(samples, tail, axis=1, method="inverted_cdf")
    high = np.percentile(samples, 100 - tail, axis=1, method="inverted_cdf")
    return low, high
