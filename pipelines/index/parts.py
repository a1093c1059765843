"""Parts of an index: writing one, so that it is there whole or not at all; opening one; merging several.

The units that workers write have the same form as the parts that searches read.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import IO

import numpy as np
import numpy.typing as npt

from pipelines.corpus import Corpus, fingerprint
from pipelines.index.layout import (
    DIRECTORY,
    LEFT_OUT,
    LISTS,
    PART,
    PARTS,
    FileRecord,
    PartRecord,
    Place,
    ShardRange,
    ranges_of,
    read_part,
    shards_in,
    to_json,
)
from pipelines.index.reading import within
from stages.index.arrays import pack_arrays, unpack_arrays
from stages.index.damage import IndexDamaged
from stages.index.lists import Directory, Lists, Written
from stages.index.merge import merge_lists
from stages.index.vectors import Ids


def write_part(
    corpus: Corpus,
    name: str,
    place: Place,
    write: Callable[[IO[bytes]], Written],
    others: dict[str, bytes],
    record: PartRecord,
) -> PartRecord:
    """Writes the lists, the directory, other files, and last the record, with what they turned out to be."""
    path = ("index", name, *place)
    corpus.check_fence()
    with corpus.writing(*path, LISTS) as stream:
        written = write(stream)
    files = {LISTS: FileRecord(written.sha256, written.size)}
    for file, data in {DIRECTORY: written.directory.pack(), **others}.items():
        corpus.write_bytes(data, *path, file)
        files[file] = FileRecord(hashlib.sha256(data).hexdigest(), len(data))
    fit = {**(record.fit or {}), "imbalance": imbalance(written.directory.sizes)}
    whole = replace(record, rows=written.rows, files=files, fit=fit)
    corpus.check_fence()
    corpus.write_bytes(to_json(whole), *path, PART)
    return whole


def is_whole(corpus: Corpus, name: str, place: Place) -> bool:
    """Whether a part is complete, by its record and the sizes of its files."""
    try:
        record = read_part(corpus, name, place)
    except (FileNotFoundError, IndexDamaged):
        return False
    sizes = {info.base_name: info.size for info in corpus.entries("index", name, *place)}
    return all(sizes.get(file) == one.size for file, one in record.files.items())


def read_file(corpus: Corpus, name: str, place: Place, file: str) -> bytes:
    """A file of a part. Raises: IndexDamaged where it is not as its record says."""
    path = ("index", name, *place, file)
    data, wanted = corpus.read_bytes(*path), read_part(corpus, name, place).files[file]
    if hashlib.sha256(data).hexdigest() != wanted.sha256:
        raise IndexDamaged(f"{corpus.path(*path)} is damaged: its sha256 is not the recorded one")
    return data


def open_part(corpus: Corpus, name: str, place: Place, template: str) -> Lists:
    """The lists of a part, mapped into memory. Raises: IndexDamaged, also for another template."""
    record, path = read_part(corpus, name, place), ("index", name, *place)
    if record.template != template:
        raise IndexDamaged(
            f"{corpus.path(*path)} was encoded with template {record.template}, the index has {template}"
        )
    directory = Directory.unpack(read_file(corpus, name, place, DIRECTORY), corpus.path(*path, DIRECTORY))
    if len(directory.sizes) != record.nlist or directory.rows != record.rows:
        raise IndexDamaged(f"{corpus.path(*path)} does not hold what its record says")
    lists = corpus.local_file(*path, LISTS, never_changes=True)
    return Lists(lists, directory, record.code_size)


def merge(corpus: Corpus, name: str, sources: Sequence[Place], gone: Ids) -> str:
    """One part for several of one template, without the ids that are gone; returns its name.

    In bounded memory. The same sources give the same part, and one that is there already is not made again.
    Raises: IndexDamaged.
    """
    records = [read_part(corpus, name, place) for place in sources]
    ordered = sorted(zip(records, sources, strict=True), key=lambda pair: pair[0].shards)
    shards = sorted(shard for record in records for shard in shards_in(record.shards))
    left_out = of_shards(gone, ranges_of(shards))
    first = replace(ordered[0][0], shards=ranges_of(shards), fit=_joined_fit(records))
    made = name_of(first, left_out)
    if not is_whole(corpus, name, (PARTS, made)):
        opened = [open_part(corpus, name, place, first.template) for _, place in ordered]
        others = {LEFT_OUT: pack_arrays(ids=left_out)}
        write_part(
            corpus, name, (PARTS, made), lambda stream: merge_lists(opened, stream, left_out), others, first
        )
    return made


def name_of(record: PartRecord, left_out: Ids) -> str:
    """What a part is called: by what decides its bytes. `left_out`: of `left_out`."""
    digest = hashlib.sha256(left_out.tobytes()).hexdigest()
    return fingerprint(
        {"template": record.template, "shards": record.shards, "of": record.embeddings, "without": digest}
    )


def _joined_fit(records: Sequence[PartRecord]) -> dict[str, float]:
    """Means over all vectors; the imbalance is told by the lists once they are written."""
    rows = sum(record.rows for record in records if record.fit)
    return {
        key: sum(record.rows * record.fit[key] for record in records if record.fit) / rows
        for key in ("coarse_error", "code_error")
        if rows
    }


def imbalance(sizes: npt.NDArray[np.int64]) -> float:
    """How many more vectors a query scans than with even lists: 1 is even; 0 for fewer than 2 vectors.

    The mean size of the list of another vector, over the mean size of all: unlike faiss's imbalance
    factor it does not grow where there are few vectors for many lists, so that a small delta compares
    with its base.
    """
    rows = int(sizes.sum())
    return float(len(sizes) * (sizes * (sizes - 1.0)).sum() / (rows * (rows - 1.0))) if rows > 1 else 0.0


def left_out(corpus: Corpus, name: str, part: str) -> Ids:
    """The ids, ascending, of covered items that were gone when the part was made."""
    data = read_file(corpus, name, (PARTS, part), LEFT_OUT)
    ids: Ids = unpack_arrays(data, corpus.path("index", name, PARTS, part, LEFT_OUT))["ids"]
    return ids


def of_shards(ids: Ids, shards: Sequence[ShardRange]) -> Ids:
    """Those of the ascending ids whose items are in the shards."""
    return np.concatenate([np.empty(0, np.int64), *(within(ids, first, last) for first, last in shards)])
