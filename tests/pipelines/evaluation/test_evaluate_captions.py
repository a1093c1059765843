"""`darkroom evaluate task=captions` from end to end, over pictures whose truth is known."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipelines import cli
from stages.pocket import language
from tests.pipelines.evaluation.drawn import Drawn, draw, write_json

COUNT = 24


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    return draw(tmp_path_factory.mktemp("photos"), COUNT, seed=5)


@pytest.fixture(scope="module")
def corpus(drawn: Drawn, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished night."""
    folder = tmp_path_factory.mktemp("night") / "corpus"
    words = (f"source.path={drawn.folder}", f"corpus={folder}", "encoder=none", "index=none")
    assert cli.main(("nightly", *words, "cluster=local", "tracking=off")) == 0
    return folder


@pytest.fixture
def references(drawn: Drawn, tmp_path: Path) -> Path:
    return write_json(tmp_path / "captions_val2014.json", drawn.coco())


def _evaluate(*words: object) -> int:
    return cli.main(("evaluate", "tracking=off", *map(str, words)))


def _run(place: Path) -> Path:
    """The folder of the last evaluation."""
    return sorted(file.parent for file in (place / "runs").glob("*/scores.json"))[-1]


def _scores(place: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((_run(place) / "scores.json").read_text())
    return found


def _score(found: dict[str, Any], name: str) -> dict[str, Any]:
    (score,) = [one for one in found["scores"] if one["name"] == name]
    return dict(score)


def _predict(tmp_path: Path, drawn: Drawn, name: str = "results.json", **instead: str) -> Path:
    """True captions, but `instead` by image id: `i47="a wrong one"`."""
    rows = drawn.results()
    for row in rows:
        row["caption"] = instead.get(f"i{row['image_id']}", row["caption"])
    return write_json(tmp_path / name, rows)


def test_evaluate_captions_of_a_corpus_scores_each_picture(
    drawn: Drawn, corpus: Path, references: Path
) -> None:
    assert _evaluate("task=captions", f"corpus={corpus}", "captions=pocket", f"references={references}") == 0
    found = _scores(corpus)
    assert (found["scored"], found["references"], found["troubles"]) == (COUNT, COUNT, [])
    assert found["facts"]["matched by"] in ("file_name", "coco")
    assert {one["name"] for one in found["scores"]} >= {"BLEU-1", "BLEU-4", "ROUGE-L", "CIDEr"}
    bleu = _score(found, "BLEU-1")
    assert 0.8 < bleu["low"] <= bleu["value"] <= bleu["high"] <= 1
    items = pq.read_table(_run(corpus) / "per_item.parquet")
    assert set(items["key"].to_pylist()) == {str(number) for number in drawn.scenes}
    assert items["image_id"].null_count == 0
    for row in items.to_pylist():
        scene = drawn.scenes[int(row["key"])]
        assert row["references"] == language.captions(scene)
        if row["prediction"] == row["references"][0]:
            assert row["ROUGE-L"] == pytest.approx(1)
    page = (_run(corpus) / "report.html").read_text()
    assert page.count("data:image/jpeg;base64,") == COUNT


def test_evaluate_results_file_needs_no_corpus_and_no_model(
    drawn: Drawn, references: Path, tmp_path: Path
) -> None:
    out, predictions = tmp_path / "evaluations", _predict(tmp_path, drawn)
    words = ("task=captions", f"predictions={predictions}", f"references={references}", f"out={out}")
    assert _evaluate(*words) == 0
    found = _scores(out)
    assert (found["scored"], found["of"]) == (COUNT, str(predictions))
    assert _score(found, "BLEU-4")["value"] == pytest.approx(1)
    assert _score(found, "ROUGE-L")["low"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda rows: rows.append({"image_id": 999, "caption": "a dog"}),
            "1 predictions without a reference",
        ),
        (lambda rows: rows.pop(), "1 references without a prediction"),
        (lambda rows: rows.append(dict(rows[2])), "there more than once, and equal"),
        (lambda rows: rows.append({**rows[2], "caption": "x"}), "there more than once, and differ"),
        (lambda rows: rows[2].update(caption=" \n"), "1 empty predictions"),
    ],
    ids=["extra", "missing", "repeated", "contradicted", "empty"],
)
def test_evaluate_with_wrong_predictions_names_them_and_scores_nothing(
    change: Any, told: str, drawn: Drawn, references: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = drawn.results()
    change(rows)
    predictions, out = write_json(tmp_path / "results.json", rows), tmp_path / "out"
    words = ("task=captions", f"predictions={predictions}", f"references={references}", f"out={out}")
    assert _evaluate(*words) == 1
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    assert not (out / "runs").exists()
    assert _evaluate(*words, "strict=false") == 0
    found = _scores(out)
    (trouble,) = found["troubles"]
    assert trouble["count"] == 1
    assert found["references"] == COUNT
    left_out = 0 if "without a reference" in told or "equal" in told else 1
    assert found["scored"] == COUNT - left_out
    assert trouble["what"].capitalize() in (_run(out) / "report.html").read_text()


def test_evaluate_references_of_pictures_that_are_not_there_are_named(
    drawn: Drawn, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = drawn.coco()
    told["images"].append({"id": 9_999, "file_name": "COCO_val2014_000000009999.jpg"})
    told["annotations"].append({"image_id": 9_999, "id": 1, "caption": "a ghost"})
    references = write_json(tmp_path / "references.json", told)
    words = ("task=captions", f"corpus={corpus}", "captions=pocket", f"references={references}")
    assert _evaluate(*words) == 1
    assert "1 references without an image (9999)" in capsys.readouterr().err
    assert _evaluate(*words, "strict=false") == 0
    assert (_scores(corpus)["scored"], _scores(corpus)["references"]) == (COUNT, COUNT + 1)


def test_evaluate_against_another_run_tells_which_items_moved(
    drawn: Drawn, references: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ("task=captions", f"references={references}", f"out={out}")
    wrong = {f"i{number}": "a photo of a dog" for number in list(drawn.scenes)[: COUNT // 2]}
    assert _evaluate(*words, f"predictions={_predict(tmp_path, drawn, 'bad.json', **wrong)}") == 0
    before = _run(out).name
    capsys.readouterr()
    good = _predict(tmp_path, drawn)
    assert _evaluate(*words, f"predictions={good}", f"against={before}", "format=json") == 0
    told = json.loads(capsys.readouterr().out)
    changes = {one["name"]: one for one in told["against"]["changes"]}
    assert changes["ROUGE-L"]["verdict"] == "better"
    assert (changes["ROUGE-L"]["better"], changes["ROUGE-L"]["worse"]) == (COUNT // 2, 0)
    assert changes["ROUGE-L"]["low"] > 0
    page = (_run(out) / "report.html").read_text()
    assert f"Against {before}" in page
    assert "a photo of a dog" in page
    assert page.count("<polyline") == len(told["scores"])
    assert _evaluate(*words, f"predictions={good}", f"against={_run(out)}") == 0
    (verdict,) = {one["verdict"] for one in _scores(out)["against"]["changes"]}
    assert verdict == "within noise"


def test_evaluate_against_a_run_over_other_items_is_refused(
    drawn: Drawn, references: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, good = tmp_path / "out", _predict(tmp_path, drawn)
    assert _evaluate("task=captions", f"references={references}", f"out={out}", f"predictions={good}") == 0
    before = _run(out).name
    told = drawn.coco()
    told["annotations"][0]["caption"] = "somebody corrected this"
    other = write_json(tmp_path / "other.json", told)
    words = ("task=captions", f"references={other}", f"out={out}", f"predictions={good}")
    assert _evaluate(*words, f"against={before}") == 1
    error = capsys.readouterr().err
    assert "other items or references" in error
    assert error.count("\n") == 1
    assert _evaluate(*words, "against=nonsense") == 1
    assert f"the last are {before}" in capsys.readouterr().err
    assert len(list((out / "runs").iterdir())) == 1


def test_evaluate_makes_the_captions_that_the_corpus_lacks(
    drawn: Drawn, references: Path, tmp_path: Path
) -> None:
    corpus = tmp_path / "corpus"
    words = ("task=captions", f"corpus={corpus}", f"references={references}", "cluster=local")
    assert _evaluate(*words, f"source.path={drawn.folder}", "captioner=pocket", "captions=first") == 0
    found = _scores(corpus)
    assert (found["of"], found["scored"]) == ("captions/first", COUNT)
    assert _evaluate(*words, "captions=first") == 0
    again = _scores(corpus)
    assert again["run"] != found["run"]
    assert again["scores"] == found["scores"]


def test_evaluate_without_the_captions_says_what_there_is(
    corpus: Path, references: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _evaluate("task=captions", f"corpus={corpus}", "captions=other", f"references={references}") == 1
    assert "no captions/other, it has pocket" in capsys.readouterr().err


def test_forget_takes_what_evaluations_say_of_an_image(
    drawn: Drawn, references: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = tmp_path / "corpus"
    words = ("task=captions", f"corpus={corpus}", f"references={references}", "cluster=local")
    assert _evaluate(*words, f"source.path={drawn.folder}", "captioner=pocket") == 0
    items = pq.read_table(_run(corpus) / "per_item.parquet").to_pylist()
    gone, name = items[3], drawn.files[int(items[3]["key"])]
    (tmp_path / "takedown.txt").write_text(f"val2014/{name}\n")
    assert cli.main(("forget", f"corpus={corpus}", f"uris={tmp_path / 'takedown.txt'}")) == 0
    left = pq.read_table(_run(corpus) / "per_item.parquet").to_pylist()
    assert [row["key"] for row in left] == [
        row["key"] for row in items if row["prediction"] != gone["prediction"]
    ]
    assert gone["prediction"] not in (_run(corpus) / "report.html").read_text()
    assert _evaluate(*words, "captions=pocket", "strict=false", f"against={_run(corpus).name}") == 1
    assert "other items" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_evaluate_leaves_one_run_in_mlflow_with_scores_and_items(
    drawn: Drawn, references: Path, tmp_path: Path
) -> None:
    out, predictions = tmp_path / "out", _predict(tmp_path, drawn)
    words = ("task=captions", f"predictions={predictions}", f"references={references}", f"out={out}")
    assert cli.main(("evaluate", *words, "tracking.system_metrics=false")) == 0
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{out / 'mlflow' / 'mlflow.db'}")
    (run,) = client.search_runs([one.experiment_id for one in client.search_experiments()])
    assert run.info.run_name == _run(out).name
    scores = {one["name"]: one for one in _scores(out)["scores"]}
    assert run.data.metrics["CIDEr"] == pytest.approx(scores["CIDEr"]["value"])
    assert run.data.metrics["CIDEr/low"] == pytest.approx(scores["CIDEr"]["low"])
    artifacts = {one.path for one in client.list_artifacts(run.info.run_id)}
    assert artifacts >= {"per_item.parquet", "report.html", "scores.json"}
