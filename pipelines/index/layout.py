"""Where an index lies in a corpus, and what its small files say: generations, parts, templates.

A generation names one template and the parts that hold its vectors. Parts are never changed, and several
generations may name the same one. Whatever no generation names is what a build left behind.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias, TypeVar

from pipelines.corpus import Corpus, fingerprint
from stages.index.damage import IndexDamaged

META, CURRENT, TRUTH = "meta.json", "CURRENT", "truth.npz"
PARTS, PART, LISTS, DIRECTORY, LEFT_OUT = "parts", "part.json", "lists.bin", "directory.npy", "left_out.npy"
TEMPLATES, TEMPLATE, TEMPLATE_DATA = "templates", "template.json", "template.faiss"
WORK, UNITS = "work", "work/units"
NEIGHBOURS = "neighbours"
"""In a generation: lists of neighbours that were found in it, of `pipelines.neighbours`."""

Place: TypeAlias = tuple[str, str]
"""A folder, `parts` or `work/units`, and the name of a part in it."""

_GENERATION = re.compile(r"gen-(\d{6})")
_POINTER = re.compile(r"(gen-\d{6}) ([0-9a-f]{16})\n?")

ShardRange: TypeAlias = tuple[int, int]
"""The first and the last of neighbouring shards."""

T = TypeVar("T")


@dataclass(frozen=True)
class FileRecord:
    """`sha256` in hex, `size` in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True)
class PartRecord:
    """`part.json`: what a part or a unit holds. `files`: all others of its folder, by name.

    `shards`: those of embeddings/NAME that it covers; `rows` have a vector and were not gone. `fit`: how
    well the vectors fit the template, of `stages.index.template.Fit`.
    """

    template: str
    embeddings: str
    shards: tuple[ShardRange, ...]
    rows: int
    nlist: int
    code_size: int
    files: Mapping[str, FileRecord]
    fit: Mapping[str, float] | None = None

    @property
    def size(self) -> int:
        """Bytes of all files but the record itself."""
        return sum(file.size for file in self.files.values())


@dataclass(frozen=True)
class TemplateRecord:
    """`template.json`. `asked`: what identifies the training: factory, seed and so on; `fit`: of a sample."""

    factory: str
    reason: str
    dim: int
    trained_on: int
    asked: Mapping[str, Any]
    file: FileRecord
    fit: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Generation:
    """`meta.json`. `parts`: the base first, then deltas; `measured`: recall, of `stages.index.recall`.

    `embeddings`: the fingerprint of the dataset; `notes`: what a person should know, such as drift.
    """

    template: str
    parts: tuple[str, ...]
    embeddings: str
    factory: str
    reason: str
    dim: int
    vectors: int
    size: int
    config: Mapping[str, Any]
    measured: Mapping[str, Any] | None = None
    truth: FileRecord | None = None
    drift: float | None = None
    notes: tuple[str, ...] = ()
    accepted: bool = True
    created: str = ""
    timings: Mapping[str, float] = field(default_factory=dict)


# Records are JSON with a checksum over their values


def to_json(record: Any) -> bytes:
    stored = json.loads(json.dumps(asdict(record)))
    return json.dumps({**stored, "checksum": fingerprint(stored)}, indent=2).encode()


def _from_json(text: bytes, path: str, make: Callable[[dict[str, Any]], T]) -> T:
    try:
        stored = json.loads(text)
        if stored.pop("checksum") != fingerprint(stored):
            raise ValueError("its checksum is not that of its values")
        return make(stored)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise IndexDamaged(f"{path} is not the record of an index: {error}") from error


def _part_record(stored: dict[str, Any]) -> PartRecord:
    shards = tuple((first, last) for first, last in stored.pop("shards"))
    files = {name: FileRecord(**record) for name, record in stored.pop("files").items()}
    return PartRecord(shards=shards, files=files, **stored)


def _template_record(stored: dict[str, Any]) -> TemplateRecord:
    return TemplateRecord(file=FileRecord(**stored.pop("file")), **stored)


def _generation(stored: dict[str, Any]) -> Generation:
    truth = stored.pop("truth")
    return Generation(
        parts=tuple(stored.pop("parts")),
        notes=tuple(stored.pop("notes")),
        truth=None if truth is None else FileRecord(**truth),
        **stored,
    )


def read_part(corpus: Corpus, name: str, place: Place) -> PartRecord:
    """Raises: IndexDamaged; FileNotFoundError where the part was never finished."""
    return _read(corpus, _part_record, "index", name, *place, PART)


def read_parts(corpus: Corpus, name: str, meta: Generation) -> dict[str, PartRecord]:
    """Those of a generation, by name. Raises: as `read_part`."""
    return {part: read_part(corpus, name, (PARTS, part)) for part in meta.parts}


def read_template(corpus: Corpus, name: str, template: str) -> TemplateRecord:
    """Raises: IndexDamaged; FileNotFoundError."""
    return _read(corpus, _template_record, "index", name, TEMPLATES, template, TEMPLATE)


def read_generation(corpus: Corpus, name: str, generation: str) -> Generation:
    """Raises: IndexDamaged; FileNotFoundError."""
    return _read(corpus, _generation, "index", name, generation, META)


def _read(corpus: Corpus, make: Callable[[dict[str, Any]], T], *path: str) -> T:
    return _from_json(corpus.read_bytes(*path), corpus.path(*path), make)


# Generations and the pointer


def generations(corpus: Corpus, name: str) -> list[str]:
    """Ascending; complete or not."""
    return _folders(corpus, name, _GENERATION)


def finished_generations(corpus: Corpus, name: str) -> list[str]:
    """Ascending; those that a build wrote to the end, whether searches read them or not."""
    return [one for one in generations(corpus, name) if corpus.exists("index", name, one, META)]


def _folders(corpus: Corpus, name: str, pattern: re.Pattern[str]) -> list[str]:
    found = (info.base_name for info in corpus.entries("index", name))
    return sorted(base for base in found if pattern.fullmatch(base))


def next_generation(corpus: Corpus, name: str) -> str:
    last = generations(corpus, name)[-1:]
    return f"gen-{int(last[0].removeprefix('gen-')) + 1 if last else 1:06d}"


def switch(corpus: Corpus, name: str, generation: str) -> None:
    """Searches that start from now on read this generation; those that are open keep theirs."""
    corpus.check_fence()
    text = f"{generation} {fingerprint({'generation': generation})}\n"
    corpus.write_bytes(text.encode(), "index", name, CURRENT)


def current_generation(corpus: Corpus, name: str) -> str | None:
    """What CURRENT names; None where there is no index yet, or CURRENT is torn or damaged."""
    try:
        text = corpus.read_bytes("index", name, CURRENT).decode(errors="replace")
    except FileNotFoundError:
        return None
    match = _POINTER.fullmatch(text)
    if match is None or match[2] != fingerprint({"generation": match[1]}):
        return None
    return match[1]


def names(corpus: Corpus) -> list[str]:
    """The indexes of a corpus, with a current generation or without."""
    return [info.base_name for info in corpus.entries("index")]


def remove_unnamed(corpus: Corpus, name: str, kept: Iterable[str]) -> None:
    """Removes generations but these, what a build keeps on its way, and what no generation here names.

    A damaged generation is not kept. Raises: IndexDamaged where it is the current one; nothing is removed.
    """
    read: dict[str, Generation] = {}
    for generation in kept:
        try:
            read[generation] = read_generation(corpus, name, generation)
        except IndexDamaged:
            if generation == current_generation(corpus, name):
                raise
    for generation in generations(corpus, name):
        if generation not in read:
            corpus.delete_tree("index", name, generation)
    _keep_only(corpus, name, PARTS, {part for one in read.values() for part in one.parts})
    _keep_only(corpus, name, TEMPLATES, {one.template for one in read.values()})
    corpus.delete_tree("index", name, WORK)


def _keep_only(corpus: Corpus, name: str, folder: str, kept: set[str]) -> None:
    for entry in corpus.entries("index", name, folder):
        if entry.base_name not in kept:
            corpus.delete_tree("index", name, folder, entry.base_name)


# Shards


def ranges_of(shards: Sequence[int]) -> tuple[ShardRange, ...]:
    """Ascending numbers as ranges: a billion rows are two million shards, and one range."""
    found: list[ShardRange] = []
    for shard in shards:
        if found and shard == found[-1][1] + 1:
            found[-1] = (found[-1][0], shard)
        else:
            found.append((shard, shard))
    return tuple(found)


def shards_in(ranges: Iterable[ShardRange]) -> list[int]:
    return [shard for first, last in ranges for shard in range(first, last + 1)]
