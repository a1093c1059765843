"""Exports without pixels or vectors: captions as COCO's evaluation reads them, and lines of JSON."""

import gzip
import json
import posixpath
import re
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import numpy as np

from pipelines.corpus import CorpusError
from pipelines.export.job import Job
from pipelines.export.metadata import read_object
from pipelines.export.tally import NO_CAPTION
from stages.schemas import ITEMS

_NUMBER = re.compile(r"(?:COCO_\w+_)?(\d{1,18})")
_UNSAID = ("metadata", "caption_status")


def export_coco(job: Job) -> None:
    """`captions.json`: `[{"image_id": int, "caption": str}, …]`, of items that have a caption.

    `image_id`: the number that a file's name is, as in `COCO_val2014_000000391895.jpg`, where that holds for
    every item; else Darkroom's own. Raises: CorpusError where two items have the same.
    """
    key = job.config.image_id_key
    named = key is None and all(
        _is_number(uri) for chunk in job.survey(["uri"]) for uri in chunk.rows["uri"].to_pylist()
    )
    ids = array("q")
    with job.target.files.writing("captions.json") as stream:
        for item in _items(job, ["uri", "metadata"]):
            if item["caption"] is None:
                job.tally.left_out[f"caption: {item['caption_status'] or NO_CAPTION}"] += 1
                continue
            number = _number_in(item["uri"]) if named else _said(item, key)
            stream.write(b",\n" if ids else b"[\n")
            ids.append(number)
            stream.write(json.dumps({"image_id": number, "caption": item["caption"]}).encode())
        stream.write(b"\n]\n" if ids else b"[]\n")
        _check_unique(ids)
    job.tally.without_caption.clear()
    job.tally.written, job.files = len(ids), 1
    told = "the number in the file's name" if named else f"metadata.{key}" if key else "Darkroom's own"
    job.notes.append(f"image_id is {told}")


def _is_number(uri: str) -> bool:
    return _NUMBER.fullmatch(_stem(uri)) is not None


def _number_in(uri: str) -> int:
    return int(_stem(uri).rpartition("_")[2])


def _stem(uri: str) -> str:
    return posixpath.splitext(posixpath.basename(uri))[0]


def _said(item: dict[str, Any], key: str | None) -> int:
    """Raises: CorpusError."""
    if key is None:
        return int(item["image_id"])
    value = read_object(item["metadata"]).get(key)
    if isinstance(value, str) and re.fullmatch(r"\d{1,18}", value):
        return int(value)
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) >= 1 << 63:
        raise CorpusError(
            f"image_id_key={key} is no whole number in the metadata of {item['uri']}: {value!r}"
        )
    return value


def _check_unique(ids: "array[int]") -> None:
    numbers = np.sort(np.frombuffer(ids, np.int64)) if len(ids) else np.empty(0, np.int64)
    twice = numbers[1:][numbers[1:] == numbers[:-1]]
    if len(twice):
        raise CorpusError(
            f"{len(twice):,} items have the image_id of another one, the first is {twice[0]}: "
            "choose a key of the metadata that tells them apart with image_id_key="
        )


def export_jsonl(job: Job) -> None:
    """`items.jsonl`: all that is known of each item but its vectors; with `compress`, `items.jsonl.gz`."""
    name = "items.jsonl.gz" if job.config.compress else "items.jsonl"
    with job.target.files.writing(name) as stream, _lines(stream, job.config.compress) as lines:
        for item in _items(job, ITEMS.names):
            line = {key: value for key, value in item.items() if key not in _UNSAID}
            line |= {"metadata": read_object(item["metadata"]), "caption_status": item["caption_status"]}
            lines.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
            job.tally.written += 1
    job.files = 1


@contextmanager
def _lines(stream: IO[bytes], compress: bool) -> Iterator[IO[bytes]]:
    if not compress:
        yield stream
        return
    # Without name and time: the same items make the same bytes.
    with gzip.GzipFile("", "wb", 6, stream, mtime=0) as lines:
        yield lines  # type: ignore[misc]  # a GzipFile is an IO[bytes] in all but name


def _items(job: Job, columns: list[str]) -> Iterator[dict[str, Any]]:
    for chunk in job.chunks(columns):
        yield from chunk.rows.to_pylist()
