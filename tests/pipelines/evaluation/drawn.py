"""Drawn pictures whose truth is written down as the files of data sets are."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stages.pocket import language
from stages.pocket.corpus import write_pictures
from stages.pocket.scenes import Scene


@dataclass(frozen=True)
class Drawn:
    """A folder of COCO file names, and the scenes by COCO id."""

    folder: Path
    scenes: Mapping[int, Scene]
    files: Mapping[int, str]

    def coco(self) -> dict[str, Any]:
        """Captions as COCO has them, ids of annotations all apart."""
        annotations = [
            {"image_id": number, "id": 10 * number + place, "caption": text}
            for number, scene in self.scenes.items()
            for place, text in enumerate(language.captions(scene))
        ]
        images = [{"id": number, "file_name": name, "height": 9} for number, name in self.files.items()]
        return {"info": {}, "licenses": [], "images": images, "annotations": annotations}

    def results(self) -> list[dict[str, Any]]:
        """True captions, as COCO results."""
        return [
            {"image_id": number, "caption": language.captions(scene)[0]}
            for number, scene in self.scenes.items()
        ]

    def vqa(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Questions and annotations as VQA v2 has them; ten people agree."""
        questions, annotations = [], []
        for number, scene in self.scenes.items():
            for place, one in enumerate(language.questions(scene, np.random.default_rng(number))[:3]):
                told = {"question_id": 1000 * number + place, "image_id": number}
                questions.append({**told, "question": one.text})
                answers = [
                    {"answer": one.answer, "answer_confidence": "yes", "answer_id": person}
                    for person in range(1, 11)
                ]
                annotations.append(
                    {
                        **told,
                        "question_type": one.text.partition(" ")[0],
                        "answer_type": "number" if one.answer.isdecimal() else "other",
                        "multiple_choice_answer": one.answer,
                        "answers": answers,
                    }
                )
        return {"questions": questions, "data_type": "mscoco"}, {"annotations": annotations}


def draw(folder: Path, count: int, seed: int) -> Drawn:
    """Pictures under names such as `val2014/COCO_val2014_000000000042.jpg`."""
    scenes, files = {}, {}
    written = write_pictures(folder / "as drawn", count, seed)
    (folder / "val2014").mkdir()
    for place, one in enumerate(written):
        number = 40 + 7 * place
        name = f"COCO_val2014_{number:012d}{one.path.suffix}"
        one.path.rename(folder / "val2014" / name)
        scenes[number], files[number] = one.scene, name
    return Drawn(folder, scenes, files)


def write_json(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value), "utf-8")
    return path


def write_lines(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path
