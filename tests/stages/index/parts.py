"""Small templates, and files of lists as a night writes them."""

from pathlib import Path
from typing import Any

import numpy as np

from stages.index.blas import import_faiss
from stages.index.lists import Lists, Written, write_lists
from stages.index.merge import Merged, merge_lists
from stages.index.template import Template
from stages.index.vectors import Ids, Vectors
from tests.stages.index.clusters import Clusters, unit


def make_template(corpus: Clusters, factory: str) -> Template:
    faiss = import_faiss()
    index = faiss.index_factory(corpus.vectors.shape[1], factory, faiss.METRIC_L2)
    ivf = faiss.downcast_index(faiss.extract_index_ivf(index))
    if hasattr(ivf, "do_polysemous_training"):
        # Coarse codebooks, for they take nearly all of the time.
        ivf.pq.cp.niter, ivf.do_polysemous_training = 2, False
    if isinstance(index, faiss.IndexPreTransform):
        transform = faiss.downcast_VectorTransform(index.chain.at(0))
        if isinstance(transform, faiss.OPQMatrix):
            transform.niter, transform.niter_pq, transform.niter_pq_0 = 2, 2, 2
    index.train(unit(corpus.vectors))
    return Template(index, factory)


def in_memory(template: Template, ids: Ids, vectors: Vectors) -> Any:
    """What faiss itself makes of the same vectors: an index of its own, filled by one call."""
    index = import_faiss().clone_index(template.index)
    index.add_with_ids(unit(vectors), ids)
    return index


def lists_in_memory(template: Template, ids: Ids, vectors: Vectors) -> bytes:
    """The lists of `in_memory` one after the other: of each its codes, then its ids."""
    faiss = import_faiss()
    index = in_memory(template, ids, vectors)
    lists = faiss.downcast_index(faiss.extract_index_ivf(index)).invlists
    pieces = []
    for number in range(lists.nlist):
        size = lists.list_size(number)
        pieces.append(faiss.rev_swig_ptr(lists.get_codes(number), size * lists.code_size).tobytes())
        pieces.append(faiss.rev_swig_ptr(lists.get_ids(number), size).tobytes())
    return b"".join(pieces)


def write_part(path: Path, template: Template, ids: Ids, vectors: Vectors) -> Written:
    rotated = template.transform(unit(vectors))
    numbers = np.ascontiguousarray(template.assign(rotated)[0][:, 0])
    with path.open("wb") as stream:
        return write_lists(stream, numbers, ids, template.encode(rotated, numbers), template.nlist)


def make_part(path: Path, template: Template, ids: Ids, vectors: Vectors) -> Lists:
    written = write_part(path, template, ids, vectors)
    return Lists(path, written.directory, template.code_size)


def make_parts(folder: Path, template: Template, corpus: Clusters, cuts: list[int]) -> list[Lists]:
    """The rows of a corpus cut at these places, each piece a file."""
    ends = [*cuts, len(corpus.ids)]
    return [
        make_part(folder / f"{number}.bin", template, corpus.ids[start:end], corpus.vectors[start:end])
        for number, (start, end) in enumerate(zip([0, *cuts], ends, strict=True))
    ]


def merge_to(path: Path, sources: list[Lists], gone: Ids | None = None) -> Merged:
    with path.open("wb") as stream:
        return merge_lists(sources, stream, np.empty(0, np.int64) if gone is None else gone)
