"""An encoder as a classifier that was never trained: labels and prompt templates become its classes."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipelines.corpus import Corpus, fingerprint
from pipelines.encoders import RecordedEncoder
from pipelines.evaluate_jobs import EvaluateConfig
from pipelines.evaluation.captions import beside
from pipelines.evaluation.formats import EvaluationError
from pipelines.evaluation.matching import Amiss, Counted, absent, check, images_of, match_items
from pipelines.evaluation.predictions import items_of
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


def score_classification(config: EvaluateConfig, corpus: Corpus) -> Scored:
    """Raises: EvaluationError, where `strict` also for what does not go together; CorpusError."""
    name = str(config.dataset)
    encoder, stored = encoder_of(corpus, name), StoredVectors(corpus, dataset_of(name))
    if not encoder.reads_text:
        raise EvaluationError(f"embeddings/{name} are of an encoder that reads no texts")
    references = read_labels(str(config.references))
    labels = _labels(config, references)
    templates = [_TEMPLATE] if config.templates is None else _lines(config.templates)
    items, counted = items_of(corpus), Counted()
    found = match_items(items, references.rows, config.key, references.plain)
    keys: list[str] = references.rows["key"].to_pylist()
    absent(counted, keys, found)
    classes = dict(zip(keys, _numbers(references.rows["label"].to_pylist(), labels), strict=True))
    images = {item: key for key, item in zip(keys, images_of(items, found), strict=True) if item is not None}
    ids, vectors = stored.present(np.array(list(images), np.int64))
    there = set(ids.tolist())
    counted.add(Amiss.MISSING, (key for item, key in images.items() if item not in there))
    mismatch = counted.mismatch(len(ids), len(keys))
    check(mismatch, config.strict)
    rows = [images[item] for item in ids.tolist()]
    truth = np.array([classes[key] for key in rows], np.int64)
    unit = unit_float32(vectors, stored.dim)
    class_vectors = _class_vectors(encoder, labels, templates)
    nearest = _nearest(unit, class_vectors)
    table = pa.table(
        {
            "key": rows,
            "image_id": pa.array(ids, pa.int64()),
            "prediction": [labels[number] for number in nearest.tolist()],
            "references": [[labels[number]] for number in truth.tolist()],
        }
    )
    # Of five labels or fewer, each is among the first five.
    metrics = classification_scores(unit, class_vectors, truth)[: 2 if len(labels) > max(TOP) else 1]
    part = Part(part_items("images", table), metrics, "top-1", {"label": [labels[n] for n in truth.tolist()]})
    return Scored(
        parts=(part,),
        of=dataset_of(name),
        mismatch=mismatch,
        settings={
            "labels": f"{len(labels):,}, fingerprint {fingerprint({'labels': labels})}",
            "templates": "; ".join(templates)[:400],
        },
        facts={"references": str(config.references), "matched by": found.method},
        notes=tuple(beside(len(items), found.matched)),
    )


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
