"""An index of a corpus as one file of stock faiss."""

from collections.abc import Iterator

import numpy as np
import psutil

from pipelines import quantities as q
from pipelines.corpus import Corpus, CorpusError
from pipelines.export.job import Job
from pipelines.index.layout import current_generation
from pipelines.nearest import Nearest
from pipelines.vectors import StoredVectors
from stages.index.plain import Numbering, PlainFlat, PlainLists
from stages.index.vectors import Ids

INDEX = "index.faiss"
# Vectors that are fetched and encoded together.
_BATCH_ROWS = 16_384


def export_faiss(job: Job) -> None:
    """`index.faiss`: numbers are image ids, distances squared, 2 - 2 cos.

    Raises: CorpusError, IndexDamaged.
    """
    ids = np.concatenate([np.empty(0, np.int64), *(chunk.ids for chunk in job.chunks([]))])
    write_index(job, ids, INDEX, by_position=False)
    job.tally.without_caption.clear()
    job.tally.written = len(ids)
    job.files += 1
    job.notes.append("ids are image ids; distances are squared, 2 - 2 cos: the smallest is the nearest")


def write_index(job: Job, ids: Ids, file: str, by_position: bool) -> bool:
    """Over the vectors of these items, ascending; returns whether it is exact.

    With the lists of the corpus's index where that has codes, else of the vectors as they are.
    Raises: CorpusError, also where it does not fit into memory; IndexDamaged; VectorError.
    """
    name = str(job.chosen.names.embeddings)
    numbering = Numbering(ids, by_position)
    nearest = Nearest(job.corpus, name) if current_generation(job.corpus, name) else None
    if nearest is None or nearest.opened.meta.factory == "Flat":
        _write_flat(job, name, numbering, file)
        return True
    _write_lists(job, nearest, numbering, file)
    return False


def _write_flat(job: Job, name: str, numbering: Numbering, file: str) -> None:
    stored = StoredVectors(job.corpus, f"embeddings/{name}")
    _check_memory(job.corpus, PlainFlat.memory(len(numbering.ids), stored.dim), len(numbering.ids))
    index = PlainFlat(stored.dim, numbering, similarity=numbering.by_position)
    for ids in _batches(numbering.ids):
        index.add(ids, stored.fetch(ids))
    with job.target.files.writing(file) as stream:
        index.write(stream)


def _write_lists(job: Job, nearest: Nearest, numbering: Numbering, file: str) -> None:
    template, parts = nearest.opened.index.template, nearest.opened.index.parts
    _check_memory(job.corpus, PlainLists.memory(len(numbering.ids), template.code_size), len(numbering.ids))
    assert nearest.settled.nprobe is not None
    index = PlainLists(template, numbering, nearest.settled.nprobe)
    index.fill(parts)
    for ids in _batches(index.missing):
        index.add(ids, nearest.stored.fetch(ids))
    with job.target.files.writing(file) as stream:
        index.write(stream)


def _batches(ids: Ids) -> Iterator[Ids]:
    for start in range(0, len(ids), _BATCH_ROWS):
        yield ids[start : start + _BATCH_ROWS]


def _check_memory(corpus: Corpus, needed: int, rows: int) -> None:
    """Before anything is read. Raises: CorpusError."""
    free = psutil.virtual_memory().available
    if needed > free:
        raise CorpusError(
            f"an index file over {rows:,} vectors of {corpus.location} is filled in memory: it takes up to "
            f"{q.size(needed)}, {q.size(free)} are free"
        )
