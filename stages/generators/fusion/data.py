"""What a projector is trained on: rows of a picture, a prompt and the text that is to be written."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stages.base import Image
from stages.codecs.errors import BadImageError
from stages.codecs.pixels import decode, read_header
from stages.resize import ResizeConfig, view

_POOL = 8  # batches whose examples are sorted by length together


class FusionError(RuntimeError):
    """Data or a folder that no projector can be trained with. The message is one line."""


@dataclass(frozen=True)
class Example:
    """`text` is what the model is to write behind its generation prompt: with its </think>, if it thinks."""

    image: Path
    prompt: str
    text: str


def read_examples(file: Path, images: Path) -> list[Example]:
    """Lines of JSON with `image` (a path below `images`), `prompt` and `text`. Raises: FusionError."""
    try:
        lines = file.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FusionError(f"data {file} cannot be read: {error}") from error
    found = [_example(file, number, line, images) for number, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise FusionError(f"data {file} has no rows")
    for image in dict.fromkeys(example.image for example in found):
        if not image.is_file():
            raise FusionError(f"data {file} names {image}, which is no file")
    return found


def _example(file: Path, number: int, line: str, images: Path) -> Example:
    try:
        row = json.loads(line)
        image, prompt, text = (row[key] for key in ("image", "prompt", "text"))
    except (ValueError, KeyError, TypeError) as error:
        raise FusionError(
            f"{file} line {number} must be a JSON object with image, prompt and text"
        ) from error
    if not all(isinstance(value, str) for value in (image, prompt, text)) or not (image and text):
        raise FusionError(
            f"{file} line {number}: image, prompt and text must be texts, image and text not empty"
        )
    return Example(images / image, prompt, text)


def digest(examples: Sequence[Example]) -> str:
    """sha256 (hex): the rows that a training goes on with must be those it began with."""
    whole = hashlib.sha256()
    for example in examples:
        whole.update(json.dumps([str(example.image), example.prompt, example.text]).encode())
    return whole.hexdigest()


def read_picture(path: Path, config: ResizeConfig) -> Image:
    """uint8 [height, width, 3] of the view. Raises: FusionError."""
    try:
        data = path.read_bytes()
        image = decode(data, read_header(data))
    except (OSError, BadImageError) as error:
        raise FusionError(f"picture {path} cannot be read: {error}") from error
    return view(image, image.shape[:2], config)


class Order:
    """Which examples each step sees: a function of seed and step alone, so that a resumed training sees what
    an undisturbed one would. Batches hold texts of similar length.
    """

    def __init__(self, count: int, batch: int, seed: int, length: Callable[[int], int]) -> None:
        self._count, self._batch, self._seed, self._length = count, batch, seed, length

    def at(self, step: int) -> list[int]:
        """Numbers of the examples of a step; steps count from 1."""
        pool, cut = divmod(step - 1, _POOL)
        size = _POOL * self._batch
        chosen = sorted((self._at(pool * size + place) for place in range(size)), key=self._length)
        first = int(self._rng(1, pool).permutation(_POOL)[cut]) * self._batch
        return chosen[first : first + self._batch]

    def _at(self, position: int) -> int:
        epoch, place = divmod(position, self._count)
        if getattr(self, "_epoch", None) != epoch:
            self._epoch, self._permutation = epoch, self._rng(0, epoch).permutation(self._count)
        return int(self._permutation[place])

    def _rng(self, purpose: int, number: int) -> np.random.Generator:
        return np.random.default_rng((self._seed, purpose, number))
