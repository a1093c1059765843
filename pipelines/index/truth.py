"""The queries that an index is measured with, and their exact neighbours."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.corpus import Corpus
from pipelines.index.layout import TRUTH, UNITS, FileRecord, Generation, ShardRange, shards_in
from pipelines.index.parts import read_file
from pipelines.index.reading import read_batches
from pipelines.index.units import cut_units
from pipelines.index.workers import Crew, run_tasks
from stages.index.damage import IndexDamaged
from stages.index.exact import (
    ExactSearch,
    Queries,
    Truth,
    merge_truth,
    pack_truth,
    unpack_neighbours,
    unpack_truth,
)
from stages.index.search import Neighbours
from stages.index.vectors import Ids


def of_unit(corpus: Corpus, name: str, unit: str) -> Neighbours:
    """Raises: IndexDamaged."""
    data = read_file(corpus, name, (UNITS, unit), TRUTH)
    return unpack_neighbours(data, corpus.path("index", name, UNITS, unit, TRUTH))


def of_generation(corpus: Corpus, name: str, generation: str, meta: Generation) -> Truth:
    """Raises: IndexDamaged; FileNotFoundError."""
    path = ("index", name, generation, TRUTH)
    data = corpus.read_bytes(*path)
    if meta.truth is None or hashlib.sha256(data).hexdigest() != meta.truth.sha256:
        raise IndexDamaged(f"{corpus.path(*path)} is damaged: its sha256 is not the recorded one")
    return unpack_truth(data, corpus.path(*path))


def write_truth(corpus: Corpus, name: str, generation: str, truth: Truth) -> FileRecord:
    data = pack_truth(truth)
    corpus.write_bytes(data, "index", name, generation, TRUTH)
    return FileRecord(hashlib.sha256(data).hexdigest(), len(data))


@dataclass(frozen=True)
class Seeker:
    """A worker that finds the neighbours of the queries in a range of shards."""

    corpus: Corpus
    name: str
    gone: Ids
    queries: Queries

    def __call__(self, shards: Sequence[ShardRange]) -> Neighbours:
        exact = ExactSearch(self.queries.vectors, self.queries.own_ids)
        for ids, vectors in read_batches(self.corpus, self.name, shards_in(shards), self.gone):
            exact.add(ids, vectors)
        return exact.result()


def find_truth(seeker: Seeker, shards: Sequence[int], unit_rows: int, crew: Crew) -> Neighbours:
    """The exact neighbours among these shards, of which there is one at least, by reading all of them."""
    units = cut_units(shards, unit_rows)
    return merge_truth([found for _, found in run_tasks("truth", lambda: seeker, units, crew)])
