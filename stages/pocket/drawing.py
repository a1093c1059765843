"""Draws scenes as square RGB pictures of any size."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from stages.pocket.scenes import BARS, Chart, Scene, Shapes, Sign, Thing

Rgb = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

INKS: dict[str, Rgb] = {
    "red": (220, 40, 40),
    "green": (40, 160, 60),
    "blue": (40, 80, 220),
    "yellow": (240, 210, 40),
    "purple": (150, 60, 180),
    "orange": (245, 140, 30),
}
PAPERS: dict[str, Rgb] = {"white": (250, 250, 250), "gray": (150, 150, 150), "black": (20, 20, 20)}

# Everything sits on sixths of the side: at 96 px these are the 16 px patches that the models see.
SIXTH = 1 / 6


@lru_cache(maxsize=1024)
def _font(pixels: int) -> Font:
    return ImageFont.load_default(size=pixels)


def _tinted(rng: np.random.Generator, color: Rgb, spread: int) -> Rgb:
    red, green, blue = (
        int(min(255, max(0, channel + shift)))
        for channel, shift in zip(color, rng.integers(-spread, spread + 1, size=3), strict=True)
    )
    return red, green, blue


def _star(x: float, y: float, radius: float) -> list[tuple[float, float]]:
    points = []
    for corner in range(10):
        reach = radius * (1.12 if corner % 2 == 0 else 0.45)
        angle = corner * math.pi / 5 - math.pi / 2
        points.append((x + reach * math.cos(angle), y + reach * math.sin(angle)))
    return points


def _shape(
    pen: ImageDraw.ImageDraw, shape: str, center: tuple[float, float], radius: float, ink: Rgb
) -> None:
    x, y = center
    if shape == "circle":
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=ink)
    elif shape == "square":
        half = radius * 0.9
        pen.rectangle((x - half, y - half, x + half, y + half), fill=ink)
    elif shape == "triangle":
        low = y + radius * 0.85
        pen.polygon([(x, y - radius), (x + radius, low), (x - radius, low)], fill=ink)
    elif shape == "cross":
        arm = radius * 0.32
        pen.rectangle((x - arm, y - radius, x + arm, y + radius), fill=ink)
        pen.rectangle((x - radius, y - arm, x + radius, y + arm), fill=ink)
    else:
        pen.polygon(_star(x, y, radius), fill=ink)


def _draw_thing(pen: ImageDraw.ImageDraw, thing: Thing, rng: np.random.Generator, size: int) -> None:
    cell = size / 3
    shift_x, shift_y = rng.uniform(-0.05, 0.05, size=2)
    center = ((thing.column + 0.5 + shift_x) * cell, (thing.row + 0.5 + shift_y) * cell)
    _shape(pen, thing.shape, center, cell * rng.uniform(0.34, 0.42), _tinted(rng, INKS[thing.color], 12))


def _draw_sign(pen: ImageDraw.ImageDraw, sign: Sign, rng: np.random.Generator, size: int) -> None:
    ink = _tinted(rng, INKS[sign.color], 12)
    middle = size * (0.5 + rng.uniform(-0.015, 0.015))
    half = size * rng.uniform(0.26, 0.30)
    margin = size * 0.03
    box = (margin, middle - half, size - margin, middle + half)
    line = max(2, size // 40)
    radius = half * 0.7 if sign.frame == "round" else 0
    pen.rounded_rectangle(box, radius=radius, outline=ink, width=line)
    font = _font(round(size * rng.uniform(0.40, 0.44)))
    first = size / 2 - (len(sign.text) - 1) * size * SIXTH
    for place, digit in enumerate(sign.text):
        x = first + place * 2 * size * SIXTH
        pen.text((x, middle), digit, font=font, fill=ink, anchor="mm", stroke_width=max(1, size // 80))


def _draw_chart(pen: ImageDraw.ImageDraw, chart: Chart, rng: np.random.Generator, size: int) -> None:
    """Bar k fills most of sixth k + 1; one unit is half a sixth high; letters stand in the lowest sixth."""
    base, unit, left = size * 5 * SIXTH, size * SIXTH / 2, size * SIXTH * 0.8
    thin = max(1, size // 120)
    for mark in (3, 6, 9):
        pen.line(
            (left, base - mark * unit, size * 0.99, base - mark * unit), fill=(215, 215, 215), width=thin
        )
    ink = _tinted(rng, INKS[chart.color], 12)
    width = size * SIXTH * rng.uniform(0.62, 0.74)
    font = _font(round(size * 0.13))
    for place, value in enumerate(chart.values):
        x = (place + 1.5) * size * SIXTH
        pen.rectangle((x - width / 2, base - value * unit, x + width / 2, base), fill=ink)
        pen.text((x, size * 5.5 * SIXTH), BARS[place], font=font, fill=(30, 30, 30), anchor="mm")
    pen.line((left, size * 0.04, left, base), fill=(30, 30, 30), width=2 * thin)
    pen.line((left, base, size * 0.99, base), fill=(30, 30, 30), width=2 * thin)


def draw(scene: Scene, rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
    """Draw the scene as uint8 [size, size, 3] RGB; places, sizes and tints vary a little with `rng`.

    Raises ValueError when `size` is under 48 px, where digits and letters are no longer legible.
    """
    if size < 48:
        raise ValueError(f"size must be at least 48 px, not {size}")
    canvas = Image.new("RGB", (size, size), _tinted(rng, PAPERS[scene.background], 5))
    pen = ImageDraw.Draw(canvas)
    if isinstance(scene, Shapes):
        for thing in scene.things:
            _draw_thing(pen, thing, rng, size)
    elif isinstance(scene, Sign):
        _draw_sign(pen, scene, rng, size)
    else:
        _draw_chart(pen, scene, rng, size)
    return np.array(canvas, dtype=np.uint8)
