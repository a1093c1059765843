from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from stages.schemas import embedding_column
from stages.tags import TagImages, Vocabulary

DIRECTIONS = {"it is a cat": [1, 0, 0], "it is a dog": [0, 1, 0], "it is a moon": [0, 0, 1]}
ANIMALS = Vocabulary(("cat", "dog", "moon"), count=2, template="it is a {label}")


class Dictionary:
    """The vectors of three texts, known beforehand."""

    def encode(self, texts: Sequence[str], /) -> npt.NDArray[np.float32]:
        return np.array([DIRECTIONS[text] for text in texts], np.float32)


def shard(*vectors: Sequence[float] | None) -> pa.Table:
    rows = [
        {"embedding": vector, "status": "ok" if vector else "truncated", "error": None if vector else "cut"}
        for vector in vectors
    ]
    return pa.table({"embedding": pa.array(rows, embedding_column(3))})


def test_tags_are_the_nearest_labels_best_first() -> None:
    made = TagImages(ANIMALS, Dictionary)(shard([0.1, 0.2, 0.9], None, [0.5, 0.8, 0.1]))
    assert made["tags"].to_pylist() == [["moon", "dog"], None, ["dog", "cat"]]


def test_tags_of_a_slice_are_those_of_its_rows() -> None:
    whole = shard([1, 0, 0], None, [0, 1, 0], [0, 0, 1])
    tag = TagImages(ANIMALS, Dictionary)
    for start in range(4):
        assert tag(whole.slice(start))["tags"].to_pylist() == tag(whole)["tags"].to_pylist()[start:]


def test_tags_of_a_shard_without_vectors_are_null() -> None:
    assert TagImages(ANIMALS, Dictionary)(shard(None, None))["tags"].to_pylist() == [None, None]


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"labels": ()}, "labels"),
        ({"labels": ("cat", " ")}, "labels"),
        ({"labels": ("cat", "cat")}, "labels"),
        ({"labels": ("cat",), "count": 0}, "count"),
        ({"labels": ("cat",), "template": "a photo"}, "template"),
    ],
)
def test_vocabulary_that_cannot_tag_is_refused(settings: dict[str, object], key: str) -> None:
    with pytest.raises(ValueError, match=f"^{key} must"):
        Vocabulary(**settings)  # type: ignore[arg-type]
