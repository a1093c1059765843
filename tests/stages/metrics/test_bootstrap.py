import numpy as np
import pytest

from stages.metrics import bootstrap
from stages.metrics.bootstrap import difference, interval, intervals
from stages.metrics.scores import Median, Resampled, mean_scores

VALUES = np.random.default_rng(3).normal(10, 2, 4000)


def test_interval_of_a_mean_is_that_of_the_normal_approximation() -> None:
    found = interval(mean_scores("mean", VALUES))
    error = 1.96 * VALUES.std() / np.sqrt(len(VALUES))
    assert found.value == pytest.approx(VALUES.mean())
    assert found.low == pytest.approx(VALUES.mean() - error, abs=error / 10)
    assert found.high == pytest.approx(VALUES.mean() + error, abs=error / 10)


def test_intervals_hold_the_true_mean_in_about_95_of_100_samples() -> None:
    rng = np.random.default_rng(5)
    samples = [interval(mean_scores("mean", rng.exponential(1, 200)), 400, seed) for seed in range(300)]
    held = np.mean([one.low <= 1 <= one.high for one in samples])
    assert 0.90 <= held <= 0.98


def test_intervals_depend_on_the_seed_and_on_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = mean_scores("mean", VALUES)
    first = interval(scores, seed=1)
    assert interval(scores, seed=1) == first
    assert interval(scores, seed=2) != first
    monkeypatch.setattr(bootstrap, "_CHUNK", 3 * len(VALUES))
    chunked = interval(scores, seed=1)
    assert (chunked.low, chunked.high) == pytest.approx((first.low, first.high), rel=1e-12)


def test_intervals_of_several_scores_are_those_of_each() -> None:
    both: list[Resampled] = [mean_scores("mean", VALUES), Median("median", VALUES)]
    assert intervals(both, 200) == [interval(one, 200) for one in both]


def test_a_single_item_has_an_interval_of_no_width() -> None:
    found = interval(mean_scores("mean", [0.3]))
    assert (found.low, found.value, found.high) == (0.3, 0.3, 0.3)


def test_difference_is_paired_so_that_a_small_steady_gain_is_no_noise() -> None:
    hard = np.random.default_rng(7).random(500)
    gain = difference(mean_scores("b", hard + 0.01), mean_scores("a", hard))
    assert gain.value == pytest.approx(0.01)
    assert (gain.low, gain.high) == pytest.approx((0.01, 0.01))
    assert not gain.within_noise


def test_difference_of_unrelated_scores_of_equal_quality_is_within_noise() -> None:
    rng = np.random.default_rng(8)
    found = difference(mean_scores("b", rng.random(300)), mean_scores("a", rng.random(300)))
    assert found.low < 0 < found.high
    assert found.within_noise


def test_difference_of_a_score_and_itself_is_nothing_also_where_it_is_infinite() -> None:
    misses = Median("rank", np.full(5, np.inf))
    found = difference(misses, misses)
    assert (found.low, found.value, found.high) == (0, 0, 0)
    assert found.within_noise


def test_scores_over_other_items_are_not_compared() -> None:
    with pytest.raises(ValueError, match="same items"):
        difference(mean_scores("b", [1.0, 0.0]), mean_scores("a", [1.0]))
