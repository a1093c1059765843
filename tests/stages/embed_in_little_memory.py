"""Embeds 1024 pictures, by 8 and then all at once under RLIMIT_AS; prints what became of them as JSON."""

import json
import resource
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa

from stages.base import notes_of, pack_views
from stages.checkpoints import Device
from stages.embed import EmbedConfig, EmbedImages, EmbedRun

COUNT, SIDE = 1024, 96
ROOM = 64 * 2**20  # the float32 pixels of all are 113 MB


def main() -> None:
    images = list(np.random.default_rng(0).integers(0, 256, (COUNT, SIDE, SIDE, 3), dtype=np.uint8))
    ends = {"status": ["ok"] * COUNT, "error": pa.nulls(COUNT, pa.string())}
    shard = pa.table({**ends, "view:small": pack_views(images)})
    few, all_at_once = (
        EmbedImages(EmbedConfig(sys.argv[1]), EmbedRun(batch_size, Device.CPU, threads=1), "small")
        for batch_size in (8, COUNT)
    )
    expected = _vectors(few(shard))
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
    limit = pages * resource.getpagesize() + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    made = all_at_once(shard)
    cosines = (_vectors(made) * expected).sum(axis=1)
    statuses = sorted({row["status"] for row in made["embedding"].to_pylist()})
    print(json.dumps({"statuses": statuses, "worst_cosine": float(cosines.min()), "notes": notes_of(made)}))


def _vectors(made: pa.Table) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return np.array([row["embedding"] for row in made["embedding"].to_pylist()], dtype=np.float32)


if __name__ == "__main__":
    main()
