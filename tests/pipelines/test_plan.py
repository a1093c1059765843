"""The plan: new files become new shards, and nothing that was planned ever changes."""

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.corpus import Corpus
from pipelines.plan import compare, extend, planned_shards, read_planned
from stages.schemas import PLAN, SHARD_ROWS, row_of, shard_of

LISTING = pa.schema([field for field in PLAN if field.name != "image_id"])


def _listing(numbers: Iterable[int], mtime_ns: int = 1) -> pa.Table:
    rows = [{"uri": f"{number:05d}.jpg", "size": number, "mtime_ns": mtime_ns} for number in numbers]
    return pa.Table.from_pylist(rows, schema=LISTING)


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return Corpus(str(tmp_path / "corpus"))


def _plan(corpus: Corpus, listing: pa.Table) -> int:
    return extend(corpus, compare(corpus, listing).new)


def test_extend_on_empty_corpus_addresses_every_item_by_shard_and_row(corpus: Corpus) -> None:
    assert _plan(corpus, _listing(range(1100))) == 3
    shards = planned_shards(corpus)
    assert [(shard.shard, shard.rows) for shard in shards] == [(0, 512), (1, 512), (2, 76)]
    for planned in shards:
        ids = read_planned(corpus, planned)["image_id"].to_pylist()
        assert [shard_of(item) for item in ids] == [planned.shard] * planned.rows
        assert [row_of(item) for item in ids] == list(range(planned.rows))


def test_extend_with_new_files_leaves_planned_rows_as_they_were(corpus: Corpus) -> None:
    _plan(corpus, _listing(range(0, 600, 2)))
    before = [read_planned(corpus, planned) for planned in planned_shards(corpus)]
    _plan(corpus, _listing(range(600)))
    after = [read_planned(corpus, planned) for planned in planned_shards(corpus)]
    assert all(new.equals(old) for new, old in zip(after, before, strict=False))
    assert [table.num_rows for table in after] == [300, 300]
    uris = [uri for table in after for uri in table["uri"].to_pylist()]
    assert sorted(uris) == _listing(range(600))["uri"].to_pylist()


def test_compare_counts_new_changed_and_deleted(corpus: Corpus) -> None:
    _plan(corpus, _listing(range(100)))
    now = pa.concat_tables([_listing(range(10, 20), mtime_ns=2), _listing(range(20, 130))])
    diff = compare(corpus, now)
    assert diff.new["uri"].to_pylist() == _listing(range(100, 130))["uri"].to_pylist()
    assert (diff.changed, diff.deleted, diff.known) == (10, 10, 100)


def test_compare_with_same_listing_in_another_order_finds_nothing(corpus: Corpus) -> None:
    _plan(corpus, _listing(range(1000)))
    diff = compare(corpus, _listing(reversed(range(1000))))
    assert len(diff.new) == diff.changed == diff.deleted == 0


def test_extend_after_a_full_file_goes_on_in_the_next(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.plan.SHARDS_PER_FILE", 2)
    assert _plan(corpus, _listing(range(5 * SHARD_ROWS))) == 5
    shards = planned_shards(corpus)
    assert [shard.shard for shard in shards] == [0, 1, 2, 3, 4]
    assert len({shard.file for shard in shards}) == 3
    _plan(corpus, _listing(range(5 * SHARD_ROWS + 1)))
    assert [shard.shard for shard in planned_shards(corpus)] == [0, 1, 2, 3, 4, 5]
