"""Training pictures, drawn once: clusters of near-identical scenes at 96 px, as pipelines deliver them."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import Pool
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from stages.pocket import clips, scenes
from stages.pocket.drawing import draw
from stages.pocket.scenes import BACKGROUNDS, COLORS, SHAPES, Chart, Scene, Shapes, Sign

SIDE = 96
CLUSTER = 4
SMALLEST, LARGEST = 150, 400
FILTERS = (Image.Resampling.BOX, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)

Pixels = NDArray[np.uint8]
Drawn = TypeVar("Drawn")


@dataclass(frozen=True)
class PictureSet:
    """Pictures uint8 [n, 96, 96, 3] and what each shows; clusters of `CLUSTER` stand together."""

    pixels: Pixels
    scenes: list[Scene]


@dataclass(frozen=True)
class ClipSet:
    """Clips uint8 [n, 3, 96, 96, 3] and what happens in each."""

    pixels: Pixels
    clips: list[clips.Clip]


def as_input(pixels: Pixels) -> torch.Tensor:
    """float32 [n, 3, 96, 96] in -1..1 of uint8 [n, 96, 96, 3]: what both processors hand to the models."""
    tensor = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2)
    return tensor.float().div_(127.5).sub_(1.0)


def _compressed(picture: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def shrink(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """uint8 [96, 96, 3] of a square picture, by a random filter, often through JPEG, sometimes in two steps.

    Pipelines shrink by area (OpenCV), processors by bicubic (Pillow); the models must not care which.
    """
    picture = Image.fromarray(pixels)
    if rng.random() < 0.6:
        picture = _compressed(picture, int(rng.integers(80, 96)))
    for side in (int(rng.integers(112, 225)), SIDE) if rng.random() < 0.25 else (SIDE,):
        picture = picture.resize((side, side), FILTERS[int(rng.integers(len(FILTERS)))])
    return np.array(picture, dtype=np.uint8)


def _drawn_small(scene: Scene, rng: np.random.Generator) -> Pixels:
    return shrink(draw(scene, rng, int(rng.integers(SMALLEST, LARGEST + 1))), rng)


def _vary_shapes(scene: Shapes, rng: np.random.Generator) -> Shapes:
    things = list(scene.things)
    index, what = int(rng.integers(len(things))), rng.random()
    if what < 0.1:
        return replace(scene, background=scenes.pick(rng, BACKGROUNDS))
    if what < 0.5:
        taken = {(thing.row, thing.column) for thing in things}
        free = [(row, column) for row in range(3) for column in range(3) if (row, column) not in taken]
        row, column = free[int(rng.integers(len(free)))]
        things[index] = replace(things[index], row=row, column=column)
    elif what < 0.75:
        things[index] = replace(things[index], color=scenes.pick(rng, COLORS))
    else:
        things[index] = replace(things[index], shape=scenes.pick(rng, SHAPES))
    return replace(scene, things=tuple(sorted(things)))


def _vary_sign(scene: Sign, rng: np.random.Generator) -> Sign:
    if rng.random() < 0.2:
        return replace(scene, color=scenes.pick(rng, COLORS))
    place = int(rng.integers(len(scene.text)))
    digit = str(rng.integers(10))
    return replace(scene, text=scene.text[:place] + digit + scene.text[place + 1 :])


def _vary_chart(scene: Chart, rng: np.random.Generator) -> Chart:
    values, what = list(scene.values), rng.random()
    if what < 0.15:
        return replace(scene, color=scenes.pick(rng, COLORS))
    place, other = (int(index) for index in rng.choice(len(values), 2, replace=False))
    if what < 0.5:
        values[place], values[other] = values[other], values[place]
    else:
        unused = [value for value in range(1, 10) if value not in values]
        values[place] = unused[int(rng.integers(len(unused)))]
    return replace(scene, values=tuple(values))


def vary(scene: Scene, rng: np.random.Generator) -> Scene:
    """A scene that differs in one respect (seldom in none): the hard negatives of the dual encoder."""
    if isinstance(scene, Shapes):
        return _vary_shapes(scene, rng)
    return _vary_sign(scene, rng) if isinstance(scene, Sign) else _vary_chart(scene, rng)


def cluster(rng: np.random.Generator) -> list[Scene]:
    """`CLUSTER` near-identical scenes of the training side."""
    found = [scenes.sample_split(rng, "train")]
    while len(found) < CLUSTER:
        relative = vary(found[0], rng)
        if scenes.split(relative) == "train":
            found.append(relative)
    return found


def _draw_cluster(seed: int, index: int) -> tuple[list[Scene], Pixels]:
    rng = np.random.default_rng((seed, 1, index))
    members = cluster(rng)
    return members, np.stack([_drawn_small(scene, rng) for scene in members])


def _draw_clip(seed: int, index: int) -> tuple[clips.Clip, Pixels]:
    rng = np.random.default_rng((seed, 2, index))
    clip = clips.sample_split(rng, "train")
    return clip, np.stack([_drawn_small(frame, rng) for frame in clip.frames])


def _spread(task: Callable[[int], Drawn], count: int, processes: int) -> list[Drawn]:
    with Pool(processes) as pool:
        return pool.map(task, range(count), chunksize=64)


def prepare(folder: Path, seed: int, clusters: int, processes: int) -> None:
    """Draw the training pictures into `folder`: pixels.npy, clips.npy; scenes follow from the seed again."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = _spread(partial(_draw_cluster, seed), clusters, processes)
    np.save(folder / "pixels.npy", np.concatenate([pixels for _, pixels in drawn]))
    lines = [scenes.key(scene) for members, _ in drawn for scene in members]
    (folder / "scenes.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    moving = _spread(partial(_draw_clip, seed), clusters // 4, processes)
    np.save(folder / "clips.npy", np.stack([pixels for _, pixels in moving]))
    lines = [clips.key(clip) for clip, _ in moving]
    (folder / "clips.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def load_pictures(folder: Path) -> PictureSet:
    """The pictures that `prepare` left in `folder`; pixels stay on disk until they are used."""
    lines = (folder / "scenes.jsonl").read_text(encoding="utf-8").splitlines()
    return PictureSet(np.load(folder / "pixels.npy", mmap_mode="r"), [scenes.parse(line) for line in lines])


def load_clips(folder: Path) -> ClipSet:
    """The clips that `prepare` left in `folder`."""
    lines = (folder / "clips.jsonl").read_text(encoding="utf-8").splitlines()
    return ClipSet(np.load(folder / "clips.npy", mmap_mode="r"), [clips.parse(line) for line in lines])


def held_out(seed: int, count: int) -> PictureSet:
    """`count` different pictures that are never trained on, uint8 [count, 96, 96, 3]."""
    rng = np.random.default_rng((seed, 3))
    found = scenes.sample_distinct(rng, "held_out", count)
    return PictureSet(np.stack([_drawn_small(scene, rng) for scene in found]), found)


def held_out_clips(seed: int, count: int) -> ClipSet:
    """`count` clips that are never trained on."""
    rng = np.random.default_rng((seed, 4))
    found = [clips.sample_split(rng, "held_out") for _ in range(count)]
    pixels = [np.stack([_drawn_small(frame, rng) for frame in clip.frames]) for clip in found]
    return ClipSet(np.stack(pixels), found)
