"""A folder of pictures and a corpus of it, of seeded values instead of models, for exports."""

import hashlib
import io
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from pipelines.changes import Change, gone, record
from pipelines.corpus import Corpus, DatasetInfo, write_row_groups
from pipelines.source_record import record_source
from stages import schemas
from stages.schemas import image_id
from stages.sources.config import SourceConfig

SHARDS, ROWS, DIM = 3, 6, 8
REJECT, UNCAPTIONED, GONE = image_id(0, 3), image_id(1, 2), image_id(2, 0)
QUESTIONS = ("how many?", "what colour?")
_FORMATS = (("jpg", "JPEG", "jpeg"), ("png", "PNG", "png"))


@dataclass(frozen=True)
class Made:
    """`good`: the rows of `items` that exports write, with `caption` and `bytes`, by image id, ascending."""

    corpus: Corpus
    photos: Path
    good: dict[int, dict[str, Any]]
    vectors: dict[int, np.ndarray[Any, Any]]


def make(root: Path) -> Made:
    """Eighteen pictures in three shards: one reject, one whose caption is no good, one that is gone."""
    photos, corpus = root / "photos", Corpus(str(root / "corpus"))
    items = [_item(photos, image_id(shard, row)) for shard in range(SHARDS) for row in range(ROWS)]
    _write_plan(corpus, items)
    rng, vectors = np.random.default_rng(7), {}
    for item in items:
        vector = rng.normal(size=DIM)
        vectors[item["image_id"]] = (vector / np.linalg.norm(vector)).astype(np.float16)
    for name, schema in (
        ("items", schemas.ITEMS),
        ("captions/a", schemas.CAPTIONS),
        ("answers/a", schemas.ANSWERS),
        ("embeddings/a", schemas.embeddings(DIM)),
    ):
        properties = {"dim": DIM} if name == "embeddings/a" else {}
        corpus.claim(DatasetInfo.of(name, schema, {"made": "by hand"}, **properties))
        for shard in range(SHARDS):
            part = items[shard * ROWS : (shard + 1) * ROWS]
            rows = [row for item in part for row in _rows_of(name, item, vectors)]
            corpus.write_shard(name, shard, pa.Table.from_pylist(rows, schema))
    record(corpus, gone([GONE], Change.DELETED))
    record_source(corpus, SourceConfig(str(photos)))
    good = {
        one["image_id"]: one | {"caption": _caption(one["image_id"])}
        for one in items
        if one["image_id"] not in (REJECT, GONE)
    }
    return Made(corpus, photos, good, vectors)


def copied(made: Made, root: Path) -> Made:
    """The same, to be changed."""
    location = root / "corpus"
    shutil.copytree(made.corpus.location, location)
    shutil.copytree(made.photos, root / "photos")
    corpus = Corpus(str(location))
    record_source(corpus, SourceConfig(str(root / "photos")))
    return Made(corpus, root / "photos", made.good, made.vectors)


def _item(photos: Path, item: int) -> dict[str, Any]:
    rng = np.random.default_rng(item)
    extension, kind, name = _FORMATS[item % 2]
    height, width = (int(side) for side in rng.integers(20, 40, 2))
    stream = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (height, width, 3), np.uint8)).save(stream, kind)
    uri, data = f"a folder/{item}.{extension}", stream.getvalue()
    (photos / uri).parent.mkdir(parents=True, exist_ok=True)
    (photos / uri).write_bytes(data)
    sizes = {"original_height": height, "original_width": width, "height": height, "width": width}
    said = {"url": f"https://example.com/{item}", "score": item / 2, "key": f"k{item}", "tags": ["a", item]}
    return {
        **dict.fromkeys(schemas.ITEMS.names),
        **sizes,
        "image_id": item,
        "uri": uri,
        "sha256": hashlib.sha256(data).hexdigest(),
        "format": name,
        "original_caption": f"said of {item}" if item % 3 else None,
        "metadata": json.dumps(said),
        "bytes": data,
        **_outcome(item == REJECT),
    }


def _write_plan(corpus: Corpus, items: list[dict[str, Any]]) -> None:
    rows = [
        {**dict.fromkeys(schemas.PLAN.names), **{key: one[key] for key in ("image_id", "uri", "metadata")}}
        | {"size": len(one["bytes"]), "mtime_ns": -1, "original_caption": one["original_caption"]}
        for one in items
    ]
    table = pa.Table.from_pylist(rows, schemas.PLAN)
    groups = [table.slice(start, ROWS) for start in range(0, len(table), ROWS)]
    write_row_groups(corpus, groups, "plan", "plan-000001.parquet")


def _outcome(bad: bool, status: str = "truncated") -> dict[str, Any]:
    return {"status": status if bad else "ok", "error": "it is no good" if bad else None}


def _caption(item: int) -> str | None:
    return None if item == UNCAPTIONED else f"a picture of {item}, “drawn”"


def _rows_of(
    name: str, item: dict[str, Any], vectors: dict[int, np.ndarray[Any, Any]]
) -> list[dict[str, Any]]:
    number = item["image_id"]
    match name:
        case "items":
            return [{key: item[key] for key in schemas.ITEMS.names}]
        case "captions/a":
            empty = dict.fromkeys(schemas.CAPTIONS.names)
            outcome = _outcome(number in (REJECT, UNCAPTIONED), "repetitive")
            return [{**empty, "image_id": number, "caption": _caption(number) or "a a a a", **outcome}]
        case "answers/a":
            return [_answer(number, question) for question in range(len(QUESTIONS))]
        case _:
            vector = [None] * DIM if number == REJECT else vectors[number].tolist()
            return [{"image_id": number, "embedding": vector, **_outcome(number == REJECT)}]


def _answer(item: int, question: int) -> dict[str, Any]:
    asked = {
        "image_id": item,
        "question_id": question,
        "name": f"q{question}",
        "question": QUESTIONS[question],
    }
    return {
        **dict.fromkeys(schemas.ANSWERS.names),
        **asked,
        "answer": f"{item} {question}",
        **_outcome(False),
    }
