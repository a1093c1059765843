"""An index, open for searching."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from pipelines.corpus import Corpus, CorpusError
from pipelines.index.layout import PARTS, Generation, current_generation, read_generation
from pipelines.index.parts import open_part
from pipelines.index.templates import open_template
from stages.index.damage import IndexDamaged
from stages.index.searchable import SearchableIndex

T = TypeVar("T")


@dataclass(frozen=True)
class Opened:
    """A generation: `index` stays usable when newer ones come and this one is removed."""

    generation: str
    meta: Generation
    index: SearchableIndex


def open_index(corpus: Corpus, name: str) -> Opened:
    """The current generation. Raises: CorpusError, IndexDamaged."""
    if current_generation(corpus, name) is None:
        raise CorpusError(f"{corpus.location} has no index {name}: run darkroom index first")
    return of_current(corpus, name, open_generation)


def open_generation(corpus: Corpus, name: str, generation: str) -> Opened:
    """Raises: IndexDamaged; FileNotFoundError."""
    meta = read_generation(corpus, name, generation)
    return Opened(generation, meta, open_parts(corpus, name, meta.template, meta.parts))


def open_parts(corpus: Corpus, name: str, template: str, parts: tuple[str, ...]) -> SearchableIndex:
    """Raises: IndexDamaged; FileNotFoundError."""
    lists = [open_part(corpus, name, (PARTS, part), template) for part in parts]
    return SearchableIndex(open_template(corpus, name, template), lists)


def of_current(corpus: Corpus, name: str, read: Callable[[Corpus, str, str], T]) -> T:
    """What is read of the current generation; where it was removed meanwhile, of the one that took its place.

    Raises: IndexDamaged.
    """
    generation = str(current_generation(corpus, name))
    while True:
        try:
            return read(corpus, name, generation)
        except FileNotFoundError as error:
            newer = str(current_generation(corpus, name))
            if newer == generation:
                where = corpus.path("index", name, generation)
                raise IndexDamaged(f"{where} lacks a file: run darkroom index again") from error
            generation = newer
