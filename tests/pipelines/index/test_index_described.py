"""What is told of an index: of a small one that is built, grown and forgotten from."""

from pathlib import Path

import pytest

from pipelines.index.described import indexes, measured_of
from pipelines.index.layout import Generation
from pipelines.index_facts import IndexFacts
from stages.index.config import IndexConfig
from stages.index.damage import IndexDamaged
from tests.pipelines.index.vector_corpus import DIM, NAME, add_shards, built, bury, later, make_corpus
from tests.stages.index.clusters import make_clusters
from tests.stages.index.measurements import a_measured

EXACT = IndexConfig(recall_queries=20)


def test_indexes_tell_of_the_current_generation_what_it_is(tmp_path: Path) -> None:
    corpus, vectors = make_corpus(tmp_path, 1536)
    first = built(corpus, EXACT)
    add_shards(corpus, later(make_clusters(100, DIM, seed=3), 3))
    second = built(corpus, EXACT)
    bury(corpus, vectors.ids[:7].tolist())

    (found,) = indexes(corpus)

    assert (found.name, found.generation, found.factory) == (NAME, second.generation, "Flat")
    assert found.generation != first.generation
    assert (found.vectors, found.deltas, found.tombstones) == (1636, 1, 7)
    assert found.template == second.meta.template
    assert found.bytes_per_vector
    assert found.bytes_per_vector >= 4 * DIM + 8
    assert found.measured
    assert found.recall_at_10 == found.measured.point.worst().value == 1.0


def test_indexes_of_what_was_gone_before_the_build_tell_of_no_tombstones(tmp_path: Path) -> None:
    corpus, vectors = make_corpus(tmp_path, 1024)
    bury(corpus, vectors.ids[:5].tolist())
    built(corpus, EXACT)

    (found,) = indexes(corpus)

    assert (found.vectors, found.tombstones) == (1019, 0)


def test_measured_of_a_damaged_record_names_the_file() -> None:
    damaged = {**a_measured().to_dict(), "nprobe": 3}
    meta = Generation("t", ("p",), "e", "Flat", "", DIM, 1, 1, {}, measured=damaged)

    with pytest.raises(IndexDamaged, match=r"gen-000004/meta\.json"):
        measured_of(meta, "gen-000004/meta.json")


def facts(**values: float) -> IndexFacts:
    return IndexFacts("pocket", "gen-000004", 1000, "IVF64,PQ8", size_bytes=16_500, **values)  # type: ignore[arg-type]


def test_index_numbers_are_those_of_the_measured_recall() -> None:
    found = IndexFacts("pocket", "g", 1000, "f", 0.823, 16_500, drift=0.05, measured=a_measured()).to_dict()

    expected = {
        "vectors": 1000,
        "bytes_per_vector": 16.5,
        "drift": 0.05,
        "recall_at_1": 0.82,
        "recall_at_10": 0.823,
        "recall_at_100": 0.826,
        "recall_at_10_low": 0.812,
        "recall_at_10_high": 0.835,
        "recall_at_10_image": 0.923,
        "recall_at_10_text": 0.823,
        "recall_at_10_without_rerank": 0.623,
        "nprobe": 8,
        "k_factor": 20,
        "ms_per_query": 4.4,
    }
    assert {key: found[key] for key in expected} == pytest.approx(expected)


def test_index_metrics_are_only_of_what_is_known() -> None:
    metrics = facts().metrics()

    assert metrics["index/pocket/vectors"] == 1000
    assert metrics["index/pocket/bytes_per_vector"] == 16.5
    assert "index/pocket/recall_at_10" not in metrics
    assert "index/pocket/drift" not in metrics
    assert facts(recall_at_10=0.8).metrics()["index/pocket/recall_at_10"] == 0.8
