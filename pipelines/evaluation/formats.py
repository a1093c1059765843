"""Files of references and predictions as plain values: JSON, JSON lines, Parquet or CSV, gzipped or not.

What a file is, is told by its first bytes, never by its name.
"""

import csv
import gzip
import io
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.corpus import CorpusError

Row = Mapping[str, Any]

_PARQUET, _GZIP = b"PAR1", b"\x1f\x8b"
_SIGN = re.compile(r"\S")
_SHOWN = 8
_HUMAN_ANSWER = {"answer", "answer_id", "answer_confidence", "raw_answer"}


class EvaluationError(CorpusError):
    """References, predictions or runs that cannot be used as they are; the message is one line."""


def read_document(location: str) -> Any:
    """What a file holds: the value of a JSON document; or the rows of another file, a list of dicts.

    The ten answers of a VQA annotation become texts as they are parsed: of the 2.1 million of VQA v2's
    validation set the dicts alone take 0.7 GB. Raises: EvaluationError.
    """
    path = Path(location).expanduser()
    try:
        with path.open("rb") as file:
            start = file.read(4)
        if start == _PARQUET:
            rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
            return rows
        packed = start.startswith(_GZIP)
        # Not `decode`: the bytes would stay beside the text while that is parsed.
        reader = gzip.open if packed else open
        with reader(path, "rt", encoding="utf-8-sig", newline="") as stream:
            return _parsed(location, stream.read())
    except UnicodeDecodeError as error:
        raise EvaluationError(f"{location} cannot be read: it is not UTF-8 at byte {error.start}") from error
    except (OSError, EOFError, pa.ArrowException, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise EvaluationError(f"{location} cannot be read: {' '.join(reason.split())}") from error


def _parsed(location: str, text: str) -> Any:
    """Raises: ValueError where it is not what its first letters promise."""
    match text[(start := _next_sign(text, 0)) : start + 1]:
        case "":
            raise EvaluationError(f"{location} is empty")
        case "[":
            return json.loads(text, object_hook=_slim)
        case "{":
            return _lines(text) if _is_lines(text) else json.loads(text, object_hook=_slim)
        case _:
            return list(_csv_rows(text))


def _is_lines(text: str) -> bool:
    """Whether a first line that is a JSON object by itself is followed by another object."""
    start = _next_sign(text, 0)
    end = text.find("\n", start)
    if end < 0 or not text.startswith("{", _next_sign(text, end)):
        return False
    try:
        json.loads(text[start:end])
    except ValueError:
        return False
    return True


def _next_sign(text: str, start: int) -> int:
    found = _SIGN.search(text, start)
    return found.start() if found else len(text)


def _lines(text: str) -> list[Any]:
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                rows.append(json.loads(line, object_hook=_slim))
            except ValueError as error:
                raise ValueError(f"line {number} is not JSON: {error}") from error
    return rows


def _slim(found: dict[str, Any]) -> Any:
    """The text of an annotator's answer; anything else as it is."""
    if len(found) > 1 and "answer" in found and found.keys() <= _HUMAN_ANSWER:
        return sys.intern(str(found["answer"]))
    return found


def _csv_rows(text: str) -> Iterator[dict[str, Any]]:
    """Texts all of them: an id keeps its leading zeros. Empty cells are None."""
    header = text.partition("\n")[0]
    delimiter = "\t" if header.count("\t") > header.count(",") else ","
    csv.field_size_limit(1 << 24)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for row in reader:
            if None in row or None in row.values():
                wanted = len(reader.fieldnames or ())
                raise ValueError(f"line {reader.line_num} has not the {wanted} cells of the first line")
            yield {name: cell or None for name, cell in row.items()}
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num} is not CSV: {error}") from error


@dataclass(frozen=True)
class Rows:
    """Plain rows, and the names that their columns have."""

    values: Sequence[Row]
    names: tuple[str, ...]


def rows_with(location: str, value: Any, *needs: Sequence[str]) -> Rows | None:
    """The value as plain rows, where the first of them has a name of each of `needs`; else None.

    Raises: EvaluationError where there is no row, or one that is none.
    """
    if isinstance(value, Mapping):
        value = [value]  # a file of one line
    if not isinstance(value, list):
        return None
    if not value:
        raise EvaluationError(f"{location} holds no row")
    for number, row in enumerate(value, 1):
        if not isinstance(row, Mapping):
            raise EvaluationError(
                f"{location}, row {number}: {_brief(row)} is not an object with named values"
            )
    names = [first_of(value[0], need) for need in needs]
    found = tuple(name for name in names if name is not None)
    return Rows(value, found) if len(found) == len(needs) else None


def first_of(row: Row, names: Sequence[str]) -> str | None:
    """The first of the names that the row has."""
    return next((name for name in names if name in row), None)


def id_in(location: str, place: str, row: Row, name: str) -> str:
    """The id under a name. Raises: EvaluationError, naming the place."""
    found = identifier(row.get(name))
    if found is None:
        raise EvaluationError(f"{location}, {place} has {keys_found(row)}: {name} must be an id")
    return found


def objects_in(location: str, name: str, values: Any) -> list[Row]:
    """A list of objects. Raises: EvaluationError for anything else, and for an empty one."""
    if not isinstance(values, list) or not values:
        raise EvaluationError(f"{location}: {name} must be a list of one or more")
    wrong = next((number for number, row in enumerate(values, 1) if not isinstance(row, Mapping)), None)
    if wrong is not None:
        raise EvaluationError(f"{location}: {name}, entry {wrong}, is not an object with named values")
    return values


def identifier(value: Any) -> str | None:
    """An id as text: 9, 9.0 and "9" are the same. None for what is no id."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else None
    if isinstance(value, int):
        return str(value)
    return str(value).strip() or None if isinstance(value, str) else None


def keys_found(value: Any) -> str:
    """What a file holds, for an error: the keys of its object, or of its first row."""
    if isinstance(value, list) and value and isinstance(value[0], Mapping):
        return f"rows with {_names(value[0])}"
    if isinstance(value, Mapping):
        return f"an object with {_names(value)}"
    return f"a list of {_brief(value[0])}" if isinstance(value, list) and value else _brief(value)


def _names(found: Row) -> str:
    names = [str(name)[:40] for name in islice(found, _SHOWN)]
    more = f" and {len(found) - _SHOWN:,} more" if len(found) > _SHOWN else ""
    return ", ".join(names) + more


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
