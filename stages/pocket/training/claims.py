"""Texts for the dual encoder, each with the claim it makes: every text can be checked on every picture."""

from __future__ import annotations

import numpy as np

from stages.pocket import language
from stages.pocket.language import NUMBERS, article, group_phrase, place, plural
from stages.pocket.scenes import (
    BACKGROUNDS,
    BARS,
    COLORS,
    FAMILIES,
    SHAPES,
    Chart,
    Scene,
    Shapes,
    Sign,
)
from stages.pocket.training.facts import SPANS, TRENDS, UNSAID, Facts, claim, facts, kind_index

Claimed = tuple[str, Facts]


def detailed(scene: Scene) -> Claimed:
    """The detailed caption; it says everything."""
    return language.detail(scene), facts(scene)


def captioned(scene: Scene, rng: np.random.Generator) -> Claimed:
    """One of the captions; they leave places, frames and the middle bars open."""
    text = language.captions(scene)[int(rng.integers(3))]
    stated = facts(scene)
    if isinstance(scene, Shapes):
        stated[SPANS["cells"]] = UNSAID
    elif isinstance(scene, Sign):
        stated[SPANS["frame"]] = UNSAID
    else:
        extremes = {scene.values.index(value): value for value in (min(scene.values), max(scene.values))}
        bars = claim(bars=extremes)[SPANS["bars"]]
        bars[len(scene.values) :] = 0
        stated[SPANS["bars"]] = bars
        stated[SPANS["trend"]] = UNSAID
    return text, stated


def _shapes_concepts(scene: Shapes, rng: np.random.Generator) -> list[Claimed]:
    thing = scene.things[int(rng.integers(len(scene.things)))]
    color, shape, total = thing.color, thing.shape, len(scene.things)
    kind, hue = kind_index(color, shape), COLORS.index(color)
    same = [other for other in scene.things if other.color == color]
    count = sum(other.shape == shape for other in same)
    here, cell = place(thing.row, thing.column), thing.row * 3 + thing.column
    exact = group_phrase(color, shape, count) if count > 1 else f"one {color} {shape}"
    plain = "object" if len(same) == 1 else "objects"
    background = BACKGROUNDS.index(scene.background)
    return [
        (f"{article(color)} {color} {shape}", claim(has_kind={kind: 1})),
        (f"{article(color)} {color} {shape} in the {here}", claim(cells={cell: 1 + kind})),
        (exact, claim(tally={kind: count})),
        (plural(shape), claim(has_shape={SHAPES.index(shape): 1})),
        (f"{color} shapes", claim(has_color={hue: 1})),
        (f"{NUMBERS[total]} {'object' if total == 1 else 'objects'}", claim(total=total)),
        (f"{NUMBERS[len(same)]} {color} {plain}", claim(by_color={hue: len(same)})),
        ("shapes", claim(family=FAMILIES.index("shapes"))),
        (f"a {scene.background} background", claim(background=background)),
    ]


def _sign_concepts(scene: Sign) -> list[Claimed]:
    color, digits = COLORS.index(scene.color), [int(digit) for digit in scene.text]
    padded = digits + [10] * (3 - len(digits))
    phrase, background = f"{article(scene.color)} {scene.color} sign", BACKGROUNDS.index(scene.background)
    kind = FAMILIES.index("sign")
    return [
        ("a sign", claim(family=kind)),
        (phrase, claim(family=kind, color=color)),
        (
            f"{phrase} on a {scene.background} background",
            claim(family=kind, color=color, background=background),
        ),
        (f"the number {scene.text}", claim(digits=padded)),
        (f"a sign that reads {scene.text}", claim(digits=padded)),
        (f"a sign with {NUMBERS[len(digits)]} digits", claim(length=len(digits))),
        (f"a sign that starts with {digits[0]}", claim(digits={0: digits[0]})),
    ]


def _chart_concepts(scene: Chart) -> list[Claimed]:
    color, count = COLORS.index(scene.color), len(scene.values)
    high, low = language.extremes(scene.values)
    phrase, kind = f"{article(scene.color)} {scene.color} bar chart", FAMILIES.index("chart")
    direction = language.trend(scene.values)
    return [
        ("a bar chart", claim(family=kind)),
        (phrase, claim(family=kind, color=color)),
        (f"{phrase} with {NUMBERS[count]} bars", claim(family=kind, color=color, steps=count)),
        (f"a bar chart with {NUMBERS[count]} bars", claim(steps=count)),
        (f"{article(direction)} {direction} bar chart", claim(trend=TRENDS.index(direction))),
        (f"a bar chart where {high} is the tallest", claim(tallest=BARS.index(high))),
        (f"a bar chart where {low} is the shortest", claim(shortest=BARS.index(low))),
    ]


def concepts(scene: Scene, rng: np.random.Generator) -> list[Claimed]:
    """Short texts that are true of the scene and of many others."""
    if isinstance(scene, Shapes):
        return _shapes_concepts(scene, rng)
    return _sign_concepts(scene) if isinstance(scene, Sign) else _chart_concepts(scene)


def loose(scene: Scene, rng: np.random.Generator) -> Claimed:
    """A caption or a short concept, equally often."""
    if rng.random() < 0.5:
        return captioned(scene, rng)
    options = concepts(scene, rng)
    return options[int(rng.integers(len(options)))]
