"""What a corpus holds, read from its files."""

from collections import Counter

from pipelines.changes import tombstones, without
from pipelines.corpus import Corpus, CorpusError
from pipelines.facts import Dataset


def describe(corpus: Corpus) -> list[Dataset]:
    """Every dataset: shards, rows, rejects by reason, fingerprint, bytes.

    Raises: CorpusError where there is no dataset.
    """
    found = [_describe(corpus, name) for name in corpus.datasets()]
    if not found:
        raise CorpusError(f"{corpus.location} holds no corpus: make one with darkroom nightly")
    return found


def _describe(corpus: Corpus, name: str) -> Dataset:
    """Without the rows of items that are gone, whether compaction has been there or not."""
    info, gone = corpus.info(name), tombstones(corpus)
    has_status = info is not None and "status" in info.columns
    shards, rows = 0, 0
    rejects: Counter[str] = Counter()
    for _, table in corpus.scan(name, ["image_id", "status"] if has_status else ["image_id"]):
        kept = without(table, gone)
        shards, rows = shards + 1, rows + len(kept)
        if has_status:
            rejects.update(status for status in kept["status"].to_pylist() if status != "ok")
    size = sum(entry.size or 0 for entry in corpus.entries(name))
    return Dataset(name, shards, rows, dict(rejects), info.fingerprint if info else "", size)
