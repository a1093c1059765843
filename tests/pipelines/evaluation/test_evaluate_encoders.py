"""`darkroom evaluate` of an encoder, over drawn pictures: retrieval and classification from end to end."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipelines import cli
from pipelines.corpus import Corpus
from pipelines.search import Searcher
from stages.pocket import language
from stages.pocket.scenes import Chart, Sign
from tests.pipelines.evaluation.drawn import Drawn, draw, write_json, write_lines

COUNT = 40


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    return draw(tmp_path_factory.mktemp("photos"), COUNT, seed=8)


@pytest.fixture(scope="module")
def corpus(drawn: Drawn, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished night, with an index."""
    folder = tmp_path_factory.mktemp("night") / "corpus"
    words = (f"source.path={drawn.folder}", f"corpus={folder}", "captioner=none")
    assert cli.main(("nightly", *words, "cluster=local", "tracking=off")) == 0
    return folder


@pytest.fixture(scope="module")
def references(drawn: Drawn, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of all pictures but the last four."""
    return write_json(tmp_path_factory.mktemp("files") / "references.json", _two_texts(drawn)[:-4])


def _two_texts(drawn: Drawn) -> list[dict[str, Any]]:
    return [
        {
            "image_id": number,
            "file_name": drawn.files[number],
            "captions": [language.detail(scene), *language.captions(scene)[:1]],
        }
        for number, scene in drawn.scenes.items()
    ]


def _evaluate(*words: object) -> int:
    return cli.main(("evaluate", "tracking=off", *map(str, words)))


def _last(place: Path) -> Path:
    return sorted(file.parent for file in (place / "runs").glob("*/scores.json"))[-1]


def _values(place: Path) -> dict[str, Any]:
    found = json.loads((_last(place) / "scores.json").read_text())
    return {one["name"]: one["value"] for one in found["scores"]}


def test_evaluate_retrieval_gives_the_recall_of_searches(
    drawn: Drawn, corpus: Path, references: Path
) -> None:
    words = ("task=retrieval", f"corpus={corpus}", "embeddings=pocket", f"references={references}")
    assert _evaluate(*words) == 0
    values = _values(corpus)
    rows = pq.read_table(_last(corpus) / "per_item.parquet").to_pylist()
    texts = [row for row in rows if row["part"] == "texts"]
    images = [row for row in rows if row["part"] == "images"]
    assert (len(texts), len(images)) == (2 * (COUNT - 4), COUNT - 4)
    searcher = Searcher(Corpus(str(corpus)), "pocket")
    ranks = []
    for row in texts:
        hits = [hit.image_id for hit in searcher.text(row["question"], COUNT)]
        ranks.append(hits.index(row["image_id"]) + 1)
    for at in (1, 5, 10):
        assert values[f"text-to-image recall@{at}"] == pytest.approx(np.mean(np.array(ranks) <= at))
        assert values[f"text-to-image recall@{at} through the index"] == values[f"text-to-image recall@{at}"]
        assert values[f"lost by the index @{at}"] == 0
    assert values["text-to-image median rank"] == np.median(ranks)
    assert values["text-to-image mean reciprocal rank"] == pytest.approx(np.mean(1 / np.array(ranks)))
    assert values["image-to-text recall@5"] > 0.5
    found = json.loads((_last(corpus) / "scores.json").read_text())
    assert found["settings"]["gallery"] == f"{COUNT} images"
    page = (_last(corpus) / "report.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 24


@pytest.mark.slow
def test_evaluate_retrieval_tells_what_the_index_loses(tmp_path: Path) -> None:
    drawn, corpus = draw(tmp_path / "photos", 160, seed=9), tmp_path / "corpus"
    references = write_json(tmp_path / "references.json", _two_texts(drawn))
    # One list of four is looked at.
    lossy = ("factory=IVF4,Flat", "flat_below=0", "nprobe=1", "k_factor=1", "train_points_per_list=39")
    night = (f"source.path={drawn.folder}", f"corpus={corpus}", "captioner=none", "cluster=local")
    assert cli.main(("nightly", *night, "tracking=off", *(f"index.{one}" for one in lossy))) == 0
    assert (
        _evaluate("task=retrieval", f"corpus={corpus}", "embeddings=pocket", f"references={references}") == 0
    )
    values, searcher = _values(corpus), Searcher(Corpus(str(corpus)), "pocket")
    rows = pq.read_table(_last(corpus) / "per_item.parquet").to_pylist()
    hits = [
        (row["image_id"], [hit.image_id for hit in searcher.text(row["question"], 10)])
        for row in rows
        if row["part"] == "texts"
    ]
    for at in (1, 5, 10):
        found = np.mean([own in ids[:at] for own, ids in hits])
        assert values[f"text-to-image recall@{at} through the index"] == pytest.approx(found)
        lost = values[f"text-to-image recall@{at}"] - found
        assert values[f"lost by the index @{at}"] == pytest.approx(lost)
        assert lost > 0


def test_evaluate_retrieval_among_pictures_with_references_is_easier(corpus: Path, references: Path) -> None:
    words = ("task=retrieval", f"corpus={corpus}", "embeddings=pocket", f"references={references}")
    assert _evaluate(*words) == 0
    all_of_them, before = _values(corpus), _last(corpus).name
    assert _evaluate(*words, "gallery=references") == 0
    some = _values(corpus)
    assert "lost by the index @10" not in some
    assert some["text-to-image mean reciprocal rank"] >= all_of_them["text-to-image mean reciprocal rank"]
    assert _evaluate(*words, "gallery=references", f"against={before}") == 1


def test_evaluate_classification_of_kinds_of_pictures(drawn: Drawn, corpus: Path, tmp_path: Path) -> None:
    kinds = {
        number: "chart" if isinstance(scene, Chart) else "sign" if isinstance(scene, Sign) else "shape"
        for number, scene in drawn.scenes.items()
    }
    rows = [{"file_name": drawn.files[number], "label": kind} for number, kind in kinds.items()]
    (tmp_path / "templates.txt").write_text("a red {label}\na blue {label} on a white background\n")
    words = (
        "task=classification",
        f"corpus={corpus}",
        "embeddings=pocket",
        f"references={write_lines(tmp_path / 'labels.jsonl', rows)}",
        f"templates={tmp_path / 'templates.txt'}",
    )
    assert _evaluate(*words) == 0
    table = pq.read_table(_last(corpus) / "per_item.parquet").to_pylist()
    right = [row["prediction"] == row["references"][0] for row in table]
    assert _values(corpus)["top-1"] == pytest.approx(np.mean(right))
    assert {row["references"][0] for row in table} == {"chart", "sign", "shape"}
    found = json.loads((_last(corpus) / "scores.json").read_text())
    assert found["breakdowns"]["label"].keys() == {"chart", "sign", "shape"}
    numbers = [{**row, "label": ["sign", "chart", "shape"].index(row["label"])} for row in rows]
    (tmp_path / "names.txt").write_text("sign\nchart\nshape\n")
    by_number = write_lines(tmp_path / "numbers.jsonl", numbers)
    assert (
        _evaluate(*words[:3], f"references={by_number}", *words[4:], f"labels={tmp_path / 'names.txt'}") == 0
    )
    assert _values(corpus)["top-1"] == pytest.approx(np.mean(right))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"labels": "sign\nchart\n"}, "label shape is none of the 2"),
        ({"templates": "a photo\n"}, "a template must hold {label}"),
        ({"labels": "sign\nsign\n"}, "has a line twice: sign"),
    ],
)
def test_evaluate_classification_with_wrong_files_is_one_line(
    change: dict[str, str],
    told: str,
    drawn: Drawn,
    corpus: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    kinds = ["shape", "sign"] * COUNT
    rows = [
        {"file_name": name, "label": kind} for name, kind in zip(drawn.files.values(), kinds, strict=False)
    ]
    words = ["task=classification", f"corpus={corpus}", "embeddings=pocket"]
    words.append(f"references={write_lines(tmp_path / 'rows.jsonl', rows)}")
    for key, text in change.items():
        (tmp_path / key).write_text(text)
        words.append(f"{key}={tmp_path / key}")
    assert _evaluate(*words) == 1
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
