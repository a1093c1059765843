"""`index/NAME` from `embeddings/NAME`: trained once, grown by what is new, never changed in place."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime

from pipelines.changes import tombstones
from pipelines.corpus import Corpus
from pipelines.index import layout
from pipelines.index.drift import drift_notes, drift_of
from pipelines.index.layout import (
    PARTS,
    UNITS,
    Generation,
    Place,
    finished_generations,
    read_part,
    read_template,
    shards_in,
    to_json,
)
from pipelines.index.opened import open_parts
from pipelines.index.parts import merge
from pipelines.index.queries import make_queries
from pipelines.index.reading import dataset_of, dim_of
from pipelines.index.stock import Stock, gone_since, take_stock
from pipelines.index.survey import Survey
from pipelines.index.templates import find_template
from pipelines.index.training import kept_survey, train
from pipelines.index.truth import Seeker, find_truth, of_generation, of_unit, write_truth
from pipelines.index.units import Filling, cut_units, fill_units
from pipelines.index.workers import Crew
from pipelines.vectors import StoredVectors
from stages.index.choice import choose_factory
from stages.index.config import IndexConfig, IndexConfigError
from stages.index.curve import Measured
from stages.index.damage import IndexDamaged
from stages.index.exact import Queries, Truth, merge_truth
from stages.index.ranks import Subject
from stages.index.search import Neighbours
from stages.index.selectors import excluding
from stages.index.tune import measure
from stages.index.vectors import Ids


@dataclass(frozen=True)
class Wishes:
    """`merge`: deltas are folded in; `retrain`: all starts anew; `drop_gone`: no part keeps what is gone.

    `grow`: false leaves new vectors for later, and works on what searches read.
    """

    merge: bool = False
    retrain: bool = False
    drop_gone: bool = False
    grow: bool = True


@dataclass(frozen=True)
class Job:
    """What is built, and by whom. `told` is called with a line for a person, now and then."""

    corpus: Corpus
    name: str
    config: IndexConfig
    crew: Crew
    told: Callable[[str], None]
    wishes: Wishes = field(default_factory=Wishes)
    timings: dict[str, float] = field(default_factory=dict)

    @property
    def device(self) -> str:
        return "cuda" if self.crew.gpu else "cpu"

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.timings[name] = round(time.monotonic() - started, 3)


@dataclass(frozen=True)
class Built:
    """A generation; searches read it unless `meta.accepted` is false: its recall is too low.

    `added`: vectors that were encoded for it.
    """

    generation: str
    meta: Generation
    added: int


@dataclass(frozen=True)
class _Start:
    """What a build goes on from. `known`: the neighbours of the queries in the parts that are there."""

    stock: Stock
    gone: Ids
    template: str
    queries: Queries
    known: Neighbours | None


def build_index(job: Job) -> Built:
    """survey -> train -> add units -> merge -> measure -> switch: each step only where it is due.

    Killed anywhere, the same job goes on. Raises: IndexConfigError, VectorError, IndexDamaged, CorpusError.
    """
    start = _start(job, _stock(job), tombstones(job.corpus))
    units = _add_units(job, start)
    truth = _truth(job, start, units)
    added = sum(read_part(job.corpus, job.name, (UNITS, unit)).rows for unit in units)
    parts = _merge(job, start, units, added)
    built = _measure(job, start, parts, truth, added)
    _switch(job, built)
    return built


def _stock(job: Job) -> Stock:
    if not job.wishes.grow:
        current = layout.current_generation(job.corpus, job.name)
        stock = take_stock(job.corpus, job.name, job.config, current)
        return stock if stock.meta is None else replace(stock, new=())
    stock = take_stock(job.corpus, job.name, job.config)
    if job.wishes.retrain:
        shards = job.corpus.shards(dataset_of(job.name))
        stock = Stock(stock.embeddings, stock.asked, tuple(shards), "it is to be trained anew")
    if stock.why:
        job.told(f"index {job.name}: all vectors are read: {stock.why}")
    return stock


def _start(job: Job, stock: Stock, gone: Ids) -> _Start:
    """With the template and the queries of the generation that grows, or with new ones."""
    if stock.meta is not None and not stock.requeried:
        assert stock.generation is not None
        try:
            known = of_generation(job.corpus, job.name, stock.generation, stock.meta)
            return _Start(stock, gone, stock.meta.template, known.queries, known.neighbours)
        except (IndexDamaged, FileNotFoundError) as error:
            job.told(f"index {job.name}: its recall is measured anew: {error}")
    with job.phase("survey"):
        seen = kept_survey(job.corpus, job.name, stock.asked, gone, job.config, job.crew)
    if not seen.rows:
        raise IndexConfigError("there are no vectors to index: no image of the corpus has an embedding")
    with job.phase("train"):
        template = stock.meta.template if stock.meta else _train(job, stock, seen)
    queries, note = make_queries(job.corpus, job.name, stock.asked, seen, job.config)
    if note:
        job.told(f"index {job.name}: {note}")
    covered = [shard for record in stock.parts.values() for shard in shards_in(record.shards)]
    known_rows = None
    if covered:
        with job.phase("truth"):
            seeker = Seeker(job.corpus, job.name, gone, queries)
            known_rows = find_truth(seeker, covered, job.config.unit_rows, job.crew)
    return _Start(stock, gone, template, queries, known_rows)


def _train(job: Job, stock: Stock, seen: Survey) -> str:
    """Raises: IndexConfigError where what is configured does not fit so many vectors."""
    choice = choose_factory(seen.rows, dim_of(job.corpus, job.name), job.config)
    job.told(f"index {job.name}: {choice.factory}: {choice.reason}")
    found = find_template(job.corpus, job.name, stock.asked, choice.factory)
    if found is not None and not job.wishes.retrain:
        return found
    return train(job.corpus, job.name, stock.asked, seen, job.config, job.device)


def _add_units(job: Job, start: _Start) -> list[str]:
    """The units of all shards that no part covers, in the order of their shards."""
    stock = start.stock
    filling = Filling(
        job.corpus, job.name, start.template, stock.embeddings, start.gone, start.queries, job.device
    )
    with job.phase("add"):
        for progress in fill_units(filling, stock.new, job.config.unit_rows, job.crew):
            job.told(f"index {job.name}: {progress.done} of {progress.total} units encoded")
    return [filling.unit_id(unit) for unit in cut_units(stock.new, job.config.unit_rows)]


def _truth(job: Job, start: _Start, units: Sequence[str]) -> Truth:
    """Over all that is searched, and without what is gone."""
    found = [of_unit(job.corpus, job.name, unit) for unit in units]
    neighbours = merge_truth(found if start.known is None else [start.known, *found])
    return Truth(start.queries, neighbours).without(start.gone)


def _merge(job: Job, start: _Start, units: Sequence[str], added: int) -> tuple[str, ...]:
    """The parts of the new generation: a base, and what was added since as deltas."""
    old = tuple(start.stock.parts)
    new: list[Place] = [(UNITS, unit) for unit in units]
    with job.phase("merge"):
        if not old or _is_fold_due(job, start, added):
            return (merge(job.corpus, job.name, [*((PARTS, part) for part in old), *new], start.gone),)
        return (*old, merge(job.corpus, job.name, new, start.gone)) if new else old


def _is_fold_due(job: Job, start: _Start, added: int) -> bool:
    parts, config = start.stock.parts, job.config
    if job.wishes.drop_gone and gone_since(job.corpus, job.name, parts, start.gone):
        return True
    base, *deltas = (record.rows for record in parts.values())
    if start.stock.new:
        deltas.append(added)
    if job.wishes.merge:
        return bool(deltas)
    return len(deltas) > config.max_deltas or sum(deltas) > config.merge_ratio * base


def _measure(job: Job, start: _Start, parts: tuple[str, ...], truth: Truth, added: int) -> Built:
    """Writes the generation, its record last; nobody reads it yet."""
    corpus, name, config = job.corpus, job.name, job.config
    base, *deltas = (read_part(corpus, name, (PARTS, part)) for part in parts)
    template = read_template(corpus, name, start.template)
    vectors = base.rows + sum(delta.rows for delta in deltas)
    with job.phase("measure"):
        subject = Subject(
            open_parts(corpus, name, start.template, parts),
            nlist=base.nlist,
            vectors=vectors,
            code_size=base.code_size,
            fetch=StoredVectors(corpus, dataset_of(name)).fetch,
            selector=excluding(start.gone),
        )
        measured = _measured(job, start, subject, truth, grown=parts[:1] == tuple(start.stock.parts)[:1])
    drift = drift_of(template, deltas)
    generation = layout.next_generation(corpus, name)
    refused = _refusal(name, generation, measured, config.min_recall if job.wishes.grow else 0.0)
    meta = Generation(
        template=start.template,
        parts=parts,
        embeddings=start.stock.embeddings,
        factory=template.factory,
        reason=template.reason,
        dim=template.dim,
        vectors=vectors,
        size=template.file.size + sum(part.size for part in (base, *deltas)),
        config=asdict(config),
        measured=None if measured is None else measured.to_dict(),
        truth=write_truth(corpus, name, generation, truth),
        drift=drift,
        notes=(*refused, *drift_notes(name, drift, config.drift_limit, base, deltas)),
        accepted=not refused,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        timings=dict(job.timings),
    )
    corpus.write_bytes(to_json(meta), "index", name, generation, layout.META)
    return Built(generation, meta, added)


def _measured(job: Job, start: _Start, subject: Subject, truth: Truth, *, grown: bool) -> Measured | None:
    """An index that grew is measured as it was tuned, in seconds; tuned anew once that misses the target."""
    known = start.stock.meta.measured if start.stock.meta else None
    if grown and known and not start.stock.retuned:
        before = Measured.from_dict(known)
        found = measure(subject, truth, job.config, at=(before.nprobe, before.k_factor))
        if found is None or found.reached or not before.reached:
            return found
    return measure(subject, truth, job.config)


def _refusal(name: str, generation: str, measured: Measured | None, least: float) -> tuple[str, ...]:
    """A line where searches must not read the generation."""
    if measured is None or (recall := measured.point.worst().value) >= least:
        return ()
    return (
        f"index {name} {generation} has recall@10 {recall:.3f}, under index.min_recall {least:g}: "
        "it is not made current",
    )


def _switch(job: Job, built: Built) -> None:
    """Makes an accepted generation current, and removes what neither it nor those before it need."""
    corpus, name = job.corpus, job.name
    if built.meta.accepted:
        layout.switch(corpus, name, built.generation)
    kept = {
        *finished_generations(corpus, name)[-job.config.keep_generations :],
        layout.current_generation(corpus, name),
    }
    layout.remove_unnamed(corpus, name, (generation for generation in kept if generation))
