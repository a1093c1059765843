"""`darkroom evaluate`: what the corpus lacks is made, held against references, recorded and compared."""

import shlex
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np
from rich.console import Console

from pipelines.config import as_dict
from pipelines.corpus import Corpus
from pipelines.evaluate_jobs import EvaluateConfig, Task
from pipelines.evaluation.answers import score_answers
from pipelines.evaluation.captions import score_captions
from pipelines.evaluation.classification import score_classification
from pipelines.evaluation.compare import Against, against, compare, worst_of
from pipelines.evaluation.facts import Breakdown, Comparison, EvaluationReport, Item, Past, Score
from pipelines.evaluation.making import make_what_is_missing
from pipelines.evaluation.pictures import with_pictures
from pipelines.evaluation.record import earlier, find_run, save
from pipelines.evaluation.retrieval import score_retrieval
from pipelines.evaluation.scored import Part, Scored, measured, table_of
from pipelines.facts import Command
from pipelines.run_record import run_name
from pipelines.tracking import Run, track
from stages.metrics.bootstrap import interval
from stages.metrics.scores import grouped

_GROUPS = 80
"""Groups of a breakdown that are shown, the largest first: VQA v2 has 65 types of questions."""


@dataclass(frozen=True)
class Evaluation:
    """`notes`: those of the report, and what came up after it was written."""

    report: EvaluationReport
    page: str
    notes: tuple[str, ...]


def evaluate(config: EvaluateConfig, screen: Console) -> Evaluation:
    """Raises: ConfigError; EvaluationError, one line, where inputs are wrong or do not go together; and what
    a night raises, where something is to be made."""
    started, clock = datetime.now(UTC), time.perf_counter()
    corpus = None if config.corpus is None else Corpus(config.corpus)
    place = Corpus(config.place)
    stored = None if config.against is None else find_run(place, config.against)
    made = [] if config.source is None else make_what_is_missing(config, screen)
    scored = _score(config, corpus)
    other = None if stored is None else against(scored, config.task.value, stored)
    notes = [*made, *scored.notes]
    known = len(notes)
    with track(
        config.tracking, Run(run_name(started), config.place, as_dict(config)), notes.append
    ) as tracker:
        report = _report(config, scored, other, corpus, started)
        report = replace(report, notes=(*notes, *report.notes), seconds=time.perf_counter() - clock)
        page = save(place, report, table_of(scored.parts), config, tracker)
    late = notes[known:]
    return Evaluation(report, page, (*report.notes, *(one for one in late if one not in report.notes)))


def _score(config: EvaluateConfig, corpus: Corpus | None) -> Scored:
    match config.task:
        case Task.CAPTIONS:
            return score_captions(config, corpus)
        case Task.VQA:
            return score_answers(config, corpus)
        case Task.RETRIEVAL:
            assert corpus is not None
            return score_retrieval(config, corpus)
        case Task.CLASSIFICATION:
            assert corpus is not None
            return score_classification(config, corpus)


def _report(
    config: EvaluateConfig,
    scored: Scored,
    other: Against | None,
    corpus: Corpus | None,
    started: datetime,
) -> EvaluationReport:
    """Without the time that it took."""
    scores = measured(scored.parts, config.resamples, config.seed)
    first, run = scored.parts[0], run_name(started)
    comparison = None if other is None else compare(scored, other, config.resamples, config.seed)
    worst, comparison, note = _illustrated(config, corpus, worst_of(first, config.worst), comparison)
    past = earlier(Corpus(config.place), config.task.value, scored.data, scored.settings)
    now = Past(run, scored.of, {score.name: score for score in scores})
    return EvaluationReport(
        run=run,
        corpus=config.corpus or scored.of,
        started=started,
        seconds=0.0,
        task=config.task.value,
        of=scored.of,
        data=scored.data,
        scored=scored.mismatch.scored,
        references=scored.mismatch.references,
        scores=tuple(scores),
        main=first.main,
        settings=scored.settings,
        facts=scored.facts,
        troubles=scored.mismatch.troubles,
        breakdowns=tuple(_breakdowns(first, config)),
        past=(*past, now),
        worst=worst,
        comparison=comparison,
        commands=_commands(config, run),
        notes=() if note is None else (note,),
    )


def _illustrated(
    config: EvaluateConfig, corpus: Corpus | None, worst: tuple[Item, ...], comparison: Comparison | None
) -> tuple[tuple[Item, ...], Comparison | None, str | None]:
    """All items of the page are read at once."""
    better, worse = ((), ()) if comparison is None else (comparison.better, comparison.worse)
    shown, note = with_pictures(config, corpus, [*worst, *better, *worse])
    ends = np.cumsum([len(worst), len(better), len(worse)]).tolist()
    parts = [shown[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    if comparison is not None:
        comparison = replace(comparison, better=parts[1], worse=parts[2])
    return parts[0], comparison, note


def _breakdowns(part: Part, config: EvaluateConfig) -> Iterable[Breakdown]:
    for by, labels in part.groups.items():
        found = {
            name: (one, len(one))
            for name, one in grouped(part.metric, [label or "none" for label in labels]).items()
        }
        largest = sorted(found, key=lambda name: -found[name][1])[:_GROUPS]
        scores = {}
        for name in largest:
            metric, count = found[name]
            one = interval(metric, config.resamples, config.seed)
            scores[name] = Score(part.main, one.value, one.low, one.high, count)
        yield Breakdown(by, scores)


def _commands(config: EvaluateConfig, run: str) -> tuple[Command, ...]:
    place = f"corpus={config.corpus}" if config.corpus else f"out={config.out}"
    words = [f"task={config.task.value}", place, f"against={run}"]
    line = " ".join(["darkroom evaluate", *map(shlex.quote, words), "…"])
    return (Command("Compare the next one with it", line),)
