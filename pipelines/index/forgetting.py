"""The end of vectors whose items are gone: searches leave them out at once, compaction drops them."""

from pipelines.corpus import Corpus
from pipelines.flow import Backend, ClusterConfig
from pipelines.index.build import Job, Wishes, build_index
from pipelines.index.layout import current_generation, read_generation, read_parts, remove_unnamed
from pipelines.index.stock import gone_since
from pipelines.index.workers import Crew
from stages.index.config import IndexConfig
from stages.index.vectors import Ids


def holds(corpus: Corpus, name: str, gone: Ids) -> bool:
    """Whether the current generation may have a vector of an item that is gone. Raises: IndexDamaged."""
    current = current_generation(corpus, name)
    if current is None:
        return False
    meta = read_generation(corpus, name, current)
    return gone_since(corpus, name, read_parts(corpus, name, meta), gone) > 0


def drop_gone(corpus: Corpus, name: str) -> None:
    """A generation of the current one's vectors but for those; no index where none are left.

    Nothing new is added, and no recall keeps a takedown from being done. Raises: IndexDamaged.
    """
    meta = read_generation(corpus, name, str(current_generation(corpus, name)))
    crew, wishes = Crew(ClusterConfig(Backend.LOCAL)), Wishes(drop_gone=True, grow=False)
    built = build_index(Job(corpus, name, IndexConfig(**meta.config), crew, lambda line: None, wishes))
    if not built.meta.vectors:
        corpus.delete_tree("index", name)


def remove_old(corpus: Corpus, name: str) -> None:
    """All generations but the current one, and what a killed build left. Raises: IndexDamaged."""
    current = current_generation(corpus, name)
    if current is None:
        corpus.delete_tree("index", name)
    else:
        remove_unnamed(corpus, name, (current,))
