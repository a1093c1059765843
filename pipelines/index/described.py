"""What a person is told of an index."""

from pipelines.corpus import Corpus
from pipelines.facts import IndexFacts
from pipelines.index.layout import current_generation, names, read_generation
from pipelines.index.opened import of_current


def indexes(corpus: Corpus) -> list[IndexFacts]:
    """The current generation of every index of the corpus. Raises: IndexDamaged."""
    return [of_current(corpus, name, facts_of) for name in names(corpus) if current_generation(corpus, name)]


def facts_of(corpus: Corpus, name: str, generation: str) -> IndexFacts:
    """Raises: IndexDamaged; FileNotFoundError."""
    meta = read_generation(corpus, name, generation)
    return IndexFacts(name, generation, meta.vectors, meta.factory, size_bytes=meta.size)


def index_metrics(facts: IndexFacts) -> dict[str, float]:
    """Flat numbers for the tracker."""
    return {f"index/{facts.name}/vectors": float(facts.vectors)}
