"""A score over the runs of the same task as places on a small drawing."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.evaluation.facts import Past, Score

_WIDTH, _HEIGHT = 320.0, 130.0
_SIDE, _TOP, _BOTTOM = 14.0, 16.0, 16.0


@dataclass(frozen=True)
class Dot:
    """A run: its place, and its interval from `low` to `high`, also as places."""

    x: float
    y: float
    low: float
    high: float
    title: str
    last: bool


@dataclass(frozen=True)
class Trend:
    """`path`: of an SVG polyline. `highest` and `lowest`: numbers of the upper and the lower edge."""

    name: str
    path: str
    dots: tuple[Dot, ...]
    highest: float
    lowest: float

    @property
    def width(self) -> float:
        return _WIDTH

    @property
    def height(self) -> float:
        return _HEIGHT


def trends(past: Sequence[Past]) -> list[Trend]:
    """A drawing for each score of the last run; none where there is one run only."""
    if len(past) < 2:
        return []
    return [drawn for name in past[-1].scores if (drawn := _trend(name, past)) is not None]


def _trend(name: str, past: Sequence[Past]) -> Trend | None:
    known = [(one, one.scores[name]) for one in past if name in one.scores]
    if len(known) < 2:
        return None
    lowest = min(score.low for _, score in known)
    highest = max(score.high for _, score in known)
    if not abs(lowest) + abs(highest) < float("inf"):
        return None
    dots = tuple(
        Dot(
            x=_x(number, len(known)),
            y=_y(score.value, lowest, highest),
            low=_y(score.low, lowest, highest),
            high=_y(score.high, lowest, highest),
            title=_title(one, score),
            last=number == len(known) - 1,
        )
        for number, (one, score) in enumerate(known)
    )
    return Trend(name, " ".join(f"{dot.x},{dot.y}" for dot in dots), dots, highest, lowest)


def _title(past: Past, score: Score) -> str:
    return f"{past.run}, {past.of}: {score.value:.4f} ({score.low:.4f} to {score.high:.4f})"


def _x(number: int, count: int) -> float:
    return round(_SIDE + number / (count - 1) * (_WIDTH - 2 * _SIDE), 1)


def _y(value: float, lowest: float, highest: float) -> float:
    share = (value - lowest) / (highest - lowest) if highest > lowest else 0.5
    return round(_HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM), 1)
