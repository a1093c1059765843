"""A source and a corpus in a bucket: the same commands, and what they leave is what they leave in folders."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pipelines import cli
from pipelines.changes import tombstones
from pipelines.corpus import Corpus
from pipelines.index.layout import LISTS, PARTS
from pipelines.index.opened import open_index
from stages.pocket.corpus import write_broken, write_pictures
from tests.pipelines.buckets import Bucket, new_bucket, server  # noqa: F401

PICTURES, BROKEN, SEED, SHARD_ROWS = 13, 2, 31, 5
NIGHT = ("cluster=local", "tracking=off", "index=exact", "report.searches=0", "max_reject_ratio=1")
DATASETS = ("items", "embeddings/pocket", "captions/pocket")


def darkroom(capsys: pytest.CaptureFixture[str] | None, pipeline: str, *words: str) -> str:
    code = cli.main([pipeline, *words])
    said = "" if capsys is None else capsys.readouterr()
    assert code == 0, said
    return said if isinstance(said, str) else said.out


def values(corpus: Corpus) -> dict[str, Any]:
    """By dataset the rows of what is not gone, without seconds; and the lists of the index."""
    gone = tombstones(corpus)
    found: dict[str, Any] = {}
    for dataset in DATASETS:
        rows = pa.concat_tables(table for _, table in corpus.scan(dataset))
        kept = rows.filter(pc.invert(pc.is_in(rows["image_id"], pa.array(gone))))
        found[dataset] = [{**row, "latency_s": None} for row in kept.to_pylist()]
    parts = open_index(corpus, "pocket").meta.parts
    return found | {"index": [corpus.read_bytes("index", "pocket", PARTS, part, LISTS) for part in parts]}


@dataclass(frozen=True)
class Places:
    """Photos and a corpus of them, in a bucket and, the same, in folders."""

    bucket: Bucket
    photos: Path
    folder: Corpus

    @property
    def corpus(self) -> Corpus:
        return Corpus(self.bucket.url("corpus"))

    def nights(self, *more: str) -> None:
        self.bucket.put(self.photos, "photos")
        darkroom(
            None, "nightly", *NIGHT, f"source.path={self.photos}", f"corpus={self.folder.location}", *more
        )
        self.night(*more)

    def night(self, *more: str) -> None:
        words = (f"source.path={self.bucket.url('photos')}", f"corpus={self.corpus.location}")
        darkroom(None, "nightly", *NIGHT, *words, *more)

    def corpus_files(self) -> dict[str, bytes]:
        return {name: data for name, data in self.bucket.files("corpus").items() if name != "LOCK"}


@pytest.fixture(scope="module")
def after_a_night(server: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:  # noqa: F811
    root = tmp_path_factory.mktemp("buckets")
    places = Places(new_bucket(server, "nights"), root / "photos", Corpus(str(root / "corpus")))
    write_pictures(places.photos, PICTURES, SEED)
    write_broken(places.photos, BROKEN, SEED)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipelines.plan.SHARD_ROWS", SHARD_ROWS)
        places.nights()
        yield places


# Each goes on from what those before it left.


def test_nightly_in_a_bucket_leaves_what_it_leaves_in_a_folder(after_a_night: Places) -> None:
    assert values(after_a_night.corpus) == values(after_a_night.folder)
    kinds = {name.partition("/")[0] for name in after_a_night.corpus_files()}
    assert kinds == {"source.json", "plan", "items", "embeddings", "captions", "index", "runs"}


@pytest.mark.ray
@pytest.mark.slow
def test_nightly_on_ray_in_a_bucket_leaves_what_it_leaves_without(
    after_a_night: Places, ray_cluster: None
) -> None:
    bucket = after_a_night.bucket
    places = (f"source.path={bucket.url('photos')}", f"corpus={bucket.url('on ray')}")
    darkroom(None, "nightly", "cluster=ray", "encoder.actors.count=1", *NIGHT[1:], *places)
    assert values(Corpus(bucket.url("on ray"))) == values(after_a_night.corpus)


def test_second_night_over_the_same_bucket_changes_nothing(after_a_night: Places) -> None:
    before = after_a_night.corpus_files()
    after_a_night.night()
    assert after_a_night.corpus_files() == before


def test_search_in_a_bucket_finds_by_text_by_picture_and_on_conditions(
    after_a_night: Places, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    picture = sorted(after_a_night.photos.glob("shapes/**/*.png"))[0]
    for asked in (f"image={picture}", "text=two red circles", "text=a circle", "where=width > 10"):
        words = [asked] if asked.startswith(("image", "text")) else [asked, "text=a circle"]
        here, there = (
            json.loads(darkroom(capsys, "search", f"corpus={one.location}", "format=json", "k=4", *words))
            for one in (after_a_night.corpus, after_a_night.folder)
        )
        assert here == there
        assert len(here) == 4


def test_batch_search_reads_queries_from_a_bucket_and_writes_hits_into_one(
    after_a_night: Places, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    bucket = after_a_night.bucket
    pq.write_table(pa.table({"text": ["a circle", "two red squares"]}), tmp_path / "queries.parquet")
    bucket.put(tmp_path, "asked")
    asked, out = bucket.url("asked/queries.parquet"), bucket.url("asked/hits of all.parquet")
    words = (f"corpus={after_a_night.corpus.location}", f"queries={asked}", f"out={out}", "k=3")
    darkroom(capsys, "search", *words)
    with pq.ParquetFile(pa.BufferReader(bucket.files("asked")["hits of all.parquet"])) as hits:
        assert hits.read()["rank"].to_pylist() == [1, 2, 3, 1, 2, 3]


def test_describe_verify_and_neighbours_read_a_bucket_as_they_read_a_folder(
    after_a_night: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    for pipeline in ("describe", "verify", "index_neighbours"):
        here, there = (
            json.loads(darkroom(capsys, *pipeline.split("_"), f"corpus={one.location}", "format=json"))
            for one in (after_a_night.corpus, after_a_night.folder)
        )
        match pipeline:
            case "describe":
                assert [one["name"] for one in here["datasets"]] == [one["name"] for one in there["datasets"]]
                assert here["indexes"][0]["vectors"] == there["indexes"][0]["vectors"]
            case "verify":
                assert here["damages"] == there["damages"] == []
                assert here["notes"] == there["notes"]
            case _:
                assert here["pairs"] == there["pairs"] > 0


def test_night_over_a_bucket_that_changed_follows_it(after_a_night: Places) -> None:
    changed, deleted, moved, *_ = sorted(after_a_night.photos.glob("shapes/**/*.*"))
    changed.write_bytes(changed.read_bytes() + b"\n")
    deleted.unlink()
    moved.rename(after_a_night.photos / f"moved{moved.suffix}")
    write_pictures(after_a_night.photos / "new", 2, SEED + 1)
    after_a_night.nights()
    uris = {row["uri"] for row in values(after_a_night.corpus)["items"]}
    assert uris == {row["uri"] for row in values(after_a_night.folder)["items"]}
    assert len(tombstones(after_a_night.corpus)) == len(tombstones(after_a_night.folder)) == 3


def test_forget_in_a_bucket_leaves_no_byte_of_it_after_compaction(
    after_a_night: Places, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forgotten = values(after_a_night.corpus)["items"][0]
    (tmp_path / "uris").write_text(forgotten["uri"])
    for one in (after_a_night.corpus, after_a_night.folder):
        darkroom(capsys, "forget", f"corpus={one.location}", f"uris={tmp_path / 'uris'}")
        darkroom(capsys, "compact", f"corpus={one.location}")
    here, there = values(after_a_night.corpus), values(after_a_night.folder)
    assert forgotten["uri"] not in {row["uri"] for row in here["items"]}
    assert {name: len(rows) for name, rows in here.items()} == {
        name: len(rows) for name, rows in there.items()
    }
    files = after_a_night.corpus_files()
    assert [name for name in files if name.startswith("items/shard-")] == []
    assert [name for name, data in files.items() if forgotten["uri"].encode() in data] == []


@pytest.mark.slow
def test_verify_repair_in_a_bucket_sets_damage_aside_and_the_next_night_makes_it_again(
    after_a_night: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    before, corpus = values(after_a_night.corpus), after_a_night.corpus
    part = corpus.listing("captions/pocket").visible[0].file
    corpus.write_bytes(corpus.read_bytes("captions/pocket", part)[:-100], "captions/pocket", part)
    template = corpus.entries("index", "pocket", "templates")[0].base_name
    corpus.write_bytes(b"torn", "index", "pocket", "templates", template, "template.faiss")
    assert cli.main(["verify", f"corpus={corpus.location}"]) == 1
    darkroom(capsys, "verify", f"corpus={corpus.location}", "repair=true")
    after_a_night.night()
    assert cli.main(["verify", f"corpus={corpus.location}"]) == 0
    assert {**values(corpus), "index": None} == {**before, "index": None}


@pytest.mark.slow
def test_nightly_that_overwrites_and_retries_in_a_bucket_keeps_all_else(after_a_night: Places) -> None:
    before = values(after_a_night.corpus)
    after_a_night.night("overwrite=[captions/pocket]", "retry=[truncated]", "max_reject_ratio=1")
    after = values(after_a_night.corpus)
    assert len(after["items"]) == len(before["items"])
    old = {row["image_id"]: row["caption"] for row in before["captions/pocket"]}
    new = {row["image_id"]: row["caption"] for row in after["captions/pocket"]}
    assert {item: new[item] for item in new.keys() & old.keys()} == {
        item: old[item] for item in new.keys() & old.keys()
    }


def test_run_in_a_bucket_leaves_its_record_there_without_a_word_of_credentials(after_a_night: Places) -> None:
    runs = after_a_night.bucket.files("corpus/runs")
    assert {name.rpartition("/")[2] for name in runs} == {"config.yaml", "metrics.json", "report.html"}
    assert [name for name, data in runs.items() if b"AWS_SECRET" in data] == []
