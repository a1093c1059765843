"""Every byte of an index read again: templates, parts and generations, and whether they belong together."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise

import numpy as np
import pyarrow.fs as pafs

from pipelines.corpus import Corpus
from pipelines.index.layout import (
    CURRENT,
    META,
    NEIGHBOURS,
    PART,
    PARTS,
    TEMPLATE,
    TEMPLATE_DATA,
    TEMPLATES,
    TRUTH,
    WORK,
    FileRecord,
    Generation,
    PartRecord,
    ShardRange,
    current_generation,
    generations,
    read_generation,
    read_part,
    read_template,
    shards_in,
)
from pipelines.index.parts import left_out, name_of, open_part
from pipelines.index.templates import open_template
from pipelines.integrity import Fault, Remedy, seal_broken
from stages.index.damage import IndexDamaged
from stages.index.lists import Lists
from stages.index.merge import check_same_shape
from stages.index.template import Template
from stages.index.vectors import Ids
from stages.schemas import ROW_BITS, SHARD_ROWS

_READ_BYTES = 1 << 22


@dataclass
class IndexFindings:
    """Of one index. `files`, `size`: of all that lies there, in bytes; `current`: whether searches have one.

    `templates`, `parts`: those that are sound; `named`: by any generation.
    """

    corpus: Corpus
    name: str
    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    files: int = 0
    size: int = 0
    current: bool = False
    templates: dict[str, Template] = field(default_factory=dict)
    parts: dict[str, PartRecord] = field(default_factory=dict)
    named: set[str] = field(default_factory=set)

    def path(self, *parts: str) -> str:
        return "/".join(["index", self.name, *parts])

    def blame(self, problem: object, *parts: str) -> None:
        self.faults.append(Fault(self.path(*parts), str(problem), Remedy.INDEX))

    def is_blamed(self, *parts: str) -> bool:
        return any(fault.path == self.path(*parts) for fault in self.faults)

    def folders(self, *parts: str) -> list[str]:
        return [info.base_name for info in self.corpus.entries("index", self.name, *parts)]


def inspect_index(corpus: Corpus, name: str) -> IndexFindings:
    """Changes nothing. Reads `lists.bin` twice: for its sha256, and for the ids in it."""
    found = IndexFindings(corpus, name)
    for info in corpus.entries("index", name, recursive=True):
        if info.type == pafs.FileType.File:
            found.files, found.size = found.files + 1, found.size + (info.size or 0)
    present = generations(corpus, name)
    _inspect_pointer(found, present)
    for template in found.folders(TEMPLATES):
        _inspect_template(found, template)
    for part in found.folders(PARTS):
        _inspect_part(found, part)
    for generation in present:
        _inspect_generation(found, generation)
        _inspect_neighbours(found, generation)
    for folder in (TEMPLATES, PARTS):
        unnamed = set(found.folders(folder)) - found.named
        found.notes += [f"{found.path(folder, one)} belongs to no generation" for one in sorted(unnamed)]
    if WORK in found.folders():
        found.notes.append(f"{found.path(WORK)} is a build that was not finished: darkroom index goes on")
    strays = sorted({*found.folders()} - {CURRENT, TEMPLATES, PARTS, WORK, *present})
    found.notes += [f"{found.path(one)} does not belong there" for one in strays]
    return found


def _inspect_pointer(found: IndexFindings, present: Sequence[str]) -> None:
    current = current_generation(found.corpus, found.name)
    found.current = current is not None
    if current is None and CURRENT in found.folders():
        found.blame("it is damaged", CURRENT)
    elif current is not None and current not in present:
        found.blame(f"it names {current}, which is not there", CURRENT)


def _check_files(found: IndexFindings, files: Mapping[str, FileRecord], *folder: str) -> None:
    """Raises: IndexDamaged, FileNotFoundError."""
    for file, record in files.items():
        digest, size = hashlib.sha256(), 0
        with found.corpus.filesystem.open_input_stream(
            found.corpus.path("index", found.name, *folder, file)
        ) as stream:
            while data := stream.read(_READ_BYTES):
                digest.update(data)
                size += len(data)
        if (digest.hexdigest(), size) != (record.sha256, record.size):
            raise IndexDamaged(f"its {file} is not what was written")
    strays = set(found.folders(*folder)) - files.keys() - {PART, TEMPLATE, META, NEIGHBOURS}
    found.notes += [f"{found.path(*folder, one)} does not belong there" for one in sorted(strays)]


# Templates and parts. Of one without a record, which was never finished, the generation tells that names it.


def _inspect_template(found: IndexFindings, template: str) -> None:
    try:
        record = read_template(found.corpus, found.name, template)
        _check_files(found, {TEMPLATE_DATA: record.file}, TEMPLATES, template)
        found.templates[template] = open_template(found.corpus, found.name, template)
    except IndexDamaged as error:
        found.blame(error, TEMPLATES, template)
    except FileNotFoundError:
        if found.corpus.exists("index", found.name, TEMPLATES, template, TEMPLATE):
            found.blame(f"it lacks {TEMPLATE_DATA}", TEMPLATES, template)


def _inspect_part(found: IndexFindings, part: str) -> None:
    try:
        record = read_part(found.corpus, found.name, (PARTS, part))
        _check_files(found, record.files, PARTS, part)
        lists = open_part(found.corpus, found.name, (PARTS, part), record.template)
        if template := found.templates.get(record.template):
            check_same_shape(lists, template.nlist, template.code_size)
        gone = left_out(found.corpus, found.name, part)
        _check_ids(lists, record.shards, gone)
        if (made_as := name_of(record, gone)) != part:
            raise IndexDamaged(f"it was made as {made_as}")
        found.parts[part] = record
    except IndexDamaged as error:
        found.blame(error, PARTS, part)
    except FileNotFoundError as error:
        if found.corpus.exists("index", found.name, PARTS, part, PART):
            found.blame(f"it lacks a file: {error}", PARTS, part)


def _check_ids(lists: Lists, shards: Iterable[ShardRange], gone: Ids) -> None:
    """Of the shards that the part covers, each once, and none that it left out.

    A bit for each row: 125 MB for a billion. Raises: IndexDamaged.
    """
    numbers = np.array(shards_in(shards), np.int64)
    seen = np.zeros(len(numbers) * SHARD_ROWS // 8, np.uint8)
    for ids in chain([gone], lists.ids()):
        places = np.sort(_places(ids, numbers))
        bits = np.left_shift(1, places & 7).astype(np.uint8)
        if (np.diff(places) == 0).any() or (seen[places >> 3] & bits).any():
            raise IndexDamaged("it holds an id twice, or one that was gone")
        np.bitwise_or.at(seen, places >> 3, bits)


def _places(ids: Ids, numbers: Ids) -> Ids:
    """Rows counted through these shards, ascending. Raises: IndexDamaged."""
    shards, rows = ids >> ROW_BITS, ids & ((1 << ROW_BITS) - 1)
    place = np.searchsorted(numbers, shards)
    wrong = (np.append(numbers, -1)[place] != shards) | (rows >= SHARD_ROWS)
    if wrong.any():
        raise IndexDamaged(f"it holds image_id {ids[wrong][0]}, which is of none of its shards")
    return place * SHARD_ROWS + rows


# Generations


def _inspect_generation(found: IndexFindings, generation: str) -> None:
    try:
        meta = read_generation(found.corpus, found.name, generation)
        found.named |= {meta.template, *meta.parts}
        if problem := _generation_problem(found, meta):
            raise IndexDamaged(problem)
        _check_files(found, {TRUTH: meta.truth} if meta.truth else {}, generation)
    except IndexDamaged as error:
        found.blame(error, generation)
    except FileNotFoundError:
        if generation == current_generation(found.corpus, found.name) or found.corpus.exists(
            "index", found.name, generation, META
        ):
            found.blame("it lacks a file", generation)
        else:
            found.notes.append(
                f"{found.path(generation)} is unfinished or was removed: the next build removes it"
            )


def _inspect_neighbours(found: IndexFindings, generation: str) -> None:
    for made in found.folders(generation, NEIGHBOURS):
        for file in found.folders(generation, NEIGHBOURS, made):
            path = found.path(generation, NEIGHBOURS, made, file)
            if broken := seal_broken(found.corpus, path):
                found.faults.append(Fault(path, str(broken), Remedy.NEIGHBOURS))


def _generation_problem(found: IndexFindings, meta: Generation) -> str | None:
    """None also where what it names is damaged: the blame is on that."""
    if found.is_blamed(TEMPLATES, meta.template) or any(found.is_blamed(PARTS, part) for part in meta.parts):
        return None
    if meta.template not in found.templates:
        return f"it names template {meta.template}, which is not there"
    if missing := [part for part in meta.parts if part not in found.parts]:
        return f"it names part {missing[0]}, which is not there"
    records = [found.parts[part] for part in meta.parts]
    if {(one.template, one.embeddings) for one in records} - {(meta.template, meta.embeddings)}:
        return "its parts are of another template or of other embeddings"
    if sum(one.rows for one in records) != meta.vectors:
        return f"its parts hold {sum(one.rows for one in records)} vectors, it says {meta.vectors}"
    covered = sorted(shards for one in records for shards in one.shards)
    if any(first <= last for (_, last), (first, _) in pairwise(covered)):
        return "two of its parts cover the same shards"
    return None
