import copy
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from stages.index.curve import Measured, estimate
from tests.stages.index.measurements import a_measured


@pytest.mark.parametrize(("recall", "places"), [(0.5, 10), (0.98, 1), (0.98, 10), (0.999, 100)])
def test_estimate_interval_holds_the_true_recall(recall: float, places: int) -> None:
    rng = np.random.default_rng(71)
    found = []
    for _ in range(300):
        of_query = rng.beta(20 * recall, 20 * (1 - recall), 500)
        one = estimate(rng.binomial(places, of_query) / places)
        found.append(one.low <= recall <= one.high)

    assert np.mean(found) >= 0.9


def test_estimate_of_queries_that_agree_less_is_wider() -> None:
    even, uneven = np.full(100, 0.9), np.repeat([1.0, 0.0], [90, 10])
    even[::2] += 0.1
    even[1::2] -= 0.1

    narrow, wide = estimate(even), estimate(uneven)

    assert narrow.value == wide.value == 0.9
    assert wide.low < narrow.low < 0.9 < narrow.high < wide.high


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_estimate_of_equal_shares_is_still_uncertain(value: float) -> None:
    few, many = estimate(np.full(20, value)), estimate(np.full(2000, value))

    assert few.value == many.value == value
    assert few.high - few.low > many.high - many.low > 0


def test_measured_through_json_is_the_same() -> None:
    measured = a_measured()

    assert Measured.from_dict(json.loads(json.dumps(measured.to_dict()))) == measured


def test_measured_point_is_the_chosen_one_and_plain_is_without_rerank() -> None:
    measured = a_measured()

    assert (measured.point.nprobe, measured.point.k_factor) == (8, 20)
    assert (measured.plain.nprobe, measured.plain.k_factor) == (8, 1)
    assert measured.point.worst() == measured.point.recall["text"][10]
    assert measured.point.worst(1).value == 0.82
    assert measured.plain.worst(1).value == 0.62
    assert measured.ms == pytest.approx(4.4)


def change(*path: Any, to: Any) -> Callable[[dict[str, Any]], None]:
    def apply(stored: dict[str, Any]) -> None:
        for key in path[:-1]:
            stored = stored[key]
        stored[path[-1]] = to

    return apply


@pytest.mark.parametrize(
    "damage",
    [
        change("nprobe", to=3),
        change("nprobe", to="8"),
        change("queries", to={"image": 1}),
        change("queries", "image", to=0),
        change("target", to=2),
        change("ms", to={"1": 0.2}),
        change("ms", "8", to=-1),
        change("ms", "8", to=float("nan")),
        change("points", to=[]),
        change("points", 0, "nprobe", to=8),
        change("points", 0, "nprobe", to=True),
        change("points", 0, "recall", to={}),
        change("points", 0, "recall", "sound", to={}),
        change("points", 0, "recall", "image", to={"10": [0.9, 0.8, 1]}),
        change("points", 0, "recall", "image", "10", to=[0.9, 0.8]),
        change("points", 0, "recall", "image", "10", to=[1.9, 0.8, 2]),
        change("points", 0, "recall", "image", "10", to=None),
        change("points", 0, to=None),
        lambda stored: stored["points"].pop(2),
        change("more", to=1),
    ],
)
def test_measured_from_damaged_values_is_refused(damage: Callable[[dict[str, Any]], object]) -> None:
    stored = copy.deepcopy(a_measured().to_dict())
    damage(stored)

    with pytest.raises(ValueError, match=r"\w"):
        Measured.from_dict(stored)
