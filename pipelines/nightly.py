"""The main job: a folder of images to captions, answers, embeddings, an index and a report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from rich.console import Console

from pipelines import containers
from pipelines.answering import known_of
from pipelines.changes import record
from pipelines.config import as_dict
from pipelines.context import with_known
from pipelines.corpus import Corpus
from pipelines.datasets import products
from pipelines.flow import run_flow
from pipelines.forecast import Forecast, forecast
from pipelines.forget import keep_out
from pipelines.forgotten import Forgotten
from pipelines.index.build import Job, build_index
from pipelines.index.described import facts_of
from pipelines.index.reading import has_vectors
from pipelines.index.stock import take_stock
from pipelines.index.workers import crew_of
from pipelines.jobs import Captioner, NightlyConfig
from pipelines.lock import locked
from pipelines.missing import missing_shards
from pipelines.night import Live, Night, save_night
from pipelines.page import night_report
from pipelines.plan import PlannedShard, extend
from pipelines.product import ModelProduct, Product, given_to
from pipelines.progress import ProgressDisplay
from pipelines.reuse import copy_shard
from pipelines.source_diff import SourceDiff
from pipelines.source_record import record_source
from pipelines.stream import Actors, Flow, Step
from pipelines.survey import check_night, list_news, survey
from pipelines.tracking import Run, track
from stages.base import StageFactory, view_column
from stages.count import CountPatches
from stages.decode import DecodeImages
from stages.digests import Digests
from stages.isolate import IsolationConfig
from stages.resize import Policy, ResizeConfig
from stages.sources.kinds import reader

PATCH_TOTALS = ("patches", "patches_undetailed")
_READER_CPUS = 0.25  # it waits for a network most of the time

Streams = Mapping[frozenset[str], Sequence[PlannedShard]]


def nightly(config: NightlyConfig, terminal: Console) -> Night:
    """plan -> decode -> embed -> caption, answer -> shards -> index -> report; only what is missing.

    Raises, before anything is written: ConfigError, DriftError, IndexConfigError, FaissUnavailable,
    LockedError.
    """
    corpus, wanted = Corpus(config.corpus), products(config)
    listing = list_news(config, corpus, wanted)
    known = known_of(config, corpus, listing)
    check_night(config, corpus, wanted, listing.items)
    with locked(corpus, config.steal_lock) as held:
        diff = survey(config, held, wanted, listing)
        take_up(config, held, wanted, diff)
        night = Night.begin(config, held, wanted, diff, known)
        develop(night, terminal)
        return night


def preview(config: NightlyConfig) -> Forecast:
    """What `nightly` would do; takes no lock and writes nothing. Raises as `nightly` does."""
    corpus, wanted = Corpus(config.corpus), products(config)
    listing = list_news(config, corpus, wanted)
    known_of(config, corpus, listing)
    check_night(config, corpus, wanted, listing.items)
    return forecast(config, corpus, wanted, survey(config, corpus, wanted, listing))


def develop(night: Night, terminal: Console) -> None:
    """What the holder of the corpus's lock does: everything that was planned and is not there."""
    config, corpus, missing = night.config, night.corpus, missing_shards(night.corpus, night.wanted)
    night.notes += missing.notes
    if not missing.streams and not index_is_due(night):
        return
    with (
        track(config.tracking, Run(night.run, config.corpus, as_dict(config)), night.notes.append) as tracker,
        ProgressDisplay(terminal) as display,
    ):
        live = Live(night.tally, tracker, display)
        # Copies last: what they share has to be there.
        for reuses in (False, True):
            fill(night, live, missing.streams, reuses)
        night.kept_out = keep_out(corpus)
        corpus.remove_partial_files()  # of workers that were killed on the way
        night.notes += night.tally.notes
        if index_is_due(night):
            index_embeddings(night, terminal)
        night.check_rejects()
        night.report = night_report(night)
        save_night(night, tracker)


def fill(night: Night, live: Live, streams: Streams, reuses: bool) -> None:
    """Shards that miss something: those whose items share the values of others, or those without."""
    config, corpus, wanted = night.config, night.corpus, night.wanted
    for names, shards in streams.items():
        flow = flow_of(config, corpus, [wanted[name] for name in wanted if name in names])
        to_compute = []
        for planned in shards:
            if planned.reuses is not reuses:
                continue
            if copied := copy_shard(flow, planned):
                live.add(copied)
            else:
                to_compute.append(planned)
        if to_compute:
            night.tally.expect(flow.steps)
            shards = with_known(corpus, to_compute, night.known)
            for result in run_flow(flow, shards, config.cluster, night.ledgers):
                live.add(result)


def take_up(config: NightlyConfig, corpus: Corpus, wanted: Mapping[str, Product], diff: SourceDiff) -> None:
    """Writes what the night will work on: new items to the plan, and then what is gone to the journal.

    Killed in between, the next night finds two items of one URI, and buries the older.
    """
    corpus.remove_partial_files()
    record_source(corpus, config.source.what)
    for name in config.overwrite:
        corpus.drop(name)
    if len(diff.new):
        extend(corpus, diff.new, diff.details)
    record(corpus, diff.changes)
    containers.record(corpus, diff.containers)
    for product in wanted.values():
        corpus.claim(product.info)


def index_is_due(night: Night) -> bool:
    """Whether there are embeddings that the current generation does not cover."""
    config, corpus = night.config, night.corpus
    if config.encoder is None or config.index is None:
        return False
    name = config.encoder.name
    return has_vectors(corpus, name) and take_stock(corpus, name, config.index).due


def index_embeddings(night: Night, terminal: Console) -> None:
    """A generation that misses its recall is built and not searched, and no reason to lose the report."""
    config = night.config
    assert config.encoder is not None
    assert config.index is not None
    name, crew = config.encoder.name, crew_of(config.cluster)
    told = partial(terminal.print, soft_wrap=True)
    built = build_index(Job(night.corpus, name, config.index, crew, told))
    night.indexes = (facts_of(night.corpus, name, built.generation),)
    night.notes += built.meta.notes
    night.under_recall = not built.meta.accepted


def flow_of(config: NightlyConfig, corpus: Corpus, missing: Sequence[Product]) -> Flow:
    """The DAG: every image is read and decoded once, whichever datasets miss it."""
    made = [product for product in missing if isinstance(product, ModelProduct)]
    views = {product.view_name: product.view for product in made}
    steps = _picture_steps(config, views, Forgotten(corpus).digests)
    models = _model_steps(config, made)
    for number, step in enumerate(models):
        later = [product for step in models[number + 1 :] for product in step.made]
        steps.append(_model_step(step, still_read_by=later))
    counts = any(view.policy is Policy.PATCH_BUDGET for view in (product.view for product in made))
    totals = PATCH_TOTALS if counts else ()
    return Flow(corpus, steps, [product.output for product in missing], totals, given_to(made))


@dataclass(frozen=True)
class ModelStep:
    """The datasets that are made in one process, by one loaded model."""

    name: str
    made: Sequence[ModelProduct]
    actors: Actors
    asks_servers: bool


def _model_steps(config: NightlyConfig, made: Sequence[ModelProduct]) -> list[ModelStep]:
    """Captions come before answers, which may read them; by the same model, both are made in one step."""
    by_kind = {
        kind: [one for one in made if one.kind == kind] for kind in ("embeddings", "captions", "answers")
    }
    same = config.answerer is None
    steps = [
        ("embed", by_kind["embeddings"], config.encoder),
        ("generate", by_kind["captions"] + (by_kind["answers"] if same else []), config.captioner),
        ("answer", [] if same else by_kind["answers"], config.answerer),
    ]
    return [
        ModelStep(name, products, one.actors, isinstance(one, Captioner) and one.asks_servers)
        for name, products, one in steps
        if one and products
    ]


def _picture_steps(
    config: NightlyConfig, views: Mapping[str, ResizeConfig], forgotten: Digests
) -> list[Step]:
    """Reading goes with decoding, but where it waits: then it has a step of its own, some shards ahead."""
    source = config.source
    read: dict[str, StageFactory] = {"read": partial(reader, source.what, source.how)}
    stages: dict[str, StageFactory] = {
        "decode": partial(DecodeImages, config.decode.what, config.decode.how, views, forgotten)
    }
    for name, view in views.items():
        if view.policy is Policy.PATCH_BUDGET:
            stages["count patches"] = partial(CountPatches, name, view)
    isolation = IsolationConfig(config.decode.how.timeout_s)
    if not source.what.is_waited_for:
        return [Step("decode", read | stages, isolation=isolation)]
    pool = Actors(source.how.readers, _READER_CPUS, shards_in_flight=source.how.shards_ahead)
    return [Step("read", read, pool), Step("decode", stages, isolation=isolation)]


def _model_step(step: ModelStep, still_read_by: Sequence[ModelProduct]) -> Step:
    """After a model's stages go the pixels that nobody reads any more."""
    unread = {product.view_name for product in step.made} - {product.view_name for product in still_read_by}
    stages: dict[str, StageFactory] = {}
    for product in step.made:
        if product.tags is not None:
            stages.setdefault("tags", product.tags)
        stages[product.name] = product.stage
    drop = tuple(view_column(view) for view in sorted(unread))
    return Step(step.name, stages, step.actors, drop=drop, asks_servers=step.asks_servers)
