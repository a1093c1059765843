"""Which prediction is of which reference, and what is amiss: nothing is left out without being counted."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from pipelines.evaluation.facts import Trouble
from pipelines.evaluation.formats import EvaluationError, identifier

FIRST = 5
"""So many ids of each kind of mismatch are listed."""

AUTO = "auto"
METHODS = ("uri", "file_name", "coco", "image_id")
METADATA = "metadata."
# Metadata that may be meant as an id; any other is used where it is asked for by name.
_METADATA_KEYS = ("image_id", "id", "key", "cocoid", "coco_id", "file_name", "filename", "url")
_NUMBER = re.compile(r"([0-9]{1,18})$")


class Amiss(StrEnum):
    """What may be wrong with references and predictions, taken together."""

    NO_IMAGE = "references without an image"
    NO_QUESTION = "annotations without a question"
    AMBIGUOUS = "references of which several images may be meant"
    MISSING = "references without a prediction"
    EXTRA = "predictions without a reference"
    REPEATED = "predictions that are there more than once, and equal"
    CONTRADICTED = "predictions that are there more than once, and differ"
    EMPTY = "empty predictions"


@dataclass(frozen=True)
class Mismatch:
    """`scored` references of `references` have a prediction that counts."""

    troubles: tuple[Trouble, ...]
    scored: int
    references: int

    def __str__(self) -> str:
        told = "; ".join(
            f"{one.count:,} {one.what} ({', '.join(one.first)}{', …' if one.count > len(one.first) else ''})"
            for one in self.troubles
        )
        return f"{self.scored:,} of {self.references:,} references can be scored: {told}"


class MismatchError(EvaluationError):
    """References and predictions do not go together, and `strict` does not let that pass."""

    def __init__(self, mismatch: Mismatch) -> None:
        super().__init__(f"{mismatch}; strict=false scores the rest")
        self.mismatch = mismatch


class Counted:
    """Troubles as they are found, each id once."""

    def __init__(self) -> None:
        self._found: dict[Amiss, dict[str, None]] = {}

    def add(self, what: Amiss, ids: Iterable[str]) -> None:
        for one in ids:
            self._found.setdefault(what, {})[one] = None

    def ids(self, *kinds: Amiss) -> set[str]:
        return {one for kind in kinds for one in self._found.get(kind, ())}

    def mismatch(self, scored: int, references: int) -> Mismatch:
        troubles = tuple(
            Trouble(what.value, len(ids), tuple(list(ids)[:FIRST]))
            for what in Amiss
            if (ids := self._found.get(what))
        )
        return Mismatch(troubles, scored, references)


@dataclass(frozen=True, eq=False)
class Found:
    """For each reference its row on the other side, -1 where there is none. `method`: what was compared."""

    method: str
    rows: list[int]
    ambiguous: tuple[int, ...] = ()

    @property
    def matched(self) -> int:
        return sum(row >= 0 for row in self.rows)


Names = Callable[[], Sequence[str | None]]


def align(
    references: pa.Table, column: str, predictions: pa.Table, absent: Counted | None = None
) -> tuple[pa.Table, Mismatch]:
    """The references that have one prediction that counts, with the column `prediction`; and what is amiss.

    `column`: the id of the references that `predictions` (schema PREDICTIONS) are of. `absent`: what is known
    to be amiss already; such references are not missed once more.
    """
    counted = absent or Counted()
    wanted: list[str] = references[column].to_pylist()
    texts = _distinct(predictions, counted)
    known, lost = set(wanted), counted.ids(Amiss.NO_IMAGE, Amiss.AMBIGUOUS)
    counted.add(Amiss.EXTRA, (key for key in texts if key not in known))
    counted.add(Amiss.MISSING, (key for key in wanted if key not in texts and key not in lost))
    counted.add(
        Amiss.EMPTY, (key for key, text in texts.items() if key in known and not (text or "").strip())
    )
    bad = counted.ids(Amiss.CONTRADICTED, Amiss.EMPTY) | lost
    kept = [number for number, key in enumerate(wanted) if key in texts and key not in bad]
    rows = references.take(pa.array(kept, pa.int64()))
    said = pa.array([texts[wanted[number]] for number in kept], pa.string())
    return rows.append_column("prediction", said), counted.mismatch(len(kept), len(wanted))


def _distinct(predictions: pa.Table, counted: Counted) -> dict[str, str | None]:
    """The first of each id."""
    texts: dict[str, str | None] = {}
    repeated: list[str] = []
    contradicted: list[str] = []
    for key, text in zip(*(predictions[name].to_pylist() for name in ("key", "prediction")), strict=True):
        if key in texts:
            (repeated if texts[key] == text else contradicted).append(key)
        else:
            texts[key] = text
    counted.add(Amiss.CONTRADICTED, contradicted)
    differing = set(contradicted)
    counted.add(Amiss.REPEATED, (key for key in repeated if key not in differing))
    return texts


def match_files(keys: Sequence[str], references: pa.Table, method: str = AUTO) -> tuple[str, list[str]]:
    """The ids of a results file as the references have them: how they were compared, and an id for each of
    `keys`, its own where no reference is meant. Raises: EvaluationError for a method that there is not."""
    wanted, paths = references["key"].to_pylist(), _paths(references)
    distinct = list(dict.fromkeys(keys))
    sides: dict[str, tuple[Names, Names]] = {
        "image_id": (lambda: distinct, lambda: wanted),
        "file_name": (lambda: [_base(one) for one in distinct], lambda: [_base(one) for one in paths]),
        "coco": (lambda: [_number(one) for one in distinct], lambda: _numbers(wanted, paths)),
    }
    found = _best(sides, _allowed(method, tuple(sides)))
    renamed = {distinct[row]: key for row, key in zip(found.rows, wanted, strict=True) if row >= 0}
    return found.method, [renamed.get(key, key) for key in keys]


def match_items(items: pa.Table, references: pa.Table, method: str = AUTO, plain: bool = True) -> Found:
    """The row of `items` (schema ITEMS) that each reference is of.

    `plain`: its keys may be image ids of the corpus; those of COCO are numbers of another kind.
    Raises: EvaluationError for a method that there is not.
    """
    keys, paths = references["key"].to_pylist(), _paths(references)
    uris: list[str] = items["uri"].to_pylist()
    sides: dict[str, tuple[Names, Names]] = {
        "uri": (lambda: uris, lambda: paths),
        "file_name": (lambda: [_base(one) for one in uris], lambda: [_base(one) for one in paths]),
        "coco": (lambda: [_number(one) for one in uris], lambda: _numbers(keys, paths)),
        "image_id": (lambda: [str(one) for one in items["image_id"].to_pylist()], lambda: keys),
    }
    automatic, told = ["uri", "file_name", "coco"], _Told(items)
    for name in _METADATA_KEYS if method == AUTO else [method.removeprefix(METADATA)]:
        if method == AUTO or method.startswith(METADATA):
            sides[METADATA + name] = (told.names(name), lambda: keys)
            automatic.append(METADATA + name)
    if plain:
        automatic.append("image_id")
    return _best(sides, automatic if method == AUTO else _allowed(method, tuple(sides)))


def _allowed(method: str, known: Sequence[str]) -> Sequence[str]:
    if method == AUTO:
        return known
    if method not in known:
        raise EvaluationError(f"key must be one of {', '.join([AUTO, *known])} here, got {method}")
    return [method]


def _best(sides: Mapping[str, tuple[Names, Names]], methods: Sequence[str]) -> Found:
    """Of the methods the one by which most references are found; of equals the first."""
    found = None
    for method in methods:
        names, wanted = sides[method]
        one = _compared(method, names(), wanted())
        if found is None or one.matched > found.matched:
            found = one
        if found.matched == len(found.rows):
            break
    assert found is not None
    return found


def _compared(method: str, names: Sequence[str | None], wanted: Sequence[str | None]) -> Found:
    """A name that several rows have, or several references, tells nothing."""
    asked = Counter(name for name in wanted if name is not None)
    places: dict[str, int] = {}
    twice: set[str] = {name for name, count in asked.items() if count > 1}
    for row, name in enumerate(names):
        if name is not None and name in asked and places.setdefault(name, row) != row:
            twice.add(name)
    rows = [places.get(name, -1) if name is not None and name not in twice else -1 for name in wanted]
    there = [number for number, name in enumerate(wanted) if name in twice and name in places]
    return Found(method, rows, tuple(there))


def _paths(references: pa.Table) -> list[str]:
    """What a reference says of the file: its path, or where there is none its id."""
    if "file_name" not in references.column_names:
        keys: list[str] = references["key"].to_pylist()
        return keys
    pairs = zip(references["file_name"].to_pylist(), references["key"].to_pylist(), strict=True)
    return [path or key for path, key in pairs]


def _base(path: str) -> str:
    return path.rpartition("/")[2]


def _number(path: str) -> str | None:
    """The number that a COCO file name ends with: 391895 of `val2014/COCO_val2014_000000391895.jpg`."""
    found = _NUMBER.search(PurePosixPath(path).stem if "." in _base(path) else _base(path))
    return None if found is None else str(int(found[1]))


def _numbers(keys: Sequence[str], paths: Sequence[str]) -> list[str | None]:
    pairs = zip(keys, paths, strict=True)
    return [str(int(key)) if key.isdecimal() and key.isascii() else _number(path) for key, path in pairs]


class _Told:
    """What the source says of each item."""

    def __init__(self, items: pa.Table) -> None:
        self._items = items

    def names(self, key: str) -> Names:
        return lambda: [identifier(one.get(key)) for one in self._parsed]

    @cached_property
    def _parsed(self) -> list[Mapping[str, Any]]:
        return [json.loads(one) if one else {} for one in self._items["metadata"].to_pylist()]


def absent(counted: Counted, keys: Sequence[str], found: Found) -> None:
    """Counts the references for which there is no image, or more than one."""
    several = dict.fromkeys(keys[number] for number in found.ambiguous)
    counted.add(Amiss.AMBIGUOUS, several)
    lost = (one for one, row in zip(keys, found.rows, strict=True) if row < 0 and one not in several)
    counted.add(Amiss.NO_IMAGE, lost)


def check(mismatch: Mismatch, strict: bool) -> None:
    """Raises: MismatchError where something is amiss and `strict`, or where nothing is left to be scored."""
    if not mismatch.scored or (strict and mismatch.troubles):
        raise MismatchError(mismatch)
