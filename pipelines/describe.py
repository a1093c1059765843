"""What a corpus holds, read from its files."""

from collections import Counter

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
    info = corpus.info(name)
    shards = corpus.shards(name)
    rejects: Counter[str] = Counter()
    rows = 0
    has_status = info is not None and "status" in info.columns
    for shard in shards:
        if has_status:
            statuses = corpus.read_shard(name, shard, ["status"])["status"]
            rejects.update(status for status in statuses.to_pylist() if status != "ok")
            rows += len(statuses)
        else:
            rows += corpus.read_shard(name, shard, ["image_id"]).num_rows
    size = sum(entry.size or 0 for entry in corpus.entries(name))
    return Dataset(name, len(shards), rows, dict(rejects), info.fingerprint if info else "", size)
