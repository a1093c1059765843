"""Reference values of official code; see official/SOURCES.md."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np

from stages.metrics.ngrams import Captions

_FOLDER = Path(__file__).parent / "official"


def frozen(name: str) -> Any:
    return json.loads(gzip.decompress((_FOLDER / f"{name}.json.gz").read_bytes()))


def captions(predictions: list[str], references: list[list[str]]) -> Captions:
    """Of texts that are tokens already."""
    item = np.repeat(np.arange(len(references)), [len(texts) for texts in references])
    return Captions(predictions, [text for texts in references for text in texts], item)


def example() -> Captions:
    """The official example."""
    known = frozen("coco_example")
    return captions(known["predictions"], known["references"])
