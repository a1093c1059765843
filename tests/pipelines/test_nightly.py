"""The main job from end to end, with the models that ship: in this process and on Ray."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from pipelines import cli
from pipelines.corpus import LOCK, Corpus
from pipelines.index.layout import current_generation, read_generation
from pipelines.search import Searcher
from stages.pocket import language
from stages.pocket.corpus import Written, write_broken, write_pictures
from stages.schemas import row_of, shard_of
from tests.stages.unmeasured import unmeasured

PICTURES, BROKEN, SEED = 60, 4, 23
QUESTION = "how many objects are there?"
# 20 rows a shard, so that a few pictures make several shards.
SHARD_ROWS = 20
DATASETS = ["answers/pocket", "captions/pocket", "embeddings/pocket", "items"]


@dataclass(frozen=True)
class Photos:
    """A folder of pictures whose truth is known, by URI."""

    folder: Path
    truth: dict[str, Written]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Photos:
    folder = tmp_path_factory.mktemp("photos") / "my photos, ünïcode (1)"
    written = write_pictures(folder, PICTURES, SEED)
    write_broken(folder, BROKEN, SEED)
    first = written[0].path
    shutil.copy(first, folder / "no extension")
    (folder / "notes.txt").write_text("not an image")
    (folder / ".hidden.jpg").write_bytes(first.read_bytes())
    return Photos(folder, {one.path.relative_to(folder).as_posix(): one for one in written})


def _darkroom(*words: str) -> int:
    return cli.main(words)


def _nightly(photos: Path, corpus: Path, *more: str) -> int:
    source = f"source.path={photos}"
    return _darkroom("nightly", source, f"corpus={corpus}", f"questions=[{QUESTION}]", *more)


@pytest.fixture(scope="module")
def small_shards() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipelines.plan.SHARD_ROWS", SHARD_ROWS)
        yield patch


@pytest.fixture(scope="module")
def corpus(photos: Photos, small_shards: object, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """A finished night, in this process."""
    folder = tmp_path_factory.mktemp("night") / "corpus"
    assert _nightly(photos.folder, folder, "cluster=local") == 0
    return Corpus(str(folder))


def _read(corpus: Corpus, dataset: str) -> pa.Table:
    return pa.concat_tables(corpus.read_shard(dataset, shard) for shard in corpus.shards(dataset))


def _snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_mtime_ns, path.stat().st_size)
        for path in folder.rglob("*")
        if path.is_file() and path.name != LOCK
    }


def test_nightly_gives_every_file_one_row_in_every_dataset(photos: Photos, corpus: Corpus) -> None:
    assert corpus.datasets() == DATASETS
    items = _read(corpus, "items")
    assert set(items["uri"].to_pylist()) >= {*photos.truth, "no extension"}
    assert len(items) == PICTURES + BROKEN + 1
    for dataset in DATASETS:
        assert _read(corpus, dataset)["image_id"].equals(items["image_id"])
    ids = items["image_id"].to_pylist()
    computed = [divmod(number, SHARD_ROWS) for number in range(PICTURES + BROKEN)]
    assert [(shard_of(item), row_of(item)) for item in ids] == [*computed, (4, 0)]


def test_nightly_with_two_files_of_the_same_bytes_computes_one_and_copies_it(corpus: Corpus) -> None:
    items = _read(corpus, "items")
    (copy,) = items.filter(pc.is_valid(items["reused_from"])).to_pylist()
    (origin,) = items.filter(pc.equal(items["image_id"], copy["reused_from"])).to_pylist()
    assert (origin["sha256"], origin["height"]) == (copy["sha256"], copy["height"])
    for dataset in set(DATASETS) - {"items"}:
        rows = [
            _read(corpus, dataset).filter(pc.field("image_id") == one["image_id"]) for one in (origin, copy)
        ]
        first, second = (table.drop_columns(["image_id"]).to_pylist() for table in rows)
        assert first == second


def test_nightly_with_broken_files_keeps_them_as_rows_with_reasons(photos: Photos, corpus: Corpus) -> None:
    items = _read(corpus, "items")
    bad = items.filter(pc.not_equal(items["status"], "ok"))
    assert all(uri.startswith("broken/") for uri in bad["uri"].to_pylist())
    assert sorted(bad["status"].to_pylist()) == ["empty", "too_large", "truncated", "unsupported"]
    assert None not in bad["error"].to_pylist()
    captions = _read(corpus, "captions/pocket").filter(pc.not_equal(items["status"], "ok"))
    assert captions["caption"].null_count == len(captions) == BROKEN
    assert captions["status"].equals(bad["status"])


def test_nightly_captions_and_answers_are_true(photos: Photos, corpus: Corpus) -> None:
    uris = _read(corpus, "items")["uri"].to_pylist()
    captions = dict(zip(uris, _read(corpus, "captions/pocket")["caption"].to_pylist(), strict=True))
    right = [captions[uri] == language.captions(one.scene)[0] for uri, one in photos.truth.items()]
    assert np.mean(right) >= 0.75
    answers = dict(zip(uris, _read(corpus, "answers/pocket")["answer"].to_pylist(), strict=True))
    counts = {
        uri: question.answer
        for uri, one in photos.truth.items()
        for question in language.questions(one.scene, np.random.default_rng(SEED))
        if question.text == QUESTION
    }
    assert len(counts) >= 20
    assert np.mean([answers[uri] == count for uri, count in counts.items()]) >= 0.8


def test_nightly_embeddings_are_of_unit_length_and_absent_for_rejects(corpus: Corpus) -> None:
    ok = pc.equal(_read(corpus, "items")["status"], "ok").to_numpy()
    vectors = _read(corpus, "embeddings/pocket")["embedding"].to_pylist()
    lengths = np.array([np.linalg.norm(np.array(vector, dtype=np.float64)) for vector in vectors])
    np.testing.assert_allclose(lengths[ok], 1, atol=1e-3)
    assert np.isnan(lengths[~ok]).all()


def test_search_by_detailed_text_finds_the_picture(
    photos: Photos, corpus: Corpus, capsys: pytest.CaptureFixture[str]
) -> None:
    found = 0
    wanted = list(photos.truth.items())[:10]
    for uri, one in wanted:
        text = f"text={language.detail(one.scene)}"
        assert _darkroom("search", f"corpus={corpus.location}", text, "k=5", "format=json") == 0
        hits = json.loads(capsys.readouterr().out)
        assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)
        found += uri in [hit["uri"] for hit in hits]
    assert found >= 8


def test_search_by_image_file_finds_itself_and_its_copy_first(
    photos: Photos, corpus: Corpus, capsys: pytest.CaptureFixture[str]
) -> None:
    uri, one = next(iter(photos.truth.items()))
    words = ("search", f"corpus={corpus.location}", f"image={one.path}", "k=3", "format=json")
    assert _darkroom(*words) == 0
    hits = json.loads(capsys.readouterr().out)
    assert {hits[0]["uri"], hits[1]["uri"]} == {uri, "no extension"}
    assert hits[0]["score"] == pytest.approx(1, abs=2e-3)
    assert hits[0]["caption"] == hits[1]["caption"]


def test_describe_counts_what_is_there(corpus: Corpus, capsys: pytest.CaptureFixture[str]) -> None:
    assert _darkroom("describe", f"corpus={corpus.location}", "format=json") == 0
    described = json.loads(capsys.readouterr().out)
    datasets = {one["name"]: one for one in described["datasets"]}
    assert sorted(datasets) == DATASETS
    assert datasets["items"]["rows"] == PICTURES + BROKEN + 1
    assert datasets["items"]["shards"] == 5
    assert sum(datasets["items"]["rejects"].values()) == BROKEN
    info = corpus.info("captions/pocket")
    assert info is not None
    assert datasets["captions/pocket"]["fingerprint"] == info.fingerprint
    (index,) = described["indexes"]
    assert index["vectors"] == PICTURES + 1
    assert index["recall_at_10"] == 1.0


def test_nightly_leaves_a_record_with_config_metrics_and_report(photos: Photos, corpus: Corpus) -> None:
    (run,) = corpus.entries("runs")
    metrics = json.loads(corpus.read_bytes("runs", run.base_name, "metrics.json"))
    assert metrics["items/rows"] == PICTURES + BROKEN + 1
    assert metrics["items/rejects/truncated"] == 1
    assert metrics["index/pocket/recall_at_10"] == 1.0
    assert metrics["captions/pocket/items_per_s"] > 0
    page = corpus.read_bytes("runs", run.base_name, "report.html").decode()
    captions = set(_read(corpus, "captions/pocket")["caption"].drop_null().to_pylist())
    assert sum(caption in page for caption in captions) >= 10
    assert "broken/" in page
    assert str(photos.folder) in corpus.read_bytes("runs", run.base_name, "config.yaml").decode()


# MLflow's own models use a loader that SQLAlchemy deprecates; here they are loaded in this process.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")
def test_nightly_is_one_mlflow_run_with_metrics_and_report(corpus: Corpus) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{corpus.path('mlflow', 'mlflow.db')}")
    (experiment,) = [one for one in client.search_experiments() if one.name == "darkroom"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.metrics["index/pocket/recall_at_10"] == 1.0
    assert run.data.metrics["items/rows"] == PICTURES + BROKEN + 1
    assert {"report.html", "config.yaml"} <= {one.path for one in client.list_artifacts(run.info.run_id)}


def test_nightly_again_with_nothing_new_changes_no_file(photos: Photos, corpus: Corpus) -> None:
    folder = Path(corpus.location)
    before = _snapshot(folder)
    assert _nightly(photos.folder, folder, "cluster=local") == 0
    assert _snapshot(folder) == before


@pytest.fixture
def copied(corpus: Corpus, tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    shutil.copytree(corpus.location, folder)
    return folder


@pytest.fixture
def more_photos(photos: Photos, tmp_path: Path) -> Path:
    folder = tmp_path / "more"
    shutil.copytree(photos.folder, folder)
    write_pictures(folder / "new", 5, seed=99)
    return folder


def test_nightly_with_new_files_works_on_those_only(more_photos: Path, copied: Path) -> None:
    before = _snapshot(copied)
    assert _nightly(more_photos, copied, "cluster=local", "tracking=off") == 0
    after = _snapshot(copied)
    assert {name: after.get(name) for name in before if "shard-" in name} == {
        name: state for name, state in before.items() if "shard-" in name
    }
    new = Corpus(str(copied))
    assert {name: new.shards(name)[-1] for name in DATASETS} == dict.fromkeys(DATASETS, 5)
    uris = new.read_shard("items", 5)["uri"].to_pylist()
    assert len(uris) == 5
    assert all(uri.startswith("new/") for uri in uris)
    generation = current_generation(new, "pocket")
    assert generation == "gen-000002"
    assert read_generation(new, "pocket", generation).vectors == PICTURES + 1 + 5


def test_nightly_with_another_prompt_refuses_then_overwrites(photos: Photos, copied: Path) -> None:
    detailed = "captioner.what.prompt=describe the image in detail."
    before = _snapshot(copied)
    assert _nightly(photos.folder, copied, "cluster=local", "tracking=off", detailed) == 1
    assert _snapshot(copied) == before
    overwrite = "overwrite=[captions/pocket]"
    assert _nightly(photos.folder, copied, "cluster=local", "tracking=off", detailed, overwrite) == 0
    captions = _read(Corpus(str(copied)), "captions/pocket")["caption"].drop_null().to_pylist()
    details = {language.detail(one.scene) for one in photos.truth.values()}
    assert np.mean([caption in details for caption in captions]) >= 0.5
    after = _snapshot(copied)
    kept = [name for name in before if "shard-" in name and not name.startswith("captions/")]
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}


def test_nightly_with_another_captioner_adds_a_dataset_and_touches_no_other(
    photos: Photos, copied: Path
) -> None:
    before = _snapshot(copied)
    second = ("captioner.name=second", "captioner.what.prompt=return the image as json.", "questions=[]")
    assert _nightly(photos.folder, copied, "cluster=local", "tracking=off", *second) == 0
    captions = _read(Corpus(str(copied)), "captions/second")["caption"].drop_null().to_pylist()
    assert np.mean([caption.startswith("{") for caption in captions]) >= 0.9
    after = _snapshot(copied)
    kept = [name for name in before if not name.startswith("runs/")]
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}


@pytest.mark.ray
def test_nightly_on_ray_writes_the_same_shards(
    photos: Photos,
    corpus: Corpus,
    small_shards: object,
    ray_cluster: None,
    tmp_path: Path,
) -> None:
    assert _nightly(photos.folder, tmp_path / "ray", "cluster=ray", "tracking=off", "index=none") == 0
    other = Corpus(str(tmp_path / "ray"))
    assert other.datasets() == DATASETS
    for dataset in DATASETS:
        assert other.info(dataset) == corpus.info(dataset)
        assert other.shards(dataset) == corpus.shards(dataset)
        for shard in corpus.shards(dataset):
            if dataset.partition("/")[0] in ("captions", "answers"):
                found, expected = (one.read_shard(dataset, shard) for one in (other, corpus))
                assert found.schema == expected.schema
                assert unmeasured(found) == unmeasured(expected)
                continue
            name = f"shard-{shard:010d}.parquet"
            assert other.read_bytes(dataset, name) == corpus.read_bytes(dataset, name), (dataset, shard)


@pytest.mark.parametrize(
    "overrides",
    [
        ["source.path=/no/such/folder"],
        ["source.path={photos}/notes.txt"],
        ["encoder.how.batch_size=0"],
        ["encoder.what.model=/no/such/model"],
        ["captioner.what.generator.model=pocket:none"],
        ["overwrite=[captions/other]"],
        ["index.factory=IVF1024,PQ7"],
        ["index.factory=IVF1024,Flat"],
    ],
)
def test_nightly_with_what_cannot_work_writes_nothing(
    photos: Photos, tmp_path: Path, capsys: pytest.CaptureFixture[str], overrides: list[str]
) -> None:
    corpus = tmp_path / "corpus"
    words = [word.format(photos=photos.folder) for word in overrides]
    assert _nightly(photos.folder, corpus, "cluster=local", *words) == 2
    assert not corpus.exists()
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("darkroom: ")


@pytest.mark.parametrize("words", [["describe"], ["search", "text=a"]])
def test_reading_a_folder_that_is_no_corpus_fails_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert _darkroom(words[0], f"corpus={tmp_path}", *words[1:]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert str(tmp_path) in line


def test_nightly_over_broken_files_only_ends_well_without_an_index(photos: Photos, tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    words = ("cluster=local", "tracking=off", "max_reject_ratio=1")
    assert _nightly(photos.folder / "broken", folder, *words) == 0
    corpus = Corpus(str(folder))
    assert len(corpus.read_shard("items", 0)) == BROKEN
    assert current_generation(corpus, "pocket") is None
    assert len(corpus.entries("runs")) == 1
    before = _snapshot(folder)
    assert _nightly(photos.folder / "broken", folder, *words) == 0
    assert _snapshot(folder) == before


def test_nightly_with_too_many_rejects_is_done_and_ends_with_code_3(photos: Photos, tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    assert _nightly(photos.folder / "broken", folder, "cluster=local", "tracking=off") == 3
    assert len(Corpus(str(folder)).read_shard("captions/pocket", 0)) == BROKEN


def test_nightly_whose_captions_are_all_refusals_keeps_them_apart_and_ends_with_code_3(
    photos: Photos, small_shards: object, tmp_path: Path
) -> None:
    folder = tmp_path / "corpus"
    words = ("cluster=local", "tracking=off", "captioner.what.checks.refusal_patterns=[.+]")
    assert _nightly(photos.folder, folder, *words, "max_reject_ratio=0.9") == 3
    corpus = Corpus(str(folder))
    rows = [row for row in _read(corpus, "captions/pocket").to_pylist() if row["caption"]]
    assert {row["status"] for row in rows} == {"refused"}
    found = Searcher(corpus, "pocket").text("a picture", 4)
    assert found
    assert {hit.caption for hit in found} == {None}
    (page,) = folder.glob("runs/*/report.html")
    assert "refused" in page.read_text()
    assert "No caption" in page.read_text()


def test_nightly_over_an_empty_folder_says_so_and_makes_no_shards(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    assert _nightly(tmp_path / "photos", tmp_path / "corpus", "cluster=local") == 0
    assert Corpus(str(tmp_path / "corpus")).shards("items") == []
