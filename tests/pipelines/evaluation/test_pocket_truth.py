"""The truth of drawn pictures, written down and read back as references."""

from pathlib import Path

from pipelines.evaluation.questions import read_questions
from pipelines.evaluation.references import read_captions
from stages.pocket import language
from stages.pocket.corpus import write_pictures
from stages.pocket.truth import CAPTIONS, QUESTIONS, TEXTS, write_truth


def test_truth_of_drawn_pictures_is_read_back_as_references(tmp_path: Path) -> None:
    written = write_pictures(tmp_path / "photos", 8, seed=3)
    write_truth(tmp_path / "truth", written, tmp_path / "photos", seed=3)
    scenes = {one.path.relative_to(tmp_path / "photos").as_posix(): one.scene for one in written}
    captions = read_captions(str(tmp_path / "truth" / CAPTIONS))
    assert captions.form == "COCO captions"
    assert {row["file_name"]: row["reference"] for row in captions.rows.to_pylist()} == {
        name: language.captions(scene) for name, scene in scenes.items()
    }
    texts = read_captions(str(tmp_path / "truth" / TEXTS)).rows.to_pylist()
    assert {row["key"]: row["reference"] for row in texts} == {
        name: [language.detail(scene)] for name, scene in scenes.items()
    }
    asked = read_questions(str(tmp_path / "truth" / QUESTIONS)).rows.to_pylist()
    assert len({row["question_id"] for row in asked}) == len(asked)
    assert len({(row["key"], row["question"]) for row in asked}) == len(asked)
    by_prompt = {(row["key"], row["question"]): row["answers"] for row in asked}
    for name, scene in scenes.items():
        assert by_prompt[name, language.CAPTION_PROMPT] == [language.captions(scene)[0]]
        assert by_prompt[name, language.JSON_PROMPT] == [language.to_json(scene)]
        assert len([row for row in asked if row["key"] == name]) > 8
