import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import neighbours as module
from pipelines.compact import compact
from pipelines.corpus import Corpus
from pipelines.index_jobs import NeighboursConfig
from pipelines.jobs import CompactConfig, VerifyConfig
from pipelines.neighbours import Joined, join_neighbours
from pipelines.verify import verify
from tests.pipelines.index.vector_corpus import bury
from tests.pipelines.searched_corpus import Searched

MANY_LISTS: dict[str, Any] = {"nprobe": 32, "k_factor": 20}


@pytest.fixture
def made(searched: Searched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Searched:
    """A copy that a test may change; 24 shards are 5 files."""
    monkeypatch.setattr(module, "_SHARDS", 5)
    shutil.copytree(searched.corpus.location, tmp_path / "corpus")
    return Searched(Corpus(str(tmp_path / "corpus")), searched.all, searched.widths)


def join(made: Searched, **keys: Any) -> tuple[Joined, pa.Table]:
    done = join_neighbours(NeighboursConfig(corpus=made.corpus.location, k=4, **keys))
    files = sorted(Path(done.folder).iterdir())
    assert len(files) == done.files
    return done, pa.concat_tables([pq.read_table(file) for file in files])


def lists(table: pa.Table, column: str) -> np.ndarray[Any, Any]:
    """Of lists that are full: [n, k]."""
    return np.array(table[column].to_pylist())


def test_join_gives_every_item_its_nearest_others(made: Searched) -> None:
    done, table = join(made, **MANY_LISTS)

    np.testing.assert_array_equal(table["image_id"].to_numpy(), made.all.ids)
    some = np.arange(0, len(made.all.ids), 60)
    ids, scores = made.truth(made.all.vectors[some], 5, made.widths >= 0)
    others = ids != made.all.ids[some][:, None]
    assert (lists(table, "neighbours")[some] == ids[others].reshape(-1, 4)).mean() > 0.99  # codes are coarse
    np.testing.assert_allclose(
        lists(table, "scores")[some, 0], scores[others].reshape(-1, 4)[:, 0], atol=1e-5
    )
    assert (done.files, done.kept, done.items, done.pairs) == (5, 0, 12_288, 4 * 12_288)


@pytest.mark.parametrize("keys", [{}, {"rerank": False}])
def test_join_values_do_not_depend_on_how_files_are_cut(
    made: Searched, monkeypatch: pytest.MonkeyPatch, keys: dict[str, Any]
) -> None:
    done, table = join(made, **keys)
    shutil.rmtree(done.folder)
    monkeypatch.setattr(module, "_SHARDS", 24)

    again, whole = join(made, **keys)

    assert again.files == 1
    assert whole.equals(table)


def test_join_that_was_interrupted_goes_on_with_the_files_that_are_missing(made: Searched) -> None:
    undisturbed, table = join(made)
    shutil.rmtree(undisturbed.folder)

    def interrupt(done: int, shards: int, items: int) -> None:
        if done >= 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        join_neighbours(NeighboursConfig(corpus=made.corpus.location, k=4), interrupt)
    before = {path: path.stat().st_ino for path in Path(undisturbed.folder).iterdir()}
    done, resumed = join(made)

    assert (len(before), done.kept) == (2, 2)
    assert {path: path.stat().st_ino for path in before} == before
    assert resumed.equals(table)


def test_join_finds_files_again_that_are_damaged_or_name_what_went(made: Searched) -> None:
    first, table = join(made)
    file = sorted(Path(first.folder).iterdir())[3]
    file.write_bytes(file.read_bytes()[:-100])
    went = int(made.all.ids[0])
    bury(made.corpus, [went])

    done, after = join(made)

    assert first.kept == 0
    assert 1 <= done.files - done.kept < done.files
    assert went not in after["image_id"].to_pylist()
    assert went not in after["neighbours"].combine_chunks().flatten().to_pylist()
    assert len(after) == len(table) - 1


def test_join_min_score_keeps_near_pairs_only(made: Searched) -> None:
    _, table = join(made)
    _, near = join(made, min_score=0.8)

    wanted = [[score for score in row if score >= np.float32(0.8)] for row in table["scores"].to_pylist()]
    assert near["scores"].to_pylist() == wanted
    assert near["image_id"].equals(table["image_id"])
    assert 0 < sum(map(len, wanted)) < 4 * len(table)


def test_join_is_gone_after_what_it_names_was_taken_down_and_compacted(made: Searched) -> None:
    done, _ = join(made)
    assert verify(VerifyConfig(corpus=made.corpus.location)).notes == ()
    bury(made.corpus, [int(made.all.ids[0])])

    compact(CompactConfig(corpus=made.corpus.location))

    assert not Path(done.folder).exists()


def test_verify_finds_a_flipped_bit_among_neighbours_and_the_next_join_repairs_it(made: Searched) -> None:
    done, table = join(made)
    file = sorted(Path(done.folder).iterdir())[1]
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 8
    file.write_bytes(data)

    found = verify(VerifyConfig(corpus=made.corpus.location, repair=True))

    damaged = [damage for damage in found.damages if damage.path != "plan"]  # which was never written here
    assert [damage.path for damage in damaged] == [file.relative_to(made.corpus.location).as_posix()]
    assert damaged[0].repaired is not None
    assert not file.exists()
    again, repaired = join(made)
    assert again.kept == done.files - 1
    assert repaired.equals(table)
