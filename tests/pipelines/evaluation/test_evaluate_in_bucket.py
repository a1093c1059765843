"""Evaluations whose runs lie in a bucket."""

import json
from pathlib import Path

from pipelines import cli
from tests.pipelines.buckets import new_bucket, server  # noqa: F401
from tests.pipelines.evaluation.drawn import write_json

REFERENCES = {str(number): [f"a red circle and {number} squares", "a picture"] for number in range(12)}


def test_evaluate_into_a_bucket_is_found_there_to_compare_with(server: int, tmp_path: Path) -> None:  # noqa: F811
    bucket = new_bucket(server, "evaluations")
    references = write_json(tmp_path / "references.json", REFERENCES)
    words = ("task=captions", f"out={bucket.url('mine')}", f"references={references}", "tracking=off")

    def evaluate(text: str, *more: str) -> int:
        said = write_json(tmp_path / "results.json", dict.fromkeys(REFERENCES, text))
        return cli.main(("evaluate", *words, f"predictions={said}", *more))

    assert evaluate("a blue square") == 0
    (first,) = {name.split("/")[1] for name in bucket.files("mine")}
    assert evaluate("a red circle and 3 squares", f"against={first}") == 0
    runs = sorted({name.split("/")[1] for name in bucket.files("mine")})
    files = bucket.files(f"mine/runs/{runs[-1]}")
    assert files.keys() == {"config.yaml", "per_item.parquet", "report.html", "scores.json"}
    assert json.loads(files["scores.json"])["against"]["run"] == first
    assert b"<polyline" in files["report.html"]
