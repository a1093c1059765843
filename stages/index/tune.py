"""Measuring the recall of an index, and choosing how many lists and candidates its target takes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stages.index.config import IndexConfig
from stages.index.curve import RECALL_AT, Curve, Measured, Point, Recalls, estimate
from stages.index.exact import Kind, Truth
from stages.index.latency import rerank_ms, search_ms
from stages.index.ranks import Ranks, Subject, ranks_of, recall_shares
from stages.index.search import Neighbours
from stages.index.vectors import Ids

K_FACTORS = (1, 2, 5, 10, 20, 50)
_TARGET_AT = 10
# Codes that a query of the last step scans: 0.3 s of one thread with codes of 64 bytes.
_MOST_CODES = 4_000_000
# Above it, an interval of 500 queries could not tell what more lists find.
_ENOUGH = 0.995
# To read the stored vector of a candidate costs as much as to scan so many bytes of codes: 0.3 ms at 1.1 ns
# a byte, where 0.1 to 0.45 ms were measured on a local disk.
_READ_BYTES = 1 << 18
# Where no text was measured: pictures of the corpus lie in few lists, and a text lies further from its own.
_LEAST_LISTS = 8
_TIMED = 32


@dataclass(frozen=True)
class _Halves:
    """Rows of the truth by kind: every second query chooses, the others are reported."""

    choose: Mapping[str, Ids]
    report: Mapping[str, Ids]


@dataclass(frozen=True)
class _Grid:
    """Points on the queries that are reported; recall@10 of the worst kind on those that choose."""

    points: tuple[Point, ...]
    choosing: Mapping[tuple[int, int], float]


def measure(
    subject: Subject, truth: Truth, config: IndexConfig, at: tuple[int, int] | None = None
) -> Measured | None:
    """The curve of an index, and the cheapest point of it whose recall@10 reaches `target_recall`.

    A configured nprobe or k_factor stays as it is. Where no point reaches the target, the best is taken.
    `at`: only this nprobe with this k_factor, which takes seconds where the curve takes a minute.
    None where no query has a neighbour.
    """
    halves = _halves(truth)
    if not halves.report:
        return None
    if at is None:
        grid = _measure_grid(subject, truth, halves, config)
        nprobe, k_factor = _choose(subject, grid, config, _least_lists(truth, config))
    else:
        nprobe, k_factor = at
        grid = _measure_step(subject, truth, halves, nprobe, sorted({1, k_factor}))
    # As many of each kind: texts visit other lists.
    timed = np.concatenate([rows[: _TIMED // len(halves.report)] for rows in halves.report.values()])
    queries, count = truth.queries.vectors[timed], _TARGET_AT * k_factor
    steps = sorted({point.nprobe for point in grid.points})
    return Measured(
        nprobe=nprobe,
        k_factor=k_factor,
        target=config.target_recall,
        reached=grid.choosing[nprobe, k_factor] >= config.target_recall,
        queries={kind: len(rows) for kind, rows in halves.report.items()},
        curve=Curve(grid.points, search_ms(subject, queries, count, steps)),
        rerank_ms=rerank_ms(subject, queries, count, nprobe),
    )


def _halves(truth: Truth) -> _Halves:
    asked = np.flatnonzero((truth.neighbours.ids >= 0).any(axis=1))
    kinds = truth.queries.kinds[asked]
    rows = {str(kind): asked[kinds == kind] for kind in Kind if (kinds == kind).any()}
    # A single query of its kind chooses and is reported.
    return _Halves(
        choose={kind: some[::2] for kind, some in rows.items()},
        report={kind: some[1::2] if len(some) > 1 else some for kind, some in rows.items()},
    )


def _measure_grid(subject: Subject, truth: Truth, halves: _Halves, config: IndexConfig) -> _Grid:
    k_factors = _k_factors(subject, truth, config)
    points: list[Point] = []
    choosing: dict[tuple[int, int], float] = {}
    for nprobe in _steps(subject, config):
        step = _measure_step(subject, truth, halves, nprobe, k_factors)
        points += step.points
        choosing.update(step.choosing)
        found_all = choosing[nprobe, k_factors[-1]] >= max(_ENOUGH, config.target_recall)
        if found_all and nprobe >= _least_lists(truth, config):
            break
    return _Grid(tuple(points), choosing)


def _measure_step(
    subject: Subject, truth: Truth, halves: _Halves, nprobe: int, k_factors: Sequence[int]
) -> _Grid:
    """One search with the most candidates tells of all fewer."""
    ranks = ranks_of(subject, truth, nprobe, max(RECALL_AT) * k_factors[-1])
    points = [Point(nprobe, factor, _recalls(truth, ranks, halves, factor)) for factor in k_factors]
    return _Grid(
        tuple(points), {(nprobe, factor): _worst(truth, ranks, halves, factor) for factor in k_factors}
    )


def _least_lists(truth: Truth, config: IndexConfig) -> int:
    texts = bool((truth.queries.kinds == Kind.TEXT).any())
    return max(1 if texts else _LEAST_LISTS, _configured(config.nprobe))


def _configured(value: int | str) -> int:
    """0 for auto."""
    return 0 if value == "auto" else int(value)


def _steps(subject: Subject, config: IndexConfig) -> list[int]:
    """1, 2, 4, … lists, all of them at most, and the configured number."""
    most = min(subject.nlist, _MOST_CODES * subject.nlist // max(subject.vectors, 1))
    steps = {1 << exponent for exponent in range(max(most, 1).bit_length())} | {max(most, 1)}
    if config.nprobe != "auto":
        steps.add(min(_configured(config.nprobe), subject.nlist))
    return sorted(steps)


def _k_factors(subject: Subject, truth: Truth, config: IndexConfig) -> list[int]:
    # Codes as long as the vectors in float32 are the vectors: a re-rank changes nothing.
    whole = subject.code_size >= 4 * truth.queries.vectors.shape[1]
    factors = {1} if whole else set(K_FACTORS)
    return sorted(factors | {max(1, _configured(config.k_factor))})


def _recalls(truth: Truth, ranks: Ranks, halves: _Halves, k_factor: int) -> Recalls:
    return {
        kind: {at: estimate(_shares(truth, ranks, rows, at, k_factor)) for at in RECALL_AT}
        for kind, rows in halves.report.items()
    }


def _worst(truth: Truth, ranks: Ranks, halves: _Halves, k_factor: int) -> float:
    shares = [_shares(truth, ranks, rows, _TARGET_AT, k_factor) for rows in halves.choose.values()]
    return min(float(share.mean()) for share in shares)


def _shares(truth: Truth, ranks: Ranks, rows: Ids, at: int, k_factor: int) -> npt.NDArray[np.float64]:
    found = truth.neighbours
    return recall_shares(Neighbours(found.ids[rows], found.scores[rows]), ranks[rows], at, at * k_factor)


def _choose(subject: Subject, grid: _Grid, config: IndexConfig, least: int) -> tuple[int, int]:
    """The cheapest point that reaches the target; else the cheapest of the best."""
    lists = {nprobe for nprobe, _ in grid.choosing}
    if config.nprobe == "auto":
        lists = {nprobe for nprobe in lists if nprobe >= min(least, max(lists))}
    else:
        lists = {min(int(config.nprobe), subject.nlist)}
    k_factor = _configured(config.k_factor)
    allowed = [place for place in grid.choosing if place[0] in lists and k_factor in (0, place[1])]
    wanted = min(config.target_recall, max(grid.choosing[place] for place in allowed))
    reached = [place for place in allowed if grid.choosing[place] >= wanted]
    return min(reached, key=lambda place: (_cost(subject, *place), place))


def _cost(subject: Subject, nprobe: int, k_factor: int) -> float:
    """Bytes that a query for 10 hits goes through: counted, not timed, so that a build repeats its choice."""
    scanned = subject.vectors * nprobe / subject.nlist * subject.code_size
    return scanned + _TARGET_AT * k_factor * _READ_BYTES
