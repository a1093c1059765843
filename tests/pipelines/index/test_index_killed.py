"""`darkroom index` killed at any moment: the same command again leaves what an undisturbed one leaves."""

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.changes import Change, gone, record
from pipelines.corpus import Corpus
from pipelines.index.layout import LISTS, PARTS, TEMPLATES, TRUTH, current_generation
from pipelines.index.opened import open_index
from tests.pipelines.index.vector_corpus import DIM, NAME, add_shards, later, make_corpus
from tests.pipelines.killing import Kill, Scene, played, run, said
from tests.pipelines.zygote import Zygote
from tests.stages.index.clusters import make_clusters

ROWS = 12_288
WORDS = (
    "index",
    "cluster=local",
    "tracking=off",
    "index.factory=PCA24,IVF64,PQ8",
    "index.recall_queries=40",
    "index.unit_rows=4096",
)


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    with Zygote() as process:
        yield process


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("killed-index")


@pytest.fixture(scope="module")
def first(zygote: Zygote, folder: Path) -> Scene:
    make_corpus(folder / "vectors", ROWS)
    return played(zygote, WORDS, folder / "vectors", folder / "first")


@pytest.fixture(scope="module")
def growth(zygote: Zygote, folder: Path, first: Scene) -> Scene:
    shutil.copytree(first.after, folder / "more")
    corpus = Corpus(str(folder / "more"))
    add_shards(corpus, later(make_clusters(1_024, DIM, seed=3), ROWS // 512))
    record(corpus, gone(range(40), Change.DELETED))
    return played(zygote, WORDS, folder / "more", folder / "grown")


@pytest.fixture(scope="module")
def folding(zygote: Zygote, folder: Path, growth: Scene) -> Scene:
    return played(zygote, (*WORDS, "merge=true"), growth.after, folder / "folded")


def _contents(folder: Path) -> dict[str, bytes]:
    """What searches read, part by part, and nothing that its names or times of making could change."""
    corpus = Corpus(str(folder))
    opened = open_index(corpus, NAME)
    found = {part: corpus.read_bytes("index", NAME, PARTS, part, LISTS) for part in opened.meta.parts}
    truth = corpus.read_bytes("index", NAME, opened.generation, TRUTH)
    return {**found, "template": opened.meta.template.encode(), "truth": truth}


def _left_behind(folder: Path) -> list[str]:
    corpus = Corpus(str(folder))
    meta = open_index(corpus, NAME).meta
    names = [
        f"{kind}/{one.base_name}"
        for kind in (PARTS, TEMPLATES)
        for one in corpus.entries("index", NAME, kind)
    ]
    unfinished = [path.name for path in folder.rglob(".partial-*")]
    kept = {f"{PARTS}/{part}" for part in meta.parts} | {f"{TEMPLATES}/{meta.template}"}
    work = ["work"] if corpus.exists("index", NAME, "work") else []
    return [name for name in names if name not in kept and "merge" not in name] + unfinished + work


def _kill_everywhere(zygote: Zygote, scene: Scene, tmp_path: Path, kills: int) -> None:
    """At events spread evenly over the command, every third of them in the middle of writing a file."""
    assert scene.before is not None
    events = len(scene.events)
    for turn in range(kills):
        at = 1 + turn * events // kills
        kill = Kill(die_at=at, torn_at=100 if turn % 3 == 2 else None)
        corpus = tmp_path / f"corpus-{turn}"
        shutil.copytree(scene.before, corpus)
        before = current_generation(Corpus(str(corpus)), NAME)
        killed = run(zygote, scene.words, corpus, kill)
        assert killed.code in (-signal.SIGKILL, -signal.SIGXFSZ, 0), said(corpus)
        if before is not None:
            open_index(Corpus(str(corpus)), NAME)
        again = run(zygote, scene.words, corpus, Kill())
        assert again.code == 0, (kill, said(corpus))
        assert _contents(corpus) == _contents(scene.after), kill
        shutil.rmtree(corpus)


@pytest.mark.parametrize("kills", [4, pytest.param(24, marks=pytest.mark.slow)])
def test_first_build_killed_at_any_moment_and_run_again_is_as_undisturbed(
    zygote: Zygote, first: Scene, tmp_path: Path, kills: int
) -> None:
    _kill_everywhere(zygote, first, tmp_path, kills)


@pytest.mark.parametrize("kills", [3, pytest.param(16, marks=pytest.mark.slow)])
def test_growth_killed_at_any_moment_and_run_again_is_as_undisturbed(
    zygote: Zygote, growth: Scene, tmp_path: Path, kills: int
) -> None:
    _kill_everywhere(zygote, growth, tmp_path, kills)


@pytest.mark.parametrize("kills", [3, pytest.param(16, marks=pytest.mark.slow)])
def test_folding_killed_at_any_moment_and_run_again_is_as_undisturbed(
    zygote: Zygote, folding: Scene, tmp_path: Path, kills: int
) -> None:
    _kill_everywhere(zygote, folding, tmp_path, kills)


def test_undisturbed_commands_leave_nothing_behind(first: Scene, folding: Scene) -> None:
    assert _left_behind(first.after) == []
    assert not Corpus(str(folding.after)).exists("index", NAME, "work")


def test_second_build_goes_on_with_the_units_of_the_first(
    zygote: Zygote, first: Scene, tmp_path: Path
) -> None:
    corpus = tmp_path / "corpus"
    assert first.before is not None
    shutil.copytree(first.before, corpus)
    units = [number for number, event in enumerate(first.events, 1) if event.endswith("part.json")]
    assert run(zygote, first.words, corpus, Kill(die_at=units[1])).code == -signal.SIGKILL
    finished = {path: path.stat().st_mtime_ns for path in corpus.rglob("units/*/part.json")}
    assert finished
    made = [event for event in first.events if "units" in event and "lists.bin" in event]
    assert run(zygote, first.words, corpus, Kill()).code == 0
    again = [
        event
        for event in corpus.with_name("corpus.trace").read_text().splitlines()
        if "units" in event and "lists.bin" in event
    ]
    assert len(again) < len(made)
