"""A source that is tars of images: found by their headers, read by ranges."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import NamedTuple, TypeAlias

import pyarrow as pa

from stages.schemas import Status
from stages.sources.config import SourceConfig, SourceRun
from stages.sources.containers import container_store, find_containers
from stages.sources.files import Opened, opened
from stages.sources.listing import Container, Keep, Listing, collect
from stages.sources.outcome import Outcome, judged, missing, too_large, with_outcomes
from stages.sources.tar_headers import Window
from stages.sources.tar_samples import SPARSE, TarImages, TarReport
from stages.sources.threads import interleaved
from stages.stores import Store

SUFFIXES = (".tar", ".tgz", *(f".tar.{one}" for one in ("gz", "bz2", "xz", "zst", "lz4")))
"""Compressed ones are found, too, so that a note can say that they are not read."""

# (skip, block, peek) of a `Window`. A disk answers in microseconds, so that bodies over 16 kB are jumped
# over; a bucket in 10 to 100 ms, in which it could send megabytes.
_DISK, _BUCKET = (1 << 14, 1 << 16, 1 << 12), (1 << 22, 1 << 22, 1 << 16)

# Of ranges that are read as one: the most bytes between two members, and of all.
_MOST_GAP, _MOST_RANGE = 1 << 20, 1 << 23
_OPEN = 64  # tars at a time
_NAMED = 5  # notes about single tars, of one night

_Outcomes: TypeAlias = dict[int, Outcome]


def list_tars(
    config: SourceConfig, run: SourceRun, known: Mapping[str, Container], keep: Keep | None = None
) -> Listing:
    """The images of all tars that are not as `known` has them; reads headers, and small texts beside images.

    `run.threads` tars at a time. A tar that cannot be read, or not to its end, is a note. Raises:
    FileNotFoundError where there is no tar; ValueError where none of them can be read; OSError where the
    storage itself fails.
    """
    store, containers = container_store(config.path), find_containers(config.path, SUFFIXES)
    unchanged = tuple(one.name for one in containers if known.get(one.name) == one)
    reports = [TarReport(one) for one in containers if known.get(one.name) != one]
    listed = interleaved((_list_tar(store, report, config) for report in reports), run.threads)
    rows, details, _ = collect(listed, keep)
    read = tuple(report.container for report in reports if report.is_tar)
    if not unchanged and not read:
        raise ValueError(f"{config.path}: {reports[0].container.name} {reports[0].problem}")
    unread = tuple(report.container.name for report in reports if report.problem)
    return Listing(rows, details, read, unchanged, unread=unread, notes=tuple(_notes(reports)))


def _list_tar(store: Store, report: TarReport, config: SourceConfig) -> Iterator[pa.Table]:
    name = report.container.name
    try:
        with opened(store, name) as file:
            report.container = Container(name, file.size, file.mtime_ns)
            window = Window(file.read_at, *(_DISK if store.is_local else _BUCKET))
            yield from TarImages(window, report, config).tables()
    except (FileNotFoundError, NotADirectoryError):
        report.problem, report.is_tar = "went away while it was looked for", False
    except PermissionError:
        report.problem, report.is_tar = "may not be read", False


def _notes(reports: Sequence[TarReport]) -> Iterator[str]:
    """What is odd, for a person: the worst tars by name, the rest in numbers."""
    troubled = sorted((report for report in reports if report.problem), key=lambda one: one.is_tar)
    yield from (f"{one.container.name} {one.problem}" for one in troubled[:_NAMED])
    if len(troubled) > _NAMED:
        bad = sum(not one.is_tar for one in troubled)
        yield f"{len(troubled):,} tars are not as they should be, {bad:,} of them are not read at all"
    for what in dict.fromkeys(what for report in reports for what in report.counts):
        odd = [report for report in reports if report.counts[what]]
        count = sum(report.counts[what] for report in odd)
        if count:
            yield f"{count:,} {what}; the first in {odd[0].container.name}"


class _Wanted(NamedTuple):
    """A row of a shard, by its number."""

    row: int
    tar: str | None
    position: int
    size: int
    mtime_ns: int

    @property
    def end(self) -> int:
        return self.position + self.size


class ReadTar:
    """Rows of schema `PLAN` without `reused_from` -> the same rows + bytes (large_binary), status, error.

    Neighbours in a tar are read as one range, `run.threads` ranges at a time. Status: `ok`, `empty`,
    `too_large`; `missing` where the tar is gone, `changed` where it is another than was listed, `truncated`
    where it ends too early, `unsupported` for a sparse member. Raises OSError where the storage itself fails.
    """

    def __init__(self, config: SourceConfig, run: SourceRun) -> None:
        self._limit, self._threads = config.max_bytes, run.threads
        self._store = container_store(config.path)

    def __call__(self, shard: pa.Table) -> pa.Table:
        columns = [shard[name].to_pylist() for name in ("container", "position", "size", "mtime_ns")]
        wanted = [_Wanted(row, *place) for row, place in enumerate(zip(*columns, strict=True))]
        by_tar: dict[str, list[_Wanted]] = {}
        for one in wanted:
            if one.tar is not None:
                by_tar.setdefault(one.tar, []).append(one)
        lost = missing("the plan does not say where it is: the next night looks for it")
        outcomes = dict.fromkeys((one.row for one in wanted if one.tar is None), lost)
        names = sorted(by_tar)
        with ThreadPoolExecutor(self._threads) as pool:
            for start in range(0, len(names), _OPEN):
                part = {name: by_tar[name] for name in names[start : start + _OPEN]}
                outcomes |= self._read(part, pool)
        return with_outcomes(shard, [outcomes[row] for row in range(len(shard))])

    def _read(self, wanted: Mapping[str, Sequence[_Wanted]], pool: ThreadPoolExecutor) -> _Outcomes:
        """From tars that are open at the same time."""
        outcomes: _Outcomes = {}
        ranges: list[tuple[Opened, Sequence[_Wanted]]] = []
        with ExitStack() as files:
            found = pool.map(lambda name: _enter(files, self._store, name), wanted)
            for file, rows in zip(found, wanted.values(), strict=True):
                if isinstance(file, Outcome):
                    outcomes |= {one.row: file for one in rows}
                    continue
                refused = {one.row: self._refusal(one, file) for one in rows}
                outcomes |= {row: reason for row, reason in refused.items() if reason}
                ranges += [(file, part) for part in _ranges([one for one in rows if not refused[one.row]])]
            for part in pool.map(_read_range, ranges):
                outcomes |= part
        return outcomes

    def _refusal(self, wanted: _Wanted, file: Opened) -> Outcome | None:
        if wanted.mtime_ns not in (-1, file.mtime_ns):
            return Outcome(None, Status.CHANGED.value, "the tar was written again since it was listed")
        if wanted.position == SPARSE:
            return Outcome(None, Status.UNSUPPORTED.value, "it is stored with holes, as a sparse file")
        if wanted.end > file.size:
            return Outcome(None, Status.TRUNCATED.value, "the tar ends before the image does")
        return too_large(self._limit) if wanted.size > self._limit else None


def _enter(files: ExitStack, store: Store, name: str) -> Opened | Outcome:
    try:
        return files.enter_context(opened(store, name))
    except (FileNotFoundError, NotADirectoryError):
        return missing("the tar is not there")
    except PermissionError:
        return missing("the tar may not be read")


def _ranges(wanted: Sequence[_Wanted]) -> list[list[_Wanted]]:
    """Neighbours together."""
    ranges: list[list[_Wanted]] = []
    end = 0
    for one in sorted(wanted, key=lambda one: one.position):
        near = ranges and one.position - end <= _MOST_GAP
        if near and one.end - ranges[-1][0].position <= _MOST_RANGE:
            ranges[-1].append(one)
        else:
            ranges.append([one])
        end = max(end, one.end)
    return ranges


def _read_range(task: tuple[Opened, Sequence[_Wanted]]) -> _Outcomes:
    file, rows = task
    start, end = rows[0].position, max(one.end for one in rows)
    try:
        data = memoryview(file.read_at(start, end - start))
    except FileNotFoundError:
        return dict.fromkeys((one.row for one in rows), missing("the tar is not there"))
    return {one.row: _cut(data[one.position - start : one.end - start], one.size) for one in rows}


def _cut(data: memoryview, size: int) -> Outcome:
    if len(data) < size:  # somebody is writing the tar
        return Outcome(None, Status.TRUNCATED.value, "the tar ends before the image does")
    return judged(bytes(data))
