"""What a person is told of an index."""

from pipelines.changes import tombstones
from pipelines.corpus import Corpus
from pipelines.index.layout import (
    META,
    Generation,
    current_generation,
    names,
    read_generation,
    read_parts,
    read_template,
)
from pipelines.index.opened import of_current
from pipelines.index.stock import gone_since
from pipelines.index_facts import IndexFacts
from stages.index.curve import Measured
from stages.index.damage import IndexDamaged


def indexes(corpus: Corpus) -> list[IndexFacts]:
    """The current generation of every index of the corpus. Raises: IndexDamaged."""
    return [of_current(corpus, name, facts_of) for name in names(corpus) if current_generation(corpus, name)]


def facts_of(corpus: Corpus, name: str, generation: str) -> IndexFacts:
    """Raises: IndexDamaged; FileNotFoundError."""
    meta = read_generation(corpus, name, generation)
    measured = measured_of(meta, corpus.path("index", name, generation, META))
    return IndexFacts(
        name=name,
        generation=generation,
        vectors=meta.vectors,
        factory=meta.factory,
        recall_at_10=None if measured is None else measured.point.worst().value,
        size_bytes=meta.size,
        reason=meta.reason,
        template=meta.template,
        trained_on=read_template(corpus, name, meta.template).trained_on,
        deltas=len(meta.parts) - 1,
        tombstones=gone_since(corpus, name, read_parts(corpus, name, meta), tombstones(corpus)),
        drift=meta.drift,
        measured=measured,
    )


def measured_of(meta: Generation, path: str) -> Measured | None:
    """Its recall; None where it was not measured. Raises: IndexDamaged, naming `path`."""
    if meta.measured is None:
        return None
    try:
        return Measured.from_dict(meta.measured)
    except ValueError as error:
        raise IndexDamaged(f"{path} does not hold a recall: {error}") from error
