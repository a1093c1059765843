"""A corpus in a bucket reads as one in a folder."""

from pathlib import Path

import pytest

from darkroom import Corpus, CorpusError
from tests.pipelines.buckets import new_bucket, server  # noqa: F401
from tests.pipelines.small_corpus import SHARDS, make_corpus


def test_corpus_in_a_bucket_has_the_tables_and_hits_of_one_in_a_folder(
    server: int,  # noqa: F811
    tmp_path: Path,
) -> None:
    make_corpus(tmp_path / "corpus")
    bucket = new_bucket(server, "reading")
    bucket.put(tmp_path / "corpus", "corpus")
    here, there = Corpus(tmp_path / "corpus"), Corpus(bucket.url("corpus"))
    assert there.datasets() == here.datasets()
    assert repr(there).partition(": ")[2] == repr(here).partition(": ")[2]
    for name in ("items", "captions", "answers", "embeddings"):
        own, other = (getattr(corpus, name)(where="image_id > 8").read_all() for corpus in (here, there))
        assert other.equals(own)
        assert len(own) > SHARDS
    assert there.search(image_id=0, k=5).equals(here.search(image_id=0, k=5))
    with pytest.raises(CorpusError, match="holds no corpus"):
        Corpus(bucket.url("nowhere"))
