"""A night in this process whose encoder fails on one picture, and has memory for two at a time."""

import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from pipelines import cli
from pipelines.corpus import Corpus
from stages.pocket.corpus import write_broken, write_pictures
from tests.stages.poison import fault

PICTURES, BROKEN, SEED = 12, 2, 29


@dataclass(frozen=True)
class Done:
    corpus: Corpus
    white: Path
    output: str
    code: int


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    folder = tmp_path_factory.mktemp("night")
    write_pictures(folder / "photos", PICTURES, SEED)
    write_broken(folder / "photos", BROKEN, SEED)
    white = folder / "photos" / "white.png"
    cv2.imwrite(str(white), np.full((64, 64, 3), 255, np.uint8))
    words = [f"source.path={folder / 'photos'}", f"corpus={folder / 'corpus'}", "captioner=null"]
    with pytest.MonkeyPatch.context() as patch, (folder / "output").open("w") as output:
        patch.setattr("sys.stdout", output)
        with fault(torch.nn.Conv2d, raises=_fail):
            code = cli.main(["nightly", *words, "cluster=local", "encoder.how.batch_size=4"])
    return Done(Corpus(str(folder / "corpus")), white, (folder / "output").read_text("utf-8"), code)


def _fail(pixels: torch.Tensor) -> None:
    if len(pixels) > 2:
        raise torch.OutOfMemoryError("CUDA out of memory.")
    if (pixels.flatten(1).amin(dim=1) > 0.9).any():  # normalised, white is 1
        raise RuntimeError("a white picture")


def test_nightly_picture_that_the_encoder_raises_on_is_a_row_with_the_reason(done: Done) -> None:
    assert done.code == 0
    items = done.corpus.read_shard("items", 0)
    rows = done.corpus.read_shard("embeddings/pocket", 0).to_pylist()
    for uri, status, row in zip(items["uri"].to_pylist(), items["status"].to_pylist(), rows, strict=True):
        if uri == "white.png":
            assert (status, row["status"], row["error"]) == ("ok", "failed", "RuntimeError: a white picture")
        else:
            assert row["status"] == status
        assert (None in row["embedding"]) == (row["status"] != "ok")


def test_nightly_report_shows_each_reason_once_and_the_batch_size_that_is_used(done: Done) -> None:
    (run,) = done.corpus.entries("runs")
    page = done.corpus.read_bytes("runs", run.base_name, "report.html").decode()
    note = "embeddings/pocket: batch size 4 ran out of memory, 2 is used"
    assert note in page
    assert note in done.output
    assert "RuntimeError: a white picture" in page
    metrics = json.loads(done.corpus.read_bytes("runs", run.base_name, "metrics.json"))
    rejects = {name: count for name, count in metrics.items() if "/rejects/" in name}
    assert sum(count for name, count in rejects.items() if name.startswith("items/")) == BROKEN
    assert {name: count for name, count in rejects.items() if not name.startswith("items/")} == {
        "embeddings/pocket/rejects/failed": 1
    }


def test_search_for_a_picture_that_the_encoder_raises_on_ends_in_one_line(
    done: Done, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"corpus={done.corpus.location}", f"image={done.white}", "k=20", "format=json"]
    assert cli.main(["search", *words]) == 0
    assert len(json.loads(capsys.readouterr().out)) == PICTURES
    with fault(torch.nn.Conv2d, raises=_fail):
        assert cli.main(["search", *words]) == 1
    error = capsys.readouterr().err
    assert "white.png" in error
    assert len(error.strip().splitlines()) == 1
