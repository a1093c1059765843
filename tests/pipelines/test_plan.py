"""The plan: new files become new shards, and nothing that was planned ever changes."""

from collections.abc import Iterable, Sequence
from itertools import groupby, pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipelines.changes import CHANGES, Change, gone, record
from pipelines.corpus import Corpus
from pipelines.plan import NEW, extend, planned_rows, planned_shards, read_planned, shard_starts
from stages.schemas import SHARD_ROWS, row_of, shard_of
from stages.sources.listing import Details, found_rows


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


def test_extend_keeps_what_the_source_says_of_fresh_items_and_of_copies(corpus: Corpus) -> None:
    details, new = Details(), pa.concat_tables([_new(range(3)), _new(range(3, 5), "aa")])
    said = [f'{{"number": {number}}}' for number in range(5)]
    found = found_rows(uri=new["uri"], size=new["size"], mtime_ns=new["mtime_ns"], metadata=said)
    new = new.set_column(new.column_names.index("detail"), "detail", details.add(found))
    extend(corpus, new.take(pa.array([4, 3, 2, 1, 0])), details)
    rows = pa.concat_tables(read_planned(corpus, planned) for planned in planned_shards(corpus))
    assert dict(zip(rows["uri"].to_pylist(), rows["metadata"].to_pylist(), strict=True)) == dict(
        zip(new["uri"].to_pylist(), said, strict=True)
    )


def _touch(item: int, position: int) -> dict[str, object]:
    place = {"container": "b.tar", "position": position, "size": 9, "mtime_ns": position}
    return {"image_id": item, "change": Change.TOUCHED.value, **place}


def test_read_planned_item_that_was_found_elsewhere_since_is_at_its_last_place(corpus: Corpus) -> None:
    extend(corpus, _new(range(SHARD_ROWS + 2)))
    for rows in ([_touch(1, 100), _touch(SHARD_ROWS << 11, 7)], [_touch(1, 200)]):
        record(corpus, pa.Table.from_pylist(rows, schema=CHANGES))
    first, second = (read_planned(corpus, planned).to_pylist() for planned in planned_shards(corpus))
    assert [(row["container"], row["position"]) for row in first[:3]] == [
        (None, None),
        ("b.tar", 200),
        (None, None),
    ]
    assert (first[1]["uri"], first[1]["size"], first[1]["mtime_ns"]) == ("00001.jpg", 9, 200)
    assert [row["position"] for row in second] == [7, None]


def test_planned_rows_come_in_the_order_asked_and_not_for_what_is_gone(corpus: Corpus) -> None:
    extend(corpus, _new(range(SHARD_ROWS + 2)))
    last = planned_shards(corpus)[1].shard << 20
    assert planned_rows(corpus, [last + 1, 3, 3])["uri"].to_pylist() == [
        "00513.jpg",
        "00003.jpg",
        "00003.jpg",
    ]
    record(corpus, gone([3], Change.DELETED))
    with pytest.raises(KeyError, match="3"):
        planned_rows(corpus, [2, 3])


def _placed(runs: Sequence[tuple[str | None, int | None, int]]) -> pa.Table:
    """Rows in runs: container, row group, how many."""
    return pa.table(
        {
            "container": pa.array([name for name, _, count in runs for _ in range(count)], pa.string()),
            "row_group": pa.array([group for _, group, count in runs for _ in range(count)], pa.int32()),
        }
    )


def _random_runs(rng: np.random.Generator) -> list[tuple[str | None, int | None, int]]:
    sizes = [1, 2, 7, 100, SHARD_ROWS - 1, SHARD_ROWS, SHARD_ROWS + 1, 2 * SHARD_ROWS, 3 * SHARD_ROWS + 5]
    runs: list[tuple[str | None, int | None, int]] = []
    for number in range(rng.integers(1, 40)):
        size = int(rng.choice(sizes) if rng.random() < 0.5 else rng.integers(1, 300))
        if rng.random() < 0.2:
            runs.append((None, None, size))
        else:
            # The same row group number in the next file is another row group.
            runs.append((f"{number // 3}.parquet", number % 3 if rng.random() < 0.8 else 0, size))
    return runs


@pytest.mark.parametrize("seed", range(60))
def test_shard_starts_cut_no_small_row_group_and_fill_shards(seed: int) -> None:
    rows = _placed(_random_runs(np.random.default_rng(seed)))
    starts = shard_starts(rows)
    shards = list(pairwise([*starts, len(rows)]))
    assert starts[0] == 0
    assert all(0 < end - start <= SHARD_ROWS for start, end in shards)
    places = list(zip(rows["container"].to_pylist(), rows["row_group"].to_pylist(), strict=True))
    groups = [(place, len(list(run))) for place, run in groupby(places)]
    first = 0
    for (name, _), count in groups:
        if name is not None and count <= SHARD_ROWS:
            inside = [start for start in starts if first < start < first + count]
            assert inside == [], (name, count)
        first += count
    # No shard ends where the next one would still have fitted in.
    for (start, end), (_, after) in pairwise(shards):
        assert after - start > SHARD_ROWS or _reaches_a_row_group(places, start, end)


def _reaches_a_row_group(places: Sequence[tuple[str | None, int | None]], start: int, end: int) -> bool:
    """Whether the row group that begins at `end` would not fit into the shard."""
    length = next((n for n, place in enumerate(places[end:]) if place != places[end]), len(places) - end)
    return places[end - 1] != places[end] and end + length - start > SHARD_ROWS


@pytest.mark.parametrize(
    ("runs", "starts"),
    [
        ([], []),
        ([(None, None, 1030)], [0, 512, 1024]),
        ([("a", 0, 512), ("a", 1, 512), ("a", 2, 1)], [0, 512, 1024]),
        ([("a", 0, 300), ("a", 1, 300), ("a", 2, 212)], [0, 300]),
        ([("a", 0, 10), ("a", 1, 1500)], [0, 10, 522, 1034]),
        ([("a", 0, 1500), ("a", 1, 36)], [0, 512, 1024]),
        ([("a", 0, 1500), ("a", 1, 37)], [0, 512, 1024, 1500]),
        ([("a", 0, 511), ("b", 0, 2)], [0, 511]),
        ([(None, None, 500), ("a", 0, 20), (None, None, 3)], [0, 500]),
        ([("a", None, 600)], [0, 512]),
    ],
)
def test_shard_starts_of_runs_are_these(
    runs: list[tuple[str | None, int | None, int]], starts: list[int]
) -> None:
    assert shard_starts(_placed(runs)) == starts


def test_extend_with_row_groups_keeps_every_row_once_in_order(corpus: Corpus) -> None:
    sizes = [300, 300, 100, 1300, 1, 511, 2]
    rows = [
        {"uri": f"{group:02d}/{row:05d}", "size": -1, "mtime_ns": 1, "container": "a", "row_group": group}
        | {"position": row}
        for group, size in enumerate(sizes)
        for row in range(size)
    ]
    extend(corpus, pa.Table.from_pylist(rows, NEW))
    read = [read_planned(corpus, planned) for planned in planned_shards(corpus)]
    assert [len(one) for one in read] == [300, 400, 512, 512, 277, 511, 2]
    assert [uri for one in read for uri in one["uri"].to_pylist()] == [row["uri"] for row in rows]
