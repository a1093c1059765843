"""`darkroom fuse` on the command line: a trained folder that a captioner loads, and errors of one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines.cli import main
from stages.generators.backends import generator_view
from stages.generators.config import Backend, GeneratorConfig
from stages.pocket.training.fusion import write_examples


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    write_examples(tmp_path / "data", 2, seed=1)
    return [
        "fuse",
        "vision=pocket:encoder",
        "llm=pocket:reasoner",
        f"data={tmp_path}/data/data.jsonl",
        f"images={tmp_path}/data",
        f"out={tmp_path}/out",
        "hidden=8",
        "steps=2",
        "batch=2",
        "how.threads=1",
    ]


def test_fuse_leaves_a_folder_that_a_captioner_reads(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "format=json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert done["steps"] == 2
    assert done["loss"] > 0
    assert generator_view(GeneratorConfig(done["folder"], backend=Backend.FEATURE_PREFIX)).height == 96


@pytest.mark.parametrize(
    ("change", "code", "named"),
    [
        ("rate=0", 2, "rate"),
        ("reads=words", 2, "patches"),
        ("out=", 2, "out"),
        ("data=/nowhere.jsonl", 1, "/nowhere.jsonl"),
        ("images=/nowhere", 1, "/nowhere"),
        ("llm=pocket:none", 1, "pocket:none"),
        ("llm=pocket:encoder", 1, "encoder"),
    ],
)
def test_fuse_wrong_input_is_named_in_one_line(
    words: list[str], change: str, code: int, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, change]) == code
    complaint = capsys.readouterr().err.strip()
    assert named in complaint
    assert "\n" not in complaint
