"""The phases of a build against bare faiss doing the same in one process, in turns: ratios, on one thread."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from scripts.bench_index_build import Build, add_unit, open_lists, open_template, unit_path
from scripts.bench_index_data import synthetic
from stages.index.blas import import_faiss
from stages.index.encode import Encoder
from stages.index.lists import write_lists
from stages.index.merge import merge_lists
from stages.index.searchable import SearchableIndex
from stages.index.train import TrainingPlan, train_centroids, train_rotation, train_template
from stages.index.vectors import unit_float32

_NO_IDS = np.empty(0, np.int64)


@dataclass(frozen=True)
class Ratio:
    """Of CPU seconds, bare over ours: over 1, ours is faster. `rates`: rows a second, ours and bare."""

    ratio: float
    spread: tuple[float, float]  # of the rounds
    rates: tuple[float, float]


def in_turns(
    ours: Callable[[], object], bare: Callable[[], object], rows: int, rounds: int, warm_up: int = 1
) -> Ratio:
    """The median of the rounds' ratios; which one comes first changes from round to round."""
    seconds: dict[str, list[float]] = {"ours": [], "bare": []}
    work: Mapping[str, Callable[[], object]] = {"ours": ours, "bare": bare}
    for turn in range(rounds + warm_up):
        for name in sorted(work, reverse=bool(turn % 2)):
            begin = time.process_time()
            work[name]()
            if turn >= warm_up:
                seconds[name].append(time.process_time() - begin)
    ratios = [bare / ours for bare, ours in zip(seconds["bare"], seconds["ours"], strict=True)]
    rates = (rows / median(seconds["ours"]), rows / median(seconds["bare"]))
    return Ratio(median(ratios), (min(ratios), max(ratios)), rates)


def train_ratio(dim: int, factory: str, rows: int) -> Ratio:
    """Ours in its three stages; bare is `train` with faiss's own settings, in minutes: so one round."""
    faiss = import_faiss()
    sample, plan = synthetic(0, rows, dim, seed=0), TrainingPlan(factory, dim, 0)
    dense = unit_float32(sample, dim)

    def ours() -> None:
        rotation = train_rotation(sample, plan)
        train_template(sample, rotation, train_centroids(sample, rotation, plan), plan)

    def bare() -> None:
        index = faiss.index_factory(dim, factory, faiss.METRIC_L2)
        faiss.extract_index_ivf(index).cp.max_points_per_centroid = rows
        index.train(dense)

    return in_turns(ours, bare, rows, rounds=1, warm_up=0)


def add_ratio(build: Build, rows: int, rounds: int) -> Ratio:
    """Ours from float16, with its checks and the file of the unit; bare from float32 into lists in memory."""
    template = open_template(build.folder, build.factory)
    vectors, ids = synthetic(0, rows, build.dim, build.seed), np.arange(rows)
    dense, index = unit_float32(vectors, build.dim), _empty(build)
    encoder, path = Encoder(template), build.folder / "ratio.bin"

    def ours() -> None:
        batches = [encoder(vectors[start : start + 16_384]) for start in range(0, rows, 16_384)]
        numbers, codes = (np.concatenate(parts) for parts in zip(*batches, strict=True))
        with path.open("wb") as stream:
            write_lists(stream, numbers, ids, codes, template.nlist)

    def bare() -> None:
        index.reset()
        index.add_with_ids(dense, ids)

    return in_turns(ours, bare, rows, rounds)


def _empty(build: Build) -> Any:
    """The template as faiss itself loads it."""
    faiss = import_faiss()
    data = np.frombuffer((build.folder / "template.faiss").read_bytes(), np.uint8)
    return faiss.deserialize_index(data, faiss.IO_FLAG_SKIP_PRECOMPUTE_TABLE)


def merge_ratio(build: Build, units: int, rows: int, rounds: int) -> Ratio:
    """Ours with its checksums of all that is read and written; bare is faiss's merge into a file."""
    faiss, template = import_faiss(), open_template(build.folder, build.factory)
    small = replace(build, unit_rows=rows // units, rows=rows)
    for first in small.units:
        add_unit(small, first)
    sources = [open_lists(unit_path(small, first), template.code_size) for first in small.units]
    path = build.folder / "ratio.bin"

    def ours() -> None:
        again = [open_lists(source.path, template.code_size) for source in sources]
        with path.open("wb") as stream:
            merge_lists(again, stream, _NO_IDS)

    def bare() -> None:
        path.unlink(missing_ok=True)
        merged = faiss.OnDiskInvertedLists(template.nlist, template.code_size, str(path))
        pointers = faiss.InvertedListsPtrVector()
        for source in sources:
            pointers.push_back(source.invlists)
        merged.merge_from_multiple(pointers.data(), pointers.size())

    return in_turns(ours, bare, rows, rounds)


def search_ratio(build: Build, part: Path, nprobe: int, count: int, rounds: int) -> Ratio:
    """Ours from the file, mapped; bare from lists in memory. Both of codes alone."""
    faiss, template = import_faiss(), open_template(build.folder, build.factory)
    queries, index = unit_float32(build.held_out(), build.dim), _empty(build)
    lists = open_lists(part, template.code_size)
    held, ivf = faiss.ArrayInvertedLists(template.nlist, template.code_size), faiss.extract_index_ivf(index)
    lists.invlists.copy_subset_to(held, faiss.InvertedLists.SUBSET_TYPE_ID_RANGE, 0, 1 << 62)
    ivf.replace_invlists(held)
    ivf.ntotal = index.ntotal = lists.directory.rows
    ivf.nprobe = nprobe
    searchable = SearchableIndex(template, [lists])
    return in_turns(
        lambda: searchable.candidates(queries, count, nprobe),
        lambda: index.search(queries, count),
        len(queries),
        rounds,
    )
