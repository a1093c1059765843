"""Darkroom's index and autofaiss's over the same vectors, with as many bytes: recall and time to build."""

import json
import os
import resource
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scripts.bench_index_build import CANDIDATES, Build, K, recall, run
from stages.index.search import rerank
from stages.index.vectors import unit_float32

_SCRIPT = Path(__file__).with_name("bench_index_autofaiss.py")


@dataclass(frozen=True)
class Corpus:
    """`asked`: of autofaiss, a factory or the bytes of the whole index, so that codes take as many bytes."""

    name: str
    rows: int
    dim: int
    factory: str
    asked: tuple[str, str]
    by_cluster: bool = False


CORPORA = (
    Corpus("1 M x 96", 1_000_000, 96, "OPQ24_96,IVF16384,PQ24", ("--memory", "48M")),
    # autofaiss trains on the first 100 rows a list: here, a fifth of them.
    Corpus(
        "1 M x 96, sorted by cluster",
        1_000_000,
        96,
        "OPQ24_96,IVF2048,PQ24",
        ("--key", "OPQ24_96,IVF2048,PQ24x8"),
        by_cluster=True,
    ),
    Corpus("200 k x 512", 200_000, 512, "OPQ64_256,IVF1024,PQ64", ("--memory", "24M")),
)


@dataclass(frozen=True)
class Side:
    """`recalls`: by nprobe, of the codes and after an exact re-rank of 200 candidates."""

    corpus: str
    who: str
    factory: str
    bytes_per_vector: float
    seconds: float
    cpu: float
    recalls: Mapping[int, tuple[float, float]]


def side_by_side(folder: Path, python: Path, nprobes: Sequence[int], cores: int) -> list[Side]:
    sides = []
    for corpus in CORPORA:
        place = folder / f"side-{corpus.dim}{'-sorted' if corpus.by_cluster else ''}"
        build = Build(
            corpus.rows,
            corpus.dim,
            corpus.factory,
            place,
            corpus.rows // cores,
            cores,
            by_cluster=corpus.by_cluster,
        )
        sides += [_ours(corpus, build, nprobes), _theirs(corpus, build, nprobes, python)]
    return sides


def _ours(corpus: Corpus, build: Build, nprobes: Sequence[int]) -> Side:
    found = run(build, nprobes)
    phases = [found[name] for name in ("train", "add", "merge")]
    train, add, merge = phases
    cpu = (
        train["rotation"]
        + train["centroids"]
        + train["codebook"]
        + add["encode"]
        + add["write"]
        + merge["cpu"]
    )
    recalls = {one["nprobe"]: (one["codes"], one["reranked"]) for one in found["search"]["points"]}
    size = merge["bytes"] + sum(
        (build.folder / name).stat().st_size for name in ("template.faiss", "merged.npy")
    )
    seconds = sum(phase["seconds"] for phase in phases)
    return Side(corpus.name, "Darkroom", corpus.factory, size / corpus.rows, seconds, cpu, recalls)


def _theirs(corpus: Corpus, build: Build, nprobes: Sequence[int], python: Path) -> Side:
    place = build.folder / "autofaiss"
    (place / "vectors").mkdir(parents=True, exist_ok=True)
    vectors = unit_float32(build.vectors(np.arange(corpus.rows)), build.dim)
    np.save(place / "vectors" / "0.npy", vectors)
    queries = unit_float32(build.held_out(), build.dim)
    np.save(place / "queries.npy", queries)
    told, cpu = _autofaiss(python, place, corpus, nprobes, build.cores)
    truth = np.load(build.folder / "truth.npy")
    recalls = {}
    with np.load(place / "found.npz") as found:
        for nprobe in nprobes:
            ids = found[str(nprobe)]
            exact = rerank(queries, ids, K, build.vectors)
            recalls[nprobe] = (recall(ids, truth), recall(exact.ids, truth))
    return Side(
        corpus.name, "autofaiss", told["key"], told["bytes"] / corpus.rows, told["seconds"], cpu, recalls
    )


def _autofaiss(
    python: Path, place: Path, corpus: Corpus, nprobes: Sequence[int], cores: int
) -> tuple[dict[str, Any], float]:
    """What its script says, and CPU seconds."""
    words = [str(python), str(_SCRIPT), str(place), *corpus.asked, "--count", str(CANDIDATES)]
    words += ["--nprobes", *map(str, nprobes)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = os.environ | {"OMP_NUM_THREADS": str(cores)}
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told, cpu
