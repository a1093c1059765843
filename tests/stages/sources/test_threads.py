"""Tests of stages/sources/threads.py."""

from collections import Counter
from collections.abc import Iterator
from threading import Barrier, active_count

import pytest

from stages.sources.threads import interleaved


@pytest.mark.parametrize("threads", [1, 3, 20])
def test_interleaved_gives_every_value_once(threads: int) -> None:
    found = interleaved((iter(range(number, number + 50)) for number in range(0, 500, 50)), threads)
    assert Counter(found) == Counter(range(500))


def test_interleaved_of_nothing_is_nothing() -> None:
    assert list(interleaved(iter(()), 3)) == []
    assert list(interleaved(iter([iter(()), iter([None])]), 3)) == [None]


def test_interleaved_works_on_several_at_a_time() -> None:
    met = Barrier(3, timeout=30)

    def one() -> Iterator[int]:
        yield met.wait()

    assert sorted(interleaved((one() for _ in range(3)), 3)) == [0, 1, 2]


def test_interleaved_raises_what_they_raise_and_ends_the_others() -> None:
    before = active_count()

    def endless() -> Iterator[int]:
        while True:
            yield 1

    def broken() -> Iterator[int]:
        yield 2
        raise OSError("the storage failed")

    with pytest.raises(OSError, match="the storage failed"):
        for _ in interleaved(iter([endless(), broken(), endless()]), 3):
            pass
    assert active_count() == before


def test_interleaved_ends_when_nobody_takes_more() -> None:
    before = active_count()

    def endless() -> Iterator[int]:
        while True:
            yield 1

    found = interleaved(iter([endless(), endless()]), 2)
    assert next(found) == 1
    found.close()
    assert active_count() == before
