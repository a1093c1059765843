"""Resident memory of a whole run against the size of the corpus: the peak of each kind of process.

    python scripts/memory.py FOLDER --items 1000 10000 100000 --clusters local ray

Draws small pictures below FOLDER and develops them with the pocket encoder. MB are of 2**20 bytes, resident,
of the largest process of its kind, without what it shares: that is Ray's object store, in a column of its
own, which grows up to its fixed size.
"""

import argparse
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import cv2
import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from stages.pocket import scenes
from stages.pocket.drawing import draw

SIDE, DRAWN, PER_FOLDER, SEED = 64, 200, 1000, 0
EVERY_S = 0.25
RUN = "import sys; from pipelines.cli import main; sys.exit(main())"
SETTINGS = ("captioner=none", "tracking=off", "report.pictures=0")
# What a process is called, and what its command line holds; the first that fits.
KINDS = {
    "decoding": "stages.isolation.child",
    "actor": "ray::MapWorker",
    "task": "ray::",
    "Ray's own": "ray",
}
SHARED = "shared"


def write_pictures(folder: Path, count: int) -> None:
    """`count` JPEG files of which no two have the same bytes: a number follows the end of the picture."""
    rng = np.random.default_rng(SEED)
    pictures = [_jpeg(draw(scene, rng, SIDE)) for scene in scenes.sample_distinct(rng, "held_out", DRAWN)]
    for number in range(count):
        path = folder / f"{number // PER_FOLDER:04d}/{number:07d}.jpg"
        if number % PER_FOLDER == 0:
            path.parent.mkdir(parents=True)
        path.write_bytes(pictures[number % DRAWN] + b"%d" % number)


def _jpeg(pixels: np.ndarray) -> bytes:
    written, data = cv2.imencode(".jpg", pixels[:, :, ::-1])
    assert written
    return data.tobytes()


def peaks(photos: Path, corpus: Path, cluster: str) -> tuple[Mapping[str, float], float]:
    """MB of the largest process of each kind while a night over the photos runs, and its seconds."""
    words = ["nightly", f"source.path={photos}", f"corpus={corpus}", f"cluster={cluster}", *SETTINGS]
    start = time.monotonic()
    with subprocess.Popen([sys.executable, "-c", RUN, *words], stdout=subprocess.DEVNULL) as night:
        largest: dict[str, float] = defaultdict(float)
        while night.poll() is None:
            for kind, megabytes in _sample(psutil.Process(night.pid)):
                largest[kind] = max(largest[kind], megabytes)
            time.sleep(EVERY_S)
    if night.returncode:
        raise SystemExit(f"the night over {photos} ended with code {night.returncode}")
    return largest, time.monotonic() - start


def _sample(driver: psutil.Process) -> Iterator[tuple[str, float]]:
    for process in [driver, *driver.children(recursive=True)]:
        try:
            kind = "driver" if process == driver else _kind(" ".join(process.cmdline()))
            resident = _resident(process.pid)
        except (psutil.Error, OSError):
            continue
        yield kind, resident["RssAnon"] + resident["RssFile"]
        yield SHARED, resident["RssShmem"]


def _resident(pid: int) -> dict[str, float]:
    """MB by what they are: a process's own, of files, shared."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    found = (line.split() for line in lines if line.startswith("Rss"))
    return defaultdict(float, {words[0].rstrip(":"): int(words[1]) / 1024 for words in found})


def _kind(command: str) -> str:
    return next((kind for kind, part in KINDS.items() if part in command), "other")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--items", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--clusters", nargs="+", default=["local", "ray"])
    words = parser.parse_args()
    kinds = ("driver", *KINDS, SHARED)
    table = Table("cluster", "items", *(f"{kind}, MB" for kind in kinds), "s")
    for count in words.items:
        photos = words.folder / f"photos-{count}"
        if not photos.exists():
            write_pictures(photos, count)
        for cluster in words.clusters:
            corpus = words.folder / f"corpus-{cluster}-{count}"
            shutil.rmtree(corpus, ignore_errors=True)
            largest, seconds = peaks(photos, corpus, cluster)
            cells = (f"{largest[kind]:,.0f}" if kind in largest else "" for kind in kinds)
            table.add_row(cluster, f"{count:,}", *cells, f"{seconds:,.0f}")
            Console(width=120).print(table)


if __name__ == "__main__":
    main()
