"""Tags of pictures from a vocabulary, by the similarity of their vectors: zero-shot classification.

As of CLIP (Radford et al., 2021, section 3.1): the nearest of the texts that a template makes of the labels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from stages.schemas import Status

VERSION = 1
"""Part of the fingerprint of what is made from tags."""

LABEL = "{label}"


@dataclass(frozen=True)
class Vocabulary:
    """Labels, how many of them a picture gets, and the text that stands for each."""

    labels: tuple[str, ...]
    count: int = 5
    template: str = "a photo of {label}"

    def __post_init__(self) -> None:
        if not self.labels or not all(label.strip() for label in self.labels):
            raise ValueError("labels must be one text or more, none of them empty")
        if len(set(self.labels)) != len(self.labels):
            twice = next(label for label in self.labels if self.labels.count(label) > 1)
            raise ValueError(f"labels must differ, {twice!r} is there twice")
        if self.count < 1:
            raise ValueError(f"count must be at least 1, got {self.count}")
        if LABEL not in self.template:
            raise ValueError(f"template must hold {LABEL}, got {self.template!r}")


class EncodesTexts(Protocol):
    def encode(self, texts: Sequence[str], /) -> npt.NDArray[np.float32]:
        """float32 [texts, dim], unit length, in the space of the pictures' vectors."""
        ...


class TagImages:
    """(rows with `embedding`, an `embedding_column`) -> the same rows + `tags`, list<string>.

    The labels nearest to the picture, best first; null where it has no vector. Equal scores keep the order of
    the vocabulary.
    """

    def __init__(self, vocabulary: Vocabulary, make_encoder: Callable[[], EncodesTexts]) -> None:
        self._labels, self._count = np.array(vocabulary.labels), vocabulary.count
        texts = [vocabulary.template.replace(LABEL, label) for label in vocabulary.labels]
        self._vectors = make_encoder().encode(texts)

    def __call__(self, shard: pa.Table) -> pa.Table:
        column = shard.column("embedding").combine_chunks()
        sound = np.array([status == Status.OK for status in column.field("status").to_pylist()], bool)
        vectors = column.field("embedding").filter(pa.array(sound)).flatten()
        scores = vectors.to_numpy(zero_copy_only=False).astype(np.float32)
        scores = scores.reshape(-1, self._vectors.shape[1]) @ self._vectors.T
        best = np.argsort(-scores, axis=1, kind="stable")[:, : self._count]
        found = iter(self._labels[best].tolist())
        tags = [next(found) if one else None for one in sound]
        return shard.append_column("tags", pa.array(tags, pa.list_(pa.string())))
