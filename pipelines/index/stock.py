"""What there is of an index, against what is asked of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipelines.changes import tombstones
from pipelines.corpus import Corpus, CorpusError
from pipelines.index.layout import (
    PARTS,
    Generation,
    PartRecord,
    TemplateRecord,
    current_generation,
    finished_generations,
    read_generation,
    read_parts,
    shards_in,
)
from pipelines.index.parts import is_whole, left_out, of_shards
from pipelines.index.reading import dataset_of
from pipelines.index.templates import asked_of, check_template
from stages.index.choice import choose_factory
from stages.index.config import IndexConfig
from stages.index.damage import IndexDamaged
from stages.index.vectors import Ids
from stages.schemas import SHARD_ROWS

# How an index is measured and searched: where one of these changes, nothing is encoded again.
_QUERIES = ("recall_queries", "recall_texts")
_TUNING = ("nprobe", "k_factor", "target_recall", "min_recall", *_QUERIES)


@dataclass(frozen=True)
class Stock:
    """`meta`: the newest generation, where it can be grown; None where a build starts from nothing, `why`.

    `parts`: its records, by name; `new`: shards of embeddings/NAME that no part covers. `retuned`: it is to
    be measured again; `requeried`: with other queries; `current`: searches read it.
    """

    embeddings: str
    asked: Mapping[str, Any]
    new: tuple[int, ...]
    why: str | None = None
    generation: str | None = None
    meta: Generation | None = None
    parts: Mapping[str, PartRecord] = field(default_factory=dict)
    retuned: bool = False
    requeried: bool = False
    current: bool = False

    @property
    def due(self) -> bool:
        """Whether there is anything to do, but for what is gone: searches leave that out.

        A generation that was refused for its recall waits for new vectors or other settings.
        """
        if self.meta is None or self.new or self.retuned:
            return True
        return self.meta.accepted and not self.current


def take_stock(corpus: Corpus, name: str, config: IndexConfig, generation: str | None = None) -> Stock:
    """Of the newest generation, or of the one that is named. Reads records only.

    Raises: CorpusError where there are no such embeddings.
    """
    info = corpus.info(dataset_of(name))
    if info is None:
        raise CorpusError(f"{corpus.location} has no {dataset_of(name)} to index")
    embeddings, shards = info.fingerprint, corpus.shards(dataset_of(name))
    asked = asked_of(embeddings, config)
    generation = generation or next(reversed(finished_generations(corpus, name)), None)
    if generation is None:
        return Stock(embeddings, asked, tuple(shards), "there is no index yet")
    try:
        meta, parts = _read(corpus, name, generation)
        covered = {shard for record in parts.values() for shard in shards_in(record.shards)}
        new = tuple(shard for shard in shards if shard not in covered)
        dim = int(info.properties["dim"])
        why = _changed(check_template(corpus, name, meta.template), embeddings, config) or _outgrown(
            meta, len(new), dim, config
        )
    except (IndexDamaged, FileNotFoundError) as error:
        return Stock(embeddings, asked, tuple(shards), f"{generation} is damaged: {error}")
    if why:
        return Stock(embeddings, asked, tuple(shards), why)
    changed = {key for key in _TUNING if meta.config.get(key) != getattr(config, key)}
    requeried = not changed.isdisjoint(_QUERIES)
    current = current_generation(corpus, name) == generation
    return Stock(embeddings, asked, new, None, generation, meta, parts, bool(changed), requeried, current)


def _read(corpus: Corpus, name: str, generation: str) -> tuple[Generation, dict[str, PartRecord]]:
    """Raises: IndexDamaged where a part is not whole; FileNotFoundError."""
    meta = read_generation(corpus, name, generation)
    for part in meta.parts:
        if not is_whole(corpus, name, (PARTS, part)):
            raise IndexDamaged(f"{corpus.path('index', name, PARTS, part)} is not whole")
    return meta, read_parts(corpus, name, meta)


def _changed(record: TemplateRecord, embeddings: str, config: IndexConfig) -> str | None:
    """What is asked for now and was not when the template was trained; `auto` is content with any."""
    if record.asked["embeddings"] != embeddings:
        return "embeddings of another fingerprint are there now"
    if config.factory not in ("auto", record.factory):
        return f"index.factory is {config.factory}, and was {record.factory} when it was trained"
    known = record.asked["bytes_per_vector"]
    if config.bytes_per_vector not in (None, known):
        return f"index.bytes_per_vector is {config.bytes_per_vector}, and was {known} when it was trained"
    return None


def _outgrown(meta: Generation, new_shards: int, dim: int, config: IndexConfig) -> str | None:
    """An exact index that got too large for one is trained at last; others say when they want to be."""
    rows = meta.vectors + new_shards * SHARD_ROWS
    if (
        meta.factory != "Flat"
        or config.factory != "auto"
        or choose_factory(rows, dim, config).factory == "Flat"
    ):
        return None
    return f"up to {rows:,} vectors are too many for exact search"


def is_foldable(corpus: Corpus, name: str, stock: Stock) -> bool:
    """Whether a merge would change anything. Raises: IndexDamaged."""
    return len(stock.parts) > 1 or gone_since(corpus, name, stock.parts, tombstones(corpus)) > 0


def gone_since(corpus: Corpus, name: str, parts: Mapping[str, PartRecord], gone: Ids) -> int:
    """Of how many of these items a part may have a vector. Raises: IndexDamaged."""
    return sum(
        len(np.setdiff1d(of_shards(gone, record.shards), left_out(corpus, name, part)))
        for part, record in parts.items()
    )
