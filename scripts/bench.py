"""Measures Darkroom against the same work done bare, and prints the table of ratios as Markdown.

Every ratio is of two measurements of one run on one machine; rates are there to make it plausible. The
scripts beside this one measure, each in a process of its own, and say how: `bench_stages.py`,
`bench_generate.py`, `bench_run.py`.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from stages.pocket.corpus import write_pictures
from stages.schemas import SHARD_ROWS

PACKAGES = ("opencv-python-headless", "pyarrow", "ray", "torch", "transformers")


def rows_of(script: str, *arguments: str) -> Iterator[dict[str, Any]]:
    """What a script beside this one prints: a JSON object a line."""
    path = Path(__file__).with_name(script)
    done = subprocess.run(
        [sys.executable, str(path), *arguments], stdout=subprocess.PIPE, text=True, check=True
    )
    for line in done.stdout.splitlines():
        yield json.loads(line)


def draw(folder: Path, shards: int) -> None:
    """A folder for each shard, all pictures distinct: of equal ones the captioner encodes only one."""
    with ProcessPoolExecutor() as pool:
        drawn = [pool.submit(write_pictures, folder / f"{k:03d}", SHARD_ROWS, k) for k in range(shards)]
        for one in drawn:
            one.result()


def stage_rows(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    photos = ["--photos", str(options.photos)] if options.photos else []
    quick = ["--quick"] if options.quick else []
    yield from rows_of("bench_stages.py", "--encoder", options.encoder, *photos, *quick)


def generate_rows(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    yield from rows_of("bench_generate.py", *(["--quick"] if options.quick else []))


def run_rows(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    models = [f"encoder.what.model={options.encoder}"]
    captioner = f"captioner.what.generator.model={options.captioner}"
    with TemporaryDirectory() as folder:
        draw(Path(folder), options.shards)
        yield from rows_of("bench_run.py", folder, "decode + embed", *models, "captioner=null")
        if not options.quick:
            yield from rows_of("bench_run.py", folder, "decode + embed + caption", *models, captioner)
            yield from rows_of(
                "bench_run.py", folder, "no stages at all", *models, "captioner=null", "--empty"
            )


def machine() -> str:
    """The hardware and the versions, and whether anything else was running."""
    cpus = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    names = [line.partition(":")[2].strip() for line in cpus.splitlines() if line.startswith("model name")]
    facts = [
        f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores",
        torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU",
        f"load average {os.getloadavg()[0]:.1f} before",
        time.strftime("%Y-%m-%d"),
        f"Python {platform.python_version()}",
        *(f"{name} {version(name)}" for name in PACKAGES),
    ]
    return ", ".join(facts)


def line(row: dict[str, Any]) -> str:
    ratio, goal = ("" if row[key] is None else f"{row[key]:.2f}" for key in ("ratio", "goal"))
    return f"| {row['what']} | {row['against']} | {ratio} | {goal} | {row['measured']} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="a smoke run of a minute; its ratios mean little"
    )
    parser.add_argument("--photos", type=Path, help="folder of JPEG files to decode as well")
    parser.add_argument("--shards", type=int, help="of 512 pictures each, in a whole run")
    parser.add_argument("--encoder", default="pocket:encoder", help="model")
    parser.add_argument("--captioner", default="pocket:captioner", help="model")
    options = parser.parse_args()
    options.shards = options.shards or (8 if options.quick else 24)
    print(machine(), end="\n\n")
    print("| what | against | ratio | goal | measured |\n| --- | --- | --- | --- | --- |")
    for rows in (stage_rows, generate_rows, run_rows):
        for row in rows(options):
            print(line(row), flush=True)


if __name__ == "__main__":
    main()
