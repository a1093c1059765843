"""What is said of items, kept in a file beside the listing; and the listing made of what listers find."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from stages.schemas import TOLD
from stages.sources.listing import Details, collect, found_rows


def told(first: int, count: int, every: int = 1) -> pa.Table:
    """Rows of which each `every`th is said something of."""
    uris = [f"{number:06d}.jpg" for number in range(first, first + count)]
    says = [number % every == 0 for number in range(first, first + count)]
    return found_rows(
        uri=uris,
        size=[1] * count,
        mtime_ns=[2] * count,
        metadata=[json.dumps({"uri": uri}) if one else None for uri, one in zip(uris, says, strict=True)],
        original_caption=[f"of {uri}" if one else None for uri, one in zip(uris, says, strict=True)],
    )


def test_details_of_many_batches_come_back_in_the_order_asked() -> None:
    generator = np.random.default_rng(3)
    rows, details, _ = collect([told(start, 100) for start in generator.permutation(20) * 100])
    some = rows.take(pa.array(generator.choice(len(rows), 300)))
    read = details.read(some["detail"].combine_chunks())
    assert read.schema == TOLD
    assert read["original_caption"].to_pylist() == [f"of {uri}" for uri in some["uri"].to_pylist()]
    assert [json.loads(one)["uri"] for one in read["metadata"].to_pylist()] == some["uri"].to_pylist()


def test_details_rows_of_which_nothing_is_said_are_null_among_others() -> None:
    rows, details, _ = collect([told(0, 50, every=7), found_rows(uri=["z"], size=[1], mtime_ns=[2])])
    captions = details.read(rows["detail"].combine_chunks())["original_caption"].to_pylist()
    expected = [f"of {number:06d}.jpg" if number % 7 == 0 else None for number in range(50)]
    assert captions == [*expected, None]


@pytest.mark.parametrize("numbers", [[], [None, None]])
def test_details_of_nothing_are_nulls(numbers: list[int | None]) -> None:
    read = Details().read(pa.array(numbers, pa.int64()))
    assert read.to_pylist() == [{"original_caption": None, "metadata": None}] * len(numbers)


def test_collect_uri_that_comes_twice_counts_once_and_keeps_what_came_first() -> None:
    first, again = told(0, 3), told(1, 1)
    again = again.set_column(again.column_names.index("size"), "size", pa.array([99], pa.int64()))
    rows, _, repeated = collect([first, again, again])
    assert repeated == 2
    assert rows["uri"].to_pylist() == ["000000.jpg", "000001.jpg", "000002.jpg"]
    assert rows["size"].to_pylist() == [1, 1, 1]


def test_collect_of_nothing_is_an_empty_listing() -> None:
    rows, _, repeated = collect([])
    assert (len(rows), repeated) == (0, 0)


def test_collect_marks_what_is_not_to_become_an_item() -> None:
    def even(found: pa.Table) -> pa.ChunkedArray:
        return pc.match_substring_regex(found["uri"], "[02468].jpg$")

    rows, _, _ = collect([told(0, 10)], even)
    assert rows["wanted"].to_pylist() == [True, False] * 5


def test_details_are_not_held_in_memory() -> None:
    text = "x" * 1000
    before = pa.total_allocated_bytes()
    batches = (
        found_rows(
            uri=[f"{start + row:07d}" for row in range(1000)],
            size=[1] * 1000,
            mtime_ns=[1] * 1000,
            metadata=[text] * 1000,
        )
        for start in range(0, 100_000, 1000)
    )
    rows, details, _ = collect(batches)
    assert pa.total_allocated_bytes() - before < 20_000_000
    assert details.read(pa.array([99_999]))["metadata"].to_pylist() == [text]
    assert len(rows) == 100_000
