"""The main job: a folder of images to captions, answers, embeddings, an index and a report."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial

import pyarrow as pa
from rich.console import Console

from pipelines import index
from pipelines.config import ConfigError, NightlyConfig, as_dict
from pipelines.corpus import Corpus
from pipelines.datasets import ModelProduct, Product, products
from pipelines.flow import run_flow
from pipelines.lock import locked
from pipelines.night import Live, Night, save_record
from pipelines.page import night_report
from pipelines.plan import PlannedShard, SourceDiff, compare, extend, planned_shards
from pipelines.stream import Actors, Flow, Step
from pipelines.terminal import ProgressDisplay
from pipelines.tracking import Run, track
from stages.base import StageFactory, view_column
from stages.count import CountPatches
from stages.decode import DecodeImages
from stages.index.blas import check_installed
from stages.index.config import choose_factory
from stages.isolate import IsolationConfig
from stages.resize import Policy, ResizeConfig
from stages.schemas import PLAN
from stages.sources.folder import FolderConfig, ReadFolder, list_folder, open_folder

PATCH_TOTALS = ("patches", "patches_undetailed")

Streams = Mapping[frozenset[str], Sequence[PlannedShard]]


def nightly(config: NightlyConfig, terminal: Console) -> Night:
    """plan -> decode -> embed -> caption, answer -> shards -> index -> report; only what is missing.

    Raises, before anything is written: ConfigError, DriftError, IndexConfigError, FaissUnavailable,
    LockedError.
    """
    corpus, wanted, listing = Corpus(config.corpus), products(config), list_source(config.source)
    check_night(config, corpus, wanted, listing)
    with locked(corpus, config.steal_lock) as held:
        return develop(config, held, wanted, listing, terminal)


def develop(
    config: NightlyConfig,
    corpus: Corpus,
    wanted: Mapping[str, Product],
    listing: pa.Table,
    terminal: Console,
) -> Night:
    """What the holder of the corpus's lock does."""
    diff = plan_night(config, corpus, wanted, listing)
    streams = missing_shards(corpus, wanted)
    night = Night.begin(config, corpus, wanted, diff)
    if not streams and not index_is_due(night):
        return night
    with (
        track(config.tracking, Run(night.run, config.corpus, as_dict(config)), night.notes.append) as tracker,
        ProgressDisplay(terminal) as display,
    ):
        live = Live(night.tally, tracker, display)
        for names, shards in streams.items():
            flow = flow_of(config, corpus, [wanted[name] for name in wanted if name in names])
            night.tally.expect(flow.steps)
            for result in run_flow(flow, shards, config.cluster):
                live.add(result)
        night.notes += night.tally.notes
        if index_is_due(night):
            index_embeddings(night)
        night.report = night_report(night)
        save_record(night, tracker)
    return night


def list_source(source: FolderConfig) -> pa.Table:
    """uri, size, mtime_ns of every image file. Raises: ConfigError where the folder cannot be listed."""
    try:
        files = list(list_folder(*open_folder(source.path), source.extensions))
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise ConfigError(f"source.path: {error}") from error
    columns = zip(*files, strict=True) if files else ((), (), ())
    fields = [field for field in PLAN if field.name != "image_id"]
    return pa.table(
        [pa.array(values, field.type) for values, field in zip(columns, fields, strict=True)],
        names=[f.name for f in fields],
    )


def check_night(
    config: NightlyConfig, corpus: Corpus, wanted: Mapping[str, Product], listing: pa.Table
) -> None:
    """Whether the night can be worked through at all; writes nothing."""
    for name in config.overwrite:
        if name not in wanted:
            raise ConfigError(f"overwrite must be of {', '.join(wanted)}, got {name}")
    for product in wanted.values():
        if product.name not in config.overwrite:
            corpus.check(product.info)
    diff = compare(corpus, listing)
    check_index(config, wanted, diff.known + len(diff.new))


def plan_night(
    config: NightlyConfig, corpus: Corpus, wanted: Mapping[str, Product], listing: pa.Table
) -> SourceDiff:
    """Plans what is new. Compares once more: a run that ended a moment ago may have planned it."""
    diff = compare(corpus, listing)
    corpus.remove_partial_files()
    for name in config.overwrite:
        corpus.drop(name)
    if len(diff.new):
        extend(corpus, diff.new)
    for product in wanted.values():
        corpus.claim(product.info)
    return diff


def check_index(config: NightlyConfig, wanted: Mapping[str, Product], rows: int) -> None:
    """Whether the index that is asked for can be built at all. Raises: IndexConfigError, FaissUnavailable."""
    if config.encoder is not None and config.index is not None:
        check_installed()
    for product in wanted.values():
        if product.kind == "embeddings" and config.index is not None and rows:
            choose_factory(rows, int(product.info.properties["dim"]), config.index)


def index_is_due(night: Night) -> bool:
    """Whether there are embeddings that the current generation does not cover."""
    config, corpus = night.config, night.corpus
    if config.encoder is None or config.index is None:
        return False
    name = config.encoder.name
    return not index.is_current(corpus, name, config.index) and index.has_vectors(corpus, name)


def index_embeddings(night: Night) -> None:
    """A generation that misses its recall is a failure of the night, and no reason to lose the report."""
    config = night.config
    assert config.encoder is not None
    assert config.index is not None
    try:
        night.indexes = (index.build(night.corpus, config.encoder.name, config.index),)
    except index.RecallTooLowError as error:
        night.notes.append(str(error))
        night.failed = True


def missing_shards(corpus: Corpus, wanted: Mapping[str, Product]) -> Streams:
    """Shards by what they miss: those that miss the same datasets go through one stream."""
    done = {name: set(corpus.shards(name)) for name in wanted}
    streams: dict[frozenset[str], list[PlannedShard]] = defaultdict(list)
    for planned in planned_shards(corpus):
        if missing := frozenset(name for name in wanted if planned.shard not in done[name]):
            streams[missing].append(planned)
    return streams


def flow_of(config: NightlyConfig, corpus: Corpus, missing: Sequence[Product]) -> Flow:
    """The DAG: every image is read and decoded once, whichever datasets miss it."""
    made = [product for product in missing if isinstance(product, ModelProduct)]
    embeds = [product for product in made if product.kind == "embeddings"]
    texts = [product for product in made if product.kind in ("captions", "answers")]
    steps = [_decode_step(config, {product.view_name: product.view for product in made})]
    if config.encoder and embeds:
        steps.append(_model_step("embed", embeds, config.encoder.actors, still_read_by=texts))
    if config.captioner and texts:
        steps.append(_model_step("generate", texts, config.captioner.actors))
    totals = PATCH_TOTALS if "count patches" in steps[0].stages else ()
    return Flow(corpus, steps, [product.output for product in missing], totals)


def _decode_step(config: NightlyConfig, views: Mapping[str, ResizeConfig]) -> Step:
    # A plain FolderConfig: the section's own class would bring Hydra and torch into the process that decodes.
    folder = FolderConfig(config.source.path, config.source.extensions, config.source.max_bytes)
    stages: dict[str, StageFactory] = {
        "read": partial(ReadFolder, folder, config.source.how),
        "decode": partial(DecodeImages, config.decode.what, config.decode.how, views),
    }
    for name, view in views.items():
        if view.policy is Policy.PATCH_BUDGET:
            stages["count patches"] = partial(CountPatches, name, view)
    return Step("decode", stages, isolation=IsolationConfig(config.decode.how.timeout_s))


def _model_step(
    name: str, made: Sequence[ModelProduct], actors: Actors, still_read_by: Sequence[ModelProduct] = ()
) -> Step:
    """Stages that share a process and its weights; after them go the pixels that nobody reads any more."""
    unread = {product.view_name for product in made} - {product.view_name for product in still_read_by}
    stages = {product.name: product.stage for product in made}
    return Step(name, stages, actors, drop=tuple(view_column(view) for view in sorted(unread)))
