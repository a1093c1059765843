"""Which file of a dataset holds which shard: single shards, and merged files of a row group a shard."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

SHARD_NAME = re.compile(r"shard-(\d{10})\.parquet")
MERGED_NAME = re.compile(r"merged-(\d{10})-(\d{10})\.parquet")


def shard_file(shard: int) -> str:
    return f"shard-{shard:010d}.parquet"


def merged_file(first: int, last: int) -> str:
    return f"merged-{first:010d}-{last:010d}.parquet"


@dataclass(frozen=True)
class Part:
    """One file of a dataset: the shards `first` to `last`, row group i is shard `first` + i."""

    first: int
    last: int
    file: str
    size: int = 0

    @property
    def shards(self) -> range:
        return range(self.first, self.last + 1)

    @property
    def merged(self) -> bool:
        return self.file.startswith("merged-")


def part_of(file: str, size: int = 0) -> Part | None:
    """None where a file of this name is no part of a dataset."""
    if single := SHARD_NAME.fullmatch(file):
        return Part(int(single[1]), int(single[1]), file, size)
    if merged := MERGED_NAME.fullmatch(file):
        first, last = int(merged[1]), int(merged[2])
        return Part(first, last, file, size) if first <= last else None
    return None


class Listing:
    """The parts of a dataset. A merged file hides those that it covers: compaction removes them next."""

    def __init__(self, parts: Iterable[Part]) -> None:
        self.hidden: list[Part] = []
        self.visible: list[Part] = []
        for part in sorted(parts, key=lambda part: (part.first, -part.last, part.file)):
            covered = bool(self.visible) and part.last <= self.visible[-1].last
            (self.hidden if covered else self.visible).append(part)

    @cached_property
    def places(self) -> dict[int, Part]:
        """The part that a shard is read from."""
        return {shard: part for part in reversed(self.visible) for shard in part.shards}

    def covers(self, other: "Listing") -> bool:
        return self.places.keys() >= other.places.keys()
