"""Nights whose captions come from a server on loopback that tells the colour of a picture."""

import base64
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa

from pipelines.corpus import Corpus
from tests.stages.generators.chat_server import Asked, Said, chat

PICTURES, SHARD_ROWS = 15, 5
TOKENS = (90, 10)  # of each request


def write_colours(folder: Path) -> None:
    folder.mkdir(parents=True)
    for number in range(PICTURES):
        colour = np.full((32, 40, 3), (0, 10 * number, 200), np.uint8)
        cv2.imwrite(str(folder / f"{number:02}.png"), colour)


def words(photos: Path, corpus: Path, url: str, *more: str) -> list[str]:
    """A night of captions alone, as `darkroom` takes it."""
    captioner = "captioner=openai"
    night = ["nightly", f"source.path={photos}", f"corpus={corpus}", "encoder=none", "index=none", captioner]
    return [*night, "tracking=off", f"captioner.how.server.url={url}", *more]


def seen(asked: Asked) -> int:
    """The number of the picture."""
    url = asked.body["messages"][0]["content"][0]["image_url"]["url"]
    picture = cv2.imdecode(np.frombuffer(base64.b64decode(url.partition(",")[2]), np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    return round(float(picture[..., 1].mean()) / 10)


def tell(asked: Asked, after_s: float = 0.0) -> Said:
    return replace(chat(f"a picture of number {seen(asked)}", usage=TOKENS), after_s=after_s)


def captions(folder: Path) -> list[dict[str, Any]]:
    """Rows of all shards but for their latency, which no two runs share."""
    corpus = Corpus(str(folder))
    shards = [corpus.read_shard("captions/openai", shard) for shard in corpus.shards("captions/openai")]
    return pa.concat_tables(shards).drop_columns(["latency_s"]).to_pylist() if shards else []
