"""`darkroom evaluate task=vqa` from end to end, over pictures whose truth is known."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipelines import cli
from tests.pipelines.evaluation.drawn import Drawn, draw, write_json

COUNT = 12


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    return draw(tmp_path_factory.mktemp("photos"), COUNT, seed=11)


@pytest.fixture
def files(drawn: Drawn, tmp_path: Path) -> tuple[str, str]:
    questions, annotations = drawn.vqa()
    return (
        f"questions={write_json(tmp_path / 'questions.json', questions)}",
        f"annotations={write_json(tmp_path / 'annotations.json', annotations)}",
    )


def _evaluate(*words: object) -> int:
    return cli.main(("evaluate", "task=vqa", "tracking=off", *map(str, words)))


def _run(place: Path) -> Path:
    return sorted(file.parent for file in (place / "runs").glob("*/scores.json"))[-1]


def _scores(place: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((_run(place) / "scores.json").read_text())
    return found


def _results(drawn: Drawn) -> list[dict[str, Any]]:
    _, annotations = drawn.vqa()
    return [
        {"question_id": one["question_id"], "answer": one["answers"][0]["answer"]}
        for one in annotations["annotations"]
    ]


def test_evaluate_answers_asks_each_picture_its_own_questions(
    drawn: Drawn, files: tuple[str, str], tmp_path: Path
) -> None:
    corpus = tmp_path / "corpus"
    words = (*files, f"corpus={corpus}", "cluster=local", f"source.path={drawn.folder}")
    assert _evaluate(*words, "captioner=pocket", "answers=vqa") == 0
    found = _scores(corpus)
    assert (found["scored"], found["references"]) == (3 * COUNT, 3 * COUNT)
    assert found["settings"] == {"metric": "accuracy", "normalisation": "official"}
    table = pq.read_table(_run(corpus) / "per_item.parquet").to_pylist()
    asked = {str(one["question_id"]): one["question"] for one in drawn.vqa()[0]["questions"]}
    assert {row["key"]: row["question"] for row in table} == asked
    right = [row["prediction"] == row["references"][0] for row in table]
    assert np.mean(right) > 0.8
    (score,) = found["scores"]
    assert score["value"] == pytest.approx(np.mean(right), abs=0.05)
    types = found["breakdowns"]
    assert types["answer type"].keys() == {"number", "other"}
    assert sum(one["n"] for one in types["question type"].values()) == 3 * COUNT
    page = (_run(corpus) / "report.html").read_text()
    assert "By answer type" in page
    assert "data:image/jpeg;base64," in page
    assert _evaluate(*files, f"corpus={corpus}", "answers=vqa") == 0
    assert _scores(corpus)["scores"] == found["scores"]


def test_evaluate_answers_to_questions_asked_by_text_of_all_pictures(
    drawn: Drawn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    question, corpus = "what kind of picture is this?", tmp_path / "corpus"
    words = (f"source.path={drawn.folder}", f"corpus={corpus}", f"questions=[{question}]", "encoder=none")
    assert cli.main(("nightly", *words, "index=none", "cluster=local", "tracking=off")) == 0
    told = [
        {
            "question_id": one["question_id"],
            "image": one["image_id"],
            "question": one["question"],
            "answers": ["x"],
        }
        for one in drawn.vqa()[0]["questions"]
    ]
    same = [one for one in told if one["question"] == question]
    assert len(same) == COUNT
    annotations = write_json(tmp_path / "all.json", same)
    assert _evaluate(f"annotations={annotations}", f"corpus={corpus}", "answers=pocket") == 0
    assert _scores(corpus)["scored"] == COUNT
    annotations = write_json(tmp_path / "more.json", told)
    assert _evaluate(f"annotations={annotations}", f"corpus={corpus}", "answers=pocket") == 1
    assert f"{2 * COUNT} references without a prediction" in capsys.readouterr().err


def test_evaluate_results_of_vqa_need_no_corpus(drawn: Drawn, files: tuple[str, str], tmp_path: Path) -> None:
    predictions, out = write_json(tmp_path / "results.json", _results(drawn)), tmp_path / "out"
    assert _evaluate(*files, f"predictions={predictions}", f"out={out}") == 0
    (score,) = _scores(out)["scores"]
    assert (score["value"], score["low"], score["n"]) == (1, 1, 3 * COUNT)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda rows: rows[0].update(question_id=1), "1 predictions without a reference (1)"),
        (lambda rows: rows.pop(), "1 references without a prediction"),
        (lambda rows: rows.append({**rows[0], "answer": "other"}), "more than once, and differ"),
        (lambda rows: rows[0].update(answer=""), "1 empty predictions"),
    ],
    ids=["extra", "missing", "contradicted", "empty"],
)
def test_evaluate_with_wrong_answers_names_them(
    change: Any,
    told: str,
    drawn: Drawn,
    files: tuple[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows, out = _results(drawn), tmp_path / "out"
    change(rows)
    words = (*files, f"predictions={write_json(tmp_path / 'results.json', rows)}", f"out={out}")
    assert _evaluate(*words) == 1
    assert told in capsys.readouterr().err
    assert _evaluate(*words, "strict=false") == 0
    found = _scores(out)
    assert (found["scored"], found["references"]) == (3 * COUNT - 1, 3 * COUNT)


def test_evaluate_under_another_normalisation_is_no_run_to_compare_with(
    drawn: Drawn, files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (
        *files,
        f"predictions={write_json(tmp_path / 'r.json', _results(drawn))}",
        f"out={tmp_path / 'out'}",
    )
    assert _evaluate(*words) == 0
    before = _run(tmp_path / "out").name
    assert _evaluate(*words, "normalisation=always", f"against={before}") == 1
    assert "normalisation official, and this run always" in capsys.readouterr().err


def test_evaluate_of_single_answers_is_an_exact_match_and_no_accuracy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"question_id": 1, "image_id": 5, "question": "what?", "answers": ["A dog"]},
        {"question_id": 2, "image_id": 5, "question": "how?", "answers": ["fast", "quickly"]},
        {"question_id": 3, "image_id": 6, "question": "where?", "answers": ["here"]},
    ]
    said = [(1, " a dog\n"), (2, "Quickly"), (3, "there")]
    predictions = write_json(
        tmp_path / "p.json", [{"question_id": one, "answer": text} for one, text in said]
    )
    words = (f"annotations={write_json(tmp_path / 'a.json', rows)}", f"predictions={predictions}")
    assert _evaluate(*words, f"out={tmp_path}") == 0
    (score,) = _scores(tmp_path)["scores"]
    assert (score["name"], score["value"]) == ("exact match", pytest.approx(2 / 3))
    assert _scores(tmp_path)["settings"] == {"metric": "exact"}
    assert _evaluate(*words, f"out={tmp_path}", "metric=accuracy") == 1
    assert "2 questions of" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("task=vqa", "corpus=c", "answers=a"), "annotations must be set"),
        (("task=captions", "corpus=c", "references=r"), "set captions=NAME or predictions=FILE"),
        (("task=captions", "corpus=c", "references=r", "captions=a", "predictions=p"), "set captions=NAME"),
        (("task=captions", "references=r", "predictions=p"), "set corpus=DIR, or out=DIR"),
        (("task=captions", "out=o", "references=r", "captions=a"), "corpus must be set"),
        (("task=captions", "out=o", "references=r", "annotations=a"), "annotations is not for task captions"),
        (("task=retrieval", "corpus=c", "references=r"), "set embeddings=NAME"),
        (("task=grading", "corpus=c"), "task must be one of captions, vqa, retrieval, classification"),
        (("corpus=c",), "task must be set"),
    ],
)
def test_evaluate_with_a_wrong_configuration_is_one_line(
    words: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(("evaluate", *words)) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
