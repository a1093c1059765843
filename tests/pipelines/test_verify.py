"""Bit rot: whatever is not as it was written is found, set aside, and made again."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.changes import Change, gone, read_changes, record, tombstones, without
from pipelines.cli import main
from pipelines.compact import compact
from pipelines.corpus import FINGERPRINT, Corpus, write_row_groups
from pipelines.facts import Verification
from pipelines.forgotten import FORGOTTEN, remember
from pipelines.index.layout import current_generation, generations, read_generation
from pipelines.index.stock import take_stock
from pipelines.jobs import CompactConfig, VerifyConfig
from pipelines.journal import read_all
from pipelines.parquet import parquet_bytes
from pipelines.shards import merged_file, shard_file
from pipelines.verify import verify
from stages.index.config import IndexConfig
from stages.schemas import PLAN, image_id
from tests.pipelines.indexes import build, held_ids
from tests.pipelines.small_corpus import (
    DATASETS,
    ROWS,
    SHARDS,
    assert_same,
    contents,
    dataset,
    info_of,
    make_corpus,
)

GROWING = IndexConfig(merge_ratio=2)  # what is new stays a part of its own
MERGED = 3  # of the shards, the first three are in one file


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Merged and single shards, tombstones before and after compaction, two plan files, two generations."""
    folder = tmp_path_factory.mktemp("verify") / "corpus"
    corpus = make_corpus(folder, shards=MERGED)
    record(corpus, gone([image_id(0, 1), image_id(1, 3)], Change.DELETED))
    compact(CompactConfig(corpus=str(folder)))
    second = make_corpus(folder.parent / "more", shards=SHARDS)
    plan = second.read_parquet("plan", "plan-000001.parquet").slice(MERGED * ROWS)
    groups = [plan.slice(start, ROWS) for start in range(0, len(plan), ROWS)]
    write_row_groups(corpus, groups, "plan", "plan-000002.parquet")
    record(corpus, gone([image_id(1, 0), image_id(4, 2)], Change.FORGOTTEN))
    for name in DATASETS:
        for shard in range(MERGED, SHARDS):
            corpus.write_shard(name, shard, without(dataset(name, shard), tombstones(corpus)))
    remember(corpus, FORGOTTEN.empty_table().from_pylist([{"uri_sha256": "ab"}], schema=FORGOTTEN))
    build(corpus, "a", GROWING)
    return folder


@pytest.fixture
def corpus(made: Path, tmp_path: Path) -> Corpus:
    shutil.copytree(made, tmp_path / "corpus")
    return Corpus(str(tmp_path / "corpus"))


def _verify(corpus: Corpus, **settings: Any) -> Verification:
    return verify(VerifyConfig(corpus=corpus.location, **settings))


def _night(corpus: Corpus) -> None:
    """What a night does, with values instead of models: records and shards that are missing, the index."""
    for name in DATASETS:
        corpus.claim(info_of(name, dataset(name, 0).schema))
        for shard in set(range(SHARDS)) - set(corpus.shards(name)):
            corpus.write_shard(name, shard, dataset(name, shard))
    if take_stock(corpus, "a", GROWING).due:
        build(corpus, "a", GROWING)


def _values(corpus: Corpus) -> dict[str, Any]:
    """All that a reader of the corpus can learn, beside the rows."""
    metas = {name: read_generation(corpus, "a", name) for name in generations(corpus, "a")}
    records = {name: corpus.info(name) for name in DATASETS}
    journals = read_changes(corpus).to_pylist(), read_all(corpus, "forgotten", FORGOTTEN).to_pylist()
    return {**metas, **records, "journals": journals, "current": current_generation(corpus, "a")}


def _named(corpus: Corpus, path: str) -> str:
    """A path with the names that the current generation gives to its template, its base and its delta."""
    meta = read_generation(corpus, "a", str(current_generation(corpus, "a")))
    base, delta = meta.parts
    return path.format(template=meta.template, base=base, delta=delta)


def _found_ids(corpus: Corpus) -> list[int]:
    """The ids that a search can find: what is gone stays in a part until it is made again."""
    return sorted(set(held_ids(corpus, "a")) - set(tombstones(corpus).tolist()))


def _files(corpus: Corpus) -> list[Path]:
    return sorted(path for path in Path(corpus.location).rglob("*") if path.is_file() and path.name != "LOCK")


def test_verify_of_a_sound_corpus_finds_nothing(corpus: Corpus) -> None:
    found = _verify(corpus)
    assert (found.damages, found.unfinished, found.notes) == ((), {}, ())
    assert found.files == len(_files(corpus))
    assert found.size_bytes == sum(path.stat().st_size for path in _files(corpus))


@pytest.mark.parametrize("flips", [40, pytest.param(400, marks=pytest.mark.slow)])
def test_verify_finds_any_flipped_bit_that_changes_a_value(corpus: Corpus, flips: int) -> None:
    generator = np.random.default_rng(7)
    files, rows, values = _files(corpus), contents(corpus), _values(corpus)
    assert {path.suffix for path in files} == {".parquet", ".json", ".faiss", ".bin", ".npy", ".npz", ""}
    harmless = 0
    for number in range(flips):
        path = files[number % len(files)]
        good = path.read_bytes()
        position, bit = int(generator.integers(len(good))), int(generator.integers(8))
        path.write_bytes(good[:position] + bytes([good[position] ^ 1 << bit]) + good[position + 1 :])
        found = _verify(corpus)
        if found.damages:
            named = path.relative_to(corpus.location).as_posix()
            assert any(named.startswith(damage.path) for damage in found.damages), (named, found.damages)
        else:
            harmless += 1
            assert path.suffix != ".parquet", (path, position, bit)
            assert_same(contents(corpus), rows)
            assert _values(corpus) == values, (path, position, bit)
        path.write_bytes(good)
    assert harmless < flips / 4


@pytest.mark.parametrize("left", [0, 1, 0.5, -1])
def test_verify_finds_any_file_that_was_cut(corpus: Corpus, left: float) -> None:
    for path in _files(corpus):
        good = path.read_bytes()
        path.write_bytes(good[: int(left * len(good)) if 0 < left < 1 else int(left)])
        found = _verify(corpus)
        # The newline at the end of CURRENT is the only byte of a corpus that says nothing.
        assert found.damages or (path.name == "CURRENT" and left == -1), path
        path.write_bytes(good)


def test_verify_misses_any_file_that_is_gone(corpus: Corpus, tmp_path: Path) -> None:
    for path in _files(corpus):
        if path.name in ("changes-000002.parquet", "forgotten-000001.parquet"):
            continue  # the last of a journal: nothing else tells that it was there
        path.rename(tmp_path / "kept")
        found = _verify(corpus)
        assert found.damages or found.unfinished or found.notes, path
        (tmp_path / "kept").rename(path)


def _swap(corpus: Corpus, one: str, other: str) -> None:
    first, second = Path(corpus.path(one)), Path(corpus.path(other))
    first.rename(first.with_name("third"))
    second.rename(first)
    first.with_name("third").rename(second)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (f"captions/a/{shard_file(3)}", f"captions/a/{shard_file(4)}"),
        (f"items/{shard_file(3)}", f"captions/a/{shard_file(3)}"),
        ("items/_dataset.json", "captions/a/_dataset.json"),
        ("plan/plan-000001.parquet", "plan/plan-000002.parquet"),
        ("changes/changes-000001.parquet", "changes/changes-000002.parquet"),
        ("index/a/gen-000002/meta.json", "index/a/gen-000003/meta.json"),
        ("index/a/parts/{base}/lists.bin", "index/a/parts/{delta}/lists.bin"),
        ("index/a/parts/{base}/part.json", "index/a/parts/{delta}/part.json"),
        ("index/a/parts/{base}", "index/a/parts/{delta}"),
    ],
)
def test_verify_finds_files_that_were_swapped(corpus: Corpus, one: str, other: str) -> None:
    one, other = _named(corpus, one), _named(corpus, other)
    _swap(corpus, one, other)
    paths = [damage.path for damage in _verify(corpus).damages]
    assert any(one.startswith(path) for path in paths)
    assert any(other.startswith(path) for path in paths)


def _rewrite(corpus: Corpus, name: str, shard: int, change: Callable[[Any], Any]) -> None:
    info = corpus.info(name)
    assert info is not None
    rows = change(dataset(name, shard))
    corpus.write_bytes(parquet_bytes([rows], {FINGERPRINT: info.fingerprint}), name, shard_file(shard))


def _replaced(column: str, row: int, value: Any) -> Callable[[Any], Any]:
    def change(table: Any) -> Any:
        rows = table.to_pylist()
        rows[row][column] = value
        return table.from_pylist(rows, schema=table.schema)

    return change


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("items", lambda table: table.slice(1)),
        ("items", lambda table: table.take(list(reversed(range(len(table)))))),
        ("captions/a", _replaced("image_id", -1, image_id(5, ROWS))),
        ("captions/a", _replaced("image_id", 1, image_id(5, 0))),
        ("captions/a", _replaced("status", 0, "fine")),
        ("answers/a", lambda table: table.slice(0, len(table) - 1)),
        ("answers/a", _replaced("question_id", 1, 0)),
        ("embeddings/a", _replaced("embedding", 0, [0.5] * 8)),
        ("embeddings/a", _replaced("embedding", 0, [float("nan")] * 8)),
        ("embeddings/a", _replaced("embedding", 0, [None] * 8)),
        ("embeddings/a", _replaced("embedding", 3, [1.0] + [0.0] * 7)),
        ("embeddings/a", _replaced("embedding", 3, [1.0] + [None] * 7)),
    ],
)
def test_verify_finds_rows_that_cannot_be_right(corpus: Corpus, name: str, change: Any) -> None:
    _rewrite(corpus, name, 5, change)
    (damage,) = _verify(corpus).damages
    assert damage.path == f"{name}/{shard_file(5)}"


def test_verify_finds_a_shard_of_another_fingerprint(corpus: Corpus) -> None:
    data = parquet_bytes([dataset("captions/a", 5)], {FINGERPRINT: "0" * 16})
    corpus.write_bytes(data, "captions/a", shard_file(5))
    (damage,) = _verify(corpus).damages
    assert damage.path == f"captions/a/{shard_file(5)}"


def test_verify_tells_unfinished_work_and_strangers_from_damage(corpus: Corpus) -> None:
    corpus.delete("captions/a", shard_file(4))
    corpus.write_bytes(b"half", "items", ".partial-00")
    corpus.write_bytes(b"", "holiday.txt")
    found = _verify(corpus)
    assert found.damages == ()
    assert found.unfinished == {"captions/a": 1}
    assert len(found.notes) == 2


# Repair


def _flip(corpus: Corpus, path: str, share: float = 0.3) -> None:
    file = Path(corpus.path(path))
    data = bytearray(file.read_bytes())
    data[int(share * len(data))] ^= 0x10
    file.write_bytes(data)


@pytest.mark.parametrize(
    "path",
    [
        f"captions/a/{shard_file(4)}",
        f"items/{merged_file(0, MERGED - 1)}",
        f"embeddings/a/{merged_file(0, MERGED - 1)}",
        "answers/a/_dataset.json",
        "index/a/templates/{template}/template.faiss",
        "index/a/templates/{template}/template.json",
        "index/a/parts/{base}/lists.bin",
        "index/a/parts/{delta}/lists.bin",
        "index/a/parts/{delta}/directory.npy",
        "index/a/parts/{base}/left_out.npy",
        "index/a/parts/{delta}/part.json",
        "index/a/gen-000003/truth.npz",
        "index/a/gen-000003/meta.json",
        "index/a/gen-000002/meta.json",
        "index/a/CURRENT",
    ],
)
@pytest.mark.parametrize("share", [0.1, 0.6, 0.9])
def test_repair_then_a_night_gives_the_same_corpus(corpus: Corpus, path: str, share: float) -> None:
    wanted, ids, path = contents(corpus), _found_ids(corpus), _named(corpus, path)
    _flip(corpus, path, share)
    assert not _verify(corpus).sound
    repaired = _verify(corpus, repair=True)
    assert repaired.sound
    assert any(path.startswith(damage.path) for damage in repaired.damages)
    assert _verify(corpus).damages == ()
    _night(corpus)
    assert_same(contents(corpus), wanted)
    assert _found_ids(corpus) == ids
    found = _verify(corpus)
    assert (found.damages, found.unfinished) == ((), {})


def test_repair_of_a_merged_file_makes_only_its_bad_shards_again(corpus: Corpus) -> None:
    file = merged_file(0, MERGED - 1)
    with corpus.open_parquet("captions/a", file) as opened:
        column = opened.metadata.row_group(1).column(1)
    data = bytearray(Path(corpus.path("captions/a", file)).read_bytes())
    start = column.dictionary_page_offset or column.data_page_offset
    data[start + column.total_compressed_size - 3] ^= 0x10
    corpus.write_bytes(bytes(data), "captions/a", file)
    assert _verify(corpus, repair=True).sound
    assert corpus.shards("captions/a") == [0, *range(2, SHARDS)]
    assert corpus.read_bytes("quarantine", "captions/a", file) == bytes(data)


@pytest.mark.parametrize("lost", [["plan-000001"], ["plan-000002"], ["plan-000001", "plan-000002"]])
@pytest.mark.parametrize("deleted", [False, True])
def test_repair_rebuilds_a_plan_file_from_items(corpus: Corpus, lost: list[str], deleted: bool) -> None:
    wanted = contents(corpus)["plan"][0]
    for name in lost:
        if deleted:
            corpus.delete("plan", f"{name}.parquet")
        else:
            _flip(corpus, f"plan/{name}.parquet")
    assert not _verify(corpus).sound
    assert _verify(corpus, repair=True).sound
    assert _verify(corpus).damages == ()
    rebuilt = contents(corpus)["plan"][0]
    assert rebuilt.select(["image_id", "uri"]).equals(wanted.select(["image_id", "uri"]))
    assert set(rebuilt["size"].to_pylist()) <= {-1, *wanted["size"].to_pylist()}
    assert rebuilt.schema.equals(PLAN)


def test_repair_of_a_plan_file_whose_items_are_lost_too_is_refused_and_changes_nothing(
    corpus: Corpus,
) -> None:
    _flip(corpus, "plan/plan-000002.parquet")
    corpus.delete("items", shard_file(4))
    before = {path: path.read_bytes() for path in _files(corpus)}
    found = _verify(corpus, repair=True)
    assert not found.sound
    assert [damage.path for damage in found.damages] == ["plan/plan-000002.parquet"]
    assert {path: path.read_bytes() for path in _files(corpus)} == before


@pytest.mark.parametrize("path", ["changes/changes-000002.parquet", "forgotten/forgotten-000001.parquet"])
@pytest.mark.parametrize("share", [0.01, 0.02, 0.3, 0.95])
def test_repair_of_a_journal_is_refused_and_sets_no_shard_aside(
    corpus: Corpus, path: str, share: float
) -> None:
    _flip(corpus, path, share)
    found = _verify(corpus, repair=True)
    assert [(damage.path, damage.repaired) for damage in found.damages] == [(path, None)]
    assert not corpus.exists("quarantine")


def test_verify_on_the_command_line_ends_with_1_where_damage_is_left(
    corpus: Corpus, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", f"corpus={corpus.location}"]) == 0
    _flip(corpus, f"captions/a/{shard_file(4)}")
    assert main(["verify", f"corpus={corpus.location}"]) == 1
    assert shard_file(4) in capsys.readouterr().out
    assert main(["verify", f"corpus={corpus.location}", "repair=true", "format=json"]) == 0
    (damage,) = json.loads(capsys.readouterr().out)["damages"]
    assert damage["path"] == f"captions/a/{shard_file(4)}"
    assert main(["verify", f"corpus={corpus.location}"]) == 0
    assert main(["verify", f"corpus={corpus.path('nothing')}"]) == 1
