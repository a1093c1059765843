"""Stages one after the other, and the seconds that each of them took."""

import json
import time
from collections.abc import Mapping

import pyarrow as pa

from stages.base import Stage, notes_of, with_notes

_SECONDS = b"darkroom.seconds"


def run_chain(shard: pa.Table, stages: Mapping[str, Stage]) -> pa.Table:
    """The rows after all stages. Each one's seconds and notes travel with them, in the schema's metadata.

    A stage that leaves seconds there itself is made of parts, which count and speak for themselves.
    """
    seconds, notes = seconds_of(shard), notes_of(shard)
    for name, stage in stages.items():
        start, rows = time.perf_counter(), len(shard)
        shard = stage(shard.replace_schema_metadata(None))
        if len(shard) != rows:
            raise AssertionError(f"stage {name} made {len(shard)} rows of {rows}")
        parts = seconds_of(shard)
        notes += notes_of(shard) if parts else [f"{name}: {note}" for note in notes_of(shard)]
        for part, spent in (parts or {name: time.perf_counter() - start}).items():
            seconds[part] = seconds.get(part, 0.0) + spent
    return with_notes(with_seconds(shard, seconds), notes)


def seconds_of(shard: pa.Table) -> dict[str, float]:
    seconds: dict[str, float] = json.loads((shard.schema.metadata or {}).get(_SECONDS, b"{}"))
    return seconds


def with_seconds(shard: pa.Table, seconds: Mapping[str, float]) -> pa.Table:
    return shard.replace_schema_metadata({**(shard.schema.metadata or {}), _SECONDS: json.dumps(seconds)})
