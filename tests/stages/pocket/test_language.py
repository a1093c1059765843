"""What is said about scenes."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from stages.pocket import language, scenes
from stages.pocket.scenes import Chart, Shapes, Sign, Thing

TWO_AND_ONE = Shapes(
    "gray",
    (Thing(0, 0, "red", "circle"), Thing(1, 1, "blue", "star"), Thing(2, 1, "red", "circle")),
)
SIGN = Sign("047", "orange", "black", "round")
CHART = Chart((3, 9, 1, 6), "green")


def _answers(scene: scenes.Scene, seed: int = 0) -> dict[str, str]:
    return {q.text: q.answer for q in language.questions(scene, np.random.default_rng(seed))}


@pytest.mark.parametrize(
    ("scene", "caption"),
    [
        (TWO_AND_ONE, "two red circles and a blue star on a gray background"),
        (SIGN, "an orange sign that reads 047 on a black background"),
        (
            CHART,
            "a green bar chart with four bars, B is the tallest at 9 and C is the shortest at 1",
        ),
    ],
)
def test_captions_first_is_canonical(scene: scenes.Scene, caption: str) -> None:
    assert language.captions(scene)[0] == caption
    assert len(set(language.captions(scene))) == 3


def test_captions_of_random_shapes_count_what_is_there() -> None:
    rng = np.random.default_rng(1)
    numbers = {word: number for number, word in enumerate(language.NUMBERS)} | {"a": 1, "an": 1}
    for _ in range(300):
        scene = scenes.sample(rng)
        if isinstance(scene, Shapes):
            listed = language.captions(scene)[0].removesuffix(f" on a {scene.background} background")
            counted = [numbers[part.split()[0]] for part in re.split(", | and ", listed)]
            assert sum(counted) == len(scene.things)


def test_detail_names_every_place() -> None:
    assert language.detail(TWO_AND_ONE) == (
        "a red circle in the top left, a blue star in the center, a red circle in the bottom, "
        "on a gray background"
    )
    assert language.detail(CHART) == "a green bar chart, A is 3, B is 9, C is 1, D is 6"
    assert language.detail(SIGN) == (
        "an orange sign with a round frame and the digits 0 4 7, on a black background"
    )


def test_detail_of_different_scenes_differs() -> None:
    found = scenes.sample_distinct(np.random.default_rng(2), "train", 1000)
    assert len({language.detail(scene) for scene in found}) == 1000


def test_to_json_holds_the_scene() -> None:
    assert json.loads(language.to_json(TWO_AND_ONE)) == {
        "kind": "shapes",
        "background": "gray",
        "items": [
            {"color": "red", "shape": "circle", "count": 2},
            {"color": "blue", "shape": "star", "count": 1},
        ],
    }
    assert json.loads(language.to_json(SIGN)) == {"kind": "sign", "color": "orange", "text": "047"}
    assert json.loads(language.to_json(CHART))["values"] == [3, 9, 1, 6]


def test_questions_sign_reads_leading_zero() -> None:
    answers = _answers(SIGN)
    assert answers["what does the sign say?"] == "047"
    assert answers["what is the first digit?"] == "0"
    assert answers["how many digits are on the sign?"] == "3"


def test_questions_chart_compares_bars() -> None:
    answers = _answers(CHART)
    assert answers["which bar is the tallest?"] == "B"
    assert answers["which bar is the shortest?"] == "C"
    assert answers["what is the trend?"] == "mixed"
    values = dict(zip("ABCD", CHART.values, strict=True))
    for seed in range(20):
        for text, answer in _answers(CHART, seed).items():
            compared = re.fullmatch(r"is ([A-D]) taller than ([A-D])\?", text)
            if compared:
                assert answer == ("yes" if values[compared[1]] > values[compared[2]] else "no")


def test_questions_counts_and_presence_agree_with_the_things() -> None:
    rng = np.random.default_rng(3)
    for _ in range(200):
        scene = scenes.sample(rng)
        if not isinstance(scene, Shapes):
            continue
        kinds = {f"{thing.color} {thing.shape}" for thing in scene.things}
        for question in language.questions(scene, rng):
            there = re.fullmatch(r"is there an? (\w+ \w+)\?", question.text)
            if there:
                assert question.answer == ("yes" if there[1] in kinds else "no")
            colored = re.fullmatch(r"how many (\w+) objects are there\?", question.text)
            if colored:
                assert question.answer == str(sum(t.color == colored[1] for t in scene.things))


def test_questions_presence_is_not_given_away_by_the_asking() -> None:
    rng = np.random.default_rng(4)
    told = [
        question.answer
        for scene in (scenes.sample(rng) for _ in range(2000))
        for question in language.questions(scene, rng)
        if question.text.startswith("is there")
    ]
    assert 0.35 < told.count("no") / len(told) < 0.65


def test_questions_empty_scene_is_refused() -> None:
    with pytest.raises(ValueError, match="empty scene"):
        language.questions(Shapes("white", ()), np.random.default_rng(0))
