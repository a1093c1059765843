"""Evaluations keep what was said of images: of those that are taken down, that goes too."""

import io
import json
from collections.abc import Collection

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.corpus import Corpus

ITEMS, SCORES = "per_item.parquet", "scores.json"
"""The files of a run that say something of images."""


def drop_items(corpus: Corpus, ids: Collection[int], texts: Collection[str]) -> int:
    """Drops the rows about these images, and those that say one of the texts, from the tables of all
    evaluations, MLflow's copies included, and what names them from the ids that were amiss. Returns from how
    many tables."""
    files = [
        (info.base_name, info.path.removeprefix(corpus.path("")))
        for folder in ("runs", "mlflow")
        for info in corpus.entries(folder, recursive=True)
    ]
    for path in (path for name, path in files if name == SCORES):
        _unname(corpus, path, {*texts, *map(str, ids), *(text.rpartition("/")[2] for text in texts)})
    return sum(_drop(corpus, path, ids, texts) for name, path in files if name == ITEMS)


def _unname(corpus: Corpus, path: str, names: Collection[str]) -> None:
    """`names`: URIs, file names and ids, any of which may be what images are matched by."""
    scores = json.loads(corpus.read_bytes(path))
    troubles = [
        {**one, "first": [name for name in one["first"] if name not in names]} for one in scores["troubles"]
    ]
    if troubles != scores["troubles"]:
        text = json.dumps({**scores, "troubles": troubles}, indent=2, ensure_ascii=False)
        corpus.write_bytes(text.encode(), path)


def _drop(corpus: Corpus, path: str, ids: Collection[int], texts: Collection[str]) -> bool:
    table = corpus.read_parquet(path)
    said = pa.array(sorted(texts), pa.string())
    references = table["references"].combine_chunks()
    quoting = np.zeros(len(table), bool)
    inside = pc.is_in(references.flatten(), said)
    quoting[pc.list_parent_indices(references).filter(inside).to_numpy()] = True
    named = (pc.is_in(table[name], said) for name in ("key", "prediction", "question"))
    concerned = pc.or_(pc.is_in(table["image_id"], pa.array(sorted(ids), pa.int64())), pa.array(quoting))
    for one in named:
        concerned = pc.or_(concerned, one)
    if not pc.any(concerned).as_py():
        return False
    packed = io.BytesIO()
    pq.write_table(table.filter(pc.invert(concerned)), packed, compression="zstd")
    corpus.write_bytes(packed.getvalue(), path)
    return True
