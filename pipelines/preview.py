"""`darkroom preview`: the configured generators on a random handful of images, side by side."""

import re
import shlex
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.config import ConfigError, option
from pipelines.facts import Command
from pipelines.jobs import Captioner
from pipelines.preview_facts import PreviewPicture, PreviewReport, Said, Writer
from pipelines.report import render, thumbnail
from pipelines.run_record import run_name
from pipelines.survey import list_source
from pipelines.text_jobs import PreviewConfig
from stages.answer import AnswerConfig, AnswerQuestions
from stages.base import Stage, notes_of, unpack_views
from stages.caption import CaptionConfig, CaptionImages, caption_view
from stages.checkpoints import resolve
from stages.decode import DecodeImages
from stages.generators.backends import generator_needs, load_generator
from stages.generators.config import GeneratorConfig
from stages.generators.known import CAPTION
from stages.questions.files import load_questions
from stages.questions.plan import QuestionPlan
from stages.resize import Policy, ResizeConfig
from stages.schemas import TOLD, Status
from stages.sources.kinds import reader
from stages.sources.listing import Listing

_THUMBNAIL = 240


@dataclass(frozen=True)
class _Task:
    """A generator, and what it does here."""

    captioner: Captioner
    captions: bool
    answers: bool


def preview_generators(config: PreviewConfig) -> PreviewReport:
    """Reads, decodes and asks in this process, without Ray and without a lock, and writes the page.

    Raises: ConfigError, ModelLoadError, GenerationError; OSError where the page cannot be written.
    """
    started, clock = datetime.now(UTC), time.perf_counter()
    tasks, plan = _tasks(config), _plan(config)
    listing = list_source(config.source)
    table = _decoded(config, _chosen(config, listing), tasks)
    writers, said, notes, caption = [], [], list[str](), None
    for number, task in enumerate(tasks):
        done = _run(task, plan, table, str(number), caption)
        caption = caption if caption is not None else done.captions
        writers.append(done.writer)
        said.append(done.said)
        notes += [f"{task.captioner.name}: {note}" for note in done.notes]
        load_generator.cache_clear()  # the next may need the memory
    report = PreviewReport(
        run=run_name(started),
        corpus=config.source.path,
        started=started,
        seconds=time.perf_counter() - clock,
        found=listing.items,
        writers=tuple(writers),
        pictures=tuple(_pictures(table, said)),
        notes=tuple(notes),
        commands=_commands(config, tasks),
    )
    Path(config.out).expanduser().write_text(render(report), "utf-8")
    return report


def _tasks(config: PreviewConfig) -> list[_Task]:
    """Captioners first: an answerer may read what they say."""
    captioners = [_captioner(name) for name in config.captioners]
    if not captioners and config.captioner is not None:
        captioners = [config.captioner]
    asks = bool(config.questions) and config.answerer is None
    tasks = [_Task(captioner, captions=True, answers=asks) for captioner in captioners]
    if config.answerer is not None:
        tasks.append(_Task(config.answerer, captions=False, answers=True))
    return tasks


def _captioner(name: str) -> Captioner:
    """An option of the group `captioner`, or a model with the settings that all have. Raises: ConfigError."""
    if re.fullmatch(r"[\w.-]+", name):
        captioner: Captioner = option("captioner", name, Captioner)
        return captioner
    resolve(name)
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name.rstrip("/").rpartition("/")[2]).lstrip("-._")
    return Captioner(plain or "model", CaptionConfig(GeneratorConfig(name)))


def _plan(config: PreviewConfig) -> QuestionPlan:
    """Raises: ConfigError, also for questions about what only a corpus knows."""
    try:
        plan = load_questions(config.questions)
    except ValueError as error:
        raise ConfigError(f"questions: {error}") from error
    needs = plan.needs
    if needs.tags or needs.texts or needs.group:
        raise ConfigError("questions must read no tags, texts or groups: a preview knows none")
    return plan


def _chosen(config: PreviewConfig, listing: Listing) -> pa.Table:
    """`n` rows of the source by chance, in its order, of those that meet `source.where`; and what it says."""
    wanted = np.flatnonzero(listing.rows["wanted"].to_numpy())
    if not len(wanted):
        met = f" that meets source.where ({config.source.where})" if listing.items else ""
        raise ConfigError(f"source.path: {config.source.path} holds no image{met}")
    generator = np.random.default_rng(config.seed)
    rows = np.sort(generator.choice(wanted, min(config.n, len(wanted)), replace=False))
    chosen = listing.rows.take(rows).append_column("image_id", pa.array(rows, pa.int64()))
    told = listing.details.read(chosen["detail"].combine_chunks())
    for name in TOLD.names:
        chosen = chosen.append_column(name, told[name])
    return chosen


def _decoded(config: PreviewConfig, files: pa.Table, tasks: Sequence[_Task]) -> pa.Table:
    """With a view for each task, named by its place, and the view `thumbnail`."""
    views: dict[str, ResizeConfig] = {"thumbnail": ResizeConfig(policy=Policy.FIT, size=_THUMBNAIL)}
    views |= {str(number): caption_view(task.captioner.what) for number, task in enumerate(tasks)}
    read = reader(config.source.what, config.source.how)(files)
    return DecodeImages(config.decode.what, config.decode.how, views)(read)


@dataclass(frozen=True, eq=False)
class _Done:
    """`said`: of each picture its texts; `captions`: the column of them, where the task made one."""

    writer: Writer
    said: list[tuple[Said, ...]]
    captions: pa.ChunkedArray | None
    notes: list[str]


def _run(task: _Task, plan: QuestionPlan, table: pa.Table, view: str, caption: Any) -> _Done:
    what, how = task.captioner.what, task.captioner.how
    rows: list[list[dict[str, Any]]] = [[] for _ in range(len(table))]
    seconds, notes = 0.0, list[str]()
    if task.captions:
        made, spent = _timed(CaptionImages(what, how, view), _given(table, task, CAPTION, caption))
        seconds, notes, caption = seconds + spent, notes_of(made), made["caption"]
        for own, row in zip(rows, caption.to_pylist(), strict=True):
            own.append({**row, "text": row["caption"], "question": ""})
    if task.answers:
        asked = AnswerConfig(what.generator, plan, what.answer_prompt, what.checks)
        known = _given(table, task, "caption", caption, plan.needs.captions)
        made, spent = _timed(AnswerQuestions(asked, how, view), known)
        seconds, notes = seconds + spent, [*notes, *notes_of(made)]
        for own, answers in zip(rows, made["answers"].to_pylist(), strict=True):
            own += [{**answer, "text": answer["answer"]} for answer in answers]
    good = [own for own, status in zip(rows, table["status"].to_pylist(), strict=True) if status == Status.OK]
    writer = _writer(task.captioner, good, seconds)
    said = [tuple(map(_said, own)) for own in rows]
    return _Done(writer, said, caption if task.captions else None, list(dict.fromkeys(notes)))


def _timed(stage: Stage, table: pa.Table) -> tuple[pa.Table, float]:
    """The stage is there already, and its model loaded."""
    start = time.perf_counter()
    made = stage(table)
    return made, time.perf_counter() - start


def _given(table: pa.Table, task: _Task, column: str, caption: Any, asked: bool = False) -> pa.Table:
    """With the captions of the captioner before, in `column`, where the model or a question reads them."""
    needs = {*generator_needs(task.captioner.what.generator), *(["caption"] if asked else [])}
    if not needs:
        return table
    if needs != {"caption"} or caption is None:
        told = " and ".join(sorted(needs))
        raise ConfigError(
            f"{task.captioner.name} reads {told}: a preview has captions, of captioners before it"
        )
    if column == "caption":
        return table.append_column(column, caption)
    texts = [row["caption"] if row["status"] == Status.OK else None for row in caption.to_pylist()]
    return table.append_column(column, pa.array(texts, pa.string()))


def _writer(captioner: Captioner, good: Sequence[Sequence[Mapping[str, Any]]], seconds: float) -> Writer:
    texts = [row for own in good for row in own]
    tokens = [row["completion_tokens"] for row in texts if row["completion_tokens"] is not None]
    images = max(len(good), 1)
    return Writer(
        name=captioner.name,
        model=_model(captioner.what.generator),
        seconds=seconds / images,
        tokens=sum(tokens) / images if tokens else None,
        statuses=dict(Counter(row["status"] for row in texts).most_common()),
    )


def _model(generator: GeneratorConfig) -> str:
    return f"{generator.model} + {generator.reasoner.model}" if generator.reasoner else generator.model


def _said(row: Mapping[str, Any]) -> Said:
    return Said(row["question"], row["text"] or "", row["status"], row["error"])


def _pictures(table: pa.Table, said: Sequence[Sequence[tuple[Said, ...]]]) -> list[PreviewPicture]:
    shown = unpack_views(table, "thumbnail")
    uris, errors = table["uri"].to_pylist(), table["error"].to_pylist()
    return [
        PreviewPicture(
            uri=uris[row],
            thumbnail=None if image is None else thumbnail(image, _THUMBNAIL),
            error=errors[row],
            said=tuple(() if image is None else texts[row] for texts in said),
        )
        for row, image in enumerate(shown)
    ]


def _commands(config: PreviewConfig, tasks: Sequence[_Task]) -> tuple[Command, ...]:
    source, name = shlex.quote(f"source.path={config.source.path}"), tasks[0].captioner.name
    return (Command("Spend a night on it", f"darkroom nightly {source} corpus=DIR captioner={name}"),)
