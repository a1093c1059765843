"""`darkroom PIPELINE key=value …`"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.text import Text

from pipelines import interrupt, progress, terminal
from pipelines.batch_search import batch_search
from pipelines.chat import chat
from pipelines.compact import compact
from pipelines.config import PIPELINES, ConfigError, load, menu
from pipelines.conversation import PictureError
from pipelines.corpus import Corpus, CorpusError
from pipelines.describe import describe
from pipelines.forget import forget
from pipelines.fuse import fuse
from pipelines.index.described import indexes
from pipelines.index.plan import plan_index
from pipelines.index.rates import RatesError
from pipelines.index_jobs import IndexJob, IndexPlanJob, NeighboursConfig, SearchConfig
from pipelines.indexing import index
from pipelines.indexing import preview as index_preview
from pipelines.interrupt import interruptible
from pipelines.jobs import (
    CompactConfig,
    DescribeConfig,
    ForgetConfig,
    Format,
    NightlyConfig,
    VerifyConfig,
)
from pipelines.legible import legible, legible_json
from pipelines.neighbours import join_neighbours
from pipelines.nightly import nightly, preview
from pipelines.preview import preview_generators
from pipelines.redact import redact_text
from pipelines.search import search
from pipelines.source_diff import describe_diff
from pipelines.text_jobs import FuseConfig, PreviewConfig
from pipelines.verify import verify
from stages.checkpoints import ModelLoadError
from stages.embed import EmbedError
from stages.generators.fusion_data import FusionError
from stages.generators.protocol import GenerationError
from stages.index.blas import FaissUnavailable, blas_kernel
from stages.index.config import IndexConfigError
from stages.index.damage import IndexDamaged
from stages.index.vectors import VectorError
from stages.isolation.process import IsolationError

FAILED, WRONG_CONFIGURATION, OVER_LIMIT, INTERRUPTED = 1, 2, 3, interrupt.EXIT_CODE

_RESUME = "interrupted; the same command goes on where this one stopped"
_NOTHING_DONE = "interrupted; nothing was written"
_WRITES_NOTHING = ("preview", "search")

# What ends a run in one line; anything else is a fault of Darkroom's and shows its traceback.
_FAILURES = (
    CorpusError,
    EmbedError,
    FaissUnavailable,
    FusionError,
    GenerationError,
    IndexDamaged,
    IsolationError,
    ModelLoadError,
    OSError,
    PictureError,
    VectorError,
)

_USAGE = """darkroom PIPELINE key=value …

  darkroom nightly source.path=DIR corpus=DIR          develop what is new: captions, index, report
  darkroom chat image=FILE captioner=NAME              try a generator: questions on a terminal or from a pipe
  darkroom preview source.path=DIR captioners=A,B n=8  generators on a random handful, side by side
  darkroom search corpus=DIR text="two red circles"    or image=FILE; k=10, where="width > 1024"
  darkroom search corpus=DIR queries=FILE out=FILE     the hits of each query of a Parquet file
  darkroom index corpus=DIR                            an index over its embeddings; merge=true
  darkroom index neighbours corpus=DIR k=10            for every image its nearest others
  darkroom index plan vectors=1e9 dim=768 cores=64     hours, memory and disk of a build, from measured rates
  darkroom describe corpus=DIR                         what a corpus holds; format=json
  darkroom compact corpus=DIR                          few big files, without what is gone; dry_run=true
  darkroom verify corpus=DIR                           reads every byte again; repair=true sets damage aside
  darkroom forget corpus=DIR uris=FILE                 takes images down; or ids=FILE, sha256=FILE
  darkroom fuse vision=… llm=… data=FILE out=DIR       trains the projector of captioner=feature_prefix

  darkroom PIPELINE --help                             every key of a pipeline and what it means"""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns 0 when all went well, 1 when it failed, 2 for a wrong configuration,
    3 when it is done and too many images were rejected or recall is too low, 130 when it was interrupted."""
    try:
        code = _dispatch(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of a pipe has seen enough (`| head -1`). Python would complain once more as it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return FAILED
    return code


def _dispatch(words: Sequence[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_USAGE)
        return 0 if words else WRONG_CONFIGURATION
    pipeline, overrides = _command(words)
    if pipeline not in PIPELINES:
        allowed = ", ".join(name.replace("_", " ") for name in PIPELINES)
        return _complain(f"unknown pipeline {pipeline}, allowed: {allowed}", WRONG_CONFIGURATION)
    if {"-h", "--help"} & set(overrides):
        print(menu(pipeline))
        return 0
    return _run(pipeline, overrides)


def _command(words: Sequence[str]) -> tuple[str, Sequence[str]]:
    """The pipeline, of one word or two, and what it is asked."""
    two = "_".join(words[:2])
    if two in PIPELINES:
        return two, words[2:]
    bare = len(words) > 1 and words[0] in PIPELINES and words[1].replace("_", "").isalpha()
    return (" ".join(words[:2]), ()) if bare else (words[0], words[1:])


def _run(pipeline: str, overrides: Sequence[str]) -> int:
    screen = terminal.console()
    try:
        with _interruptible(pipeline):
            return _PIPELINES[pipeline](load(pipeline, overrides), screen)
    except (ConfigError, IndexConfigError, RatesError) as error:
        return _complain(str(error), WRONG_CONFIGURATION)
    except BrokenPipeError:
        raise
    except _FAILURES as error:
        return _complain(str(error), FAILED)
    except KeyboardInterrupt:
        return INTERRUPTED


def _interruptible(pipeline: str) -> AbstractContextManager[None]:
    if pipeline == "chat":
        return nullcontext()  # Ctrl-C is for an answer there, and for the model alone
    return interruptible(f"darkroom: {_NOTHING_DONE if pipeline in _WRITES_NOTHING else _RESUME}")


def _complain(text: str, code: int) -> int:
    print(f"darkroom: {redact_text(text)}", file=sys.stderr)
    return code


def _nightly(config: NightlyConfig, screen: Console) -> int:
    if config.dry_run:
        seen = preview(config)
        screen.print(terminal.forecast(seen.images, seen.rows, seen.seconds))
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
        screen.print(note, soft_wrap=True)


def _preview(config: PreviewConfig, screen: Console) -> int:
    screen.print(terminal.previewed(preview_generators(config)))
    screen.print(f"page: {config.out}", soft_wrap=True)
    return 0


def _search(config: SearchConfig, screen: Console) -> int:
    if config.queries is not None:
        return _batch_search(config, screen)
    hits = search(config)
    _show(screen, config.format, [asdict(hit) for hit in hits], terminal.hits(hits))
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
    datasets, built = describe(corpus), indexes(corpus)
    plain = {"datasets": [asdict(one) for one in datasets], "indexes": [one.to_dict() for one in built]}
    _show(screen, config.format, plain, terminal.description(datasets, built))
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


def _show(screen: Console, form: Format, plain: Any, table: Any) -> None:
    if form is Format.JSON:
        print(legible_json(plain))
    else:
        screen.print(table, soft_wrap=isinstance(table, Text))  # a path has to be copied from here


_PIPELINES: dict[str, Callable[[Any, Console], int]] = {
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
}
