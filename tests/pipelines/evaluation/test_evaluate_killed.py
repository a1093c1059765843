"""`darkroom evaluate` killed at any moment: the same command again scores what an undisturbed one scores."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.pipelines.evaluation.drawn import draw, write_json
from tests.pipelines.killing import ORPHANED_S, Kill, draw_kills, played, run, said
from tests.pipelines.processes import wait_until_gone
from tests.pipelines.zygote import Zygote

PICTURES, SEED = 8, 12


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    with Zygote() as process:
        yield process


def _runs(corpus: Path) -> list[Any]:
    """The scores of each complete run, all of whose files must be whole."""
    found = []
    for file in sorted((corpus / "runs").glob("*/scores.json")):
        scores = json.loads(file.read_text())
        assert len(pq.read_table(file.with_name("per_item.parquet"))) == PICTURES
        assert file.with_name("report.html").read_text().rstrip().endswith("</html>")
        found.append((scores["scored"], scores["scores"], scores["data"]))
    return found


@pytest.mark.slow
def test_evaluation_killed_at_any_moment_and_run_again_scores_the_same(
    zygote: Zygote, tmp_path: Path
) -> None:
    drawn = draw(tmp_path / "photos", PICTURES, SEED)
    references = write_json(tmp_path / "references.json", drawn.coco())
    words = ["evaluate", "task=captions", "captioner=pocket", "cluster=local", "tracking=off"]
    words += [f"source.path={drawn.folder}", f"references={references}"]
    scene = played(zygote, words, None, tmp_path / "undisturbed")
    (wanted,) = _runs(scene.after)
    for number, kill in enumerate(draw_kills(scene, 14, 4, 4, SEED)):
        corpus = tmp_path / f"killed-{number}"
        killed = run(zygote, words, corpus, kill)
        assert killed.code in (-signal.SIGKILL, -signal.SIGXFSZ, 0), said(corpus)
        wait_until_gone(killed.session, ORPHANED_S)
        assert _runs(corpus) in ([], [wanted])
        assert run(zygote, words, corpus, Kill()).code == 0, said(corpus)
        assert set(map(repr, _runs(corpus))) == {repr(wanted)}
