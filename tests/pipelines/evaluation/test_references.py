"""References in the formats of data sets, as small files made by hand."""

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.evaluation.formats import EvaluationError
from pipelines.evaluation.questions import read_questions
from pipelines.evaluation.references import read_captions, read_labels
from tests.pipelines.evaluation.drawn import write_json, write_lines

COCO = {
    "info": {"year": 2014},
    "images": [
        {"id": 9, "file_name": "COCO_val2014_000000000009.jpg", "license": 3},
        {"id": 25, "file_name": "COCO_val2014_000000000025.jpg", "license": 3},
    ],
    "annotations": [
        {"image_id": 25, "id": 1, "caption": "A giraffe."},
        {"image_id": 9, "id": 2, "caption": "A meal"},
        {"image_id": 25, "id": 3, "caption": "Two trees"},
    ],
}
KARPATHY = {
    "dataset": "coco",
    "images": [
        {
            "filepath": "val2014",
            "filename": f"COCO_val2014_{number:012d}.jpg",
            "cocoid": number,
            "imgid": place,
            "split": split,
            "sentids": [place],
            "sentences": [{"tokens": ["a"], "raw": f"A picture, {number}.", "imgid": place, "sentid": place}],
        }
        for place, (number, split) in enumerate([(391895, "test"), (522418, "restval"), (184613, "test")])
    ],
}
MEAL = {"9": ["A meal"], "25": ["A giraffe.", "Two trees"]}


def _as_dict(path: Path, split: str | None = None) -> dict[str, list[str]]:
    rows = read_captions(str(path), split).rows
    return dict(zip(rows["key"].to_pylist(), rows["reference"].to_pylist(), strict=True))


def test_captions_of_coco_are_joined_by_image(tmp_path: Path) -> None:
    read = read_captions(str(write_json(tmp_path / "c.json", COCO)))
    assert read.form == "COCO captions"
    assert read.rows.to_pylist() == [
        {"key": "9", "file_name": "COCO_val2014_000000000009.jpg", "reference": ["A meal"]},
        {
            "key": "25",
            "file_name": "COCO_val2014_000000000025.jpg",
            "reference": ["A giraffe.", "Two trees"],
        },
    ]


def test_captions_of_coco_tell_strays_and_images_without_any(tmp_path: Path) -> None:
    images = [*COCO["images"], {"id": 30, "file_name": "x.jpg"}]
    annotations = [*COCO["annotations"], {"image_id": 77, "id": 4, "caption": "lost"}]
    file = write_json(tmp_path / "c.json", {**COCO, "images": images, "annotations": annotations})
    read = read_captions(str(file))
    assert (read.stray, read.bare, len(read.rows)) == (("77",), 1, 2)


def test_captions_of_a_karpathy_split_are_of_that_split(tmp_path: Path) -> None:
    file = write_json(tmp_path / "dataset_coco.json", KARPATHY)
    assert _as_dict(file, "test") == {"391895": ["A picture, 391895."], "184613": ["A picture, 184613."]}
    assert _as_dict(file, "restval") == {"522418": ["A picture, 522418."]}
    for split, told in ((None, "set split to one of restval, test"), ("val", "restval, test")):
        with pytest.raises(EvaluationError, match=told):
            read_captions(str(file), split)


def test_captions_of_a_split_without_coco_ids_are_known_by_file_name(tmp_path: Path) -> None:
    image = {"filename": "1007129816.jpg", "imgid": 0, "split": "test", "sentences": [{"raw": "A man"}]}
    file = write_json(tmp_path / "dataset_flickr30k.json", {"images": [image], "dataset": "flickr30k"})
    assert _as_dict(file, "test") == {"1007129816.jpg": ["A man"]}


def _csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def _parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


FLAT = [{"image_id": key, "caption": text} for key, texts in MEAL.items() for text in texts]
LISTS = [{"image_id": int(key), "captions": texts} for key, texts in MEAL.items()]


@pytest.mark.parametrize(
    "write",
    [
        lambda folder: write_json(folder / "a.json", MEAL),
        lambda folder: write_json(
            folder / "a.json", {k: [{"caption": t} for t in v] for k, v in MEAL.items()}
        ),
        lambda folder: write_json(folder / "a.json", LISTS),
        lambda folder: write_lines(folder / "a.jsonl", FLAT),
        lambda folder: write_lines(folder / "a.json", LISTS),
        lambda folder: _csv(folder / "a.csv", FLAT),
        lambda folder: _csv(folder / "a.data", FLAT),
        lambda folder: _parquet(folder / "a.parquet", LISTS),
        lambda folder: _parquet(folder / "a.bin", FLAT),
    ],
    ids=["object", "tokeniser", "json", "jsonl", "lines", "csv", "odd-csv", "parquet", "odd-parquet"],
)
def test_captions_of_plain_files_are_read_by_what_is_in_them(write: Any, tmp_path: Path) -> None:
    assert _as_dict(write(tmp_path)) == MEAL


def test_captions_of_a_gzipped_file_are_read_as_others(tmp_path: Path) -> None:
    (tmp_path / "c.json.gz").write_bytes(gzip.compress(json.dumps(COCO).encode()))
    assert _as_dict(tmp_path / "c.json.gz") == MEAL


def test_captions_in_csv_keep_newlines_quotes_and_leading_zeros(tmp_path: Path) -> None:
    rows = [{"file_name": "007", "caption": 'a "sign",\nand\u2028more'}]
    assert _as_dict(_csv(tmp_path / "a.csv", rows)) == {"007": ['a "sign",\nand\u2028more']}


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"questions": [{"question_id": 1}]}, "an object with questions;"),
        ([{"image_id": 1, "bbox": [1, 2]}], "rows with image_id, bbox;"),
        ({"images": [{"id": 1}], "annotations": [{"image_id": 1, "bbox": 1}]}, "annotations, entry 1 has an"),
        ([], "no row"),
        ([1, 2], "row 1: 1 is not an object"),
        ({"images": [{"name": 1}], "annotations": [{}]}, "images, entry 1 has an object with name: id must"),
        ([{"image_id": None, "caption": "a"}], "image_id must be an id"),
        ([{"image_id": 1, "caption": 7}], "row 1: caption must be a text"),
    ],
)
def test_captions_in_another_format_name_what_was_found(value: Any, told: str, tmp_path: Path) -> None:
    file = write_json(tmp_path / "c.json", value)
    with pytest.raises(EvaluationError, match=told) as error:
        read_captions(str(file))
    assert "\n" not in str(error.value)
    assert str(file) in str(error.value)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "is empty"),
        (b'{"images": [', "cannot be read"),
        (b"PAR1garbage", "cannot be read"),
        (b"\x1f\x8bgarbage", "cannot be read"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (b'{"image_id": 1, "caption": "a"}\n{"image_id": 2,\n', "line 2 is not JSON"),
        (b"image_id,caption\n1,a,b\n", "line 2 has not the 2 cells"),
    ],
)
def test_captions_in_a_damaged_file_are_refused_in_one_line(data: bytes, told: str, tmp_path: Path) -> None:
    (tmp_path / "c.json").write_bytes(data)
    with pytest.raises(EvaluationError, match=told) as error:
        read_captions(str(tmp_path / "c.json"))
    assert "\n" not in str(error.value)


def test_labels_are_names_or_numbers_and_must_not_differ(tmp_path: Path) -> None:
    rows = [{"uri": "a.jpg", "label": "cat"}, {"uri": "b.jpg", "label": 7}]
    found = read_labels(str(write_lines(tmp_path / "l.jsonl", rows))).rows
    assert [(row["key"], row["label"]) for row in found.to_pylist()] == [("a.jpg", "cat"), ("b.jpg", "7")]
    found = read_labels(str(write_json(tmp_path / "l.json", {"a.jpg": "cat", "b.jpg": 7}))).rows
    assert found["label"].to_pylist() == ["cat", "7"]
    with pytest.raises(EvaluationError, match="two labels, cat and dog"):
        read_labels(str(write_lines(tmp_path / "l.jsonl", [*rows, {"uri": "a.jpg", "label": "dog"}])))


QUESTIONS = {
    "questions": [
        {
            "image_id": 458752,
            "question": "What is this photo taken looking through?",
            "question_id": 458752000,
        },
        {"image_id": 458752, "question": "Is it raining?", "question_id": 458752001},
    ]
}


def _annotation(question_id: int, *answers: str) -> dict[str, Any]:
    told = [
        {"answer": text, "answer_confidence": "yes", "answer_id": number}
        for number, text in enumerate(answers, 1)
    ]
    return {
        "question_type": "what is this",
        "multiple_choice_answer": answers[0],
        "answers": told,
        "image_id": 458752,
        "answer_type": "other",
        "question_id": question_id,
    }


def test_questions_of_vqa_are_joined_with_their_annotations(tmp_path: Path) -> None:
    asked = write_json(tmp_path / "q.json", QUESTIONS)
    answered = write_json(
        tmp_path / "a.json", {"annotations": [_annotation(458752000, *["net"] * 9, "netting")]}
    )
    read = read_questions(str(answered), str(asked))
    assert (read.form, read.bare, read.stray) == ("VQA v2", 1, ())
    assert read.rows.to_pylist() == [
        {
            "question_id": "458752000",
            "key": "458752",
            "question": "What is this photo taken looking through?",
            "answers": [*["net"] * 9, "netting"],
            "answer_type": "other",
            "question_type": "what is this",
        }
    ]
    assert read_questions(str(answered)).rows["question"].to_pylist() == [None]


def test_questions_without_annotation_and_annotations_without_question_are_told(tmp_path: Path) -> None:
    asked = write_json(tmp_path / "q.json", QUESTIONS)
    annotations = [_annotation(458752001, "no"), _annotation(5, "yes")]
    answered = write_json(tmp_path / "a.json", {"annotations": annotations})
    read = read_questions(str(answered), str(asked))
    assert (read.rows["question_id"].to_pylist(), read.bare, read.stray) == (["458752001"], 1, ("5",))


@pytest.mark.parametrize(
    ("value", "form", "question_id", "key"),
    [
        (
            {
                "dataset_type": "val",
                "data": [
                    {
                        "question": "what is the brand?",
                        "image_id": "003a8ae2ef43b901",
                        "question_id": 34602,
                        "answers": ["nous les gosses", "dakota"],
                    }
                ],
            },
            "TextVQA",
            "34602",
            "003a8ae2ef43b901",
        ),
        (
            {
                "data": [
                    {"questionId": 7, "question": "when?", "image": "documents/x.png", "answers": ["1998"]}
                ]
            },
            "DocVQA",
            "7",
            "documents/x.png",
        ),
        (
            [
                {
                    "image": "VizWiz_val_00000000.jpg",
                    "question": "Ok. There is another picture.",
                    "answers": [{"answer_confidence": "yes", "answer": "soda"}],
                    "answerable": 1,
                }
            ],
            "rows",
            "VizWiz_val_00000000.jpg",
            "VizWiz_val_00000000.jpg",
        ),
    ],
    ids=["TextVQA", "DocVQA", "VizWiz"],
)
def test_questions_of_other_data_sets_are_read(
    value: Any, form: str, question_id: str, key: str, tmp_path: Path
) -> None:
    read = read_questions(str(write_json(tmp_path / "a.json", value)))
    (row,) = read.rows.to_pylist()
    assert (read.form, row["question_id"], row["key"]) == (form, question_id, key)
    assert all(isinstance(text, str) and text for text in row["answers"])


def test_annotations_without_answers_are_refused(tmp_path: Path) -> None:
    file = write_json(
        tmp_path / "test.json", {"data": [{"question_id": 1, "image_id": "x", "question": "?"}]}
    )
    with pytest.raises(EvaluationError, match="an object with data; annotations must be"):
        read_questions(str(file))
    twice = write_json(tmp_path / "a.json", {"annotations": [_annotation(5, "a"), _annotation(5, "a")]})
    with pytest.raises(EvaluationError, match="two annotations with question_id 5"):
        read_questions(str(twice))
