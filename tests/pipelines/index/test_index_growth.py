"""An index that is built, grown, folded and forgotten from, held against faiss doing it in one go."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipelines.corpus import Corpus
from pipelines.index import layout
from pipelines.index.build import Wishes
from pipelines.index.opened import Opened, open_index
from pipelines.index.stock import take_stock
from pipelines.index.templates import open_template
from pipelines.index.truth import of_generation
from stages.index.config import IndexConfig, IndexConfigError
from stages.index.search import Neighbours
from stages.index.selectors import excluding
from stages.index.vectors import unit_float32
from tests.pipelines.index.vector_corpus import (
    DIM,
    NAME,
    SMALL,
    Clusters,
    add_shards,
    built,
    bury,
    later,
    make_corpus,
)
from tests.stages.index.clusters import brute_force, make_clusters

ROWS = 12_288
QUERIES = make_clusters(ROWS, DIM, seed=0).vectors[::500]


@pytest.fixture(scope="module")
def grown_from(tmp_path_factory: pytest.TempPathFactory) -> tuple[Corpus, Clusters]:
    corpus, vectors = make_corpus(tmp_path_factory.mktemp("built"), ROWS)
    built(corpus)
    return corpus, vectors


def _find(opened: Opened, nprobe: int = 16, k: int = 10) -> Neighbours:
    return opened.index.candidates(unit_float32(QUERIES, DIM), k, nprobe)


def _one_add(opened: Opened, corpus: Corpus, vectors: Clusters) -> Neighbours:
    """What one faiss index holds after one `add` of all vectors finds."""
    template = open_template(corpus, NAME, opened.meta.template)
    index = template.index
    index.add_with_ids(unit_float32(vectors.vectors, DIM), vectors.ids)
    template.ivf.nprobe = 16
    distances, ids = index.search(unit_float32(QUERIES, DIM), 10)
    return Neighbours(ids, 1 - distances / 2)


def test_build_finds_what_one_add_of_all_vectors_finds(grown_from: tuple[Corpus, Clusters]) -> None:
    corpus, vectors = grown_from
    opened = open_index(corpus, NAME)
    found, wanted = _find(opened), _one_add(opened, corpus, vectors)
    assert opened.meta.vectors == ROWS
    assert np.allclose(found.scores, wanted.scores, atol=1e-5)
    assert (
        np.sort(found.ids) == np.sort(wanted.ids)
    ).mean() > 0.99  # equal codes may swap at the tenth place


def test_build_whatever_the_units_gives_the_same_bytes(
    grown_from: tuple[Corpus, Clusters], tmp_path: Path
) -> None:
    corpus, vectors = grown_from
    other = Corpus(str(tmp_path / "other"))
    add_shards(other, vectors)
    built(other, replace(SMALL, unit_rows=1_024))
    parts = [
        layout.read_part(one, NAME, ("parts", open_index(one, NAME).meta.parts[0])) for one in (corpus, other)
    ]
    assert parts[0] == parts[1]


def test_growth_adds_a_delta_that_is_searched_with_an_untouched_base(tmp_path: Path) -> None:
    corpus, _ = make_corpus(tmp_path, ROWS)
    before = built(corpus)
    new = later(make_clusters(1_024, DIM, seed=9), ROWS // 512)
    add_shards(corpus, new)
    after = built(corpus)
    assert after.meta.parts[0] == before.meta.parts[0]
    assert len(after.meta.parts) == 2
    assert after.meta.template == before.meta.template
    found = open_index(corpus, NAME).index.candidates(unit_float32(new.vectors[:20], DIM), 1, 64)
    assert (found.ids[:, 0] == new.ids[:20]).mean() > 0.8
    assert take_stock(corpus, NAME, SMALL).due is False


def test_growth_finds_what_an_index_of_everything_finds(tmp_path: Path) -> None:
    corpus, vectors = make_corpus(tmp_path, ROWS)
    built(corpus)
    new = later(make_clusters(1_024, DIM, seed=9), ROWS // 512)
    add_shards(corpus, new)
    built(corpus)
    opened = open_index(corpus, NAME)
    both = Clusters(np.concatenate([vectors.ids, new.ids]), np.concatenate([vectors.vectors, new.vectors]))
    assert np.allclose(_find(opened).scores, _one_add(opened, corpus, both).scores, atol=1e-5)


def _searched_as(config: IndexConfig, folder: Path) -> list[tuple[int, int]]:
    """nprobe and k_factor before and after growth."""
    corpus, _ = make_corpus(folder, ROWS)
    before = built(corpus, config).meta.measured
    add_shards(corpus, later(make_clusters(1_024, DIM, seed=9), ROWS // 512))
    after = built(corpus, config).meta.measured
    assert before is not None
    assert after is not None
    return [(found["nprobe"], found["k_factor"]) for found in (before, after)]


def test_growth_keeps_how_an_index_is_searched_while_that_reaches_the_target(tmp_path: Path) -> None:
    before, after = _searched_as(replace(SMALL, target_recall=0.5), tmp_path)
    assert before == after


def test_truth_of_a_grown_index_is_that_of_all_vectors(tmp_path: Path) -> None:
    corpus, vectors = make_corpus(tmp_path, ROWS)
    built(corpus)
    new = later(make_clusters(1_024, DIM, seed=9), ROWS // 512)
    add_shards(corpus, new)
    after = built(corpus)
    truth = of_generation(corpus, NAME, after.generation, after.meta)
    both = Clusters(np.concatenate([vectors.ids, new.ids]), np.concatenate([vectors.vectors, new.vectors]))
    exact, _ = brute_force(both, truth.queries.vectors, 11)
    own = truth.queries.own_ids
    for found, wanted, query in zip(truth.neighbours.ids, exact, own, strict=True):
        assert found[:10].tolist() == [item for item in wanted.tolist() if item != query][:10]


def test_merge_folds_deltas_into_one_part_with_the_same_hits(tmp_path: Path) -> None:
    corpus, _ = make_corpus(tmp_path, ROWS)
    built(corpus)
    add_shards(corpus, later(make_clusters(1_024, DIM, seed=9), ROWS // 512))
    built(corpus)
    apart = _find(open_index(corpus, NAME))
    folded = built(corpus, wishes=Wishes(merge=True))
    together = _find(open_index(corpus, NAME))
    assert len(folded.meta.parts) == 1
    assert np.array_equal(apart.scores, together.scores)
    assert np.array_equal(apart.ids, together.ids)


def test_deltas_over_the_limit_are_folded_without_being_asked(tmp_path: Path) -> None:
    corpus, _ = make_corpus(tmp_path, ROWS)
    config = replace(SMALL, max_deltas=1)
    counts = []
    for night in range(3):
        built(corpus, config)
        counts.append(len(open_index(corpus, NAME).meta.parts))
        add_shards(corpus, later(make_clusters(512, DIM, seed=night), ROWS // 512 + night))
    assert counts == [1, 2, 1]


def test_merge_drops_what_is_gone_and_search_never_finds_it_before(tmp_path: Path) -> None:
    corpus, _ = make_corpus(tmp_path, ROWS)
    built(corpus)
    first = _find(open_index(corpus, NAME)).ids[:, 0]
    left_out = bury(corpus, first.tolist())
    masked = open_index(corpus, NAME).index.candidates(
        unit_float32(QUERIES, DIM), 10, 16, excluding(left_out)
    )
    assert not np.isin(masked.ids, left_out).any()
    folded = built(corpus, wishes=Wishes(drop_gone=True))
    opened = open_index(corpus, NAME)
    assert folded.meta.vectors == ROWS - len(left_out)
    assert np.array_equal(_find(opened).ids, masked.ids)


def test_generation_under_min_recall_is_built_and_not_switched_to(tmp_path: Path) -> None:
    corpus, _ = make_corpus(tmp_path, ROWS)
    accepted = built(corpus)
    refused = built(corpus, replace(SMALL, min_recall=1.0, nprobe=1, k_factor=1))
    assert not refused.meta.accepted
    assert refused.generation in layout.generations(corpus, NAME)
    assert layout.current_generation(corpus, NAME) == accepted.generation
    assert take_stock(corpus, NAME, replace(SMALL, min_recall=1.0, nprobe=1, k_factor=1)).due is False


def test_other_search_settings_encode_nothing_again(tmp_path: Path) -> None:
    corpus, _ = make_corpus(tmp_path, ROWS)
    before = built(corpus)
    after = built(corpus, replace(SMALL, nprobe=3))
    assert after.meta.parts == before.meta.parts
    assert after.meta.measured is not None
    assert after.meta.measured["nprobe"] == 3


def test_other_factory_trains_anew(tmp_path: Path) -> None:
    corpus, _ = make_corpus(tmp_path, ROWS)
    before = built(corpus)
    after = built(corpus, replace(SMALL, factory="IVF64,SQ8"))
    assert after.meta.template != before.meta.template
    assert after.meta.factory == "IVF64,SQ8"


def test_automatic_factory_keeps_an_index_that_was_configured(tmp_path: Path) -> None:
    corpus, _ = make_corpus(tmp_path, ROWS)
    before = built(corpus, replace(SMALL, factory="IVF64,SQ8"))
    assert not take_stock(corpus, NAME, replace(SMALL, factory="auto")).due
    add_shards(corpus, later(make_clusters(512, DIM, seed=9), ROWS // 512))
    assert built(corpus, replace(SMALL, factory="auto")).meta.template == before.meta.template


def test_old_generations_go_and_so_do_parts_that_none_names(tmp_path: Path) -> None:
    corpus, _ = make_corpus(tmp_path, ROWS)
    for nprobe in (1, 2, 3):
        last = built(corpus, replace(SMALL, nprobe=nprobe))
    assert layout.generations(corpus, NAME) == ["gen-000002", "gen-000003"]
    fresh = built(corpus, replace(SMALL, keep_generations=1), Wishes(retrain=True))
    kept = [entry.base_name for entry in corpus.entries("index", NAME, "parts")]
    assert kept == list(fresh.meta.parts)
    assert last.generation not in layout.generations(corpus, NAME)
    assert not corpus.exists("index", NAME, "work")


def test_reader_keeps_its_generation_while_newer_ones_replace_it(tmp_path: Path) -> None:
    corpus, _ = make_corpus(tmp_path, ROWS)
    built(corpus)
    opened = open_index(corpus, NAME)
    before = _find(opened)
    for _ in range(2):
        built(corpus, replace(SMALL, factory="IVF32,SQ8", keep_generations=1), Wishes(retrain=True))
    assert np.array_equal(_find(opened).ids, before.ids)


def test_small_corpus_is_searched_exactly_and_trained_once_it_has_outgrown_that(tmp_path: Path) -> None:
    corpus, vectors = make_corpus(tmp_path, 2_000)
    config = IndexConfig(recall_queries=20)
    assert built(corpus, config).meta.factory == "Flat"
    opened = open_index(corpus, NAME)
    found = opened.index.candidates(unit_float32(vectors.vectors[:30], DIM), 5, 1)
    assert np.array_equal(found.ids[:, 0], vectors.ids[:30])
    add_shards(corpus, later(make_clusters(10_240, DIM, seed=3), 4))
    assert built(corpus, config).meta.factory != "Flat"


def test_corpus_without_a_vector_is_refused(tmp_path: Path) -> None:
    corpus, _ = make_corpus(tmp_path, 512)
    bury(corpus, range(512))
    with pytest.raises(IndexConfigError, match="no vectors"):
        built(corpus, IndexConfig())
