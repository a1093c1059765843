"""`darkroom index` as a user types it."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from pipelines import cli
from pipelines.corpus import Corpus
from pipelines.index.layout import current_generation
from tests.pipelines.index.vector_corpus import DIM, NAME, add_shards, later, make_corpus
from tests.pipelines.small_corpus import files_of
from tests.stages.index.clusters import make_clusters

ROWS = 2_048
WORDS = ("cluster=local", "tracking=off", "index.recall_queries=40")


def _index(corpus: Corpus, *words: str) -> int:
    return cli.main(["index", f"corpus={corpus.location}", *WORDS, *words])


def _told(capsys: pytest.CaptureFixture[str]) -> str:
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return make_corpus(tmp_path / "corpus", ROWS)[0]


def test_index_builds_reports_and_then_finds_nothing_to_do(
    corpus: Corpus, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _index(corpus, "format=json") == 0
    done = json.loads(capsys.readouterr().out)
    assert done["facts"]["vectors"] == ROWS
    assert done["accepted"]
    page = Path(done["page"])
    assert "<svg" in page.read_text("utf-8")
    numbers = json.loads((page.parent / "metrics.json").read_text("utf-8"))
    assert numbers[f"index/{NAME}/recall_at_10"] == 1.0
    before = files_of(Path(corpus.location))
    assert _index(corpus, "format=json") == 0
    assert json.loads(capsys.readouterr().out)["page"] is None
    assert files_of(Path(corpus.location)) == before


def test_index_over_new_shards_grows_and_merge_folds(corpus: Corpus) -> None:
    assert _index(corpus) == 0
    add_shards(corpus, later(make_clusters(512, DIM, seed=5), ROWS // 512))
    assert _index(corpus) == 0
    assert current_generation(corpus, NAME) == "gen-000002"
    assert len(list(Path(corpus.location).glob("index/*/parts/*"))) == 2
    assert _index(corpus, "merge=true", "index.keep_generations=1") == 0
    assert len(list(Path(corpus.location).glob("index/*/parts/*"))) == 1
    before = files_of(Path(corpus.location))
    assert _index(corpus, "merge=true", "index.keep_generations=1") == 0
    assert files_of(Path(corpus.location)) == before


def test_index_under_min_recall_ends_with_3_and_is_not_searched(corpus: Corpus) -> None:
    words = ("index.factory=IVF16,SQ8", "index.nprobe=1", "index.k_factor=1")
    assert _index(corpus, *words, "index.min_recall=1") == 3
    assert current_generation(corpus, NAME) is None
    assert _index(corpus, *words, "index.min_recall=1") == 3
    assert _index(corpus, *words, "index.min_recall=0.1") == 0
    assert current_generation(corpus, NAME) is not None


def test_index_dry_run_says_what_is_due_and_writes_nothing(
    corpus: Corpus, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files_of(Path(corpus.location))
    assert _index(corpus, "dry_run=true", "format=json") == 0
    assert json.loads(capsys.readouterr().out)["rows"] == ROWS
    assert files_of(Path(corpus.location)) == before


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["index.factory=IVF256,PQ7"], ["32 dimensions", "7"]),
        (["index.factory=IVF1024,Flat"], ["IVF1024,Flat", "at least"]),
        (["index.factory=HNSW32"], ["index.factory", "IVF"]),
        (["index.bytes_per_vector=4"], ["index.bytes_per_vector"]),
        (["index.target_recall=2"], ["index.target_recall", "0 to 1"]),
        (["index.recall_texts=/no/such/file"], ["index.recall_texts", "/no/such/file"]),
        (["merge=perhaps"], ["merge"]),
        (["nmae=x"], ["nmae", "name"]),
    ],
)
def test_index_with_wrong_settings_is_one_line_and_changes_nothing(
    corpus: Corpus, capsys: pytest.CaptureFixture[str], words: Sequence[str], named: Sequence[str]
) -> None:
    before = files_of(Path(corpus.location))
    assert _index(corpus, *words) == 2
    line = _told(capsys)
    assert [one for one in named if one not in line] == []
    assert files_of(Path(corpus.location)) == before


def test_index_of_a_corpus_without_embeddings_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _index(Corpus(str(tmp_path / "nothing"))) == 1
    assert "darkroom nightly" in _told(capsys)
    assert not (tmp_path / "nothing").exists()


def test_index_command_that_there_is_none_of_names_those_that_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["index", "neighbors", "k=3"]) == 2
    line = _told(capsys)
    assert "index neighbors" in line
    assert "index neighbours" in line
