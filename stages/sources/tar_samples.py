"""The images of a tar and what stands beside them, by WebDataset's convention.

The key of a member is its name up to the first dot after its folders; members that follow one another and
have the same key are a sample. `KEY.json` describes its images, `KEY.txt` is their caption.
https://github.com/webdataset/webdataset
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from stages.sources.config import SourceConfig
from stages.sources.listing import Container, found_rows
from stages.sources.tar_headers import Kind, Member, TarProblem, Window, members

SPARSE = -1
"""As `position`: the image is stored with holes left out, and is not read."""

_BATCH = 1 << 13  # images listed before they become Arrow
_MOST_MEMBERS = 1 << 12  # of a sample, that are held at a time
_MOST_BYTES = 1 << 20  # of a .json or .txt
_COMPANIONS = ("json", "txt")

# What is counted, in words for a person.
BROKEN = "metadata or captions that are not read: no JSON object, or over 1 MB"
APART = "metadata or captions that do not stand next to an image of their key"
REPEATED = "images whose name was there already, called NAME~2 and so on"
LINKS = "links, which are not followed"


@dataclass
class TarReport:
    """What a tar was when it was listed.

    `problem`: why not all of it could be read; `is_tar`: whether any of it could; `counts`: what is odd.
    """

    container: Container
    images: int = 0
    problem: str | None = None
    is_tar: bool = True
    counts: Counter[str] = field(default_factory=Counter)


@dataclass
class _Sample:
    key: bytes
    extensions: set[str] = field(default_factory=set)
    images: list[tuple[str, int, int]] = field(default_factory=list)  # name, size, position
    said: dict[str, bytes | None] = field(default_factory=dict)  # companion -> its bytes; None: too many


class TarImages:
    """The images of one tar as tables of schema `FOUND`; `report` is complete after the last of them."""

    def __init__(self, window: Window, report: TarReport, config: SourceConfig) -> None:
        self.report = report
        self._window, self._config = window, config
        self._rows: list[tuple[object, ...]] = []
        self._names: set[int] = set()  # hashes: 60 bytes an image, of one tar at a time
        self._again: Counter[str] = Counter()

    def tables(self) -> Iterator[pa.Table]:
        """Raises OSError where the storage itself fails."""
        sample = _Sample(b"")
        for member in self._members():
            key, extension = _split(member.name)
            if key is None:
                continue
            # An extension that is there already begins another sample of the same key.
            full = extension in sample.extensions or len(sample.extensions) >= _MOST_MEMBERS
            if key != sample.key or full:
                self._close(sample)
                sample = _Sample(key)
                if len(self._rows) >= _BATCH:
                    yield self._table()
            sample.extensions.add(extension)
            self._add(sample, member, extension)
        self._close(sample)
        if self._rows:
            yield self._table()

    def _members(self) -> Iterator[Member]:
        try:
            yield from members(self._window, self.report.container.size)
        except TarProblem as problem:
            self.report.problem, self.report.is_tar = str(problem), problem.is_tar

    def _add(self, sample: _Sample, member: Member, extension: str) -> None:
        is_image = "." + extension.rpartition(".")[2] in self._config.extensions
        if member.kind is Kind.LINK:
            self.report.counts[LINKS] += is_image
        elif is_image and member.kind is not Kind.OTHER:
            position = SPARSE if member.kind is Kind.SPARSE else member.position
            sample.images.append((self._unique(_text(member.name)), member.size, position))
        elif extension in _COMPANIONS and member.kind is Kind.FILE:
            sample.said[extension] = self._companion(member)

    def _unique(self, name: str) -> str:
        number = hash(name)
        if number not in self._names:
            self._names.add(number)
            return name
        self._again[name] += 1
        self.report.counts[REPEATED] += 1
        return f"{name}~{self._again[name] + 1}"

    def _companion(self, member: Member) -> bytes | None:
        if member.size > _MOST_BYTES:
            return None
        data = self._window.read(member.position, member.size)
        return data if len(data) == member.size else None

    def _close(self, sample: _Sample) -> None:
        """Its images become rows."""
        counts = self.report.counts
        if not sample.images:
            counts[APART] += len(sample.said)
            return
        told, broken = told_of(sample.said, self._config) if sample.said else ((None, None), 0)
        counts[BROKEN] += broken
        self._rows += [(*image, *told) for image in sample.images]

    def _table(self) -> pa.Table:
        names, sizes, positions, captions, metadata = zip(*self._rows, strict=True)
        container, count = self.report.container, len(self._rows)
        self._rows.clear()
        self.report.images += count
        return found_rows(
            uri=[f"{container.name}/{name}" for name in names],
            size=sizes,
            mtime_ns=pa.repeat(container.mtime_ns, count),
            container=pa.repeat(container.name, count),
            position=positions,
            original_caption=captions,
            metadata=metadata,
        )


def _split(name: bytes) -> tuple[bytes | None, str]:
    """The key and the extension, in lower case; no key for what is hidden or has no extension."""
    folder, slash, base = name.rpartition(b"/")
    stem, dot, extension = base.partition(b".")
    if not stem or not dot or (b"." in folder and _is_hidden(folder)):
        return None, ""
    return folder + slash + stem, extension.decode("ascii", "replace").lower()


def _is_hidden(folder: bytes) -> bool:
    return any(part.startswith(b".") and part not in (b".", b"..") for part in folder.split(b"/"))


def _text(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")


def told_of(
    said: Mapping[str, bytes | None], config: SourceConfig
) -> tuple[tuple[str | None, str | None], int]:
    """Caption and metadata of a sample, as `TOLD` has them; and how many companions tell nothing."""
    broken = sum(data is None for data in said.values())
    text, described = said.get("txt"), {}
    if (data := said.get("json")) is not None:
        try:
            described = _object(data)
        except (ValueError, RecursionError):
            broken += 1
    caption = None if text is None or config.caption else text.decode("utf-8", "replace").strip()
    if not caption:
        value = described.get(config.caption or "caption")
        caption = value.strip() if isinstance(value, str) else None
    kept = {
        key: value for key, value in described.items() if config.metadata is None or key in config.metadata
    }
    return (_clean(caption) or None, _clean(_dumped(kept)) if kept else None), broken


def _object(data: bytes) -> dict[str, Any]:
    """Raises: ValueError, RecursionError."""
    # NaN and Infinity are no JSON, but what pandas writes for a number that is not known.
    value = json.loads(data, parse_constant=lambda _: None)
    if not isinstance(value, dict):
        raise ValueError("no object")
    _dumped(value)
    return value


def _dumped(value: object) -> str:
    """Raises: ValueError for a number that is beyond all floats."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _clean(text: str | None) -> str | None:
    """Half a character, as JSON's escapes can name it, is no text."""
    return None if text is None else text.encode("utf-8", "replace").decode()
