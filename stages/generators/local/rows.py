"""The rows of a batch, one text to be generated each, and which of them go together."""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from stages.generators.local.asked import Ask, AskedPictures
from stages.generators.local.pictures import Encoded, Key
from stages.generators.local.prompts import Prompt

Item = TypeVar("Item")

Measure: TypeAlias = Callable[[Item], tuple[tuple[int, ...], int]]
"""Of what kind something is, only equal ones go together, and how many tokens it has."""


@dataclass(frozen=True, eq=False)
class Row:
    """One prompt about some pictures, for all requests that ask it.

    `pictures` is None where the model takes pixels and prompt together.
    """

    ids: Sequence[int]
    asked: AskedPictures
    ask: Ask
    prompt: Prompt
    pictures: tuple[Encoded, ...] | None

    @functools.cached_property
    def start(self) -> tuple[int, ...]:
        """The tokens up to the end of the last picture; other prompts about the pictures share them.

        Raises: ValueError for a prompt without a mark for each picture.
        """
        return tuple(self.prompt.start([picture.tokens for picture in self.pictures or ()]))

    @property
    def rest(self) -> tuple[int, ...]:
        """The tokens after `start`."""
        return self.prompt.pieces[-1]

    def size(self, picture_tokens: int) -> int:
        """Tokens; `picture_tokens` are those of a picture that is not encoded, as far as is known."""
        if self.pictures is None:
            return len(self.prompt) + picture_tokens * len(self.asked.images)
        return len(self.start) + len(self.rest)


@dataclass(frozen=True)
class Room:
    """What a batch may hold."""

    texts: int
    tokens: int  # of all texts, with the padding and the tokens to come
    new_tokens: int  # of each text, at most

    def cut(self, items: Iterable[Item], measure: Measure[Item]) -> Iterator[list[Item]]:
        """Batches of items of one kind and similar length. One item alone may be larger than the room."""
        batch: list[Item] = []
        kind: tuple[int, ...] = ()
        for item in sorted(items, key=measure):
            own, tokens = measure(item)
            if batch and (own != kind or not self._fits(len(batch) + 1, tokens)):
                yield batch
                batch = []
            batch.append(item)
            kind = own
        if batch:
            yield batch

    def _fits(self, texts: int, longest: int) -> bool:
        return texts <= self.texts and texts * (longest + self.new_tokens) <= self.tokens


def by_start(rows: Iterable[Row]) -> list[list[Row]]:
    """Rows about the same encoded pictures whose prompts begin alike; others are alone."""
    groups: dict[tuple[tuple[Key, ...], tuple[int, ...]], list[Row]] = {}
    alone = []
    for row in rows:
        if row.pictures:
            groups.setdefault((row.asked.keys, row.start), []).append(row)
        else:
            alone.append([row])
    return [*groups.values(), *alone]
