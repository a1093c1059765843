"""What a picture shows, before it is drawn: shapes on a 3x3 grid, a sign with a number, or a bar chart."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import numpy as np

COLORS = ("red", "green", "blue", "yellow", "purple", "orange")
SHAPES = ("circle", "square", "triangle", "star", "cross")
BACKGROUNDS = ("white", "gray", "black")
FRAMES = ("square", "round")
FAMILIES = ("shapes", "sign", "chart")
BARS = "ABCDE"

# One scene in 20 is never trained on; the hash alone decides, so no list of pictures has to be kept.
HELD_OUT_EVERY = 20

Split = Literal["train", "held_out"]


@dataclass(frozen=True, order=True)
class Thing:
    """One shape in a cell of the grid; rows run from the top (0) to the bottom (2), columns from the left."""

    row: int
    column: int
    color: str
    shape: str


@dataclass(frozen=True)
class Shapes:
    """One to five things, in reading order, in different cells."""

    family: ClassVar[str] = "shapes"
    background: str
    things: tuple[Thing, ...]


@dataclass(frozen=True)
class Sign:
    """A framed number of two or three digits; `text` may start with zeros."""

    family: ClassVar[str] = "sign"
    text: str
    color: str
    background: str
    frame: str


@dataclass(frozen=True)
class Chart:
    """Three to five bars, A to E from the left, with different values from 1 to 9 on a white background."""

    family: ClassVar[str] = "chart"
    background: ClassVar[str] = "white"
    values: tuple[int, ...]
    color: str


Scene = Shapes | Sign | Chart


def pick(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    """One of the options, each equally likely."""
    return options[int(rng.integers(len(options)))]


def _sample_shapes(rng: np.random.Generator) -> Shapes:
    """At most three groups of equal things: counts worth asking for, captions of one line."""
    kinds: list[tuple[str, str]] = []
    groups = int(rng.integers(1, 4))
    while len(kinds) < groups:
        kind = (pick(rng, COLORS), pick(rng, SHAPES))
        if kind not in kinds:
            kinds.append(kind)
    counts = [1] * groups
    for _ in range(int(rng.integers(0, 6 - groups))):
        lucky = int(rng.integers(groups))
        counts[lucky] = min(3, counts[lucky] + 1)
    repeated = [kind for kind, count in zip(kinds, counts, strict=True) for _ in range(count)]
    cells = rng.choice(9, len(repeated), replace=False)
    things = [Thing(int(cell) // 3, int(cell) % 3, *kind) for cell, kind in zip(cells, repeated, strict=True)]
    return Shapes(pick(rng, BACKGROUNDS), tuple(sorted(things)))


def _sample_sign(rng: np.random.Generator) -> Sign:
    digits = rng.integers(0, 10, size=int(rng.integers(2, 4)))
    text = "".join(str(digit) for digit in digits)
    return Sign(text, pick(rng, COLORS), pick(rng, ("white", "black")), pick(rng, FRAMES))


def _sample_chart(rng: np.random.Generator) -> Chart:
    values = [int(value) for value in rng.permutation(9)[: int(rng.integers(3, 6))] + 1]
    # Chance alone makes one chart in 20 to 60 monotone, too few to learn or to ask for.
    if rng.random() < 0.3:
        values.sort(reverse=bool(rng.integers(2)))
    return Chart(tuple(values), pick(rng, COLORS))


_SAMPLERS: dict[str, Callable[[np.random.Generator], Scene]] = {
    "shapes": _sample_shapes,
    "sign": _sample_sign,
    "chart": _sample_chart,
}


def sample(rng: np.random.Generator) -> Scene:
    """A random scene: half of them shapes, a quarter signs, a quarter charts."""
    return _SAMPLERS[pick(rng, ("shapes", "shapes", "sign", "chart"))](rng)


def key(scene: Scene) -> str:
    """The scene as one line of JSON: equal for equal scenes, readable by `parse`."""
    return json.dumps({"family": scene.family, **asdict(scene)}, sort_keys=True)


def parse(line: str) -> Scene:
    """The scene behind a `key`; raises ValueError for an unknown family."""
    fields: dict[str, Any] = json.loads(line)
    family = fields.pop("family")
    if family == "shapes":
        return Shapes(fields["background"], tuple(Thing(**thing) for thing in fields["things"]))
    if family == "sign":
        return Sign(**fields)
    if family == "chart":
        return Chart(tuple(fields["values"]), fields["color"])
    raise ValueError(f"unknown family {family!r}")


def split_of_key(text: str) -> Split:
    """The side of the split a key falls on."""
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return "held_out" if int.from_bytes(digest, "big") % HELD_OUT_EVERY == 0 else "train"


def split(scene: Scene) -> Split:
    """Whether the scene may be trained on; a hash of the scene decides, the same on every machine."""
    return split_of_key(key(scene))


def sample_split(rng: np.random.Generator, wanted: Split) -> Scene:
    """A random scene from one side of the split."""
    while True:
        scene = sample(rng)
        if split(scene) == wanted:
            return scene


def sample_distinct(rng: np.random.Generator, wanted: Split, count: int) -> list[Scene]:
    """`count` different scenes from one side of the split, in the order they were drawn."""
    found: dict[str, Scene] = {}
    while len(found) < count:
        scene = sample_split(rng, wanted)
        found.setdefault(key(scene), scene)
    return list(found.values())
