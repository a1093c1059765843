"""What a night would do, and how long it may take: for `dry_run=true`. Writes nothing."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from pipelines.changes import Change
from pipelines.corpus import Corpus
from pipelines.jobs import NightlyConfig
from pipelines.plan import planned_shards
from pipelines.product import Product
from pipelines.source_diff import SourceDiff


@dataclass(frozen=True)
class Forecast:
    """Images by what became of them, and the rows that each dataset misses, new images included.

    `seconds`: at the rate of the last run that worked on anything; None where there was none. `notes`: what
    is odd about the source.
    """

    images: Mapping[str, int]
    rows: Mapping[str, int]
    seconds: float | None
    notes: tuple[str, ...] = ()


def forecast(
    config: NightlyConfig, corpus: Corpus, wanted: Mapping[str, Product], diff: SourceDiff
) -> Forecast:
    """What `nightly` would find to do."""
    new = len(diff.new) - diff.count(Change.REPLACED) - diff.count(Change.RETRIED)
    images = {"new": new} | diff.fates
    planned = planned_shards(corpus)
    rows = {}
    for name in wanted:
        done = set() if name in config.overwrite else set(corpus.shards(name))
        missing = sum(shard.rows - len(shard.gone) for shard in planned if shard.shard not in done)
        rows[name] = missing + len(diff.new)
    rate = _last_rate(corpus)
    most = max(rows.values(), default=0)
    return Forecast(images, rows, most / rate if rate else None, diff.notes)


def _last_rate(corpus: Corpus) -> float | None:
    """Images a second of the last run that did any."""
    for run in reversed(corpus.entries("runs")):
        try:
            metrics = json.loads(corpus.read_bytes("runs", run.base_name, "metrics.json"))
            if metrics["images"]:
                return float(metrics["images"] / metrics["seconds"])
        except (FileNotFoundError, ValueError, KeyError):
            continue  # a run that was killed left no numbers
    return None
