"""The sample of a corpus: exact, whatever the workers, and from a killed pass too."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipelines.corpus import Corpus
from pipelines.index.survey import Surveyor, survey
from stages.index.sample import BottomK, sample_rows
from tests.pipelines.index.vector_corpus import DIM, NAME, Clusters, add_shards
from tests.pipelines.indexes import LOCAL
from tests.stages.index.clusters import make_clusters

NONE = np.empty(0, np.int64)


def _surveyor(corpus: Corpus, rows: int) -> Surveyor:
    work = ("index", NAME, "work", "training")
    return Surveyor(corpus, NAME, DIM, work, NONE, rows, query_rows=30, seed=4)


def _sparse(folder: Path, rows_of_a_shard: int) -> tuple[Corpus, Clusters]:
    """Shards of which most rows have no vector."""
    vectors = make_clusters(20_480, DIM, seed=2)
    kept = vectors.ids & 0xFFFFF < rows_of_a_shard
    some = Clusters(vectors.ids[kept], vectors.vectors[kept])
    corpus = Corpus(str(folder))
    add_shards(corpus, some)
    return corpus, some


@pytest.mark.parametrize("rows_of_a_shard", [512, 50])
@pytest.mark.parametrize("wanted", [100, 1_500, 50_000])
def test_survey_sample_is_exact_with_many_rows_without_a_vector_and_without(
    tmp_path: Path, rows_of_a_shard: int, wanted: int
) -> None:
    corpus, vectors = _sparse(tmp_path, rows_of_a_shard)
    seen = survey(_surveyor(corpus, wanted), LOCAL)
    _, sample = sample_rows(vectors.batches(), wanted, 4)
    queries = BottomK(30, 4, largest=True)
    queries.add(vectors.ids, vectors.vectors)
    assert seen.rows == len(vectors.ids)
    assert np.array_equal(seen.sample, sample)
    assert np.array_equal(seen.queries[0], queries.result()[0])
    assert np.array_equal(seen.queries[1], queries.result()[1])


def test_survey_again_reads_no_shard(tmp_path: Path) -> None:
    corpus, _ = _sparse(tmp_path, 512)
    first = survey(_surveyor(corpus, 300), LOCAL)
    for shard in Path(corpus.location).glob("embeddings/*/shard-*"):
        shard.write_bytes(b"")
    again = survey(_surveyor(corpus, 300), LOCAL)
    assert np.array_equal(again.sample, first.sample)
    assert again.rows == first.rows


def test_survey_without_what_is_gone_samples_the_rest(tmp_path: Path) -> None:
    corpus, vectors = _sparse(tmp_path, 512)
    gone = vectors.ids[::2].copy()
    seen = survey(replace(_surveyor(corpus, 50_000), gone=gone), LOCAL)
    assert seen.rows == len(vectors.ids) - len(gone)
    assert not np.isin(seen.queries[0], gone).any()
