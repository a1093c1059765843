"""Rows through a model in batches: smaller ones where memory runs out, halves of them where a row raises."""

import gc
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeAlias, TypeVar

from stages.codecs.errors import clean
from stages.schemas import Status

Row = TypeVar("Row")
Made = TypeVar("Made")

Work: TypeAlias = Callable[[Sequence[Row], int], Iterable[Made]]
"""One result a row, in order. The number is how many texts or pictures one forward pass may hold."""

# What else than `torch.OutOfMemoryError` and `MemoryError` says so: the CPU's allocator, the driver beside
# torch's own allocator (page-locked memory, for one), cuBLAS, and C++ as such.
_OUT_OF_MEMORY = (
    "can't allocate memory",
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "std::bad_alloc",
)


class OnOom(StrEnum):
    """What becomes of an image that runs out of memory with no other beside it."""

    ROW = "row"  # a row with status `too_large`
    CPU = "cpu"  # it is done on the CPU; a second copy of the weights is loaded there, and stays


@dataclass(frozen=True)
class Failure:
    """Why a row has no result: a status that is not `ok`, and one line of up to 200 characters."""

    status: Status
    error: str


class Batches(Generic[Row, Made]):
    """Runs `work` on rows, `size` at a time, and recovers.

    Out of memory: the batch is halved, and the size that worked is kept for all later calls. A row that runs
    out of memory alone goes `on_cpu`, or becomes a Failure with `too_large`; it says nothing of the size.
    Any other exception: the batch is halved as well, until the rows that raise are alone; those become
    Failures with `failed`, and all others have the results they would have had.

    Where a whole batch fails, `blank` of its first row, that is the same with a picture that no sound model
    fails on, decides whose fault it was: what that raises is raised. So a model that is broken, larger than
    the memory, or lost to a CUDA device-side assert, after which every call raises, ends the run instead of
    making rows. `fatal` exceptions are never a row's fault. `release` frees what else the device holds.
    """

    def __init__(
        self,
        size: int,
        work: Work[Row, Made],
        blank: Callable[[Row], Row],
        on_cpu: Work[Row, Made] | None = None,
        release: Callable[[], None] = lambda: None,
        fatal: tuple[type[Exception], ...] = (),
    ) -> None:
        self._asked = self._size = self._size_before = size
        self._work, self._blank, self._on_cpu = work, blank, on_cpu
        self._release, self._fatal = release, fatal
        self._moved = False

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know: the size that is used and was not asked for, and the CPU's part."""
        lines = []
        if self._size < self._asked:
            lines.append(f"batch size {self._asked} ran out of memory, {self._size} is used")
        if self._moved:
            lines.append("images that ran out of memory with no other beside them were done on the CPU")
        return tuple(lines)

    def run(self, rows: Sequence[Row]) -> list[Made | Failure]:
        """One outcome a row, in order. Raises: what the model raises on any picture; `fatal`."""
        outcomes: list[Made | Failure] = []
        while len(outcomes) < len(rows):
            batch = rows[len(outcomes) : len(outcomes) + self._size]
            self._size_before = self._size
            found = self._attempt(batch, self._size)
            if all(isinstance(outcome, Failure) for outcome in found):
                self._work([self._blank(batch[0])], 1)
            outcomes += found
        return outcomes

    def _attempt(self, rows: Sequence[Row], limit: int) -> list[Made | Failure]:
        made, failure = self._try(self._work, rows, limit)
        if failure is None:
            return made
        out_of_memory = failure.status is Status.TOO_LARGE
        if len(rows) == 1 and not (out_of_memory and limit > 1):
            return [self._alone(rows[0], failure)]
        half = (len(rows) + 1) // 2
        if out_of_memory:
            limit = half
            # One row may be several texts: that these do not fit together says nothing of other rows.
            self._size = min(self._size, half) if len(rows) > 1 else self._size
        parts = [part for part in (rows[:half], rows[half:]) if part]
        return [outcome for part in parts for outcome in self._attempt(part, limit)]

    def _alone(self, row: Row, failure: Failure) -> Made | Failure:
        if failure.status is not Status.TOO_LARGE:
            return failure
        self._size = self._size_before  # the row was to blame, not the size
        if self._on_cpu is None:
            return failure
        made, failure_there = self._try(self._on_cpu, [row], 1)
        self._moved = self._moved or not failure_there
        return failure_there or made[0]

    def _try(
        self, work: Work[Row, Made], rows: Sequence[Row], limit: int
    ) -> tuple[list[Made | Failure], Failure | None]:
        try:
            return list(work(rows, limit)), None
        except self._fatal:
            raise
        except Exception as error:  # models, processors and kernels raise whatever they like
            failure = _failure_of(error)
        if failure.status is Status.TOO_LARGE:
            self._free()
        return [], failure

    def _free(self) -> None:
        """To be called once the exception is gone: the frames of its traceback hold the batch's tensors."""
        import torch

        self._release()
        gc.collect(1)  # what the exception held in a cycle is young; all generations would take 0.2 s
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.empty_cache()


def _failure_of(error: Exception) -> Failure:
    if _is_out_of_memory(error):
        return Failure(Status.TOO_LARGE, "the model runs out of memory on this image")
    lines = str(error).strip().splitlines()
    return Failure(
        Status.FAILED, clean(f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__)
    )


def _is_out_of_memory(error: Exception) -> bool:
    import torch

    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _OUT_OF_MEMORY)
