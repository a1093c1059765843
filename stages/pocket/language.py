"""What is true of a scene, in words: captions, a detailed caption, JSON, questions with answers."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from stages.pocket.scenes import BARS, COLORS, SHAPES, Chart, Scene, Shapes, Sign, Thing, pick

CAPTION_PROMPT = "describe the image."
DETAIL_PROMPT = "describe the image in detail."
JSON_PROMPT = "return the image as json."

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ROWS = ("top", "middle", "bottom")
COLUMNS = ("left", "center", "right")
KINDS = {"shapes": "shapes", "sign": "sign", "chart": "bar chart"}

Group = tuple[str, str, int]


@dataclass(frozen=True)
class Question:
    """A question, its only right answer, and what it asks for (a key of the score table)."""

    text: str
    answer: str
    type: str


def article(word: str) -> str:
    """ "a" or "an"."""
    return "an" if word[0] in "aeiou" else "a"


def plural(shape: str) -> str:
    """The shape's plural."""
    return "crosses" if shape == "cross" else f"{shape}s"


def place(row: int, column: int) -> str:
    """Name of a cell, such as "top left", "bottom" or "center"."""
    if row == 1:
        return COLUMNS[column]
    return ROWS[row] if column == 1 else f"{ROWS[row]} {COLUMNS[column]}"


def trend(values: tuple[int, ...]) -> str:
    """ "increasing", "decreasing" or "mixed"."""
    steps = np.diff(values)
    return "increasing" if bool((steps > 0).all()) else "decreasing" if bool((steps < 0).all()) else "mixed"


def groups(scene: Shapes) -> list[Group]:
    """(colour, shape, count) of equal things, by colour, then by shape, in the order of the palettes."""
    counts = Counter((thing.color, thing.shape) for thing in scene.things)
    ordered = sorted(counts, key=lambda kind: (COLORS.index(kind[0]), SHAPES.index(kind[1])))
    return [(color, shape, counts[color, shape]) for color, shape in ordered]


def group_phrase(color: str, shape: str, count: int) -> str:
    """Such as "a red circle" or "two red circles"."""
    return f"{article(color)} {color} {shape}" if count == 1 else f"{NUMBERS[count]} {color} {plural(shape)}"


def joined(parts: list[str]) -> str:
    """Such as "a, b and c"."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def extremes(values: tuple[int, ...]) -> tuple[str, str]:
    """Letters of the tallest and of the shortest bar."""
    return BARS[int(np.argmax(values))], BARS[int(np.argmin(values))]


def _shapes_captions(scene: Shapes) -> list[str]:
    inside = joined([group_phrase(*group) for group in groups(scene)])
    verb = "is" if len(scene.things) == 1 else "are"
    return [
        f"{inside} on a {scene.background} background",
        f"a {scene.background} picture with {inside}",
        f"on a {scene.background} background there {verb} {inside}",
    ]


def _sign_captions(scene: Sign) -> list[str]:
    sign = f"{article(scene.color)} {scene.color} sign"
    return [
        f"{sign} that reads {scene.text} on a {scene.background} background",
        f"the number {scene.text} on {sign}, {scene.background} background",
        f"a {scene.background} picture of {sign} with the number {scene.text}",
    ]


def _chart_captions(scene: Chart) -> list[str]:
    count, color, values = NUMBERS[len(scene.values)], scene.color, scene.values
    high, low = extremes(values)
    top, bottom = max(values), min(values)
    return [
        f"{article(color)} {color} bar chart with {count} bars, {high} is the tallest at {top} "
        f"and {low} is the shortest at {bottom}",
        f"a chart of {count} {color} bars from {low} at {bottom} to {high} at {top}",
        f"{count} {color} bars, the tallest is {high} with {top}, the shortest is {low} with {bottom}",
    ]


def captions(scene: Scene) -> list[str]:
    """Three captions; the first is what the captioner answers, the others are further references."""
    if isinstance(scene, Shapes):
        return _shapes_captions(scene)
    return _sign_captions(scene) if isinstance(scene, Sign) else _chart_captions(scene)


def _thing_phrase(thing: Thing) -> str:
    return f"{article(thing.color)} {thing.color} {thing.shape} in the {place(thing.row, thing.column)}"


def detail(scene: Scene) -> str:
    """A caption from which the scene could be drawn again: every thing with its place, every bar's value."""
    if isinstance(scene, Shapes):
        return f"{', '.join(map(_thing_phrase, scene.things))}, on a {scene.background} background"
    if isinstance(scene, Sign):
        return (
            f"{article(scene.color)} {scene.color} sign with a {scene.frame} frame and the digits "
            f"{' '.join(scene.text)}, on a {scene.background} background"
        )
    bars = ", ".join(f"{BARS[index]} is {value}" for index, value in enumerate(scene.values))
    return f"{article(scene.color)} {scene.color} bar chart, {bars}"


def to_json(scene: Scene) -> str:
    """The scene as one JSON object on one line; its keys depend on "kind"."""
    fields: dict[str, Any] = {"kind": scene.family}
    if isinstance(scene, Shapes):
        items = [{"color": color, "shape": shape, "count": count} for color, shape, count in groups(scene)]
        fields |= {"background": scene.background, "items": items}
    elif isinstance(scene, Sign):
        fields |= {"color": scene.color, "text": scene.text}
    else:
        fields |= {"color": scene.color, "values": list(scene.values)}
    return json.dumps(fields)


def _yes(truth: bool) -> str:
    return "yes" if truth else "no"


def _count_questions(scene: Shapes, rng: np.random.Generator) -> list[Question]:
    things = scene.things
    some = things[int(rng.integers(len(things)))]
    color = some.color if rng.random() < 0.75 else pick(rng, COLORS)
    shape = some.shape if rng.random() < 0.75 else pick(rng, SHAPES)
    colored = sum(thing.color == color for thing in things)
    shaped = sum(thing.shape == shape for thing in things)
    return [
        Question("how many objects are there?", str(len(things)), "count"),
        Question(f"how many {color} objects are there?", str(colored), "count"),
        Question(f"how many {plural(shape)} are there?", str(shaped), "count"),
    ]


def _place_questions(scene: Shapes, rng: np.random.Generator) -> list[Question]:
    things = scene.things
    thing = things[int(rng.integers(len(things)))]
    there = place(thing.row, thing.column)
    found = [
        Question(f"what is in the {there}?", f"{article(thing.color)} {thing.color} {thing.shape}", "where"),
        Question(f"what color is the object in the {there}?", thing.color, "color"),
    ]
    if sum(other.color == thing.color for other in things) == 1:
        found.append(Question(f"what shape is the {thing.color} object?", thing.shape, "shape"))
        found.append(Question(f"where is the {thing.color} object?", there, "where"))
    if sum(other.shape == thing.shape for other in things) == 1:
        found.append(Question(f"what color is the {thing.shape}?", thing.color, "color"))
    return found


def _presence_question(scene: Shapes, rng: np.random.Generator) -> Question:
    """Half of the time about a thing that is there, else about one that shares its colour or its shape."""
    thing = scene.things[int(rng.integers(len(scene.things)))]
    color, shape = thing.color, thing.shape
    if rng.random() < 0.5:
        color, shape = (pick(rng, COLORS), shape) if rng.random() < 0.5 else (color, pick(rng, SHAPES))
    there = any((other.color, other.shape) == (color, shape) for other in scene.things)
    return Question(f"is there {article(color)} {color} {shape}?", _yes(there), "yesno")


def _shapes_questions(scene: Shapes, rng: np.random.Generator) -> list[Question]:
    return [
        Question("what color is the background?", scene.background, "color"),
        *_count_questions(scene, rng),
        *_place_questions(scene, rng),
        _presence_question(scene, rng),
    ]


def _sign_questions(scene: Sign) -> list[Question]:
    return [
        Question("what does the sign say?", scene.text, "ocr"),
        Question("what is the first digit?", scene.text[0], "ocr"),
        Question("what is the last digit?", scene.text[-1], "ocr"),
        Question("how many digits are on the sign?", str(len(scene.text)), "count"),
        Question("what color is the sign?", scene.color, "color"),
        Question("what color is the background?", scene.background, "color"),
    ]


def _chart_questions(scene: Chart, rng: np.random.Generator) -> list[Question]:
    values = scene.values
    high, low = extremes(values)
    one, other = (int(index) for index in rng.choice(len(values), 2, replace=False))
    return [
        Question("how many bars are there?", str(len(values)), "count"),
        Question("which bar is the tallest?", high, "chart"),
        Question("which bar is the shortest?", low, "chart"),
        Question(f"what is the value of {BARS[one]}?", str(values[one]), "chart"),
        Question("what is the largest value?", str(max(values)), "chart"),
        Question("what is the trend?", trend(values), "chart"),
        Question("what color are the bars?", scene.color, "color"),
        Question(f"is {BARS[one]} taller than {BARS[other]}?", _yes(values[one] > values[other]), "yesno"),
    ]


def questions(scene: Scene, rng: np.random.Generator) -> list[Question]:
    """Every kind of question that the scene can answer; `rng` chooses the things asked about.

    Raises ValueError for a scene without any thing, of which nothing is asked.
    """
    kind = Question("what kind of picture is this?", KINDS[scene.family], "kind")
    if isinstance(scene, Shapes):
        if not scene.things:
            raise ValueError("an empty scene has no questions")
        return [kind, *_shapes_questions(scene, rng)]
    if isinstance(scene, Sign):
        return [kind, *_sign_questions(scene)]
    return [kind, *_chart_questions(scene, rng)]
