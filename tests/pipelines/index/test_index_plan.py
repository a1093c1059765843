"""`darkroom index plan`: the factory of the automatic choice, a table or JSON, and errors of one line."""

import json
from pathlib import Path

import pytest

from pipelines.cli import main
from pipelines.index.plan import MEASURED, plan_index
from pipelines.index.rates import read_rates
from pipelines.index_jobs import IndexPlanJob

WORDS = ["index", "plan", "vectors=1e9", "dim=768", "bytes_per_vector=72", "cores=64", "memory_gb=16"]


def plan(*words: str, capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    assert main([*WORDS, "format=json", *words]) == 0
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


def test_plan_of_a_billion_uses_the_automatic_factory(capsys: pytest.CaptureFixture[str]) -> None:
    found = plan(capsys=capsys)

    assert found["factory"] == "OPQ64_256,IVF262144_HNSW32,PQ64"
    assert found["bytes_per_vector"] == 72


def test_plan_as_a_table_names_every_phase(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(WORDS) == 0

    output = capsys.readouterr().out
    for text in ("sample", "rotation", "centroids", "codebook", "add", "truth", "merge", "144.0 GB"):
        assert text in output


def test_plan_with_other_rates_is_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stored = json.loads(MEASURED.read_bytes()) | {"hardware": "a faster one"}
    stored["merge_bytes"] *= 10
    (tmp_path / "rates.json").write_text(json.dumps(stored))

    slow, fast = plan(capsys=capsys), plan(f"rates={tmp_path / 'rates.json'}", capsys=capsys)

    merges = [found["phases"][-1]["seconds"] for found in (slow, fast)]  # type: ignore[index]
    assert merges[0] == pytest.approx(10 * merges[1])
    assert "a faster one" in str(fast["notes"])


def test_plan_with_gpus_says_that_none_was_measured(capsys: pytest.CaptureFixture[str]) -> None:
    found = plan("gpus=8", "gpu_tflops=790", "gpu_share=0.25", capsys=capsys)

    assert "25% of 790 TFLOP/s" in str(found["notes"])
    assert "no GPU was measured" in str(found["notes"])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["vectors=0"], "vectors"),
        (["vectors=1.5"], "vectors"),
        (["vectors=many"], "vectors"),
        (["dim=0"], "dim"),
        (["cores=1", "machines=2"], "cores"),
        (["gpus=1"], "gpu_tflops"),
        (["gpu_share=1.5"], "gpu_share"),
        (["factory=OPQ64_256,IVF64,PQ64fs"], "factory"),
        (["bytes_per_vector=8"], "bytes_per_vector"),
    ],
)
def test_plan_that_is_wrong_ends_in_one_line(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    base = [] if words[0].startswith("factory") else ["bytes_per_vector=72"]

    assert main(["index", "plan", "vectors=1e9", "dim=768", "cores=64", *base, *words]) == 2

    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert told in error


def test_plan_with_a_broken_file_of_rates_ends_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rates.json").write_text("{}")

    assert main([*WORDS, f"rates={tmp_path / 'rates.json'}"]) == 2

    assert "rates.json lacks" in capsys.readouterr().err


def test_plan_of_the_builds_that_were_measured_states_its_errors() -> None:
    rates = read_rates(MEASURED.read_bytes(), str(MEASURED))

    notes = " ".join(plan_index(IndexPlanJob(vectors=1e9, dim=768, cores=64)).notes)

    assert rates.checks
    for check in rates.checks:
        assert f"{check.vectors:,}" in notes
        assert f"{check.phase} {check.error:+.0%}" in notes
