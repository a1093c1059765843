"""What a night is up against before it starts: the source, the plan, and whether the two go together."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.changes import Change, tombstones
from pipelines.config import ConfigError
from pipelines.containers import items_of, known_containers
from pipelines.corpus import Corpus
from pipelines.index.texts import read_texts
from pipelines.jobs import NightlyConfig, Source
from pipelines.planned import planned_items
from pipelines.product import Product
from pipelines.source_diff import SourceDiff, Wishes, compare
from pipelines.where import Keep
from stages.index.blas import check_installed
from stages.index.choice import choose_factory
from stages.sources.kinds import digests, list_items
from stages.sources.listing import Container, Listing


def list_source(source: Source, known: Mapping[str, Container] | None = None) -> Listing:
    """All that is there. `known`: containers that need not be read again while they are as they were.

    Raises: ConfigError where it cannot be listed.
    """
    keep = None if source.where is None else Keep(source.where)
    try:
        return list_items(source.what, source.how, known or {}, keep)
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise ConfigError(f"source.path: {error}") from error


def list_news(config: NightlyConfig, corpus: Corpus, wanted: Mapping[str, Product]) -> Listing:
    """As `list_source`; containers that the plan knows are not read again, but for a reject to be retried."""
    if not config.source.kind.has_containers:
        return list_source(config.source)
    planned = planned_items(corpus)
    known = known_containers(corpus, config.source, planned)
    again = pa.array(rejected_items(corpus, wanted, config.retry), pa.int64())
    retried = planned.filter(pc.is_in(planned["image_id"], again))["container"].unique().to_pylist()
    listing = list_source(config.source, {name: one for name, one in known.items() if name not in retried})
    items = items_of(planned)
    return replace(listing, known=sum(items.get(name, 0) for name in listing.unchanged))


def check_night(config: NightlyConfig, corpus: Corpus, wanted: Mapping[str, Product], items: int) -> None:
    """Whether the night can be worked through at all; writes nothing. `items`: in the source.

    Raises: ConfigError, DriftError, IndexConfigError, FaissUnavailable.
    """
    for name in config.overwrite:
        if name not in wanted:
            raise ConfigError(f"overwrite must be of {', '.join(wanted)}, got {name}")
    for product in wanted.values():
        if product.name not in config.overwrite:
            corpus.check(product.info)
    if config.encoder is not None and config.index is not None:
        check_installed()
    for product in wanted.values():
        if product.kind == "embeddings" and config.index is not None and items:
            read_texts(config.index)
            choose_factory(items, int(product.info.properties["dim"]), config.index)


def survey(
    config: NightlyConfig, corpus: Corpus, wanted: Mapping[str, Product], listing: Listing
) -> SourceDiff:
    """What is new, changed and gone; writes nothing, but reads files that may be copies of others.

    Raises: ConfigError where so many items are gone that the source is more likely to be the wrong one.
    """
    source = config.source
    retry = rejected_items(corpus, wanted, config.retry)
    diff = compare(
        corpus,
        source,
        listing,
        lambda rows: digests(source.what, source.how, rows),
        Wishes(config.limit, retry, config.reuse),
    )
    deleted = diff.count(Change.DELETED)
    if deleted > config.max_deleted_ratio * diff.known:
        raise ConfigError(
            f"source.path: {source.path} lacks {deleted:,} of the {diff.known:,} images of "
            f"{corpus.location}: is it the right folder, and mounted? "
            "If they are to go, set max_deleted_ratio=1"
        )
    return diff


def rejected_items(corpus: Corpus, wanted: Mapping[str, Product], reasons: Sequence[str]) -> list[int]:
    """Ids that have one of the reasons as their status in a wanted dataset, and are not gone."""
    found: set[int] = set()
    for name in wanted if reasons else ():
        for _, rows in corpus.scan(name, ["image_id", "status"]):
            failed = rows.filter(pc.is_in(rows["status"], value_set=pa.array(reasons)))
            found.update(failed["image_id"].to_pylist())
    return sorted(found.difference(tombstones(corpus).tolist()))
