"""What a takedown leaves of evaluations."""

import json
from pathlib import Path

import pytest

from pipelines.corpus import Corpus
from pipelines.evaluation.taken_down import drop_items


@pytest.mark.parametrize("named", ["birds/a.jpg", "a.jpg", "7"])
def test_drop_items_leaves_no_name_of_an_image_among_ids_that_were_amiss(tmp_path: Path, named: str) -> None:
    run = tmp_path / "runs" / "20260101T000000000Z"
    run.mkdir(parents=True)
    troubles = [
        {"what": "without a prediction", "count": 3, "first": ["b.jpg", named]},
        {"what": "doubled", "count": 1, "first": ["c.jpg"]},
    ]
    (run / "scores.json").write_text(json.dumps({"task": "captions", "troubles": troubles}))
    drop_items(Corpus(str(tmp_path)), [7], ["birds/a.jpg", "a caption"])
    left = json.loads((run / "scores.json").read_text())
    assert left["task"] == "captions"
    assert left["troubles"] == [{**troubles[0], "first": ["b.jpg"]}, troubles[1]]
