"""What is damaged of an index is set aside, and the next build makes that again and no more."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest

from pipelines.corpus import Corpus, CorpusError
from pipelines.index import layout
from pipelines.index.inspection import IndexFindings, inspect_index
from pipelines.index.layout import PARTS, current_generation, read_generation
from pipelines.index.opened import open_index
from pipelines.index.parts import merge, write_part
from pipelines.index.salvage import set_index_aside
from pipelines.index.stock import take_stock
from stages.index.lists import Written, write_lists
from tests.pipelines.index.vector_corpus import NAME, SMALL, add_shards, built, bury, later, make_corpus
from tests.pipelines.indexes import held_ids
from tests.stages.index.clusters import make_clusters

GROWING = replace(SMALL, factory="IVF16,SQ8", merge_ratio=9, keep_generations=3)
BASE, DELTA = 4_096, 1_024


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base and two deltas in three generations, and an item that was gone before the last."""
    corpus, vectors = make_corpus(tmp_path_factory.mktemp("repair") / "corpus", BASE)
    built(corpus, GROWING)
    for number in (1, 2):
        more = make_clusters(DELTA, vectors.vectors.shape[1], seed=number)
        add_shards(corpus, later(more, 8 + 2 * (number - 1)))
        if number == 2:
            bury(corpus, [10 << 20 | 3])
        built(corpus, GROWING)
    return Path(corpus.location)


@pytest.fixture
def corpus(made: Path, tmp_path: Path) -> Corpus:
    shutil.copytree(made, tmp_path / "corpus")
    return Corpus(str(tmp_path / "corpus"))


def _meta(corpus: Corpus) -> layout.Generation:
    return read_generation(corpus, NAME, str(current_generation(corpus, NAME)))


def _problems(found: IndexFindings) -> list[str]:
    return [fault.path for fault in found.faults]


def _flip(corpus: Corpus, *path: str) -> None:
    data = bytearray(corpus.read_bytes("index", NAME, *path))
    data[len(data) // 2] ^= 1
    corpus.write_bytes(bytes(data), "index", NAME, *path)


def _repair(corpus: Corpus) -> None:
    for fault in inspect_index(corpus, NAME).faults:
        set_index_aside(corpus, fault.path)


def test_inspection_of_a_sound_index_finds_nothing(corpus: Corpus) -> None:
    found = inspect_index(corpus, NAME)
    files = [path for path in Path(corpus.path("index")).rglob("*") if path.is_file()]

    assert (found.faults, found.notes, found.current) == ([], [], True)
    assert (found.files, found.size) == (len(files), sum(path.stat().st_size for path in files))


@pytest.mark.parametrize("part", [0, 1, 2])
def test_repair_of_a_part_encodes_its_vectors_again_and_no_others(corpus: Corpus, part: int) -> None:
    before, ids = _meta(corpus), sorted(held_ids(corpus, NAME))
    lost = before.parts[part]
    rows = layout.read_part(corpus, NAME, (PARTS, lost)).rows
    _flip(corpus, PARTS, lost, "lists.bin")

    _repair(corpus)

    with pytest.raises(CorpusError, match="darkroom index"):
        open_index(corpus, NAME)
    assert inspect_index(corpus, NAME).faults == []
    again = built(corpus, GROWING)
    assert (again.added, again.meta.template) == (rows, before.template)
    assert sorted(held_ids(corpus, NAME)) == ids
    assert set(before.parts) - {lost} <= set(again.meta.parts)
    assert corpus.exists("quarantine", "index", NAME, PARTS, lost, "lists.bin")


def test_repair_of_the_template_trains_again(corpus: Corpus) -> None:
    before, ids = _meta(corpus), sorted(held_ids(corpus, NAME))
    _flip(corpus, "templates", before.template, "template.faiss")

    _repair(corpus)

    assert not corpus.exists("index", NAME, "CURRENT")
    assert built(corpus, GROWING).added == len(ids)
    assert sorted(held_ids(corpus, NAME)) == ids


def test_repair_of_the_truth_keeps_searches_going_and_encodes_nothing(corpus: Corpus) -> None:
    before = _meta(corpus)
    _flip(corpus, str(current_generation(corpus, NAME)), "truth.npz")

    _repair(corpus)

    opened = open_index(corpus, NAME)
    # A name of its own: searches that are open may still read what had the old one.
    assert (opened.generation, opened.meta.parts) == ("gen-000004", before.parts)
    assert inspect_index(corpus, NAME).faults == []
    assert not take_stock(corpus, NAME, GROWING).due


def test_repair_of_a_record_finds_the_parts_that_are_there(corpus: Corpus) -> None:
    before = _meta(corpus)
    _flip(corpus, str(current_generation(corpus, NAME)), "meta.json")

    _repair(corpus)
    again = built(corpus, GROWING)

    assert (again.added, again.meta.parts) == (0, before.parts)
    assert inspect_index(corpus, NAME).faults == []


def test_repair_of_a_record_beside_the_leftovers_of_a_merge_counts_nothing_twice(corpus: Corpus) -> None:
    before, ids = _meta(corpus), sorted(held_ids(corpus, NAME))
    gone = np.array([10 << 20 | 3])
    both = merge(corpus, NAME, [(PARTS, part) for part in before.parts[1:]], gone)
    _flip(corpus, "gen-000003", "meta.json")

    _repair(corpus)
    again = built(corpus, GROWING)

    assert (again.added, again.meta.parts) == (0, (before.parts[0], both))
    assert sorted(held_ids(corpus, NAME)) == ids


def test_repair_of_an_older_generation_leaves_the_current_one(corpus: Corpus) -> None:
    before = current_generation(corpus, NAME)
    _flip(corpus, "gen-000001", "meta.json")

    _repair(corpus)

    assert current_generation(corpus, NAME) == before
    assert layout.generations(corpus, NAME) == ["gen-000002", "gen-000003"]


def test_repair_of_the_pointer_encodes_nothing(corpus: Corpus) -> None:
    before = _meta(corpus)
    corpus.write_bytes(b"gen-000007", "index", NAME, "CURRENT")

    _repair(corpus)
    again = built(corpus, GROWING)

    assert (again.added, again.meta.parts) == (0, before.parts)


def test_repair_of_everything_at_once_ends_in_a_build(corpus: Corpus) -> None:
    ids = sorted(held_ids(corpus, NAME))
    for part in _meta(corpus).parts[1:]:
        _flip(corpus, PARTS, part, "directory.npy")
    corpus.write_bytes(b"?", "index", NAME, "CURRENT")

    _repair(corpus)

    assert inspect_index(corpus, NAME).faults == []
    assert built(corpus, GROWING).added == 2 * DELTA - 1
    assert sorted(held_ids(corpus, NAME)) == ids


# Files that are as they were written, and do not belong together


def _forge(corpus: Corpus, part: str, ids: list[int], nlist: int = 16) -> None:
    """In place of a part another with good checksums, which holds these ids."""
    record = layout.read_part(corpus, NAME, (PARTS, part))
    gone = corpus.read_bytes("index", NAME, PARTS, part, "left_out.npy")
    rows, codes = np.array(ids, np.int64), np.zeros((len(ids), record.code_size), np.uint8)
    corpus.delete_tree("index", NAME, PARTS, part)

    def write(stream: IO[bytes]) -> Written:
        return write_lists(stream, rows % nlist, rows, codes, nlist)

    write_part(corpus, NAME, (PARTS, part), write, {"left_out.npy": gone}, replace(record, nlist=nlist))


@pytest.mark.parametrize(
    ("ids", "problem"),
    [
        ([10 << 20, 10 << 20 | 1, 10 << 20], "twice"),
        ([10 << 20, 10 << 20 | 3], "gone"),
        ([10 << 20, 12 << 20], "none of its shards"),
        ([10 << 20, 10 << 20 | 512], "none of its shards"),
    ],
)
def test_inspection_finds_ids_that_a_part_must_not_hold(corpus: Corpus, ids: list[int], problem: str) -> None:
    part = _meta(corpus).parts[2]
    _forge(corpus, part, ids)

    (fault,) = inspect_index(corpus, NAME).faults

    assert fault.path.endswith(part)
    assert problem in fault.problem


def test_inspection_finds_a_part_of_other_lists_than_its_template(corpus: Corpus) -> None:
    part = _meta(corpus).parts[2]
    _forge(corpus, part, [10 << 20], nlist=8)

    (fault,) = inspect_index(corpus, NAME).faults

    assert fault.path.endswith(part)
    assert "another template" in fault.problem


@pytest.mark.parametrize(
    "change", [{"vectors": 7}, {"embeddings": "0" * 16}, {"parts": ()}], ids=lambda change: next(iter(change))
)
def test_inspection_finds_a_generation_that_is_not_what_its_parts_are(
    corpus: Corpus, change: dict[str, Any]
) -> None:
    data = layout.to_json(replace(_meta(corpus), **change))
    corpus.write_bytes(data, "index", NAME, "gen-000003", "meta.json")

    assert _problems(inspect_index(corpus, NAME)) == [f"index/{NAME}/gen-000003"]


def test_inspection_finds_a_template_that_is_gone(corpus: Corpus) -> None:
    corpus.delete_tree("index", NAME, "templates")

    assert _problems(inspect_index(corpus, NAME)) == [f"index/{NAME}/gen-00000{n}" for n in (1, 2, 3)]


def test_inspection_finds_a_part_that_is_gone(corpus: Corpus) -> None:
    corpus.delete_tree("index", NAME, PARTS, _meta(corpus).parts[1])

    assert _problems(inspect_index(corpus, NAME)) == [f"index/{NAME}/gen-00000{n}" for n in (2, 3)]


@pytest.mark.parametrize("file", ["lists.bin", "directory.npy", "left_out.npy"])
def test_inspection_finds_a_file_of_a_part_that_is_gone(corpus: Corpus, file: str) -> None:
    part = _meta(corpus).parts[1]
    corpus.delete("index", NAME, PARTS, part, file)

    assert f"index/{NAME}/parts/{part}" in _problems(inspect_index(corpus, NAME))


def test_inspection_finds_a_generation_that_covers_shards_twice(corpus: Corpus) -> None:
    meta = _meta(corpus)
    both = merge(corpus, NAME, [(PARTS, part) for part in meta.parts[1:]], np.empty(0, np.int64))
    vectors = meta.vectors + layout.read_part(corpus, NAME, (PARTS, both)).rows
    wrong = replace(meta, parts=(*meta.parts, both), vectors=vectors)
    corpus.write_bytes(layout.to_json(wrong), "index", NAME, "gen-000003", "meta.json")

    (fault,) = inspect_index(corpus, NAME).faults

    assert fault.path == f"index/{NAME}/gen-000003"
    assert "same shards" in fault.problem


def test_inspection_tells_leftovers_from_damage(corpus: Corpus) -> None:
    meta = _meta(corpus)
    merge(corpus, NAME, [(PARTS, part) for part in meta.parts[:2]], np.empty(0, np.int64))
    corpus.write_bytes(b"", "index", NAME, "work", "x")
    corpus.write_bytes(b"", "index", NAME, "gen-000009", "truth.npz")
    corpus.write_bytes(b"", "index", NAME, "holiday.txt")
    corpus.write_bytes(b"", "index", NAME, PARTS, meta.parts[0], "holiday.txt")

    found = inspect_index(corpus, NAME)

    assert found.faults == []
    assert len(found.notes) == 5
