"""The index of a corpus: generations that never change, and a pointer that names the current one."""

import hashlib
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np

from pipelines.changes import tombstones, without
from pipelines.corpus import Corpus, CorpusError, fingerprint
from pipelines.facts import IndexFacts
from stages.index.build import stored_ids
from stages.index.config import IndexConfig
from stages.index.create import build_index
from stages.index.files import IndexDamaged, IndexMeta, pack_index, unpack_index
from stages.index.vectors import Batch, Ids, vectors_of
from stages.schemas import SHARD_ROWS

_GENERATION = re.compile(r"gen-(\d{6})")
_POINTER = re.compile(r"(gen-\d{6})(?: ([0-9a-f]{16}))?\n?")
_INDEX, _META, CURRENT = "index.faiss", "meta.json", "CURRENT"


T = TypeVar("T")


class RecallTooLowError(CorpusError):
    """The index was built and not made current."""


def is_current(corpus: Corpus, name: str, config: IndexConfig) -> bool:
    """Whether the current generation is whole and covers all embeddings with this configuration.

    Items that are gone since it was built do not count: searches leave them out.
    """
    current = current_generation(corpus, name)
    if current is None:
        return False
    try:
        meta = read_meta(corpus, name, current)
    except (IndexDamaged, FileNotFoundError):
        return False
    built = {key: value for key, value in meta.source.items() if key != "left_out"}
    return corpus.exists("index", name, current, _INDEX) and built == _source(corpus, name, config)


def has_vectors(corpus: Corpus, name: str) -> bool:
    """Whether any image has an embedding; reads up to the first shard that holds one."""
    return any(len(ids) for ids, _ in _batches(corpus, name, tombstones(corpus)))


def build(corpus: Corpus, name: str, config: IndexConfig) -> IndexFacts:
    """Builds a generation over `embeddings/NAME`, without items that are gone, and makes it current.

    Raises: IndexConfigError; RecallTooLowError where recall@10 is under `index.min_recall`, in which case
    searches go on reading the generation before.
    """
    import torch  # noqa: F401  before faiss, whose OpenMP is another one

    info = corpus.info(f"embeddings/{name}")
    if info is None:
        raise CorpusError(f"{corpus.location} has no embeddings/{name} to index")
    gone = tombstones(corpus)
    source = _source(corpus, name, config) | {"left_out": digest(gone)}
    rows = source["shards"] * SHARD_ROWS
    built = build_index(partial(_batches, corpus, name, gone), rows, int(info.properties["dim"]), config)
    data, sha256 = pack_index(built.index)
    meta = replace(built.meta, sha256=sha256, size=len(data), source=source)
    generation = _next_generation(corpus, name)
    corpus.write_bytes(data, "index", name, generation, _INDEX)
    corpus.write_bytes(meta.to_json(), "index", name, generation, _META)
    if meta.recall is not None and meta.recall.recall < config.min_recall:
        raise RecallTooLowError(
            f"index {name} {generation} has recall@10 {meta.recall.recall:.3f}, under index.min_recall "
            f"{config.min_recall}: it was not made current"
        )
    before = current_generation(corpus, name)
    corpus.write_bytes(_pointer(generation), "index", name, CURRENT)
    # The one before stays for searches that opened it a moment ago.
    remove_generations(corpus, name, kept=(generation, before))
    return facts(corpus, name, generation)


def digest(gone: Ids) -> str:
    """16 hex digits over the ids that are gone, ascending."""
    return hashlib.sha256(gone.tobytes()).hexdigest()[:16]


def _source(corpus: Corpus, name: str, config: IndexConfig) -> dict[str, Any]:
    info = corpus.info(f"embeddings/{name}")
    shards = corpus.shards(f"embeddings/{name}")
    return {
        "embeddings": info and info.fingerprint,
        "shards": len(shards),
        "shards_digest": fingerprint({"shards": shards}),
        "config": asdict(config),
    }


def _batches(corpus: Corpus, name: str, gone: Ids) -> Iterator[Batch]:
    for _, table in corpus.scan(f"embeddings/{name}", ["image_id", "embedding"]):
        yield vectors_of(without(table, gone))


def holds(corpus: Corpus, name: str, gone: Ids) -> bool:
    """Whether the current generation has a vector of an item that is gone. Raises: IndexDamaged."""
    current = current_generation(corpus, name)
    if current is None or read_meta(corpus, name, current).source.get("left_out") == digest(gone):
        return False
    index, _ = open_index(corpus, name)
    return bool(np.isin(stored_ids(index), gone).any())


def rebuild(corpus: Corpus, name: str) -> None:
    """A new generation with the configuration of the current one; none where no vectors are left.

    Raises: as `build`.
    """
    config = IndexConfig(**read_meta(corpus, name, str(current_generation(corpus, name))).source["config"])
    if has_vectors(corpus, name):
        build(corpus, name, config)
    else:
        corpus.delete("index", name, CURRENT)


def generations(corpus: Corpus, name: str) -> list[str]:
    """Ascending; complete or not."""
    found = (info.base_name for info in corpus.entries("index", name))
    return sorted(base for base in found if _GENERATION.fullmatch(base))


def _next_generation(corpus: Corpus, name: str) -> str:
    last = generations(corpus, name)[-1:]
    return f"gen-{int(last[0].removeprefix('gen-')) + 1 if last else 1:06d}"


def remove_generations(corpus: Corpus, name: str, kept: Collection[str | None]) -> None:
    for generation in generations(corpus, name):
        if generation not in kept:
            corpus.delete_tree("index", name, generation)


def _pointer(generation: str) -> bytes:
    """With a checksum: one flipped bit in a number may name another generation that is there."""
    return f"{generation} {fingerprint({'generation': generation})}\n".encode()


def current_generation(corpus: Corpus, name: str) -> str | None:
    """What CURRENT names; None where there is no index yet, or CURRENT is torn or damaged."""
    try:
        text = corpus.read_bytes("index", name, CURRENT).decode(errors="replace")
    except FileNotFoundError:
        return None
    match = _POINTER.fullmatch(text)
    if match is None or match[2] not in (None, fingerprint({"generation": match[1]})):
        return None
    return match[1]


def read_meta(corpus: Corpus, name: str, generation: str) -> IndexMeta:
    """Raises: IndexDamaged; FileNotFoundError."""
    path = ("index", name, generation, _META)
    return IndexMeta.from_json(corpus.read_bytes(*path), corpus.path(*path))


def open_index(corpus: Corpus, name: str) -> tuple[Any, IndexMeta]:
    """The current generation, its checksum verified. Raises: CorpusError, IndexDamaged."""
    if current_generation(corpus, name) is None:
        raise CorpusError(f"{corpus.location} has no index {name}: run darkroom nightly first")
    return _read_current(corpus, name, open_generation)


def open_generation(corpus: Corpus, name: str, generation: str) -> tuple[Any, IndexMeta]:
    """Raises: IndexDamaged; FileNotFoundError."""
    meta = read_meta(corpus, name, generation)
    path = ("index", name, generation, _INDEX)
    return unpack_index(corpus.read_bytes(*path), meta.sha256, corpus.path(*path)), meta


def _read_current(corpus: Corpus, name: str, read: Callable[[Corpus, str, str], T]) -> T:
    """Reads the current generation; where it was removed meanwhile, the one that took its place."""
    generation = str(current_generation(corpus, name))
    while True:
        try:
            return read(corpus, name, generation)
        except FileNotFoundError as error:
            newer = str(current_generation(corpus, name))
            if newer == generation:
                where = corpus.path("index", name, generation)
                raise IndexDamaged(f"{where} lacks a file: run darkroom nightly again") from error
            generation = newer


def indexes(corpus: Corpus) -> list[IndexFacts]:
    """The current generation of every index of the corpus. Raises: IndexDamaged."""
    names = [info.base_name for info in corpus.entries("index")]
    return [_read_current(corpus, name, facts) for name in names if current_generation(corpus, name)]


def facts(corpus: Corpus, name: str, generation: str) -> IndexFacts:
    meta = read_meta(corpus, name, generation)
    recall = None if meta.recall is None else meta.recall.recall
    return IndexFacts(name, generation, meta.vectors, meta.factory, recall, size_bytes=meta.size)
