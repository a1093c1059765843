"""Answers to questions about images, held against those of people."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.corpus import Corpus
from pipelines.evaluate_jobs import EvaluateConfig, Metric
from pipelines.evaluation.formats import EvaluationError
from pipelines.evaluation.matched import Texts, match_corpus, with_images
from pipelines.evaluation.matching import Amiss, Counted, align, check
from pipelines.evaluation.predictions import PREDICTIONS, answers_in, read_answers_said
from pipelines.evaluation.questions import Questions, read_questions
from pipelines.evaluation.scored import Part, Scored, part_items
from stages.metrics.scores import Scores, mean_scores
from stages.metrics.vqa import Normalization, anls, textvqa_accuracy, vqa_accuracy


def score_answers(config: EvaluateConfig, corpus: Corpus | None) -> Scored:
    """Raises: EvaluationError, where `strict` also for what does not go together."""
    questions = read_questions(str(config.annotations), config.questions)
    counted = Counted()
    counted.add(Amiss.NO_QUESTION, questions.stray)
    if config.predictions is not None:
        texts, of = _of_file(config.predictions, questions, corpus), config.predictions
    else:
        assert corpus is not None
        texts = _of_corpus(corpus, str(config.dataset), questions, config.key, counted)
        of = f"answers/{config.dataset}"
    rows, mismatch = align(questions.rows, "question_id", texts.said, counted)
    check(mismatch, config.strict)
    part, settings = _scored(with_images(rows, texts.images), questions.form, config)
    facts = {"references": f"{config.annotations} ({questions.form})", "matched by": texts.method}
    return Scored((part,), of, mismatch, settings, facts, (*questions.notes, *texts.notes))


def _scored(rows: pa.Table, form: str, config: EvaluateConfig) -> tuple[Part, dict[str, str]]:
    names = {"key": "image", "question_id": "key", "answers": "references"}
    items = part_items("questions", rows.rename_columns([names.get(one, one) for one in rows.column_names]))
    references: list[list[str]] = items["references"].to_pylist()
    metric = _metric(config, form, references)
    settings = {"metric": metric.value}
    normalisation = config.normalisation or Normalization.OFFICIAL
    if metric is Metric.ACCURACY:
        settings["normalisation"] = normalisation.value
    scores = answer_scores(items["prediction"].to_pylist(), references, metric, normalisation)
    groups = {
        by.replace("_", " "): rows[by].to_pylist()
        for by in ("answer_type", "question_type")
        if rows[by].null_count < len(rows)
    }
    return Part(items, [scores], scores.name, groups), settings


def _of_file(location: str, questions: Questions, corpus: Corpus | None) -> Texts:
    images: Mapping[str, int | None] = {}
    if corpus is not None:
        images = match_corpus(corpus, pictures_of(questions.rows), plain=questions.plain).images
    return Texts(read_answers_said(location), images, "question_id")


def _of_corpus(corpus: Corpus, name: str, questions: Questions, key: str, counted: Counted) -> Texts:
    """A question that the picture was asked under its id, as `darkroom evaluate` asks it; or by its text."""
    texts = answers_in(corpus, name)
    matched = match_corpus(corpus, pictures_of(questions.rows), key, questions.plain)
    lost = Counted()
    matched.count(lost)
    for what in (Amiss.NO_IMAGE, Amiss.AMBIGUOUS):
        concerned = pc.is_in(questions.rows["key"], pa.array(sorted(lost.ids(what)), pa.string()))
        counted.add(what, questions.rows.filter(concerned)["question_id"].to_pylist())
    said = _answers(questions.rows, texts.rows, matched.images)
    return Texts(said, matched.images, matched.method, texts.notes)


def _answers(asked: pa.Table, texts: pa.Table, images: Mapping[str, int | None]) -> pa.Table:
    """Schema PREDICTIONS, of the questions that there is a row of the dataset for."""
    by_name: dict[tuple[int, Any], str | None] = {}
    by_text: dict[tuple[int, Any], str | None] = {}
    columns = (texts[name].to_pylist() for name in ("image_id", "name", "question", "text"))
    for item, name, question, text in zip(*columns, strict=True):
        by_name[item, name] = text
        by_text.setdefault((item, question), text)
    found: dict[str, str | None] = {}
    for one, key, question in zip(
        *(asked[name].to_pylist() for name in ("question_id", "key", "question")), strict=True
    ):
        item = images.get(key)
        if item is None:
            continue
        if (item, one) in by_name:
            found[one] = by_name[item, one]
        elif (item, question) in by_text:
            found[one] = by_text[item, question]
    return pa.table([pa.array(list(column), pa.string()) for column in (found, found.values())], PREDICTIONS)


def pictures_of(questions: pa.Table) -> pa.Table:
    """The pictures that are asked about, each once: the column `key`."""
    return pa.table({"key": questions["key"].unique()})


def _metric(config: EvaluateConfig, form: str, references: Sequence[Sequence[str]]) -> Metric:
    """Raises: EvaluationError for an accuracy that would be 0 whatever is answered."""
    single = sum(len(answers) == 1 for answers in references)
    usual = {"TextVQA": Metric.TEXTVQA, "DocVQA": Metric.ANLS}
    metric = config.metric or usual.get(form, Metric.EXACT if single else Metric.ACCURACY)
    if single and metric in (Metric.ACCURACY, Metric.TEXTVQA):
        raise EvaluationError(
            f"metric {metric.value} holds an answer against those of several people, and {single:,} "
            f"questions of {config.annotations} have one: set metric to exact or anls"
        )
    return metric


def answer_scores(
    answers: Sequence[str],
    references: Sequence[Sequence[str]],
    metric: Metric,
    normalisation: Normalization = Normalization.OFFICIAL,
) -> Scores:
    """Of each answer among those of people."""
    match metric:
        case Metric.ACCURACY:
            return vqa_accuracy(answers, references, normalisation)
        case Metric.TEXTVQA:
            return textvqa_accuracy(answers, references)
        case Metric.ANLS:
            return anls(answers, references)
    plain = (
        ({_plain(one) for one in given}, _plain(own)) for own, given in zip(answers, references, strict=True)
    )
    return mean_scores("exact match", [float(own in given) for given, own in plain])


def _plain(answer: str) -> str:
    return answer.strip().lower()
