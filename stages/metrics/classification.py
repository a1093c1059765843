"""Zero-shot classification by the names of the labels in prompts (Radford et al. 2021)."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from stages.index.vectors import Ids, Vectors
from stages.metrics.retrieval import ranks_of
from stages.metrics.scores import Scores, mean_scores

TOP = (1, 5)


def prompts(labels: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Every label in every template, the templates of the first label first; `{}` stands for the label.

    Raises: ValueError for a template without `{}`, and where there is no label or template.
    """
    if not labels or not templates:
        raise ValueError("zero-shot classification needs labels and templates")
    for template in templates:
        if "{}" not in template:
            raise ValueError(f"the template {template!r} has no {{}} for the label")
    return [template.replace("{}", label) for label in labels for template in templates]


def label_vectors(embeddings: Vectors, labels: int) -> npt.NDArray[np.float32]:
    """float32 [labels, dim]: the prompts' embeddings [labels * templates, dim], each of unit length, averaged
    over the templates and of unit length again, as CLIP's own evaluation does.

    Raises: ValueError where embeddings have no direction, or are not equally many for each label.
    """
    if not labels or len(embeddings) % labels:
        raise ValueError(f"{len(embeddings)} embeddings of prompts for {labels} labels")
    unit = _unit(np.asarray(embeddings, np.float32))
    return _unit(unit.reshape(labels, -1, unit.shape[-1]).mean(axis=1))


def classification_scores(images: Vectors, vectors: Vectors, truth: Ids) -> list[Scores]:
    """Top-1 and top-5 accuracy of images [n, dim] against label vectors [labels, dim], both of unit length.

    truth: int64 [n], the row of each image's label. Ties count against, so that a label whose vector is also
    another's is never right. Raises: ValueError as `retrieval.ranks_of`.
    """
    ranks = ranks_of(images, vectors, truth)
    return [mean_scores(f"top-{k}", ranks <= k) for k in TOP]


def _unit(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    if not (np.isfinite(lengths) & (lengths > 0)).all():
        raise ValueError("an embedding of a prompt has no direction")
    unit: npt.NDArray[np.float32] = vectors / lengths
    return unit
