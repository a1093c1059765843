"""A corpus of all datasets, a plan and an index, made of seeded values instead of models."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.changes import tombstones, without
from pipelines.corpus import Corpus, DatasetInfo, write_row_groups
from stages import schemas
from stages.schemas import image_id
from tests.pipelines.indexes import build

SHARDS, ROWS, DIM = 6, 8, 8
DATASETS = ["answers/a", "captions/a", "embeddings/a", "items"]
QUESTIONS = ("how many?", "what colour?")
REJECT_EVERY = 5  # every fifth item is no image
_GENERATED = {"finish_reason": "stop", "prompt_tokens": 3, "completion_tokens": 2}


def make_corpus(folder: Path, shards: int = SHARDS, seed: int = 0) -> Corpus:
    corpus = Corpus(str(folder))
    write_plan(corpus, shards)
    for name in DATASETS:
        table = dataset(name, 0, seed)
        corpus.claim(info_of(name, table.schema))
        for shard in range(shards):
            corpus.write_shard(name, shard, dataset(name, shard, seed))
    build(corpus, "a")
    return corpus


def info_of(name: str, schema: pa.Schema) -> DatasetInfo:
    properties = {"dim": DIM} if name.startswith("embeddings/") else {}
    return DatasetInfo.of(name, schema, {"made": "by hand"}, **properties)


def write_plan(corpus: Corpus, shards: int = SHARDS) -> None:
    ids = [image_id(shard, row) for shard in range(shards) for row in range(ROWS)]
    rows = [
        {"image_id": item, "uri": f"{item}.png", "size": 100 + number, "mtime_ns": number}
        for number, item in enumerate(ids)
    ]
    table = pa.Table.from_pylist(rows, schemas.PLAN)
    groups = [table.slice(start, ROWS) for start in range(0, len(table), ROWS)]
    write_row_groups(corpus, groups, "plan", "plan-000001.parquet")


def dataset(name: str, shard: int, seed: int = 0) -> pa.Table:
    """The rows of one shard."""
    ids = [image_id(shard, row) for row in range(ROWS)]
    match name.partition("/")[0]:
        case "items":
            return pa.Table.from_pylist([_item(item) for item in ids], schemas.ITEMS)
        case "captions":
            rows = [{"image_id": item, "caption": f"caption {item}", **_generated(item)} for item in ids]
            return pa.Table.from_pylist(rows, schemas.CAPTIONS)
        case "answers":
            rows = [_answer(item, number) for item in ids for number in range(len(QUESTIONS))]
            return pa.Table.from_pylist(rows, schemas.ANSWERS)
        case _:
            return _embeddings(ids, np.random.default_rng([seed, shard]))


def is_reject(item: int) -> bool:
    return schemas.row_of(item) % REJECT_EVERY == 3


def _outcome(item: int) -> dict[str, Any]:
    bad = is_reject(item)
    return {"status": "truncated" if bad else "ok", "error": "it ends early" if bad else None}


def _item(item: int) -> dict[str, Any]:
    empty = dict.fromkeys(schemas.ITEMS.names)
    return {**empty, "image_id": item, "uri": f"{item}.png", "sha256": f"{item:064x}", **_outcome(item)}


def _generated(item: int) -> dict[str, Any]:
    return {**(dict.fromkeys(_GENERATED) if is_reject(item) else _GENERATED), **_outcome(item)}


def _answer(item: int, number: int) -> dict[str, Any]:
    asked = {"image_id": item, "question_id": number, "name": str(number), "question": QUESTIONS[number]}
    return {**asked, "answer": None if is_reject(item) else f"{item} {number}", **_generated(item)}


def _embeddings(ids: list[int], generator: np.random.Generator) -> pa.Table:
    schema = schemas.embeddings(DIM)
    vectors = generator.normal(size=(len(ids), DIM))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    rows = [
        {
            "image_id": item,
            "embedding": [None] * DIM if is_reject(item) else vector.astype(np.float16).tolist(),
            **_outcome(item),
        }
        for item, vector in zip(ids, vectors, strict=True)
    ]
    return pa.Table.from_pylist([{name: row[name] for name in schema.names} for row in rows], schema)


def contents(corpus: Corpus) -> dict[str, dict[int, pa.Table]]:
    """All datasets by shard, without the rows of items that are gone; and the plan, as shard 0 of `plan`."""
    gone = tombstones(corpus)
    found = {name: {n: without(table, gone) for n, table in corpus.scan(name)} for name in corpus.datasets()}
    files = [info.base_name for info in corpus.entries("plan") if info.extension == "parquet"]
    plans = [corpus.read_parquet("plan", file) for file in files]
    plan = pa.concat_tables([schemas.PLAN.empty_table(), *plans])
    return {**found, "plan": {0: without(plan, gone)}}


def assert_same(found: dict[str, dict[int, pa.Table]], wanted: dict[str, dict[int, pa.Table]]) -> None:
    assert found.keys() == wanted.keys()
    for name, shards in wanted.items():
        assert found[name].keys() == shards.keys(), name
        for shard, table in shards.items():
            assert found[name][shard].equals(table), (name, shard)


def files_of(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Every file: inode, modification time in ns, bytes."""
    return {
        path.relative_to(folder).as_posix(): (
            path.stat().st_ino,
            path.stat().st_mtime_ns,
            path.stat().st_size,
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "LOCK"
    }
