"""Damages image files at random and decodes them as a night does: how each ends, how long, how much memory.

    python scripts/hostile.py FOLDER --mutants 2000 --seed 0

Every image below FOLDER is written as JPEG, PNG and WebP, with EXIF and a colour profile, and mutants are
made of those in turn. Prints one row for each format, and the slowest file and the memory at the end.
"""

import argparse
import io
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
from PIL import Image, ImageCms, ImageOps
from rich.console import Console
from rich.table import Table

from stages.decode import DecodeConfig, DecodeImages, DecodeRun
from stages.isolate import Isolated, IsolationConfig
from stages.resize import Policy, ResizeConfig
from stages.schemas import Status

FORMATS = {"JPEG": {"quality": 90}, "PNG": {"compress_level": 1}, "WEBP": {"quality": 80, "method": 2}}
VIEWS = {"square": ResizeConfig(size=224), "fit": ResizeConfig(policy=Policy.FIT, size=384)}
HEADER = 1024  # bytes in which sizes, tables and offsets stand


@dataclass(frozen=True)
class Sample:
    kind: str
    data: bytes


@dataclass
class Tally:
    """`statuses` by format; `slowest`: seconds and the number of the file; `peak_mb`: of one process."""

    statuses: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    slowest: tuple[float, int] = (0.0, 0)
    peak_mb: float = 0.0


def originals(pictures: Sequence[Image.Image]) -> Iterator[Sample]:
    """Each picture in each format, with the metadata that cameras write."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x9286] = 6, "a camera", "a comment"
    for picture in pictures:
        for kind, options in FORMATS.items():
            file = io.BytesIO()
            picture.save(file, kind, exif=exif.tobytes(), icc_profile=profile, **options)
            yield Sample(kind.lower(), file.getvalue())


def mutants(samples: Sequence[Sample], count: int, seed: int) -> Iterator[Sample]:
    """In turn: bits flipped anywhere, bits flipped in the header, cut off, a piece from the middle lost."""
    rng = np.random.default_rng(seed)
    changes = (_flip, partial(_flip, within=HEADER), _cut, _lose)
    for number in range(count):
        sample = samples[number % len(samples)]
        yield Sample(sample.kind, changes[number // len(samples) % len(changes)](sample.data, rng))


def _flip(data: bytes, rng: np.random.Generator, within: int | None = None) -> bytes:
    bits = np.unpackbits(np.frombuffer(data, np.uint8))
    bits[rng.integers(0, min(within or len(data), len(data)) * 8, rng.integers(1, 33))] ^= 1
    return np.packbits(bits).tobytes()


def _cut(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: rng.integers(len(data))]


def _lose(data: bytes, rng: np.random.Generator) -> bytes:
    start, end = np.sort(rng.integers(0, len(data), 2))
    return data[:start] + data[end:]


def decode_all(samples: Iterator[Sample], timeout_s: float, memory_limit_mb: int) -> Tally:
    """Each file by itself, in the process that a night decodes in."""
    run = DecodeRun(memory_limit_mb=memory_limit_mb)
    stage = Isolated(
        {"decode": partial(DecodeImages, DecodeConfig(), run, VIEWS)}, IsolationConfig(timeout_s)
    )
    tally = Tally()
    for number, sample in enumerate(samples):
        start = time.perf_counter()
        (status,) = stage(_row(number, sample.data))["status"].to_pylist()
        tally.slowest = max(tally.slowest, (time.perf_counter() - start, number))
        tally.statuses[sample.kind][status] += 1
        tally.peak_mb = max([tally.peak_mb, *map(peak_mb, psutil.Process().children())])
    return tally


def _row(number: int, data: bytes) -> pa.Table:
    return pa.table(
        {
            "image_id": pa.array([number], pa.int64()),
            "uri": pa.array([str(number)]),
            "bytes": pa.array([data], pa.large_binary()),
            "status": pa.array(["ok"]),
            "error": pa.array([None], pa.string()),
        }
    )


def peak_mb(process: psutil.Process) -> float:
    """The most memory that the process had so far."""
    try:
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    except FileNotFoundError:
        return 0.0
    return sum(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))


def _pictures(folder: Path) -> Iterator[Image.Image]:
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        try:
            yield ImageOps.exif_transpose(Image.open(path)).convert("RGB")
        except OSError:
            continue


def _table(tally: Tally) -> Table:
    shown = [status for status in Status if any(row[status] for row in tally.statuses.values())]
    table = Table("format", *(status.value for status in shown))
    for kind, row in tally.statuses.items():
        table.add_row(kind, *(f"{row[status]:,}" for status in shown))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--mutants", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timeout-s", type=float, default=10.0)
    parser.add_argument("--memory-mb", type=int, default=2048)
    words = parser.parse_args()
    samples = list(originals(list(_pictures(words.folder))))
    tally = decode_all(mutants(samples, words.mutants, words.seed), words.timeout_s, words.memory_mb)
    console = Console()
    console.print(_table(tally))
    seconds, number = tally.slowest
    console.print(f"slowest: {seconds:.2f} s (number {number}); peak memory: {tally.peak_mb:,.0f} MB")


if __name__ == "__main__":
    main()
