"""Builds an index with autofaiss and asks it queries; runs in autofaiss's own environment.

    PYTHON scripts/bench_index_autofaiss.py FOLDER --key … | --memory …

FOLDER holds `vectors/*.npy`, float32 [n, dim] of unit length, and `queries.npy`; `found.npz` is put there:
for each nprobe the int64 [q, count] row numbers that were found. Prints a JSON object.
"""

import argparse
import json
import logging
import time
from pathlib import Path

import faiss
import numpy as np
from autofaiss import build_index


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--key", help="a faiss factory string; unset: autofaiss chooses")
    parser.add_argument("--memory", default="16G", help="that the index may take")
    parser.add_argument("--nprobes", type=int, nargs="+", required=True)
    parser.add_argument("--count", type=int, required=True, help="neighbours of each query")
    options = parser.parse_args()
    begin = time.perf_counter()
    _, facts = build_index(
        str(options.folder / "vectors"),
        index_path=str(options.folder / "knn.index"),
        index_infos_path=str(options.folder / "infos.json"),
        index_key=options.key,
        index_param=f"nprobe={max(options.nprobes)}",  # given, or it searches for one after the build
        max_index_memory_usage=options.memory,
        # Its default, "ip", fails with faiss 1.15; of unit vectors L2 finds the same, with better codes.
        metric_type="l2",
        verbose=logging.ERROR,
    )
    seconds = time.perf_counter() - begin
    index = faiss.read_index(str(options.folder / "knn.index"))
    ivf, queries = faiss.extract_index_ivf(index), np.load(options.folder / "queries.npy")
    found = {}
    for nprobe in options.nprobes:
        ivf.nprobe = nprobe
        found[str(nprobe)] = index.search(queries, options.count)[1]
    np.savez(options.folder / "found.npz", **found)
    size = (options.folder / "knn.index").stat().st_size
    key = facts["index_key"] if facts and "index_key" in facts else options.key
    print(json.dumps({"key": key, "seconds": seconds, "bytes": size}))


if __name__ == "__main__":
    main()
