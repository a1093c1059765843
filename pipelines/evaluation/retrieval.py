"""An encoder held against captions: texts to images and back, exactly and through the project's index."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipelines.changes import tombstones
from pipelines.corpus import Corpus
from pipelines.encoders import RecordedEncoder
from pipelines.evaluate_jobs import EvaluateConfig, Gallery
from pipelines.evaluation.formats import EvaluationError
from pipelines.evaluation.matched import match_corpus
from pipelines.evaluation.matching import Amiss, Counted, check
from pipelines.evaluation.references import References, read_captions
from pipelines.evaluation.scored import Part, Scored, part_items
from pipelines.index.layout import current_generation
from pipelines.index.reading import dataset_of, read_batches
from pipelines.vectors import StoredVectors
from stages.index.vectors import Batch, Float32, Ids, unit_float32
from stages.metrics.retrieval import RECALL_AT, Ranked, hit_ranks, rank, retrieval_scores
from stages.metrics.scores import Resampled, mean_scores


@dataclass(frozen=True, eq=False)
class Pairs:
    """The texts that are searched for, and the image of each: `keys` by image id, `own` int64 [t]."""

    texts: list[str]
    own: Ids
    keys: Mapping[int, str]
    captions: Mapping[int, list[str]]


def score_retrieval(config: EvaluateConfig, corpus: Corpus) -> Scored:
    """Raises: EvaluationError, where `strict` also for what does not go together; CorpusError."""
    name = str(config.dataset)
    encoder, stored = encoder_of(corpus, name), StoredVectors(corpus, dataset_of(name))
    if not encoder.reads_text:
        raise EvaluationError(f"embeddings/{name} are of an encoder that reads no texts")
    references = read_captions(str(config.references), config.split)
    counted = Counted()
    counted.add(Amiss.NO_IMAGE, references.stray)
    pairs, method, notes = _pairs(corpus, stored, references, config, counted)
    mismatch = counted.mismatch(len(pairs.keys), len(references.rows))
    check(mismatch, config.strict)
    texts, gallery = encoder.texts(pairs.texts), config.gallery or Gallery.CORPUS
    own = unit_float32(stored.fetch(pairs.own), stored.dim)
    ranked = rank(texts, pairs.own, own, _gallery(corpus, name, gallery, pairs.own))
    through, why = _through_index(corpus, name, texts, pairs, ranked, gallery)
    parts = (_texts_part(corpus, pairs, ranked, through), _images_part(pairs, ranked))
    return Scored(
        parts=parts,
        of=dataset_of(name),
        mismatch=mismatch,
        settings={"gallery": f"{ranked.gallery:,} images"},
        facts={"references": f"{config.references} ({references.form})", "matched by": method},
        notes=(*references.notes, *notes, *why),
    )


def encoder_of(corpus: Corpus, name: str) -> RecordedEncoder:
    """Raises: EvaluationError."""
    info = corpus.info(dataset_of(name))
    if info is None:
        there = [one.partition("/")[2] for one in corpus.datasets() if one.startswith("embeddings/")]
        raise EvaluationError(
            f"{corpus.location} has no embeddings/{name}, it has {', '.join(there) or 'no embeddings'}: make "
            "it first, or set source.path and encoder as for darkroom nightly"
        )
    return RecordedEncoder(info)


def _pairs(
    corpus: Corpus, stored: StoredVectors, references: References, config: EvaluateConfig, counted: Counted
) -> tuple[Pairs, str, list[str]]:
    matched = match_corpus(corpus, references.rows, config.key, references.plain)
    matched.count(counted)
    known = [item for item in matched.images.values() if item is not None]
    there = set(stored.present(np.array(known, np.int64))[0].tolist())
    keys: dict[int, str] = {}
    captions: dict[int, list[str]] = {}
    for (key, item), texts in zip(
        matched.images.items(), references.rows["reference"].to_pylist(), strict=True
    ):
        if item is None:
            continue
        if item not in there:
            counted.add(Amiss.MISSING, [key])
            continue
        keys[item], captions[item] = key, texts
    texts = [text for own in captions.values() for text in own]
    own = np.repeat(np.array(list(captions), np.int64), [len(one) for one in captions.values()])
    notes = matched.beside if config.gallery is Gallery.REFERENCES else []
    return Pairs(texts, own, keys, captions), matched.method, notes


def _gallery(corpus: Corpus, name: str, gallery: Gallery, own: Ids) -> Iterator[Batch]:
    wanted = np.unique(own)
    for ids, vectors in read_batches(corpus, name, corpus.shards(dataset_of(name)), tombstones(corpus)):
        chosen = np.isin(ids, wanted) if gallery is Gallery.REFERENCES else np.ones(len(ids), bool)
        yield ids[chosen], vectors[chosen]


def _through_index(
    corpus: Corpus, name: str, texts: Float32, pairs: Pairs, ranked: Ranked, gallery: Gallery
) -> tuple[list[Resampled], list[str]]:
    """Recall of the searches that users make, and what the index loses; or why there is none."""
    if gallery is not Gallery.CORPUS:
        return [], ["the index was not searched: it holds the whole corpus, and gallery is references"]
    if current_generation(corpus, name) is None:
        return [], [f"there is no index/{name}: what it loses was not measured"]
    from pipelines.nearest import Nearest

    ranks = hit_ranks(Nearest(corpus, name).find(texts, max(RECALL_AT)), pairs.own)
    found = {at: (ranks <= at).astype(np.float64) for at in RECALL_AT}
    recalls = [mean_scores(f"text-to-image recall@{at} through the index", found[at]) for at in RECALL_AT]
    losses = [mean_scores(f"lost by the index @{at}", (ranked.texts <= at) - found[at]) for at in RECALL_AT]
    return [*recalls, *losses], []


def _texts_part(corpus: Corpus, pairs: Pairs, ranked: Ranked, more: Sequence[Resampled]) -> Part:
    found = ranked.texts_nearest
    distinct = np.unique(np.concatenate([found, pairs.own])).tolist()
    uris = dict(zip(distinct, corpus.read_rows("items", distinct, ["uri"])["uri"].to_pylist(), strict=True))
    counts: dict[int, int] = {}
    keys = []
    for item in pairs.own.tolist():
        counts[item] = counts.get(item, 0) + 1
        keys.append(f"{pairs.keys[item]}, text {counts[item]}")
    rows = pa.table(
        {
            "key": keys,
            "image_id": pa.array(pairs.own, pa.int64()),
            "question": pairs.texts,
            "prediction": [uris[item] for item in found.tolist()],
            "references": [[uris[item]] for item in pairs.own.tolist()],
        }
    )
    metrics = [*retrieval_scores(ranked.texts, "text-to-image"), *more]
    return Part(part_items("texts", rows), metrics, "text-to-image mean reciprocal rank")


def _images_part(pairs: Pairs, ranked: Ranked) -> Part:
    ids = ranked.ids.tolist()
    rows = pa.table(
        {
            "key": [pairs.keys[item] for item in ids],
            "image_id": pa.array(ranked.ids, pa.int64()),
            "prediction": [pairs.texts[row] for row in ranked.images_nearest.tolist()],
            "references": [pairs.captions[item] for item in ids],
        }
    )
    metrics = retrieval_scores(ranked.images, "image-to-text")
    return Part(part_items("images", rows), metrics, "image-to-text mean reciprocal rank")
