"""Three-frame clips: one thing moves a cell per frame and may leave the picture."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import numpy as np

from stages.pocket import scenes
from stages.pocket.scenes import BACKGROUNDS, COLORS, SHAPES, Shapes, Split, Thing

# Direction: (rows per frame, columns per frame, the side it leaves by).
DIRECTIONS: dict[str, tuple[int, int, str]] = {
    "left": (0, -1, "left"),
    "right": (0, 1, "right"),
    "up": (-1, 0, "top"),
    "down": (1, 0, "bottom"),
}


@dataclass(frozen=True)
class Clip:
    """`start` moves a cell per frame in `direction`; `bystander` stays where it is, off the mover's line."""

    background: str
    start: Thing
    direction: str
    bystander: Thing | None

    @property
    def path(self) -> tuple[Thing, Thing, Thing]:
        """The mover in each frame; outside the grid once it has left."""
        rows, columns, _ = DIRECTIONS[self.direction]
        first, color, shape = self.start, self.start.color, self.start.shape
        second = Thing(first.row + rows, first.column + columns, color, shape)
        return first, second, Thing(first.row + 2 * rows, first.column + 2 * columns, color, shape)

    @property
    def leaves(self) -> bool:
        """Whether the mover is out of the picture in the last frame."""
        return not _inside(self.path[-1])

    @property
    def frames(self) -> tuple[Shapes, Shapes, Shapes]:
        """What each frame shows."""
        still = [self.bystander] if self.bystander is not None else []
        first, second, third = (
            Shapes(self.background, tuple(sorted([*still, *([mover] if _inside(mover) else [])])))
            for mover in self.path
        )
        return first, second, third


def _inside(thing: Thing) -> bool:
    return 0 <= thing.row <= 2 and 0 <= thing.column <= 2


def sample(rng: np.random.Generator) -> Clip:
    """A random clip; half of the movers leave, six in ten have company."""
    direction = scenes.pick(rng, tuple(DIRECTIONS))
    rows, columns, _ = DIRECTIONS[direction]
    leaves, lane = bool(rng.integers(2)), int(rng.integers(3))
    begin = 1 if leaves else (0 if rows + columns > 0 else 2)
    row, column = (begin, lane) if rows else (lane, begin)
    mover = Thing(row, column, scenes.pick(rng, COLORS), scenes.pick(rng, SHAPES))
    bystander = None
    if rng.random() < 0.6:
        other = (lane + int(rng.integers(1, 3))) % 3
        along = int(rng.integers(3))
        row, column = (along, other) if rows else (other, along)
        color, shape = mover.color, mover.shape
        while (color, shape) == (mover.color, mover.shape):
            color, shape = scenes.pick(rng, COLORS), scenes.pick(rng, SHAPES)
        bystander = Thing(row, column, color, shape)
    return Clip(scenes.pick(rng, BACKGROUNDS), mover, direction, bystander)


def key(clip: Clip) -> str:
    """The clip as one line of JSON, readable by `parse`."""
    return json.dumps(asdict(clip), sort_keys=True)


def parse(line: str) -> Clip:
    """The clip behind a `key`."""
    fields = json.loads(line)
    bystander = fields["bystander"]
    return Clip(
        fields["background"],
        Thing(**fields["start"]),
        fields["direction"],
        Thing(**bystander) if bystander else None,
    )


def split(clip: Clip) -> Split:
    """Whether the clip may be trained on; a hash of the clip decides."""
    return scenes.split_of_key(key(clip))


def sample_split(rng: np.random.Generator, wanted: Split) -> Clip:
    """A random clip from one side of the split."""
    while True:
        clip = sample(rng)
        if split(clip) == wanted:
            return clip


def _mover_name(clip: Clip) -> str:
    return f"{clip.start.color} {clip.start.shape}"


def caption(clip: Clip) -> str:
    """One line on what happens in the three frames."""
    name = _mover_name(clip)
    article = "an" if name[0] in "aeiou" else "a"
    end = f" and leaves the picture at the {DIRECTIONS[clip.direction][2]}" if clip.leaves else ""
    return f"{article} {name} moves {clip.direction}{end}"


def questions(clip: Clip) -> list[tuple[str, str]]:
    """Every (question, answer) of the clip."""
    name, side = _mover_name(clip), DIRECTIONS[clip.direction][2]
    return [
        ("which object moves?", f"the {name}"),
        (f"which direction does the {name} move?", clip.direction),
        (f"does the {name} leave the picture?", "yes" if clip.leaves else "no"),
        (
            f"from which side does the {name} leave the picture?",
            f"the {side}" if clip.leaves else "it does not leave",
        ),
        ("describe the images.", caption(clip)),
    ]
