"""Scenes and texts as vectors of facts, so that "is this text true of that picture?" is one comparison.

A scene states every fact that applies to it; a text claims a few. Both are int8 [WIDTH] with -1 where
nothing is said, and a claim holds when each stated entry equals the scene's. The same vectors are the
targets of the training-only heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stages.pocket.language import trend
from stages.pocket.scenes import BACKGROUNDS, COLORS, FAMILIES, FRAMES, SHAPES, Chart, Scene, Shapes, Sign

Facts = NDArray[np.int8]
UNSAID = -1
NO_DIGIT = 10


@dataclass(frozen=True)
class Field:
    """`count` entries of the vector, each one of `classes` values."""

    count: int
    classes: int


FIELDS: Mapping[str, Field] = {
    "family": Field(1, len(FAMILIES)),
    "background": Field(1, len(BACKGROUNDS)),
    "color": Field(1, len(COLORS)),
    "frame": Field(1, len(FRAMES)),
    "cells": Field(9, 1 + len(COLORS) * len(SHAPES)),
    "digits": Field(3, NO_DIGIT + 1),
    "bars": Field(5, 10),
    "tally": Field(len(COLORS) * len(SHAPES), 6),
    "by_color": Field(len(COLORS), 6),
    "by_shape": Field(len(SHAPES), 6),
    "total": Field(1, 6),
    "length": Field(1, 4),
    "tallest": Field(1, 5),
    "shortest": Field(1, 5),
    "steps": Field(1, 6),
    "trend": Field(1, 3),
    "has_kind": Field(len(COLORS) * len(SHAPES), 2),
    "has_color": Field(len(COLORS), 2),
    "has_shape": Field(len(SHAPES), 2),
    # Where digits can stand: pairs of neighbouring sixths of the width; read by the patch head alone.
    "slots": Field(5, NO_DIGIT + 1),
}
TRENDS = ("increasing", "decreasing", "mixed")


def _spans() -> dict[str, slice]:
    spans, start = {}, 0
    for name, field in FIELDS.items():
        spans[name] = slice(start, start + field.count)
        start += field.count
    return spans


SPANS = _spans()
WIDTH = sum(field.count for field in FIELDS.values())


def kind_index(color: str, shape: str) -> int:
    """Number of a (colour, shape) pair, 0 to 29."""
    return COLORS.index(color) * len(SHAPES) + SHAPES.index(shape)


def claim(**stated: int | list[int] | Mapping[int, int]) -> Facts:
    """A vector with the named fields set: an int for one entry, a list for all, a mapping for some."""
    vector = np.full(WIDTH, UNSAID, dtype=np.int8)
    for name, value in stated.items():
        view = vector[SPANS[name]]
        if isinstance(value, Mapping):
            for index, number in value.items():
                view[index] = number
        else:
            view[:] = value
    return vector


def _shapes_facts(scene: Shapes) -> Facts:
    tally, colors, shapes = [0] * 30, [0] * len(COLORS), [0] * len(SHAPES)
    cells = [0] * 9
    for thing in scene.things:
        kind = kind_index(thing.color, thing.shape)
        cells[thing.row * 3 + thing.column] = 1 + kind
        tally[kind] += 1
        colors[COLORS.index(thing.color)] += 1
        shapes[SHAPES.index(thing.shape)] += 1
    return claim(
        cells=cells,
        tally=tally,
        by_color=colors,
        by_shape=shapes,
        total=len(scene.things),
        has_kind=[int(count > 0) for count in tally],
        has_color=[int(count > 0) for count in colors],
        has_shape=[int(count > 0) for count in shapes],
    )


def _sign_facts(scene: Sign) -> Facts:
    digits = [int(digit) for digit in scene.text]
    slots = [NO_DIGIT] * 5
    for place, digit in enumerate(digits):
        slots[3 - len(digits) + 2 * place] = digit
    return claim(
        color=COLORS.index(scene.color),
        frame=FRAMES.index(scene.frame),
        digits=digits + [NO_DIGIT] * (3 - len(digits)),
        length=len(digits),
        slots=slots,
    )


def _chart_facts(scene: Chart) -> Facts:
    values = scene.values
    return claim(
        color=COLORS.index(scene.color),
        bars=list(values) + [0] * (5 - len(values)),
        tallest=int(np.argmax(values)),
        shortest=int(np.argmin(values)),
        steps=len(values),
        trend=TRENDS.index(trend(values)),
    )


def facts(scene: Scene) -> Facts:
    """Everything true of the scene, int8 [WIDTH]; fields of other families stay unsaid."""
    if isinstance(scene, Shapes):
        vector = _shapes_facts(scene)
    elif isinstance(scene, Sign):
        vector = _sign_facts(scene)
    else:
        vector = _chart_facts(scene)
    vector[SPANS["family"]] = FAMILIES.index(scene.family)
    vector[SPANS["background"]] = BACKGROUNDS.index(scene.background)
    return vector


def holds(claims: Facts, truths: Facts) -> NDArray[np.bool_]:
    """bool [claims, scenes]: which int8 [claims, WIDTH] rows are true of which int8 [scenes, WIDTH] rows."""
    agrees = (claims[:, None] == truths[None]) | (claims[:, None] == UNSAID)
    return np.asarray(agrees.all(axis=-1))
