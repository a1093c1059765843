import numpy as np
import pytest

from stages.metrics.scores import Median, Scores, grouped, mean_scores


def test_mean_scores_are_the_mean_of_their_items() -> None:
    scores = mean_scores("mean", [0.0, 1.0, 0.5])
    assert scores.score() == 0.5
    assert scores.items().tolist() == [0.0, 1.0, 0.5]


def test_scores_combine_sums_and_not_items() -> None:
    ratio = Scores("ratio", np.array([[1.0, 1.0], [0.0, 3.0]]), lambda sums: sums[..., 0] / sums[..., 1])
    assert ratio.score() == 0.25
    assert ratio.items().tolist() == [1.0, 0.0]
    assert ratio.weighted(np.array([[2.0, 0.0], [1.0, 1.0]])).tolist() == [1.0, 0.25]


def test_scores_of_no_items_are_refused() -> None:
    with pytest.raises(ValueError, match="no items"):
        mean_scores("mean", []).score()
    with pytest.raises(ValueError, match="no items"):
        Median("median", np.zeros(0)).score()


@pytest.mark.parametrize("count", [1, 2, 7, 100])
def test_median_is_that_of_numpy_for_items_and_for_weights(count: int) -> None:
    rng = np.random.default_rng(count)
    values = rng.integers(0, 10, count).astype(np.float64)
    weights = rng.integers(0, 4, (20, count)).astype(np.float64)
    weights[:, 0] += 1

    median = Median("median", values)

    assert median.score() == np.median(values)
    repeated = [np.median(np.repeat(values, row.astype(int))) for row in weights]
    assert median.weighted(weights).tolist() == repeated


def test_median_of_infinite_ranks_is_infinite_and_no_nan() -> None:
    assert Median("rank", np.array([1.0, np.inf, np.inf])).score() == np.inf
    assert Median("rank", np.array([1.0, 2.0, np.inf, np.inf])).score() == np.inf
    assert Median("rank", np.array([1.0, 2.0, np.inf])).score() == 2


def test_groups_are_scored_by_themselves_in_the_order_of_their_names() -> None:
    groups = grouped(mean_scores("mean", [1.0, 0.0, 0.5]), ["number", "yes/no", "number"])
    assert {name: one.score() for name, one in groups.items()} == {"number": 0.75, "yes/no": 0.0}
    assert list(groups) == ["number", "yes/no"]


def test_groups_need_a_label_for_every_item() -> None:
    with pytest.raises(ValueError, match="2 labels for 3 items"):
        grouped(mean_scores("mean", [1.0, 0.0, 0.5]), ["a", "b"])
