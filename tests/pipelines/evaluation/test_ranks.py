"""Ranks over vectors that pass by in batches, against a plain sort of all similarities."""

import numpy as np
import pytest

from pipelines.evaluation.ranks import hits_of, rank
from stages.index.search import Neighbours
from stages.metrics.retrieval import exact_ranks


def _unit(
    rng: np.random.Generator, count: int, dim: int = 16
) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    vectors = rng.normal(size=(count, dim)).astype(np.float32)
    unit: np.ndarray[tuple[int, int], np.dtype[np.float32]] = (
        vectors / np.linalg.norm(vectors, axis=1)[:, None]
    )
    return unit


@pytest.mark.parametrize("cut", [7, 1_000])
def test_ranks_are_those_of_a_sort_of_all_similarities(cut: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.evaluation.ranks._BLOCK", cut * 30)
    rng = np.random.default_rng(4)
    images, texts = _unit(rng, 60), _unit(rng, 90)
    ids = np.arange(60, dtype=np.int64) * 3 + 5
    place = rng.permutation(np.repeat(np.arange(30), 3))
    batches = [(ids[:25], images[:25]), (ids[25:], images[25:])]
    found = rank(texts, ids[place], images[place], batches)
    similar = texts.astype(np.float64) @ images.T.astype(np.float64)
    order = np.argsort(-similar, axis=1)
    assert found.gallery == 60
    assert found.texts.tolist() == [int(np.flatnonzero(order[t] == place[t])[0]) + 1 for t in range(90)]
    assert found.texts_nearest.tolist() == ids[order[:, 0]].tolist()
    assert found.ids.tolist() == ids[:30].tolist()
    by_image = np.argsort(-similar.T, axis=1)
    wanted = [
        min(int(np.flatnonzero(by_image[i] == t)[0]) + 1 for t in np.flatnonzero(place == i))
        for i in range(30)
    ]
    assert found.images.tolist() == wanted
    assert found.images_nearest.tolist() == by_image[:30, 0].tolist()


def test_ranks_with_pictures_of_the_same_bytes_count_them_against() -> None:
    rng = np.random.default_rng(5)
    images = _unit(rng, 40)
    images[1::2] = images[::2]
    texts = images + 0.1 * _unit(rng, 40)
    texts /= np.linalg.norm(texts, axis=1)[:, None]
    ids = np.arange(40, dtype=np.int64)
    found = rank(texts, ids, images, [(ids, images)])
    assert found.texts.tolist() == [2] * 40


def test_ranks_are_those_of_the_metrics_over_arrays() -> None:
    rng = np.random.default_rng(6)
    images, texts = _unit(rng, 50), _unit(rng, 120)
    images[3], texts[7] = images[4], texts[8]
    of_text = np.concatenate([np.arange(50), rng.integers(50, size=70)])
    ids = np.arange(50, dtype=np.int64)
    found = rank(texts, of_text, images[of_text], [(ids[:20], images[:20]), (ids[20:], images[20:])])
    wanted = exact_ranks(images, texts, of_text)
    assert found.texts.tolist() == wanted.text_to_image.tolist()
    assert found.images.tolist() == wanted.image_to_text.tolist()


def test_hits_tell_where_the_own_image_is_among_those_found() -> None:
    ids = np.array([[4, 7, 9], [7, -1, -1], [1, 2, 3], [5, 6, 8]], np.int64)
    scores = np.array(
        [[0.9, 0.8, 0.7], [0.5, -np.inf, -np.inf], [0.3, 0.2, 0.1], [0.4, 0.4, 0.3]], np.float32
    )
    own = np.array([9, 7, 4, 5], np.int64)
    assert hits_of(Neighbours(ids, scores), own).tolist() == [3, 1, np.inf, 2]
