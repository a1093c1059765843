"""Each command: what it is asked, carried out, and what a person or a program is told of it."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.text import Text

from pipelines import progress, terminal
from pipelines.batch_search import batch_search
from pipelines.chat import chat
from pipelines.compact import compact
from pipelines.corpus import Corpus
from pipelines.describe import describe
from pipelines.evaluate_jobs import EvaluateConfig
from pipelines.evaluation import tables
from pipelines.evaluation.evaluate import evaluate
from pipelines.evaluation.matching import MismatchError
from pipelines.evaluation.record import as_json
from pipelines.export.run import export
from pipelines.export_jobs import ExportConfig
from pipelines.forget import forget
from pipelines.fuse import fuse
from pipelines.index.described import indexes
from pipelines.index.plan import plan_index
from pipelines.index_jobs import IndexJob, IndexPlanJob, NeighboursConfig, SearchConfig
from pipelines.indexing import index
from pipelines.indexing import preview as index_preview
from pipelines.jobs import (
    CompactConfig,
    DescribeConfig,
    ForgetConfig,
    Format,
    NightlyConfig,
    VerifyConfig,
)
from pipelines.legible import legible, legible_json
from pipelines.metadata import tells_of_items
from pipelines.neighbours import join_neighbours
from pipelines.nightly import nightly, preview
from pipelines.preview import preview_generators
from pipelines.search import search
from pipelines.source_diff import describe_diff
from pipelines.text_jobs import FuseConfig, PreviewConfig
from pipelines.verify import verify
from stages.index.blas import blas_kernel
from stages.told import parsed

FAILED, OVER_LIMIT = 1, 3
"""Exit codes of a command that failed, and of one that is done and misses a limit that was set."""


def _nightly(config: NightlyConfig, screen: Console) -> int:
    if config.dry_run:
        seen = preview(config)
        screen.print(terminal.forecast(seen.images, seen.rows, seen.seconds))
        _print_notes(screen, seen.notes)
        return 0
    night = nightly(config, screen)
    if night.report is None:
        screen.print(f"nothing to do: {night.items:,} images, all of them in {', '.join(night.wanted)}")
        if told := describe_diff(night.diff):
            screen.print(told)
        _print_notes(screen, night.notes)
        return 0
    screen.print(terminal.summary(night.report))
    _print_notes(screen, night.notes[len(night.report.notes) :])
    screen.print(f"report: {night.page}", soft_wrap=True)
    if night.failed:
        return FAILED
    return OVER_LIMIT if night.over_rejects or night.under_recall else 0


def _print_notes(screen: Console, notes: Sequence[str]) -> None:
    for note in notes:
        screen.print(Text(legible(note)), soft_wrap=True)


def _preview(config: PreviewConfig, screen: Console) -> int:
    screen.print(terminal.previewed(preview_generators(config)))
    screen.print(f"page: {config.out}", soft_wrap=True)
    return 0


def _search(config: SearchConfig, screen: Console) -> int:
    if config.queries is not None:
        return _batch_search(config, screen)
    hits = search(config)
    plain = [{**asdict(hit), "metadata": parsed(hit.metadata) or None} for hit in hits]
    _show(screen, config.format, plain, terminal.hits(hits))
    return 0


def _batch_search(config: SearchConfig, screen: Console) -> int:
    with _told("queries", "queries", config.format, screen) as told:
        done = batch_search(config, lambda answered, queries: told(answered, queries, answered))
    without = f", {done.unanswered:,} of them without any" if done.unanswered else ""
    line = f"{done.hits:,} hits of {done.queries:,} queries{without}: {done.out}"
    _show(screen, config.format, asdict(done), Text(legible(line)))
    return 0


def _index_neighbours(config: NeighboursConfig, screen: Console) -> int:
    with _told("neighbours", "shards", config.format, screen) as told:
        done = join_neighbours(config, told)
    kept = f", {done.kept:,} of {done.files:,} files were there already" if done.kept else ""
    line = f"{done.pairs:,} neighbours of {done.items:,} images{kept}: {done.folder}"
    _show(screen, config.format, asdict(done), Text(legible(line)))
    return 0


@contextmanager
def _told(what: str, unit: str, form: Format, screen: Console) -> Iterator[Callable[[int, int, int], None]]:
    """Shows how far a command is: units done, of how many, and items. Nothing where JSON was asked for."""
    if form is Format.JSON:
        yield lambda done, total, items: None
        return
    with progress.ProgressDisplay(screen) as display:
        yield lambda done, total, items: display.update(
            [progress.DatasetProgress(what, done, total, items, unit=unit)]
        )


def _index(config: IndexJob, screen: Console) -> int:
    if config.dry_run:
        outlook = index_preview(config)
        _show(
            screen,
            config.format,
            asdict(outlook),
            terminal.outlook(outlook.name, outlook.why, outlook.rows),
        )
        return 0
    quiet = config.format is Format.JSON
    done = index(config, lambda line: None if quiet else screen.print(line, soft_wrap=True))
    plain = {**vars(done), "facts": done.facts.to_dict()}
    _show(screen, config.format, plain, terminal.indexed(done.facts, done.page))
    if not quiet:
        _print_notes(screen, done.notes)
    return 0 if done.accepted else OVER_LIMIT


def _index_plan(config: IndexPlanJob, screen: Console) -> int:
    plan = plan_index(config)
    _show(screen, config.format, asdict(plan), terminal.index_plan(plan))
    return 0


def _describe(config: DescribeConfig, screen: Console) -> int:
    corpus = Corpus(config.corpus)
    datasets, built, told = describe(corpus), indexes(corpus), tells_of_items(corpus)
    plain: dict[str, Any] = {
        "datasets": [asdict(one) for one in datasets],
        "indexes": [one.to_dict() for one in built],
    }
    plain["told"] = None if told is None else asdict(told)
    _show(screen, config.format, plain, terminal.description(datasets, built, told))
    if config.format is Format.TABLE and built:
        screen.print(f"faiss's OpenBLAS kernel: {blas_kernel()}")
    return 0


def _compact(config: CompactConfig, screen: Console) -> int:
    done = compact(config)
    _show(screen, config.format, asdict(done), terminal.compaction(done))
    return 0


def _forget(config: ForgetConfig, screen: Console) -> int:
    done = forget(config)
    copies = f", {done.copies:,} of them copies" if done.copies else ""
    screen.print(f"{done.images:,} images taken down{copies}; {done.pages:,} report pages emptied")
    for one in done.unknown:
        screen.print(Text(f"not in the corpus: {legible(one)}"), soft_wrap=True)
    if done.images:
        screen.print("search does not find them any more; darkroom compact removes their data")
    return 0


def _verify(config: VerifyConfig, screen: Console) -> int:
    found = verify(config)
    _show(screen, config.format, asdict(found), terminal.verification(found))
    return 0 if found.sound else FAILED


def _fuse(config: FuseConfig, screen: Console) -> int:
    quiet = config.format is Format.JSON
    done = fuse(config, lambda line: None if quiet else screen.print(line, soft_wrap=True))
    line = f"trained on {done.examples:,} examples, {done.steps:,} steps, loss {done.loss:.3f}: {done.folder}"
    _show(screen, config.format, asdict(done), Text(legible(line)))
    return 0


def _evaluate(config: EvaluateConfig, screen: Console) -> int:
    quiet = config.format is Format.JSON
    try:
        done = evaluate(config, Console(file=sys.stderr) if quiet else screen)
    except MismatchError as error:
        if not quiet:
            screen.print(tables.troubles(error.mismatch.troubles))
        raise
    _show(screen, config.format, as_json(done.report), tables.evaluated(done.report))
    if not quiet:
        _print_notes(screen, done.notes)
        screen.print(f"report: {done.page}", soft_wrap=True)
    return 0


def _export(config: ExportConfig, screen: Console) -> int:
    with _told("export", "shards", Format.TABLE, screen) as told:
        done = export(config, told)
    screen.print(terminal.exported(done.files, done.written, done.left_out, done.without_caption))
    _print_notes(screen, done.notes)
    screen.print(Text(legible(f"{done.format}: {done.to}")), soft_wrap=True)
    return OVER_LIMIT if done.over_rejects else 0


def _show(screen: Console, form: Format, plain: Any, table: Any) -> None:
    if form is Format.JSON:
        print(legible_json(plain))
    else:
        screen.print(table, soft_wrap=isinstance(table, Text))  # a path has to be copied from here


COMMANDS: dict[str, Callable[[Any, Console], int]] = {
    "nightly": _nightly,
    "chat": chat,
    "preview": _preview,
    "search": _search,
    "describe": _describe,
    "index": _index,
    "index_neighbours": _index_neighbours,
    "index_plan": _index_plan,
    "compact": _compact,
    "verify": _verify,
    "forget": _forget,
    "fuse": _fuse,
    "evaluate": _evaluate,
    "export": _export,
}
