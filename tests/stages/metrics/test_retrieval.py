"""Ranks over vectors that pass by in batches, against a plain sort of all similarities."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from stages.index.search import Neighbours
from stages.index.vectors import Float32, Ids, VectorError
from stages.metrics import retrieval
from stages.metrics.retrieval import Ranked, hit_ranks, rank, ranks_of, retrieval_scores


def unit(vectors: npt.NDArray[Any]) -> Float32:
    made: Float32 = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return made


def pictures_and_texts(images: int = 60, texts: int = 300) -> tuple[Float32, Float32, Ids]:
    """Every picture has a text at least; which texts are whose is mixed."""
    rng = np.random.default_rng(9)
    pictures = unit(rng.standard_normal((images, 16)))
    own = rng.permutation(np.concatenate([np.arange(images), rng.integers(0, images, texts - images)]))
    return pictures, unit(pictures[own] + 0.4 * rng.standard_normal((texts, 16))), own


IMAGES, TEXTS, OWN = pictures_and_texts()
IDS = np.arange(60, dtype=np.int64) * 3 + 5
SIMILAR = TEXTS @ IMAGES.T


def ranked(images: Float32, texts: Float32, own: Ids, cut: int = 25) -> Ranked:
    """With ids as the rows of the images have them, in two batches."""
    ids = IDS[: len(images)]
    return rank(texts, ids[own], images[own], [(ids[:cut], images[:cut]), (ids[cut:], images[cut:])])


@pytest.mark.parametrize("block", [7 * 300, 1 << 24])
def test_ranks_are_the_places_in_the_sorted_similarities(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "_BLOCK", block)
    found = ranked(IMAGES, TEXTS, OWN)
    by_text, by_image = np.argsort(-SIMILAR, axis=1), np.argsort(-SIMILAR.T, axis=1)
    places = [row.tolist().index(wanted) + 1 for row, wanted in zip(by_text, OWN, strict=True)]
    assert found.texts.tolist() == places
    assert found.texts_nearest.tolist() == IDS[by_text[:, 0]].tolist()
    assert found.ids.tolist() == IDS.tolist()
    assert found.images.tolist() == [
        next(place for place, text in enumerate(row, 1) if OWN[text] == image)
        for image, row in enumerate(by_image)
    ]
    assert found.images_nearest.tolist() == by_image[:, 0].tolist()
    assert found.gallery == 60
    assert ranks_of(TEXTS, IMAGES, OWN).tolist() == places


def test_images_without_texts_are_searched_among_and_have_no_rank() -> None:
    asked = OWN < 30
    found = ranked(IMAGES, TEXTS[asked], OWN[asked])
    assert found.texts.tolist() == ranked(IMAGES, TEXTS, OWN).texts[asked].tolist()
    assert found.ids.tolist() == IDS[:30].tolist()
    assert found.gallery == 60


def test_ties_count_against_wherever_the_twin_stands() -> None:
    twins = np.concatenate([IMAGES[:1], IMAGES[1:3], IMAGES[:1]])
    for wanted in (0, 3):
        assert ranks_of(IMAGES[:1], twins, np.array([wanted])).tolist() == [2]
    found = ranked(twins, twins, np.arange(4), cut=2)
    assert found.texts.tolist() == [2, 1, 1, 2]
    assert found.images.tolist() == [2, 1, 1, 2]


def test_ties_of_vectors_that_are_far_from_the_query_count_against() -> None:
    images = np.repeat(IMAGES[:20], 2, axis=0)
    texts = unit(images + 0.1 * np.random.default_rng(5).standard_normal(images.shape))
    assert ranked(images, texts, np.arange(40)).texts.tolist() == [2] * 40


def test_other_texts_of_an_image_do_not_stand_before_its_first() -> None:
    image, other = unit(np.eye(2, 4))
    found = ranked(np.stack([image, other]), np.stack([image, image, other]), np.array([0, 0, 1]))
    assert found.images.tolist() == [1, 1]


def test_hits_give_the_ranks_of_exact_search_and_infinity_beyond_them() -> None:
    exact, order = ranks_of(TEXTS, IMAGES, OWN), np.argsort(-SIMILAR, axis=1)[:, :5]
    hits = Neighbours(IDS[order], np.take_along_axis(SIMILAR, order, 1))
    np.testing.assert_array_equal(hit_ranks(hits, IDS[OWN]), np.where(exact <= 5, exact, np.inf))


def test_hits_tell_where_the_own_image_is_among_those_found() -> None:
    ids = np.array([[4, 7, 9], [7, -1, -1], [1, 2, 3], [5, 6, 8], [-1, -1, -1]], np.int64)
    none = -np.inf
    scores = np.array(
        [[0.9, 0.8, 0.7], [0.5, none, none], [0.3, 0.2, 0.1], [0.4, 0.4, 0.3], [none, none, none]], np.float32
    )
    own = np.array([9, 7, 4, 5, 3], np.int64)
    assert hit_ranks(Neighbours(ids, scores), own).tolist() == [3, 1, np.inf, 2, np.inf]


def test_scores_follow_from_the_ranks_and_a_miss_counts_as_one() -> None:
    found = retrieval_scores(np.array([1, 3, 7, np.inf]), "text-to-image")
    assert {one.name.removeprefix("text-to-image "): one.score() for one in found} == pytest.approx(
        {
            "recall@1": 0.25,
            "recall@5": 0.5,
            "recall@10": 0.75,
            "median rank": 5,
            "mean reciprocal rank": (1 + 1 / 3 + 1 / 7) / 4,
        }
    )


def test_half_floats_are_compared_as_what_they_are() -> None:
    halves = IMAGES.astype(np.float16)
    similar = TEXTS @ unit(halves.astype(np.float32)).T
    places = (similar > similar[np.arange(len(OWN)), OWN][:, None] + 1e-5).sum(axis=1) + 1
    found = rank(TEXTS, IDS[OWN], unit(halves.astype(np.float32))[OWN], [(IDS, halves)]).texts
    assert (found >= places).all()
    assert np.mean(found == places) > 0.95


def test_vectors_that_are_no_numbers_are_refused_and_not_ranked_first() -> None:
    broken = IMAGES.copy()
    broken[5, 0] = np.nan
    with pytest.raises(VectorError, match="5"):
        ranked(broken, TEXTS, OWN)
    with pytest.raises(VectorError, match="5"):
        ranks_of(TEXTS, broken, OWN)


@pytest.mark.parametrize("wanted", [-1, 60])
def test_rows_that_do_not_exist_are_refused(wanted: int) -> None:
    with pytest.raises(ValueError, match="outside of 60"):
        ranks_of(TEXTS[:1], IMAGES, np.array([wanted]))
