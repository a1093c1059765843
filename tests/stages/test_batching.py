"""Recovery, on a model that is plain Python: it doubles numbers, and fails on those that it is told to."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
import torch

from stages.batching import Batches, Failure
from stages.schemas import Status

BLANK = 0
TOO_LARGE = Failure(Status.TOO_LARGE, "the model runs out of memory on this image")
POISON = Failure(Status.FAILED, "ValueError: this one")


class FatalError(Exception):
    pass


@dataclass
class Doubler:
    """`poison` raises; there is memory for `room`, of which a number takes 1, and a giant 1000."""

    poison: frozenset[int] = frozenset()
    giants: frozenset[int] = frozenset()
    room: int = 999
    error: Exception = field(default_factory=lambda: torch.OutOfMemoryError("CUDA out of memory."))
    seen: list[int] = field(default_factory=list)

    def __call__(self, rows: Sequence[int], limit: int) -> list[int]:
        assert len(rows) <= limit
        self.seen.append(len(rows))
        if sum(1000 if row in self.giants else 1 for row in rows) > self.room:
            raise self.error
        if self.poison & set(rows):
            raise ValueError("this one\nand a second line at 0x7f00deadbeef")
        return [2 * row for row in rows]


def batches(model: Doubler, size: int = 8, on_cpu: Doubler | None = None) -> Batches[int, int]:
    return Batches(size, model, lambda row: BLANK, on_cpu, fatal=(FatalError,))


def doubled(rows: Sequence[int], bad: dict[int, Failure]) -> list[int | Failure]:
    return [bad.get(row, 2 * row) for row in rows]


@pytest.mark.parametrize(
    "poison", [{1}, {5}, {8}, {20}, {1, 2}, {3, 12}, set(range(1, 9)), set(range(1, 21))]
)
@pytest.mark.parametrize("size", [1, 3, 8, 64])
def test_run_rows_that_raise_fail_alone(poison: set[int], size: int) -> None:
    rows = range(1, 21)
    made = batches(Doubler(poison=frozenset(poison)), size).run(rows)
    assert made == doubled(rows, dict.fromkeys(poison, POISON))


def test_run_one_row_that_raises_costs_logarithmically_many_passes() -> None:
    model = Doubler(poison=frozenset([33]))
    batches(model, 64).run(range(1, 65))
    assert len(model.seen) == 1 + 2 * 6


@pytest.mark.parametrize("rows", [range(1, 2), range(1, 20)], ids=len)
def test_run_model_that_raises_on_a_blank_too_raises(rows: Sequence[int]) -> None:
    with pytest.raises(ValueError, match="this one"):
        batches(Doubler(poison=frozenset([BLANK, *rows]))).run(rows)


def test_run_model_that_breaks_on_the_way_raises() -> None:
    """As after a CUDA device-side assert: 10 does it, and then nothing works any more."""

    @dataclass
    class Breaking(Doubler):
        broken: bool = False

        def __call__(self, rows: Sequence[int], limit: int) -> list[int]:
            self.broken = self.broken or 10 in rows
            if self.broken:
                raise RuntimeError("CUDA error: device-side assert triggered")
            return super().__call__(rows, limit)

    with pytest.raises(RuntimeError, match="device-side assert"):
        batches(Breaking(), 4).run(range(1, 21))


def test_run_fatal_error_is_no_fault_of_a_row() -> None:
    with pytest.raises(FatalError):
        batches(Doubler(giants=frozenset([2]), error=FatalError())).run([1, 2])


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you"),
        RuntimeError("CUDA error: out of memory"),
    ],
    ids=repr,
)
def test_run_out_of_memory_halves_and_keeps_the_size_that_worked(error: Exception) -> None:
    model = Doubler(room=5, error=error)
    one = batches(model, 16)
    assert one.run(range(1, 33)) == doubled(range(1, 33), {})
    model.seen.clear()
    assert one.run(range(1, 33)) == doubled(range(1, 33), {})
    assert model.seen == [4] * 8
    assert one.notes == ("batch size 16 ran out of memory, 4 is used",)


def test_run_poison_in_a_batch_out_of_memory_does_not_lower_the_size_further() -> None:
    model = Doubler(room=8, poison=frozenset([2, 9]))
    one = batches(model, 16)
    assert one.run(range(1, 17)) == doubled(range(1, 17), {2: POISON, 9: POISON})
    assert one.notes == ("batch size 16 ran out of memory, 8 is used",)


@pytest.mark.parametrize("giant", [1, 4, 8])
def test_run_row_out_of_memory_alone_fails_and_leaves_the_size(giant: int) -> None:
    model = Doubler(giants=frozenset([giant]))
    one = batches(model, 8)
    assert one.run(range(1, 9)) == doubled(range(1, 9), {giant: TOO_LARGE})
    model.seen.clear()
    one.run(range(11, 19))
    assert model.seen == [8]
    assert one.notes == ()


def test_run_row_out_of_memory_alone_goes_to_the_cpu() -> None:
    cpu = Doubler(poison=frozenset([5]), room=2000)
    one = batches(Doubler(giants=frozenset([2, 5])), 8, on_cpu=cpu)
    assert one.run(range(1, 9)) == doubled(range(1, 9), {5: POISON})
    assert cpu.seen == [1, 1]
    assert len(one.notes) == 1


def test_run_model_larger_than_the_memory_raises() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        batches(Doubler(room=0)).run(range(1, 9))


def test_run_no_rows_runs_nothing() -> None:
    model = Doubler()
    assert batches(model).run([]) == []
    assert model.seen == []


def test_run_texts_of_one_row_that_do_not_fit_together_leave_the_size() -> None:
    def work(rows: Sequence[int], limit: int) -> list[int]:
        if limit > 1:
            raise MemoryError
        return [2 * row for row in rows]

    one = Batches[int, int](8, work, lambda row: BLANK)
    assert one.run([7]) == [14]
    assert one.notes == ()
