from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from stages.metrics import retrieval
from stages.metrics.retrieval import Vectors, exact_ranks, hit_ranks, ranks_of, retrieval_scores
from stages.metrics.scores import Int64


def unit(vectors: npt.NDArray[Any]) -> Vectors:
    made: Vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return made


def pictures_and_texts(images: int = 60, texts: int = 300) -> tuple[Vectors, Vectors, Int64]:
    rng = np.random.default_rng(9)
    pictures = unit(rng.standard_normal((images, 16)))
    own = np.concatenate([np.arange(images), rng.integers(0, images, texts - images)])
    return pictures, unit(pictures[own] + 0.4 * rng.standard_normal((texts, 16))), own


IMAGES, TEXTS, OWN = pictures_and_texts()
SIMILAR = TEXTS @ IMAGES.T


def test_exact_ranks_are_the_places_in_the_sorted_similarities() -> None:
    found = exact_ranks(IMAGES, TEXTS, OWN)
    by_text = np.argsort(-SIMILAR, axis=1)
    by_image = np.argsort(-SIMILAR.T, axis=1)
    assert found.text_to_image.tolist() == [
        row.tolist().index(wanted) + 1 for row, wanted in zip(by_text, OWN, strict=True)
    ]
    assert found.image_to_text.tolist() == [
        next(place for place, text in enumerate(row, 1) if OWN[text] == image)
        for image, row in enumerate(by_image)
    ]


def test_ranks_do_not_depend_on_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = exact_ranks(IMAGES, TEXTS, OWN)
    monkeypatch.setattr(retrieval, "_ROWS", 7)
    monkeypatch.setattr(retrieval, "_BLOCK", 7 * 11)
    cut = exact_ranks(IMAGES, TEXTS, OWN)
    np.testing.assert_array_equal(cut.text_to_image, whole.text_to_image)
    np.testing.assert_array_equal(cut.image_to_text, whole.image_to_text)


def test_ties_count_against_wherever_the_twin_stands() -> None:
    twins = np.concatenate([IMAGES[:1], IMAGES[1:3], IMAGES[:1]])
    for wanted in (0, 3):
        assert ranks_of(IMAGES[:1], twins, np.array([wanted])).tolist() == [2]
    found = exact_ranks(twins, twins, np.arange(4))
    assert found.text_to_image.tolist() == [2, 1, 1, 2]
    assert found.image_to_text.tolist() == [2, 1, 1, 2]


def test_other_texts_of_an_image_do_not_stand_before_its_first() -> None:
    image, other = unit(np.eye(2, 4))
    found = exact_ranks(np.stack([image, other]), np.stack([image, image, other]), np.array([0, 0, 1]))
    assert found.image_to_text.tolist() == [1, 1]


def test_hits_give_the_ranks_of_exact_search_and_infinity_beyond_them() -> None:
    exact = exact_ranks(IMAGES, TEXTS, OWN)
    hits = np.argsort(-SIMILAR, axis=1)[:, :5]
    expected = np.where(exact.text_to_image <= 5, exact.text_to_image, np.inf)
    np.testing.assert_array_equal(hit_ranks(hits, OWN), expected)
    texts = np.argsort(-SIMILAR.T, axis=1)[:, :5]
    expected = np.where(exact.image_to_text <= 5, exact.image_to_text, np.inf)
    np.testing.assert_array_equal(hit_ranks(texts, np.arange(len(IMAGES)), OWN), expected)


def test_hit_lists_that_end_early_hold_nothing_after_their_end() -> None:
    hits = np.array([[3, -1, -1], [-1, -1, -1]])
    assert hit_ranks(hits, np.array([3, 0])).tolist() == [1, np.inf]
    assert hit_ranks(hits, np.array([7, 7]), np.array([9, 9, 9, 7])).tolist() == [1, np.inf]


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
    halves = TEXTS.astype(np.float16)
    found = exact_ranks(IMAGES.astype(np.float16), halves, OWN).text_to_image
    similar = halves.astype(np.float32) @ IMAGES.astype(np.float16).astype(np.float32).T
    places = (similar > similar[np.arange(len(OWN)), OWN][:, None] + 1e-5).sum(axis=1) + 1
    assert (found >= places).all()
    assert np.mean(found == places) > 0.95


def test_vectors_that_are_no_numbers_are_refused_and_not_ranked_first() -> None:
    broken = IMAGES.copy()
    broken[5, 0] = np.nan
    with pytest.raises(ValueError, match="5 is not finite"):
        exact_ranks(broken, TEXTS, OWN)


@pytest.mark.parametrize("wanted", [-1, 60])
def test_rows_that_do_not_exist_are_refused(wanted: int) -> None:
    with pytest.raises(ValueError, match="outside of 60"):
        ranks_of(TEXTS[:1], IMAGES, np.array([wanted]))


def test_images_without_texts_are_refused() -> None:
    with pytest.raises(ValueError, match="image 2 has no text"):
        exact_ranks(IMAGES[:3], TEXTS[:2], np.array([0, 1]))
