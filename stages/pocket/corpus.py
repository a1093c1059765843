"""Writes held-out pictures as a folder that looks like somebody's: many formats, odd names, broken files."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stages.pocket import language, scenes
from stages.pocket.drawing import draw
from stages.pocket.scenes import Scene, Shapes, Sign

SMALLEST, LARGEST = 150, 400
# (suffix, Pillow format, share): a photo folder is mostly JPEG, under more than one suffix.
FORMATS = ((".jpg", "JPEG", 0.6), (".jpeg", "JPEG", 0.1), (".png", "PNG", 0.2), (".webp", "WEBP", 0.1))
# A PNG that claims 60,000 x 60,000 pixels would take 10.8 GB to decode as RGB.
GIANT_SIDE = 60_000


@dataclass(frozen=True)
class Written:
    """A picture on disk and the scene it shows."""

    path: Path
    scene: Scene


def _folder(scene: Scene) -> Path:
    if isinstance(scene, Shapes):
        return Path("shapes", f"{scene.background} background")
    return Path("signs") if isinstance(scene, Sign) else Path("charts", language.trend(scene.values))


def _name(scene: Scene, number: int, rng: np.random.Generator) -> str:
    """A name that people would give: hyphens, spaces, accents or another script; `number` keeps it unique."""
    if isinstance(scene, Shapes):
        color, noun, foreign = scene.things[0].color, "shapes", "façade été"
    elif isinstance(scene, Sign):
        color, noun, foreign = scene.color, f"sign {scene.text}", f"señal nº {scene.text}"
    else:
        color, noun, foreign = scene.color, "bar chart", "Säulen übersicht"
    plain = f"{color} {noun} {number:05d}"
    odd = rng.random()
    if odd < 0.5:
        return plain.replace(" ", "-")
    if odd < 0.85:
        return plain
    return f"{foreign} {number:05d}" if odd < 0.95 else f"絵 {color} {number:05d}"


def _encoded(pixels: NDArray[np.uint8], kind: str, quality: int) -> bytes:
    buffer = io.BytesIO()
    options = {"compress_level": 3} if kind == "PNG" else {"quality": quality}
    if kind == "WEBP":
        options["method"] = 2  # the default of 4 takes twice as long for 3 % smaller files
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def write_pictures(folder: Path, count: int, seed: int) -> list[Written]:
    """Draw `count` different held-out scenes of 150 to 400 px below `folder`; equal seeds, equal bytes."""
    rng = np.random.default_rng((seed, 12))
    shares = [share for _, _, share in FORMATS]
    written = []
    for number, scene in enumerate(scenes.sample_distinct(rng, "held_out", count)):
        suffix, kind, _ = FORMATS[int(rng.choice(len(FORMATS), p=shares))]
        pixels = draw(scene, rng, int(rng.integers(SMALLEST, LARGEST + 1)))
        path = folder / _folder(scene) / (_name(scene, number, rng) + suffix)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_encoded(pixels, kind, int(rng.integers(80, 96))))
        written.append(Written(path, scene))
    return written


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _giant_png() -> bytes:
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", GIANT_SIDE, GIANT_SIDE, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + _chunk(b"IDAT", zlib.compress(bytes(64))) + _chunk(b"IEND", b"")


def _truncated_jpeg(seed: int) -> bytes:
    rng = np.random.default_rng((seed, 13))
    whole = _encoded(draw(scenes.sample_split(rng, "held_out"), rng, 256), "JPEG", 90)
    return whole[: len(whole) // 2]


def write_broken(folder: Path, count: int, seed: int) -> list[Path]:
    """Write `count` files below `folder`/broken that no reader may accept, four kinds in turn."""
    target = folder / "broken"
    paths = []
    for number in range(count):
        name, body = (
            ("empty.jpg", b""),
            ("half a picture.jpg", _truncated_jpeg(seed + number)),
            ("notes.jpg", b"This is a text file that calls itself a picture.\n"),
            ("giant.png", _giant_png()),
        )[number % 4]
        target.mkdir(parents=True, exist_ok=True)
        path = target / f"{number:03d} {name}"
        path.write_bytes(body)
        paths.append(path)
    return paths
