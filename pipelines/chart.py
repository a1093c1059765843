"""The curve of an index as places on a drawing: recall@10 over the milliseconds of a query."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from stages.index.curve import Measured, Point

_WIDTH, _HEIGHT = 720.0, 380.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 62.0, 24.0, 18.0, 84.0
# Between the middles of two numbers below the axis.
_APART = 34.0
_AT = 10


@dataclass(frozen=True)
class Tick:
    """A number at a place of its axis."""

    at: float
    text: str


@dataclass(frozen=True)
class Line:
    """The recall of one kind of query. `path` and `band`: of an SVG polyline and polygon.

    `band`: the intervals; empty for a line without a re-rank. `chosen`: the point that searches use.
    """

    kind: str
    reranked: bool
    path: str
    band: str
    chosen: tuple[float, float]


@dataclass(frozen=True)
class Chart:
    """`lists`: numbers of visited lists, at the time that they take; `target`: the height of the target."""

    lines: tuple[Line, ...]
    lists: tuple[Tick, ...]
    ms: tuple[Tick, ...]
    recall: tuple[Tick, ...]
    target: float | None

    @property
    def width(self) -> float:
        return _WIDTH

    @property
    def height(self) -> float:
        return _HEIGHT

    @property
    def left(self) -> float:
        return _LEFT

    @property
    def right(self) -> float:
        return _WIDTH - _RIGHT

    @property
    def bottom(self) -> float:
        return _HEIGHT - _BOTTOM


def chart(measured: Measured) -> Chart | None:
    """None where there is one number of lists only, and nothing to draw."""
    times = measured.curve.ms
    if len(times) < 2:
        return None
    step, lines_up = _recall_steps(measured)
    scale = _Scale(min(times.values()), max(times.values()), 1 - step * lines_up)
    k_factors = dict.fromkeys((measured.k_factor, 1))
    lines = [
        _line(measured, scale, kind, k_factor) for k_factor in k_factors for kind in measured.point.recall
    ]
    return Chart(
        lines=tuple(lines),
        lists=_spaced([Tick(scale.x(value), f"{nprobe:,}") for nprobe, value in times.items()]),
        ms=_spaced([Tick(scale.x(value), f"{value:g}") for value in _round_numbers(scale.fast, scale.slow)]),
        recall=tuple(Tick(scale.y(1 - step * n), f"{1 - step * n:.2g}") for n in range(lines_up + 1)),
        target=scale.y(measured.target) if measured.target >= scale.lowest else None,
    )


@dataclass(frozen=True)
class _Scale:
    """Milliseconds to the right by their logarithm, recall from `lowest` to 1 upwards."""

    fast: float
    slow: float
    lowest: float

    def x(self, ms: float) -> float:
        span = math.log(max(self.slow, 1e-6) / max(self.fast, 1e-6)) or 1.0
        share = math.log(max(ms, 1e-6) / max(self.fast, 1e-6)) / span
        return round(_LEFT + share * (_WIDTH - _LEFT - _RIGHT), 1)

    def y(self, recall: float) -> float:
        share = (recall - self.lowest) / (1 - self.lowest)
        return round(_HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM), 1)


def _recall_steps(measured: Measured) -> tuple[float, int]:
    """From one line of the drawing to the next, and how many of them hold all intervals: 6 at most."""
    points = _points(measured, (1, measured.k_factor))
    depth = 1 - min(by_k[_AT].low for point in points for by_k in point.recall.values())
    step = next(step for step in (0.01, 0.02, 0.05, 0.1, 0.2) if depth <= 6 * step)
    return step, max(2, math.ceil(depth / step - 1e-9))


def _points(measured: Measured, k_factors: Sequence[int]) -> list[Point]:
    return [point for point in measured.curve.points if point.k_factor in k_factors]


def _line(measured: Measured, scale: _Scale, kind: str, k_factor: int) -> Line:
    found = [
        (scale.x(measured.curve.ms[point.nprobe]), point.recall[kind][_AT])
        for point in _points(measured, (k_factor,))
    ]
    reranked = k_factor == measured.k_factor
    low = [(x, scale.y(one.low)) for x, one in found]
    high = [(x, scale.y(one.high)) for x, one in found]
    chosen = measured.curve.at(measured.nprobe, k_factor).recall[kind][_AT]
    return Line(
        kind=kind,
        reranked=reranked,
        path=_path([(x, scale.y(one.value)) for x, one in found]),
        band=_path([*low, *reversed(high)]) if reranked else "",
        chosen=(scale.x(measured.curve.ms[measured.nprobe]), scale.y(chosen.value)),
    )


def _path(places: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x},{y}" for x, y in places)


def _spaced(ticks: Sequence[Tick]) -> tuple[Tick, ...]:
    """From the right, those that do not run into each other."""
    kept: list[Tick] = []
    for tick in sorted(ticks, key=lambda one: -one.at):
        if not kept or kept[-1].at - tick.at >= _APART:
            kept.append(tick)
    return tuple(reversed(kept))


def _round_numbers(least: float, most: float) -> list[float]:
    """1, 2, 5, 10, 20, … between two positive numbers."""
    first, last = math.floor(math.log10(max(least, 1e-6))), math.ceil(math.log10(max(most, 1e-6)))
    numbers = [digit * 10.0**power for power in range(first, last + 1) for digit in (1, 2, 5)]
    return [number for number in numbers if least <= number <= most]
