"""An encoder as a classifier that was never trained: labels and prompt templates become its classes."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipelines.corpus import Corpus, fingerprint
from pipelines.encoders import RecordedEncoder
from pipelines.evaluate_jobs import EvaluateConfig
from pipelines.evaluation.formats import EvaluationError
from pipelines.evaluation.matched import match_corpus
from pipelines.evaluation.matching import Amiss, Counted, Mismatch, check
from pipelines.evaluation.references import References, read_labels
from pipelines.evaluation.retrieval import encoder_of
from pipelines.evaluation.scored import Part, Scored, part_items
from pipelines.index.reading import dataset_of
from pipelines.vectors import StoredVectors
from stages.index.vectors import Float32, Ids, unit_float32
from stages.metrics.classification import TOP, classification_scores, label_vectors, prompts

_TEMPLATE = "a photo of a {label}."
_PLACES = ("{label}", "{c}", "{}")
_BLOCK = 8192


@dataclass(frozen=True, eq=False)
class _Labelled:
    """Images that have a label and a vector: `keys` of their references, ids int64 [n], and both of them."""

    keys: list[str]
    ids: Ids
    vectors: Float32
    mismatch: Mismatch
    method: str
    notes: list[str]


def score_classification(config: EvaluateConfig, corpus: Corpus) -> Scored:
    """Raises: EvaluationError, where `strict` also for what does not go together; CorpusError."""
    name = str(config.dataset)
    encoder = encoder_of(corpus, name)
    if not encoder.reads_text:
        raise EvaluationError(f"embeddings/{name} are of an encoder that reads no texts")
    references = read_labels(str(config.references))
    labels = _labels(config, references)
    templates = [_TEMPLATE] if config.templates is None else _lines(config.templates)
    known: list[str] = references.rows["key"].to_pylist()
    classes = dict(zip(known, _numbers(references.rows["label"].to_pylist(), labels), strict=True))
    images = _labelled(config, corpus, references)
    check(images.mismatch, config.strict)
    truth = np.array([classes[key] for key in images.keys], np.int64)
    part = _part(images, truth, labels, _class_vectors(encoder, labels, templates))
    digest = fingerprint({"labels": labels})
    return Scored(
        parts=(part,),
        of=dataset_of(name),
        mismatch=images.mismatch,
        settings={
            "labels": f"{len(labels):,}, fingerprint {digest}",
            "templates": "; ".join(templates)[:400],
        },
        facts={"references": str(config.references), "matched by": images.method},
        notes=tuple(images.notes),
    )


def _labelled(config: EvaluateConfig, corpus: Corpus, references: References) -> _Labelled:
    stored = StoredVectors(corpus, dataset_of(str(config.dataset)))
    matched, counted = match_corpus(corpus, references.rows, config.key, references.plain), Counted()
    matched.count(counted)
    keys = {item: key for key, item in matched.images.items() if item is not None}
    ids, vectors = stored.present(np.array(list(keys), np.int64))
    there = set(ids.tolist())
    counted.add(Amiss.MISSING, (key for item, key in keys.items() if item not in there))
    return _Labelled(
        keys=[keys[item] for item in ids.tolist()],
        ids=ids,
        vectors=unit_float32(vectors, stored.dim),
        mismatch=counted.mismatch(len(ids), len(matched.images)),
        method=matched.method,
        notes=matched.beside,
    )


def _part(images: _Labelled, truth: Ids, labels: Sequence[str], vectors: Float32) -> Part:
    """truth: int64 [n], the place of each image's label; vectors: float32 [labels, dim]."""
    true = [labels[number] for number in truth.tolist()]
    table = pa.table(
        {
            "key": images.keys,
            "image_id": pa.array(images.ids, pa.int64()),
            "prediction": [labels[number] for number in _nearest(images.vectors, vectors).tolist()],
            "references": [[label] for label in true],
        }
    )
    # Of five labels or fewer, each is among the first five.
    metrics = classification_scores(images.vectors, vectors, truth)[: 2 if len(labels) > max(TOP) else 1]
    return Part(part_items("images", table), metrics, "top-1", {"label": true})


def _labels(config: EvaluateConfig, references: References) -> list[str]:
    named: list[str] = sorted(set(references.rows["label"].to_pylist()))
    labels = named if config.labels is None else _lines(config.labels)
    if len(labels) < 2:
        raise EvaluationError(
            f"labels must be two or more, {config.labels or config.references} has {labels}"
        )
    return labels


def _lines(location: str) -> list[str]:
    try:
        lines = Path(location).expanduser().read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise EvaluationError(f"{location} cannot be read: {error}") from error
    found = [line.strip() for line in lines if line.strip()]
    if not found:
        raise EvaluationError(f"{location} is empty: one a line is wanted")
    if len(set(found)) < len(found):
        raise EvaluationError(f"{location} has a line twice: {next(x for x in found if found.count(x) > 1)}")
    return found


def _numbers(wanted: Sequence[str], labels: Sequence[str]) -> list[int]:
    """The place of each label, by its name, or by the number of its line from 0."""
    places = {label: place for place, label in enumerate(labels)}
    if not places.keys() & set(wanted):
        places = {str(place): place for place in range(len(labels))}
    unknown = next((label for label in wanted if label not in places), None)
    if unknown is not None:
        raise EvaluationError(f"label {unknown} is none of the {len(labels):,}: {', '.join(labels[:8])}, …")
    return [places[label] for label in wanted]


def _class_vectors(encoder: RecordedEncoder, labels: Sequence[str], templates: Sequence[str]) -> Float32:
    """float32 [labels, dim]. Raises: EvaluationError."""
    for template in templates:
        if not any(place in template for place in _PLACES):
            raise EvaluationError(f"a template must hold {{label}}, got {template!r}")
    plain = [re.sub("|".join(map(re.escape, _PLACES)), "{}", template) for template in templates]
    return label_vectors(encoder.texts(prompts(labels, plain)), len(labels))


def _nearest(images: Float32, classes: Float32) -> Ids:
    """int64 [n]: the nearest class of each image."""
    starts = range(0, len(images), _BLOCK)
    found = [(images[start : start + _BLOCK] @ classes.T).argmax(axis=1) for start in starts]
    return np.concatenate(found)
