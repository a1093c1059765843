"""The plan: new files become new shards, and nothing that was planned ever changes."""

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.changes import Change, gone, record
from pipelines.corpus import Corpus
from pipelines.plan import NEW, extend, planned_shards, read_planned
from stages.schemas import SHARD_ROWS, row_of, shard_of


def _new(numbers: Iterable[int], digest: str | None = None) -> pa.Table:
    rows = [{"uri": f"{n:05d}.jpg", "size": n, "mtime_ns": 1, "sha256": digest} for n in numbers]
    return pa.Table.from_pylist(rows, schema=NEW)


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return Corpus(str(tmp_path / "corpus"))


def test_extend_on_empty_corpus_addresses_every_item_by_shard_and_row(corpus: Corpus) -> None:
    assert extend(corpus, _new(range(1100))) == 3
    shards = planned_shards(corpus)
    assert [(shard.shard, shard.rows) for shard in shards] == [(0, 512), (1, 512), (2, 76)]
    for planned in shards:
        ids = read_planned(corpus, planned)["image_id"].to_pylist()
        assert [shard_of(item) for item in ids] == [planned.shard] * planned.rows
        assert [row_of(item) for item in ids] == list(range(planned.rows))


def test_extend_with_new_files_leaves_planned_rows_as_they_were(corpus: Corpus) -> None:
    extend(corpus, _new(range(0, 600, 2)))
    before = [read_planned(corpus, planned) for planned in planned_shards(corpus)]
    extend(corpus, _new(range(1, 600, 2)))
    after = [read_planned(corpus, planned) for planned in planned_shards(corpus)]
    assert all(new.equals(old) for new, old in zip(after, before, strict=False))
    assert [table.num_rows for table in after] == [300, 300]
    uris = [uri for table in after for uri in table["uri"].to_pylist()]
    assert sorted(uris) == _new(range(600))["uri"].to_pylist()


def test_extend_after_a_full_file_goes_on_in_the_next(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.plan.SHARDS_PER_FILE", 2)
    assert extend(corpus, _new(range(5 * SHARD_ROWS))) == 5
    shards = planned_shards(corpus)
    assert [shard.shard for shard in shards] == [0, 1, 2, 3, 4]
    assert len({shard.file for shard in shards}) == 3
    extend(corpus, _new(range(9000, 9001)))
    assert [shard.shard for shard in planned_shards(corpus)] == [0, 1, 2, 3, 4, 5]


def test_extend_puts_copies_last_and_into_shards_of_their_own(corpus: Corpus) -> None:
    new = pa.concat_tables([_new(range(3)), _new(range(3, 6), "aa"), _new(range(6, 8))])
    assert extend(corpus, new) == 2
    fresh, copies = planned_shards(corpus)
    assert (fresh.rows, fresh.reuses, copies.rows, copies.reuses) == (6, False, 2, True)
    origin = read_planned(corpus, fresh)["image_id"][3].as_py()
    assert read_planned(corpus, copies)["reused_from"].to_pylist() == [origin, origin]


def test_planned_shards_leave_out_what_is_gone_and_shards_with_nothing_else(corpus: Corpus) -> None:
    extend(corpus, _new(range(SHARD_ROWS + 2)))
    ids = read_planned(corpus, planned_shards(corpus)[1])["image_id"].to_pylist()
    record(corpus, gone([*ids, 0], Change.DELETED))
    (left,) = planned_shards(corpus)
    assert read_planned(corpus, left)["image_id"].to_pylist() == list(range(1, SHARD_ROWS))


def test_extend_after_the_last_shard_is_gone_never_uses_its_ids_again(corpus: Corpus) -> None:
    extend(corpus, _new(range(2)))
    record(corpus, gone([0, 1], Change.DELETED))
    corpus.filesystem.delete_dir(corpus.path("plan"))
    extend(corpus, _new(range(2)))
    assert [planned.shard for planned in planned_shards(corpus)] == [1]
