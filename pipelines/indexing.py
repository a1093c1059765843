"""`darkroom index`: what is due for an index, and the run that does it."""

import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from pipelines.config import as_dict
from pipelines.corpus import Corpus, CorpusError
from pipelines.facts import Command, IndexReport, Outcome
from pipelines.index.build import Job, Wishes, build_index
from pipelines.index.described import facts_of
from pipelines.index.reading import dataset_of, dim_of
from pipelines.index.stock import Stock, is_foldable, take_stock
from pipelines.index.texts import read_texts
from pipelines.index.workers import crew_of
from pipelines.index_facts import IndexFacts
from pipelines.index_jobs import IndexJob
from pipelines.lock import locked
from pipelines.run_record import run_name, save_record
from pipelines.tracking import Run, track
from stages.index.blas import check_installed
from stages.index.choice import choose_factory
from stages.schemas import SHARD_ROWS


@dataclass(frozen=True)
class Outlook:
    """What `darkroom index` would do. `rows`: at most so many vectors are encoded."""

    name: str
    due: bool
    why: str
    rows: int


@dataclass(frozen=True)
class IndexRun:
    """The newest generation. `page`: the report of the run that made it; None where nothing was due.

    `accepted`: searches read it; its recall is not under index.min_recall.
    """

    facts: IndexFacts
    accepted: bool
    page: str | None = None
    notes: tuple[str, ...] = ()


def index(config: IndexJob, told: Callable[[str], None]) -> IndexRun:
    """Builds, grows or folds the index of a corpus; nothing where nothing is due.

    Raises, before anything is written: ConfigError, IndexConfigError, FaissUnavailable, LockedError.
    """
    check_installed()
    corpus, name = _find(config)
    with locked(corpus, config.steal_lock) as held:
        stock = _checked(config, held, name)
        wishes = Wishes(merge=config.merge, retrain=config.retrain, drop_gone=config.merge)
        if not (stock.due or config.retrain or (config.merge and is_foldable(held, name, stock))):
            assert stock.meta is not None
            return IndexRun(facts_of(held, name, str(stock.generation)), stock.meta.accepted)
        held.remove_partial_files()
        return _run(config, held, name, wishes, told)


def preview(config: IndexJob) -> Outlook:
    """What `index` would do; takes no lock and writes nothing. Raises as `index` does."""
    check_installed()
    corpus, name = _find(config)
    stock = _checked(config, corpus, name)
    if config.retrain:
        why = "it is to be trained anew"
    elif stock.why is not None:
        why = stock.why
    else:
        why = f"{len(stock.new):,} shards are new" if stock.new else "nothing is new"
    shards = len(corpus.shards(dataset_of(name))) if config.retrain else len(stock.new)
    return Outlook(name, stock.due or config.retrain or config.merge, why, shards * SHARD_ROWS)


def _find(config: IndexJob) -> tuple[Corpus, str]:
    corpus = Corpus(config.corpus)
    return corpus, config.name or only_embeddings(corpus)


def only_embeddings(corpus: Corpus) -> str:
    """The NAME of embeddings/NAME, where there is no choice. Raises: CorpusError."""
    names = [one.removeprefix("embeddings/") for one in corpus.datasets() if one.startswith("embeddings/")]
    if len(names) == 1:
        return names[0]
    if not names:
        raise CorpusError(f"{corpus.location} has no embeddings: make some with darkroom nightly")
    raise CorpusError(f"{corpus.location} has several embeddings, choose one of name={', name='.join(names)}")


def _checked(config: IndexJob, corpus: Corpus, name: str) -> Stock:
    """Raises: IndexConfigError where the configured factory cannot fit; CorpusError."""
    shards = corpus.shards(dataset_of(name))
    if not shards:
        raise CorpusError(f"{corpus.location} has no finished shard of {dataset_of(name)} to index")
    choose_factory(len(shards) * SHARD_ROWS, dim_of(corpus, name), config.index)
    read_texts(config.index)
    return take_stock(corpus, name, config.index)


def _run(
    config: IndexJob, corpus: Corpus, name: str, wishes: Wishes, told: Callable[[str], None]
) -> IndexRun:
    started, began, notes = datetime.now(UTC), time.monotonic(), list[str]()
    run = run_name(started)
    with track(config.tracking, Run(run, config.corpus, as_dict(config)), notes.append) as tracker:
        built = build_index(Job(corpus, name, config.index, crew_of(config.cluster), told, wishes))
        facts = facts_of(corpus, name, built.generation)
        report = IndexReport(
            run=run,
            corpus=config.corpus,
            started=started,
            seconds=time.monotonic() - began,
            index=facts,
            added=built.added,
            outcome=Outcome.COMPLETE if built.meta.accepted else Outcome.FAILED,
            phases=built.meta.timings,
            commands=_commands(config.corpus),
            notes=(*notes, *built.meta.notes),
        )
        metrics = facts.metrics()
        done = {"seconds": report.seconds, "added": report.added}
        save_record(corpus, config, report, metrics | done, tracker)
        tracker.metrics(metrics, step=0)
    return IndexRun(facts, built.meta.accepted, corpus.address("runs", run, "report.html"), report.notes)


def _commands(corpus: str) -> tuple[Command, ...]:
    place = shlex.quote(f"corpus={corpus}")
    return (
        Command("Search it", f'darkroom search {place} text="…" k=10'),
        Command("Add what is new, and merge the deltas", f"darkroom index {place} merge=true"),
    )
