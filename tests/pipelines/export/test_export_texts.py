"""Captions results as COCO's evaluation reads them, and lines of JSON."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines import cli
from pipelines.corpus import Corpus, DatasetInfo
from stages import schemas
from stages.schemas import image_id
from tests.pipelines.export.exported_corpus import REJECT, UNCAPTIONED, Made


def _export(corpus: Corpus, to: Path, *more: str) -> int:
    return cli.main(["export", f"corpus={corpus.location}", f"to={to}", *more])


def _named(folder: Path, *uris: str) -> Corpus:
    """Items of these URIs, with an original caption each."""
    corpus = Corpus(str(folder))
    empty = dict.fromkeys(schemas.ITEMS.names)
    rows: list[dict[str, Any]] = [
        {**empty, "image_id": image_id(0, row), "uri": uri, "original_caption": f"of {uri}", "status": "ok"}
        | {"metadata": json.dumps({"coco": 900 + row, "split": "val"})}
        for row, uri in enumerate(uris)
    ]
    corpus.claim(DatasetInfo.of("items", schemas.ITEMS, {"made": "by hand"}))
    corpus.write_shard("items", 0, pa.Table.from_pylist(rows, schemas.ITEMS))
    return corpus


def _results(to: Path) -> dict[int, str]:
    said = json.loads((to / "captions.json").read_text())
    assert all(list(one) == ["image_id", "caption"] for one in said)
    return {one["image_id"]: one["caption"] for one in said}


def test_export_coco_numbers_images_as_their_files_are_named(tmp_path: Path) -> None:
    uris = ("val/COCO_val2014_000000391895.jpg", "val/000000000042.png")
    corpus = _named(tmp_path / "corpus", *uris)
    assert _export(corpus, tmp_path / "out", "format=coco", "captions=original") == 0
    assert _results(tmp_path / "out") == {391895: f"of {uris[0]}", 42: f"of {uris[1]}"}


@pytest.mark.parametrize(
    ("more", "numbers"), [((), (image_id(0, 0), image_id(0, 1))), (("image_id_key=coco",), (900, 901))]
)
def test_export_coco_of_other_names_numbers_them_by_a_key_or_by_its_own_ids(
    tmp_path: Path, more: tuple[str, ...], numbers: tuple[int, ...]
) -> None:
    corpus = _named(tmp_path / "corpus", "000000000042.png", "photo 43.png")
    assert _export(corpus, tmp_path / "out", "format=coco", "captions=original", *more) == 0
    assert tuple(_results(tmp_path / "out")) == numbers


@pytest.mark.parametrize(
    ("uris", "more", "told"),
    [(("a/42.png", "b/0042.jpg"), (), "42"), (("a.png", "b.png"), ("image_id_key=split",), "split")],
)
def test_export_coco_without_a_number_for_each_image_ends_in_one_line_and_writes_nothing(
    tmp_path: Path,
    uris: tuple[str, ...],
    more: tuple[str, ...],
    told: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    corpus = _named(tmp_path / "corpus", *uris)
    assert _export(corpus, tmp_path / "out", "format=coco", "captions=original", *more) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert told in error
    assert not list((tmp_path / "out").glob("captions.json"))


def test_export_coco_leaves_out_items_whose_caption_is_no_good(made: Made, tmp_path: Path) -> None:
    assert _export(made.corpus, tmp_path / "out", "format=coco") == 0
    wanted = {item: row["caption"] for item, row in made.good.items() if item != UNCAPTIONED}
    assert _results(tmp_path / "out") == wanted


@pytest.mark.parametrize("compress", [False, True])
def test_export_jsonl_has_a_line_of_all_that_is_known_for_each_item(
    made: Made, tmp_path: Path, compress: bool
) -> None:
    words = ("format=jsonl", "answers=a", f"compress={str(compress).lower()}")
    assert _export(made.corpus, tmp_path / "out", *words) == 0
    (file,) = (tmp_path / "out").iterdir()
    assert file.name == ("items.jsonl.gz" if compress else "items.jsonl")
    data = gzip.decompress(file.read_bytes()) if compress else file.read_bytes()
    lines = [json.loads(line) for line in data.splitlines()]
    assert [line["image_id"] for line in lines] == list(made.good)
    for line, wanted in zip(lines, made.good.values(), strict=True):
        shared = set(schemas.ITEMS.names) - {"metadata"}
        assert {key: line[key] for key in shared} == {key: wanted[key] for key in shared}
        assert line["metadata"] == json.loads(wanted["metadata"])
        assert line["caption"] == wanted["caption"]
        assert line["caption_status"] == ("repetitive" if line["image_id"] == UNCAPTIONED else "ok")
        assert [one["question"] for one in line["answers"]] == ["how many?", "what colour?"]


def test_export_jsonl_with_rejects_says_what_is_wrong_with_them(made: Made, tmp_path: Path) -> None:
    assert _export(made.corpus, tmp_path / "out", "format=jsonl", "rejects=true") == 0
    lines = [json.loads(line) for line in (tmp_path / "out" / "items.jsonl").read_bytes().splitlines()]
    assert [line["image_id"] for line in lines] == sorted([*made.good, REJECT])
    (bad,) = (line for line in lines if line["status"] != "ok")
    assert (bad["image_id"], bad["status"], bad["error"]) == (REJECT, "truncated", "it is no good")
