"""The files of a source that hold many items each: those of a folder, a single one, or those of a pattern."""

import os
import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote

from pyarrow import fs

from stages.sources.files import File, is_hidden, walk
from stages.sources.listing import Container
from stages.stores import Store, open_store

# In a URI a question mark begins the query, by which a store's endpoint is named.
_MAGIC, _MAGIC_IN_URI = re.compile(r"[*?\[{]"), re.compile(r"[*\[{]")
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


@dataclass(frozen=True)
class Location:
    """Where containers are: below the root of `store`, from which their names count.

    `name`: the only one that is meant; `pattern`: of the names that are meant; both None: all below the root.
    """

    store: Store
    name: str | None = None
    pattern: str | None = None


def container_store(path: str) -> Store:
    """The store below whose root `find_containers` names files: for readers, in one look at the storage.

    Raises: ValueError for a location that no file system is known for.
    """
    return locate(path).store


def find_containers(path: str, suffixes: Sequence[str]) -> list[Container]:
    """The files that `path` names, by name, below `container_store(path)`.

    `path`: a folder, of which all files at any depth count that end in one of `suffixes` (lower case) and are
    not hidden; or a file, or a pattern of `*`, `?` (not in URIs), `[…]`, `**` for any folders, `{a,b}` and
    `{000..099}`, whose files count whatever their names end in. Raises: FileNotFoundError where there is
    none; ValueError for a location that no file system is known for.
    """
    location = locate(path)
    if location.name is not None:
        files = [_single(location.store, location.name)]
    else:
        files = [file for file in _below(path, location) if not is_hidden(file.name)]
        if location.pattern is None:
            files = [file for file in files if file.name.lower().endswith(tuple(suffixes))]
    if not files:
        wanted = "" if location.pattern else f" that ends in {' or '.join(suffixes)}"
        raise FileNotFoundError(f"{path} names no file{wanted}")
    return [Container(*file) for file in sorted(files)]


def locate(path: str) -> Location:
    """What a source's path means. A local file or folder that is called like a pattern is meant itself.

    Raises: ValueError.
    """
    is_uri = "://" in path
    magic = _MAGIC_IN_URI if is_uri else _MAGIC
    if magic.search(path) and (is_uri or not os.path.lexists(os.path.expanduser(path))):
        return _pattern_location(path, is_uri)
    store = open_store(path)
    if store.filesystem.get_file_info(store.root).type != fs.FileType.File:
        return Location(store)
    root = os.path.realpath(store.root) if store.is_local else store.root
    return Location(Store(store.filesystem, posixpath.dirname(root)), name=posixpath.basename(root))


def _pattern_location(path: str, is_uri: bool) -> Location:
    path, mark, query = path.partition("?") if is_uri else (path, "", "")
    magic = _MAGIC_IN_URI if is_uri else _MAGIC
    parts = path.split("/")
    first = next(number for number, part in enumerate(parts) if magic.search(part))
    if is_uri and first < 3:
        raise ValueError(f"{path} must name a bucket before its pattern begins")
    fixed, pattern = "/".join(parts[:first]), "/".join(parts[first:])
    _compiled(pattern)
    if is_uri:
        return Location(open_store(fixed + mark + query), pattern=unquote(pattern))
    return Location(open_store(fixed or ("/" if first else ".")), pattern=pattern)


def _single(store: Store, name: str) -> File:
    info = store.filesystem.get_file_info(store.path(name))
    return File(name, info.size or 0, info.mtime_ns or 0)


def _below(path: str, location: Location) -> list[File]:
    """All files, or those of the pattern. Raises: FileNotFoundError for the root."""
    store, pattern = location.store, location.pattern
    if store.filesystem.get_file_info(store.root).type != fs.FileType.Directory:
        raise FileNotFoundError(f"{store.root} does not exist" if pattern else f"{path} does not exist")
    if pattern is None:
        return list(walk(store))
    depth = None if "**" in pattern else pattern.count("/") + 1
    fits = _compiled(pattern)
    return [file for file in walk(store, depth) if fits.matches(file.name)]


@dataclass(frozen=True)
class _Pattern:
    """`ranges`: digits, least and most of the numbers that the groups `n0`, `n1`, … stand for.

    `digits` is 0 where they are not filled up with zeros.
    """

    expression: re.Pattern[str]
    ranges: Sequence[tuple[int, int, int]]

    def matches(self, name: str) -> bool:
        found = self.expression.fullmatch(name)
        return found is not None and all(
            _is_within(found.group(f"n{number}"), bounds) for number, bounds in enumerate(self.ranges)
        )


def _is_within(text: str | None, bounds: tuple[int, int, int]) -> bool:
    """True also for None: the range is in an alternative that was not taken."""
    if text is None:
        return True
    digits, least, most = bounds
    as_written = len(text) == digits if digits else text == str(int(text))
    return as_written and least <= int(text) <= most


def _compiled(pattern: str) -> _Pattern:
    """Raises: ValueError."""
    ranges: list[tuple[int, int, int]] = []
    text, at, depth = "", 0, 0
    while at < len(pattern):
        piece, length = _piece(pattern, at, depth, ranges)
        depth += (pattern[at] == "{" and length == 1) - (pattern[at] == "}" and depth > 0)
        text, at = text + piece, at + length
    if depth:
        raise ValueError(f"{pattern} has a brace that is not closed")
    try:
        return _Pattern(re.compile(text, re.DOTALL), ranges)
    except re.error as error:
        raise ValueError(f"{pattern} is no pattern: {error.msg}") from error


def _piece(pattern: str, at: int, depth: int, ranges: list[tuple[int, int, int]]) -> tuple[str, int]:
    """The regular expression of what stands at a place, and how many characters that takes."""
    if found := _RANGE.match(pattern, at):
        first, last = found.groups()
        filled = any(len(end) > 1 and end[0] == "0" for end in (first, last))
        digits = max(len(first), len(last)) if filled else 0
        ranges.append((digits, min(int(first), int(last)), max(int(first), int(last))))
        return f"(?P<n{len(ranges) - 1}>[0-9]+)", found.end() - at
    if pattern.startswith("**/", at):
        return "(?:[^/]+/)*", 3
    match pattern[at]:
        case "*":
            return "[^/]*", 1
        case "?":
            return "[^/]", 1
        case "[" if (end := pattern.find("]", at + 2)) > 0:
            return _character_class(pattern[at + 1 : end]), end + 1 - at
        case "{":
            return "(?:", 1
        case "}" if depth:
            return ")", 1
        case "," if depth:
            return "|", 1
    return re.escape(pattern[at]), 1


def _character_class(inside: str) -> str:
    negated = inside[0] in "!^"
    chosen = re.sub(r"([\\\[\]&~|^])", r"\\\1", inside[negated:])
    return f"[{'^/' if negated else ''}{chosen}]"
