"""Captions held against those of people."""

from pathlib import Path

import pyarrow as pa

from pipelines.corpus import Corpus
from pipelines.evaluate_jobs import EvaluateConfig, Tokenisation
from pipelines.evaluation.formats import EvaluationError
from pipelines.evaluation.matched import Texts, match_corpus, with_images
from pipelines.evaluation.matching import Amiss, Counted, align, check, match_files
from pipelines.evaluation.predictions import PREDICTIONS, captions_in, read_captions_said
from pipelines.evaluation.references import References, read_captions
from pipelines.evaluation.scored import Part, Scored, part_items
from stages.metrics.captions import already_tokenized, caption_scores, tokenized
from stages.metrics.meteor import MeteorMissing, find_jar, meteor
from stages.metrics.scores import Resampled

_MAIN = "CIDEr"


def score_captions(config: EvaluateConfig, corpus: Corpus | None) -> Scored:
    """Raises: EvaluationError, where `strict` also for what does not go together."""
    references = read_captions(str(config.references), config.split)
    counted = Counted()
    counted.add(Amiss.NO_IMAGE, references.stray)
    if config.predictions is not None:
        texts, of = _of_file(config.predictions, references, config.key, corpus), config.predictions
    else:
        assert corpus is not None
        texts = _of_corpus(corpus, str(config.dataset), references, config.key, counted)
        of = f"captions/{config.dataset}"
    rows, mismatch = align(references.rows, "key", texts.said, counted)
    check(mismatch, config.strict)
    rows = with_images(rows, texts.images)
    names = ["references" if name == "reference" else name for name in rows.column_names]
    items = part_items("images", rows.rename_columns(names))
    metrics, without = _metrics(items, config)
    form = f"{references.form}, {references.split}" if references.split else references.form
    return Scored(
        parts=(Part(items, metrics, _MAIN),),
        of=of,
        mismatch=mismatch,
        settings={"tokenisation": (config.tokenisation or Tokenisation.PTB).value},
        facts={"references": f"{config.references} ({form})", "matched by": texts.method},
        notes=(*references.notes, *texts.notes, *without),
    )


def _metrics(items: pa.Table, config: EvaluateConfig) -> tuple[list[Resampled], list[str]]:
    """As the COCO caption evaluation has them; and why METEOR is not among them.

    Raises: EvaluationError where METEOR was asked for and cannot be run.
    """
    made = already_tokenized if config.tokenisation is Tokenisation.NONE else tokenized
    captions = made(items["prediction"].to_pylist(), items["references"].to_pylist())
    scores: list[Resampled] = [*caption_scores(captions)]
    try:
        return [*scores, meteor(captions, find_jar(Path(config.meteor) if config.meteor else None))], []
    except MeteorMissing as error:
        if config.meteor is not None:
            raise EvaluationError(f"meteor: {error}") from error
        return scores, [f"METEOR was not scored: {error}"]


def _of_file(location: str, references: References, key: str, corpus: Corpus | None) -> Texts:
    said = read_captions_said(location)
    method, keys = match_files(said["key"].to_pylist(), references.rows, key)
    said = said.set_column(0, PREDICTIONS.field("key"), pa.array(keys, pa.string()))
    if corpus is None:
        return Texts(said, {}, method)
    # For the pictures on the page: references of no image are no fault here.
    return Texts(said, match_corpus(corpus, references.rows, plain=references.plain).images, method)


def _of_corpus(corpus: Corpus, name: str, references: References, key: str, counted: Counted) -> Texts:
    texts, matched = captions_in(corpus, name), match_corpus(corpus, references.rows, key, references.plain)
    matched.count(counted)
    of_item = dict(zip(texts.rows["image_id"].to_pylist(), texts.rows["text"].to_pylist(), strict=True))
    there = {one: of_item[item] for one, item in matched.images.items() if item in of_item}
    said = pa.table([pa.array(list(column), pa.string()) for column in (there, there.values())], PREDICTIONS)
    return Texts(said, matched.images, matched.method, (*texts.notes, *matched.beside))
