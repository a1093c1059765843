"""A measured recall of round numbers."""

from collections.abc import Mapping

from stages.index.curve import Curve, Estimate, Measured, Point

STEPS = {1: 0.2, 8: 0.9, 64: 4.25}


def a_measured(
    nprobe: int = 8, k_factor: int = 20, reached: bool = True, steps: dict[int, float] = STEPS
) -> Measured:
    """0.02 of recall more for each step of lists, 0.2 more with the re-rank, 0.1 less for texts."""
    k_factors = sorted({1, k_factor})
    points = tuple(
        Point(lists, factor, {"image": recalls(0.7, number, factor), "text": recalls(0.6, number, factor)})
        for number, lists in enumerate(steps)
        for factor in k_factors
    )
    return Measured(
        nprobe, k_factor, 0.95, reached, {"image": 500, "text": 250}, Curve(points, dict(steps)), 3.5
    )


def recalls(least: float, step: int, k_factor: int) -> Mapping[int, Estimate]:
    value = least + 0.02 * step + (0.2 if k_factor > 1 else 0)
    return {
        at: Estimate(round(value + more, 3), round(value + more - 0.011, 3), round(value + more + 0.012, 3))
        for at, more in ((1, 0.0), (10, 0.003), (100, 0.006))
    }
