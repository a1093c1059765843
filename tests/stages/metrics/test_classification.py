import numpy as np
import pytest

from stages.metrics.classification import classification_scores, label_vectors, prompts


def test_prompts_are_every_label_in_every_template() -> None:
    assert prompts(["cat", "{dog}"], ["a {}.", "{} {}"]) == ["a cat.", "cat cat", "a {dog}.", "{dog} {dog}"]


@pytest.mark.parametrize(("labels", "templates"), [(["cat"], ["a photo"]), ([], ["{}"]), (["cat"], [])])
def test_prompts_need_labels_and_templates_with_their_place(labels: list[str], templates: list[str]) -> None:
    with pytest.raises(ValueError, match="template"):
        prompts(labels, templates)


def test_label_vectors_are_means_of_unit_vectors_of_unit_length() -> None:
    # The long first prompt weighs no more than the second.
    found = label_vectors(np.array([[10, 0], [0, 1], [0, 3], [0, 1]], np.float32), 2)
    np.testing.assert_allclose(found, [[0.5**0.5, 0.5**0.5], [0, 1]], atol=1e-6)


def test_embeddings_without_direction_are_refused() -> None:
    with pytest.raises(ValueError, match="direction"):
        label_vectors(np.zeros((2, 4), np.float32), 2)
    with pytest.raises(ValueError, match="3 embeddings of prompts for 2 labels"):
        label_vectors(np.ones((3, 4), np.float32), 2)


def test_top_1_and_top_5_count_the_labels_that_are_more_similar() -> None:
    labels = np.eye(8, dtype=np.float32)
    images = np.array([[8, 7, 6, 5, 4, 3, 2, 1]] * 3, np.float32)
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    top1, top5 = classification_scores(images, labels, np.array([0, 4, 5]))
    assert top1.items().tolist() == [1, 0, 0]
    assert top5.items().tolist() == [1, 1, 0]
    assert (top1.name, top5.name) == ("top-1", "top-5")


def test_labels_with_the_same_vector_are_never_right() -> None:
    labels = np.array([[1, 0], [1, 0], [0, 1]], np.float32)
    top1, _ = classification_scores(labels, labels, np.arange(3))
    assert top1.items().tolist() == [0, 0, 1]
