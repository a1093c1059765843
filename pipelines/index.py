"""The index of a corpus: generations that never change, and a pointer that names the current one."""

import re
from collections.abc import Collection, Iterator
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from pipelines.corpus import Corpus, CorpusError, fingerprint
from pipelines.facts import IndexFacts
from stages.index.config import IndexConfig
from stages.index.create import build_index
from stages.index.files import IndexMeta, pack_index, unpack_index
from stages.index.vectors import Batch, vectors_of
from stages.schemas import SHARD_ROWS

_GENERATION = re.compile(r"gen-(\d{6})")
_INDEX, _META, _CURRENT = "index.faiss", "meta.json", "CURRENT"


class RecallTooLowError(CorpusError):
    """The index was built and not made current."""


def is_current(corpus: Corpus, name: str, config: IndexConfig) -> bool:
    """Whether the current generation covers all embeddings with this configuration."""
    current = current_generation(corpus, name)
    return current is not None and read_meta(corpus, name, current).source == _source(corpus, name, config)


def has_vectors(corpus: Corpus, name: str) -> bool:
    """Whether any image has an embedding; reads up to the first shard that holds one."""
    return any(len(ids) for ids, _ in _batches(corpus, name))


def build(corpus: Corpus, name: str, config: IndexConfig) -> IndexFacts:
    """Builds a generation over `embeddings/NAME` and makes it current.

    Raises: IndexConfigError; RecallTooLowError where recall@10 is under `index.min_recall`, in which case
    searches go on reading the generation before.
    """
    import torch  # noqa: F401  before faiss, whose OpenMP is another one

    info = corpus.info(f"embeddings/{name}")
    if info is None:
        raise CorpusError(f"{corpus.location} has no embeddings/{name} to index")
    source = _source(corpus, name, config)
    rows = source["shards"] * SHARD_ROWS
    built = build_index(partial(_batches, corpus, name), rows, int(info.properties["dim"]), config)
    data, digest = pack_index(built.index)
    meta = replace(built.meta, sha256=digest, size=len(data), source=source)
    generation = _next_generation(corpus, name)
    corpus.write_bytes(data, "index", name, generation, _INDEX)
    corpus.write_bytes(meta.to_json(), "index", name, generation, _META)
    if meta.recall is not None and meta.recall.recall < config.min_recall:
        raise RecallTooLowError(
            f"index {name} {generation} has recall@10 {meta.recall.recall:.3f}, under index.min_recall "
            f"{config.min_recall}: it was not made current"
        )
    before = current_generation(corpus, name)
    corpus.write_bytes(f"{generation}\n".encode(), "index", name, _CURRENT)
    # The one before stays for searches that opened it a moment ago.
    _remove_old(corpus, name, kept=(generation, before))
    return facts(corpus, name, generation)


def _source(corpus: Corpus, name: str, config: IndexConfig) -> dict[str, Any]:
    info = corpus.info(f"embeddings/{name}")
    shards = corpus.shards(f"embeddings/{name}")
    return {
        "embeddings": info and info.fingerprint,
        "shards": len(shards),
        "shards_digest": fingerprint({"shards": shards}),
        "config": asdict(config),
    }


def _batches(corpus: Corpus, name: str) -> Iterator[Batch]:
    for shard in corpus.shards(f"embeddings/{name}"):
        yield vectors_of(corpus.read_shard(f"embeddings/{name}", shard, ["image_id", "embedding"]))


def generations(corpus: Corpus, name: str) -> list[str]:
    """Ascending; complete or not."""
    found = (info.base_name for info in corpus.entries("index", name))
    return sorted(base for base in found if _GENERATION.fullmatch(base))


def _next_generation(corpus: Corpus, name: str) -> str:
    last = generations(corpus, name)[-1:]
    return f"gen-{int(last[0].removeprefix('gen-')) + 1 if last else 1:06d}"


def _remove_old(corpus: Corpus, name: str, kept: Collection[str | None]) -> None:
    for generation in generations(corpus, name):
        if generation not in kept:
            corpus.filesystem.delete_dir(corpus.path("index", name, generation))


def current_generation(corpus: Corpus, name: str) -> str | None:
    """What CURRENT names; None where there is no index yet."""
    try:
        text = corpus.read_bytes("index", name, _CURRENT).decode(errors="replace").strip()
    except FileNotFoundError:
        return None
    return text if _GENERATION.fullmatch(text) else None


def read_meta(corpus: Corpus, name: str, generation: str) -> IndexMeta:
    """Raises: IndexDamaged."""
    path = ("index", name, generation, _META)
    return IndexMeta.from_json(corpus.read_bytes(*path), corpus.path(*path))


def open_index(corpus: Corpus, name: str) -> tuple[Any, IndexMeta]:
    """The current generation, its checksum verified. Raises: CorpusError, IndexDamaged."""
    generation = current_generation(corpus, name)
    if generation is None:
        raise CorpusError(f"{corpus.location} has no index {name}: run darkroom nightly first")
    meta = read_meta(corpus, name, generation)
    path = ("index", name, generation, _INDEX)
    return unpack_index(corpus.read_bytes(*path), meta.sha256, corpus.path(*path)), meta


def indexes(corpus: Corpus) -> list[IndexFacts]:
    """The current generation of every index of the corpus."""
    names = [info.base_name for info in corpus.entries("index")]
    current = ((name, current_generation(corpus, name)) for name in names)
    return [facts(corpus, name, generation) for name, generation in current if generation]


def facts(corpus: Corpus, name: str, generation: str) -> IndexFacts:
    meta = read_meta(corpus, name, generation)
    recall = None if meta.recall is None else meta.recall.recall
    return IndexFacts(name, generation, meta.vectors, meta.factory, recall, size_bytes=meta.size)
