"""What drawn pictures show, in the formats of data sets: COCO captions, questions with answers, texts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stages.pocket import language
from stages.pocket.corpus import Written

CAPTIONS, QUESTIONS, TEXTS = "captions.json", "questions.jsonl", "texts.jsonl"


def write_truth(folder: Path, written: Sequence[Written], root: Path, seed: int) -> None:
    """Writes three files of references about pictures below `root`, each named by its path from there.

    captions.json: COCO captions, three a picture. questions.jsonl: every question that a picture can answer,
    and the captioner's own prompts, with the only right answer; `question_type` is a row of the model card.
    texts.jsonl: the detailed caption, by which a picture is to be found.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = [one.path.relative_to(root).as_posix() for one in written]
    (folder / CAPTIONS).write_text(json.dumps(_coco(names, written), ensure_ascii=False), "utf-8")
    rng = np.random.default_rng((seed, 15))
    asked = (row for name, one in zip(names, written, strict=True) for row in _asked(name, one, rng))
    _write_lines(folder / QUESTIONS, ({"question_id": number, **row} for number, row in enumerate(asked)))
    texts = (
        {"uri": name, "caption": language.detail(one.scene)} for name, one in zip(names, written, strict=True)
    )
    _write_lines(folder / TEXTS, texts)


def _coco(names: Sequence[str], written: Sequence[Written]) -> dict[str, Any]:
    captions = [(place, text) for place, one in enumerate(written) for text in language.captions(one.scene)]
    return {
        "images": [{"id": place, "file_name": name} for place, name in enumerate(names)],
        "annotations": [
            {"id": number, "image_id": place, "caption": text}
            for number, (place, text) in enumerate(captions)
        ],
    }


def _asked(name: str, written: Written, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    scene = written.scene
    rows = [
        (language.CAPTION_PROMPT, language.captions(scene)[0], f"caption, {language.KINDS[scene.family]}"),
        (language.DETAIL_PROMPT, language.detail(scene), "detailed caption"),
        (language.JSON_PROMPT, language.to_json(scene), "JSON"),
    ]
    rows += [(one.text, one.answer, f"answer, {one.type}") for one in language.questions(scene, rng)]
    for question, answer, kind in dict.fromkeys(rows):
        yield {"uri": name, "question": question, "answers": [answer], "question_type": kind}


def _write_lines(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
