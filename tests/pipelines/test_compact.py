"""Compaction: few files for many, nothing lost whenever it dies, nothing left of what is gone."""

import json
import multiprocessing
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.changes import Change, gone, record, tombstones
from pipelines.cli import main
from pipelines.compact import compact
from pipelines.corpus import Corpus, CorpusError
from pipelines.describe import describe
from pipelines.facts import Compaction
from pipelines.index.described import indexes
from pipelines.index.layout import current_generation, generations
from pipelines.index.opened import open_index
from pipelines.jobs import CompactConfig
from pipelines.search import Searcher
from pipelines.shards import merged_file
from stages import schemas
from stages.schemas import image_id
from tests.pipelines.indexes import held_ids
from tests.pipelines.small_corpus import (
    DATASETS,
    QUESTIONS,
    ROWS,
    SHARDS,
    assert_same,
    contents,
    dataset,
    files_of,
    info_of,
    is_reject,
    make_corpus,
)

GONE = [image_id(0, 1), image_id(2, 4), *(image_id(3, row) for row in range(ROWS))]


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return make_corpus(tmp_path / "corpus")


def _compact(corpus: Corpus, **settings: object) -> Compaction:
    return compact(CompactConfig(corpus=corpus.location, **settings))  # type: ignore[arg-type]


def _names(corpus: Corpus, dataset: str) -> list[str]:
    return [info.base_name for info in corpus.entries(dataset) if info.extension == "parquet"]


def test_compact_merges_shards_and_keeps_every_value(corpus: Corpus) -> None:
    before = contents(corpus)
    done = _compact(corpus)
    assert_same(contents(corpus), before)
    for name in DATASETS:
        assert _names(corpus, name) == [merged_file(0, SHARDS - 1)]
        assert corpus.shards(name) == list(range(SHARDS))
    assert {one.name: (one.files_before, one.files_after) for one in done.datasets if one.name != "plan"} == {
        name: (SHARDS, 1) for name in DATASETS
    }
    assert done.indexes == ()


def test_compact_again_changes_no_file(corpus: Corpus) -> None:
    record(corpus, gone(GONE, Change.DELETED))
    _compact(corpus)
    before = files_of(Path(corpus.location))
    _compact(corpus)
    assert files_of(Path(corpus.location)) == before


def test_compact_leaves_out_what_is_gone_from_datasets_plan_and_index(corpus: Corpus) -> None:
    record(corpus, gone(GONE, Change.DELETED))
    wanted = contents(corpus)
    done = _compact(corpus)
    assert done.indexes == ("a",)
    assert_same(contents(corpus), wanted)
    for name in DATASETS:
        held = [
            item for _, table in corpus.scan(name, ["image_id"]) for item in table["image_id"].to_pylist()
        ]
        assert not set(held) & set(GONE)
        assert corpus.shards(name) == list(range(SHARDS))
    plan = corpus.read_parquet("plan", "plan-000001.parquet")
    assert len(plan) == SHARDS * ROWS - len(GONE)
    (generation,) = generations(corpus, "a")
    held = held_ids(corpus, "a")
    assert current_generation(corpus, "a") == generation
    assert not set(held) & set(GONE)
    assert open_index(corpus, "a").meta.vectors == len(held) > 0
    dropped = {one.name: one.rows_dropped for one in done.datasets}
    assert dropped == {**dict.fromkeys(DATASETS, len(GONE)), "answers/a": 2 * len(GONE), "plan": len(GONE)}


def test_compact_with_new_tombstones_rewrites_only_the_files_that_hold_them(corpus: Corpus) -> None:
    # Half a target each: files of this size are not joined with their neighbours.
    _compact(corpus)
    for name in DATASETS:
        for shard in (SHARDS + 1, SHARDS + 2):
            corpus.write_shard(name, shard, dataset(name, shard))
    _compact(corpus)
    before = files_of(Path(corpus.location))
    record(corpus, gone([image_id(1, 2)], Change.DELETED))
    wanted = contents(corpus)
    _compact(corpus)
    after = files_of(Path(corpus.location))
    assert_same(contents(corpus), wanted)
    changed = {name for name in before if after.get(name) != before[name] and not name.startswith("index/")}
    first = merged_file(0, SHARDS - 1)
    assert changed == {*(f"{name}/{first}" for name in DATASETS), "plan/plan-000001.parquet"}


def test_compact_joins_small_merged_files_with_new_neighbours_and_never_over_a_gap(corpus: Corpus) -> None:
    _compact(corpus)
    for name in DATASETS:
        for shard in (SHARDS, SHARDS + 2, SHARDS + 3):
            corpus.write_shard(name, shard, dataset(name, shard))
    before = contents(corpus)
    _compact(corpus)
    assert_same(contents(corpus), before)
    for name in DATASETS:
        assert _names(corpus, name) == [merged_file(0, SHARDS), merged_file(SHARDS + 2, SHARDS + 3)]


def test_compact_dry_run_writes_nothing_and_says_what_would_be_done(corpus: Corpus) -> None:
    record(corpus, gone(GONE, Change.DELETED))
    before = files_of(Path(corpus.location))
    preview = _compact(corpus, dry_run=True)
    assert files_of(Path(corpus.location)) == before
    done = _compact(corpus)
    assert preview.indexes == done.indexes
    planned = {one.name: (one.files_before, one.files_after, one.rows_dropped) for one in preview.datasets}
    made = {one.name: (one.files_before, one.files_after, one.rows_dropped) for one in done.datasets}
    assert planned == {name: made[name] for name in planned}


@pytest.mark.parametrize(
    ("change", "left"), [(Change.FORGOTTEN, [ROWS * len(QUESTIONS) - 1] * 2), (Change.DELETED, None)]
)
def test_compact_drops_answers_that_tell_of_others_what_was_taken_down(
    corpus: Corpus, change: Change, left: list[int] | None
) -> None:
    """The first answer of two shards is about a group that an image of another shard is in."""
    victim, whole = image_id(3, 2), [ROWS * len(QUESTIONS)] * 2
    corpus.drop("answers/a")
    corpus.claim(info_of("answers/a", schemas.ANSWERS))
    for shard in range(SHARDS):
        rows = dataset("answers/a", shard).to_pylist()
        if shard < 2:
            rows[0]["images"] = [image_id(shard, 0), victim]
        corpus.write_shard("answers/a", shard, pa.Table.from_pylist(rows, schemas.ANSWERS))
    record(corpus, gone([victim], change))
    _compact(corpus)
    assert [len(corpus.read_shard("answers/a", shard)) for shard in range(2)] == (left or whole)
    assert len(corpus.read_shard("answers/a", 2)) == whole[0]
    assert len(corpus.read_shard("captions/a", 0)) == ROWS


def test_compact_after_forgetting_removes_the_quarantine_too(corpus: Corpus) -> None:
    corpus.write_bytes(b"rotten", "quarantine", "items", "shard-0000000000.parquet")
    record(corpus, gone([GONE[0]], Change.DELETED))
    _compact(corpus)
    assert corpus.exists("quarantine")
    record(corpus, gone([GONE[1]], Change.FORGOTTEN))
    _compact(corpus)
    assert not corpus.exists("quarantine")


def test_compact_with_every_item_gone_leaves_no_row_and_no_vector(corpus: Corpus) -> None:
    everything = [image_id(shard, row) for shard in range(SHARDS) for row in range(ROWS)]
    record(corpus, gone(everything, Change.FORGOTTEN))
    _compact(corpus)
    assert generations(corpus, "a") == []
    assert indexes(corpus) == []
    assert _names(corpus, "plan") == []
    assert sum(one.rows for one in describe(corpus)) == 0
    before = files_of(Path(corpus.location))
    _compact(corpus)
    assert files_of(Path(corpus.location)) == before


@pytest.mark.parametrize("damage", ["flipped", "foreign"])
def test_compact_with_a_bad_shard_names_it_and_removes_nothing(corpus: Corpus, damage: str) -> None:
    file = Path(corpus.path("captions/a", "shard-0000000002.parquet"))
    if damage == "flipped":
        data = bytearray(file.read_bytes())
        data[len(data) // 4] ^= 0x10
        file.write_bytes(data)
    else:
        shutil.copy(corpus.path("items", "shard-0000000002.parquet"), file)
    before = set(files_of(Path(corpus.location)))
    with pytest.raises(CorpusError, match=r"captions/a/shard-0000000002\.parquet"):
        _compact(corpus)
    assert {name for name in before if name.startswith("captions/")} <= set(files_of(Path(corpus.location)))


def test_compact_on_the_command_line_prints_a_table_or_json(
    corpus: Corpus, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compact", f"corpus={corpus.location}", "dry_run=true"]) == 0
    assert "captions/a" in capsys.readouterr().out
    assert main(["compact", f"corpus={corpus.location}", "format=json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in done["datasets"]] == [*DATASETS, "plan"]
    assert main(["compact", f"corpus={corpus.location}", "target_mb=0"]) == 2


# Killed, and watched


def _children() -> multiprocessing.context.ForkServerContext:
    """Processes that start in milliseconds: torch and faiss are loaded once, in their common parent."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "faiss", "pipelines.search", __name__])
    return context


def _compact_until(folder: Path, step: int) -> None:
    """Dies by SIGKILL right before its `step`-th change of the file system; ends where it has fewer."""
    left = step

    def count(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal left
        if event == "open":
            changes = isinstance(arguments[2], int) and bool(arguments[2] & (os.O_CREAT | os.O_WRONLY))
        else:
            changes = event in ("os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir")
        if changes and str(arguments[0]).startswith(str(folder)):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    compact(CompactConfig(corpus=str(folder)))


def _killed_corpora(template: Path, folder: Path, every: int) -> Iterator[Path]:
    context, step = _children(), 1
    while True:
        copy = folder / f"killed-{step}"
        shutil.copytree(template, copy)
        child = context.Process(target=_compact_until, args=(copy, step))
        child.start()
        child.join()
        yield copy
        shutil.rmtree(copy)
        if child.exitcode == 0:
            return
        assert child.exitcode == -signal.SIGKILL
        step += every


@pytest.mark.parametrize("every", [26, pytest.param(1, marks=pytest.mark.slow)])
def test_compact_killed_at_any_step_loses_nothing_and_is_finished_by_the_next(
    tmp_path: Path, every: int
) -> None:
    corpus = make_corpus(tmp_path / "corpus")
    record(corpus, gone(GONE, Change.FORGOTTEN))
    wanted = contents(corpus)
    template = tmp_path / "template"
    shutil.copytree(corpus.location, template)
    _compact(corpus)
    names = files_of(Path(corpus.location)).keys()
    deaths = 0
    for killed in _killed_corpora(template, tmp_path, every):
        deaths += 1
        half = Corpus(str(killed))
        assert_same(contents(half), wanted)
        open_index(half, "a")
        _compact(half)
        assert_same(contents(half), wanted)
        # A generation that died unfinished leaves a number unused.
        assert {_without_number(name) for name in files_of(killed)} == {
            _without_number(name) for name in names
        }
    assert deaths * every > 30


def _without_number(name: str) -> str:
    return name if not name.startswith("index/") else name.split("/")[-1]


def _shrink_and_compact(location: str) -> None:
    """Items go and are compacted away, one after the other; two shards come between."""
    corpus = Corpus(location)
    for shard in range(SHARDS):
        record(corpus, gone([image_id(shard, row) for row in (0, 1)], Change.DELETED))
        compact(CompactConfig(corpus=location))
        for name in DATASETS:
            corpus.write_shard(name, SHARDS + shard, dataset(name, SHARDS + shard))


def test_reader_beside_compaction_never_fails_and_never_sees_half_of_it(corpus: Corpus) -> None:
    child = _children().Process(target=_shrink_and_compact, args=(corpus.location,))
    kept = [image_id(shard, row) for shard in range(SHARDS) for row in range(2, ROWS)]
    opened, searcher = Corpus(corpus.location), Searcher(Corpus(corpus.location), "a")
    query = next(item for item in kept if not is_reject(item))
    child.start()
    looks = 0
    while child.is_alive() or not looks:
        rows = {one.name: one.rows for one in describe(opened)}
        # Two items of each old shard go, and up to as many shards come.
        assert len(kept) <= rows["items"] <= 2 * SHARDS * ROWS
        assert opened.read_rows("captions/a", kept, ["caption"])["caption"].to_pylist() == [
            f"caption {item}" for item in kept
        ]
        assert opened.shards("answers/a")[:SHARDS] == list(range(SHARDS))
        assert len(indexes(opened)) == 1
        for search in (searcher, Searcher(opened, "a")):
            before = set(tombstones(opened).tolist())
            hits = search.item(query, 5)
            assert len(hits) == 5
            assert not before.intersection(hit.image_id for hit in hits)
        looks += 1
    child.join()
    assert child.exitcode == 0
    assert looks > 5
