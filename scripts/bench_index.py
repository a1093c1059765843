"""Measures the index: training, adding, merging and searching, by size; prints tables as Markdown.

    python -m scripts.bench_index FOLDER --sizes 1e6 1e7 --rates rates.json --autofaiss PYTHON

Vectors are made as they are needed. Rates are of CPU seconds, and ratios of rounds in turns, so that what
else runs on the machine counts little. FOLDER takes the lists, 64 bytes a vector, and the figures of each
size, which is then not built again.
"""

import argparse
import json
import os
import platform
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scripts.bench_index_bare import Ratio, add_ratio, merge_ratio, search_ratio, train_ratio
from scripts.bench_index_build import Build, K, run
from scripts.bench_index_processes import apart
from scripts.bench_index_rates import checks, rates
from scripts.bench_index_sides import Side, side_by_side
from stages.index.blas import import_faiss

GOALS = {"add": 0.95}
NPROBES = (1, 4, 16, 64, 256)


def builds_of(options: argparse.Namespace) -> list[Build]:
    return [
        Build(
            int(size),
            options.dim,
            options.factory,
            options.folder / f"{int(size)}",
            options.unit_rows,
            options.cores,
        )
        for size in sorted(options.sizes)
    ]


def measured(build: Build) -> dict[str, Any]:
    """The figures of a build, from its file if it was measured before."""
    path = build.folder / "figures.json"
    if not path.exists():
        found = run(build, NPROBES)
        path.write_text(json.dumps(found, indent=1))
    stored: dict[str, Any] = json.loads(path.read_text())
    return stored


def ratios(build: Build, rounds: int) -> dict[str, Ratio]:
    """On one thread, with the template of this build."""
    few, small = max(2, rounds // 2), re.sub(r"IVF\d+", "IVF1024", build.factory)
    return {
        "train": apart(1, train_ratio, build.dim, small, 65_536).result,
        "add": apart(1, add_ratio, build, 262_144, rounds).result,
        "merge": apart(1, merge_ratio, build, 4, min(build.rows, 2_000_000), few).result,
        "search": apart(1, search_ratio, build, build.folder / "merged.bin", 64, 200, rounds).result,
    }


# Tables


def phase_lines(found: Mapping[str, Any], bare: Mapping[str, Ratio]) -> Iterator[str]:
    rows, train, add, merge = found["rows"], found["train"], found["add"], found["merge"]
    trained = train["rotation"] + train["centroids"] + train["codebook"]
    code_bytes = f"{merge['bytes'] / rows:.0f}"
    yield _line(rows, "train", f"{train['sample'] / trained:,.0f} of the sample", bare, train, "")
    yield _line(rows, "add", f"{rows / (add['encode'] + add['write']):,.0f}", bare, add, code_bytes)
    yield _line(rows, "merge", f"{rows / merge['cpu']:,.0f}", bare, merge, code_bytes)
    truth = found["truth"]
    yield _line(rows, "exact truth, 1,000 queries", f"{rows / truth['cpu']:,.0f}", bare, truth, "")
    point = next(one for one in found["search"]["points"] if one["nprobe"] == 64)
    queries = f"{1 / point['together']:,.0f} queries/s at nprobe 64"
    yield _line(rows, "search", queries, bare, found["search"], code_bytes)


def _line(
    rows: int, what: str, rate: str, bare: Mapping[str, Ratio], taken: Mapping[str, float], size: str
) -> str:
    one = bare.get(what)
    ratio = "" if one is None else f"{one.ratio:.2f} ({one.spread[0]:.2f} to {one.spread[1]:.2f})"
    goal = f"{GOALS[what]:.2f}" if what in GOALS and one else ""
    return (
        f"| {rows:,} | {what} | {rate} | {ratio} | {goal} | "
        f"{taken['own']:,.0f} | {taken['mapped']:,.0f} | {size} |"
    )


def search_lines(found: Mapping[str, Any]) -> Iterator[str]:
    for point in found["search"]["points"]:
        yield (
            f"| {found['rows']:,} | {point['nprobe']} | {point['codes']:.3f} | {point['reranked']:.3f} | "
            f"{point['seconds'] * 1000:.2f} | {point['together'] * 1000:.2f} |"
        )


def side_lines(sides: Sequence[Side]) -> Iterator[str]:
    for side in sides:
        recalls = " | ".join(f"{codes:.3f} / {exact:.3f}" for codes, exact in side.recalls.values())
        yield (
            f"| {side.corpus} | {side.who} | {side.factory} | {side.bytes_per_vector:.1f} | "
            f"{side.seconds:,.0f} | {side.cpu:,.0f} | {recalls} |"
        )


def machine() -> str:
    cpus = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    names = [line.partition(":")[2].strip() for line in cpus.splitlines() if line.startswith("model name")]
    wide = "AVX-512, " if "avx512f" in cpus else ""
    name = names[0] if names else platform.machine()
    return f"{name}, {wide}{os.cpu_count()} cores, faiss {import_faiss().__version__}"


def table(head: str, lines: Iterator[str]) -> None:
    print(f"\n{head}\n{'| --- ' * (head.count('|') - 1)}|")
    for line in lines:
        print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sizes", type=float, nargs="+", default=[1e6, 1e7])
    parser.add_argument("--dim", type=int, default=96)
    parser.add_argument("--factory", default="OPQ24_96,IVF16384,PQ24")
    parser.add_argument("--unit-rows", type=int, default=2_500_000)
    parser.add_argument("--cores", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=7, help="of the ratios to bare faiss; 0 for none")
    parser.add_argument("--rates", type=Path, help="file to write for `darkroom index plan rates=FILE`")
    parser.add_argument("--autofaiss", type=Path, help="a Python that has autofaiss, to build beside it")
    options = parser.parse_args()
    print(f"{machine()}, load average {os.getloadavg()[0]:.1f} before, {time.strftime('%Y-%m-%d')}")
    builds = builds_of(options)
    found = [measured(build) for build in builds]
    bare = ratios(builds[0], options.rounds) if options.rounds else {}
    columns = (
        "| vectors | what | rate a core | ratio to bare faiss | goal | own MB | mapped MB | bytes each |"
    )
    table(columns, (line for n, one in enumerate(found) for line in phase_lines(one, {} if n else bare)))
    columns = f"| vectors | nprobe | recall@{K} of codes | re-ranked | ms a query | ms in a batch |"
    table(columns, (line for one in found for line in search_lines(one)))
    if options.rates:
        write_rates(options.rates, builds, found)
    if options.autofaiss:
        columns = "| corpus | by | factory | bytes/vector | s | CPU s | "
        columns += "".join(f"recall@{K} / re-ranked, nprobe {nprobe} | " for nprobe in NPROBES[2:]).strip()
        table(
            columns, side_lines(side_by_side(options.folder, options.autofaiss, NPROBES[2:], options.cores))
        )


def write_rates(path: Path, builds: Sequence[Build], found: Sequence[Mapping[str, Any]]) -> None:
    """Rates of the first build; how far they are off the others goes with them."""
    measured_rates = rates(builds[0], found[0], found, machine())
    errors = [
        one
        for build, figures in zip(builds[1:], found[1:], strict=True)
        for one in checks(build, figures, measured_rates)
    ]
    numbers = {
        name: float(f"{value:.4g}") if isinstance(value, float) else value
        for name, value in asdict(measured_rates).items()
    }
    stored = numbers | {"checks": [asdict(one) for one in errors]}
    path.write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    main()
