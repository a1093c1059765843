"""What leads from a description to an answer: the texts between <think> and </think> that are trained on."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from stages.pocket.language import CAPTION_PROMPT, DETAIL_PROMPT, place, plural
from stages.pocket.scenes import BARS, COLORS, SHAPES, Chart, Scene, Shapes, Sign, Thing

_SINGULAR = {plural(shape): shape for shape in SHAPES}


def thinking(scene: Scene, prompt: str) -> str:
    """The steps to the answer: what matters of the description, counted or compared one by one.

    `prompt`: a question of `language.questions`, or a caption's prompt; a mere copy needs no thinking.
    """
    if prompt == DETAIL_PROMPT:
        return ""
    if isinstance(scene, Shapes):
        return _of_shapes(scene, prompt)
    return _of_sign(scene, prompt) if isinstance(scene, Sign) else _of_chart(scene, prompt)


def _there(thing: Thing) -> str:
    """With its place: two equal things are two lines to follow."""
    return f"{thing.color} {thing.shape} {place(thing.row, thing.column)}"


def _counted(things: Sequence[Thing]) -> str:
    listed = [f"{_there(thing)} {number}" for number, thing in enumerate(things, start=1)]
    return ", ".join(listed) or "none"


def _by_kind(scene: Shapes) -> str:
    """All things in the order of a caption, equal ones counted."""
    order = sorted(scene.things, key=lambda thing: (COLORS.index(thing.color), SHAPES.index(thing.shape)))
    lines, seen = [], dict[tuple[str, str], int]()
    for thing in order:
        kind = (thing.color, thing.shape)
        seen[kind] = seen.get(kind, 0) + 1
        lines.append(f"{_there(thing)} {seen[kind]}")
    return ", ".join(lines)


def _of_shapes(scene: Shapes, prompt: str) -> str:
    if prompt == CAPTION_PROMPT:
        return _by_kind(scene)
    if "background" in prompt or "kind of picture" in prompt:
        return f"shapes on {scene.background}"
    if found := re.search(r"in the ([a-z ]+)\?", prompt):
        here = [thing for thing in scene.things if place(thing.row, thing.column) == found[1]]
    else:
        words = [_SINGULAR.get(word, word) for word in re.findall("[a-z]+", prompt)]
        color = next((word for word in words if word in COLORS), None)
        shape = next((word for word in words if word in SHAPES), None)
        # Whether there is a red star is seen in the list of all that is red.
        here = [
            thing
            for thing in scene.things
            if (thing.color == color if color else shape in (None, thing.shape))
        ]
    return _counted(here)


def _of_sign(scene: Sign, prompt: str) -> str:
    if "color" in prompt or "kind of picture" in prompt:
        return f"{scene.color} sign on {scene.background}"
    return ", ".join(f"{digit} {number}" for number, digit in enumerate(scene.text, start=1))


def _of_chart(scene: Chart, prompt: str) -> str:
    named = [BARS.index(letter) for letter in re.findall(r"\b([A-E])\b", prompt)]
    if named:
        return ", ".join(f"{BARS[index]} is {scene.values[index]}" for index in named)
    if "trend" in prompt:
        steps = zip(scene.values, scene.values[1:], strict=False)
        return ", ".join(f"{one} {other} {'up' if other > one else 'down'}" for one, other in steps)
    if "color" in prompt or "kind of picture" in prompt:
        return f"{scene.color} bar chart"
    if "how many" in prompt:
        return ", ".join(f"{BARS[index]} {index + 1}" for index in range(len(scene.values)))
    if prompt == CAPTION_PROMPT:
        return f"{len(scene.values)} bars, {_running(scene, max)}, {_running(scene, min)}"
    return _running(scene, min if "shortest" in prompt else max)


def _running(scene: Chart, extreme: Callable[[Sequence[int]], int]) -> str:
    """Bar by bar, the best so far behind each."""
    lines = []
    for end, value in enumerate(scene.values, start=1):
        best = extreme(scene.values[:end])
        lines.append(f"{BARS[end - 1]} {value} best {BARS[scene.values.index(best)]} {best}")
    return ", ".join(lines)


def notes(scene: Scene) -> str:
    """A scene in 20 words at fixed places: what a projector can learn to write into an embedding space.

    Shapes: each cell's colour and shape in reading order; sign and chart: digits or values, then dashes.
    """
    if isinstance(scene, Shapes):
        cells = {(thing.row, thing.column): f"{thing.color} {thing.shape}" for thing in scene.things}
        grid = [cells.get((row, column), "- -") for row in range(3) for column in range(3)]
        return " ".join(["shapes", scene.background, *grid])
    if isinstance(scene, Sign):
        words = ["sign", scene.background, scene.color, scene.frame, *scene.text]
    else:
        words = ["chart", scene.background, scene.color, *map(str, scene.values)]
    return " ".join(words + ["-"] * (NOTE_WORDS - len(words)))


NOTE_WORDS = 20
