"""Which tars and Parquet files of the source are taken up: those need not be read again to list the source.

`containers/containers-000001.parquet`, one file for each night that read some; of several rows about one
container the last holds. A row says that all its items were planned, by which rules, and how many they are.
A row that is lost costs no more than that its container is read again.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines import journal
from pipelines.corpus import Corpus, fingerprint
from stages.sources.config import SourceConfig
from stages.sources.listing import Container

NAME = "containers"

CONTAINERS = pa.schema(
    [
        pa.field("container", pa.string(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("mtime_ns", pa.int64(), nullable=False),
        pa.field("items", pa.int64(), nullable=False),
        pa.field("rules", pa.string(), nullable=False),
    ]
)


def rules_of(source: SourceConfig) -> str:
    """A hash of what decides which items a container has, and what is said of them."""
    chosen = (source.extensions, source.column, source.metadata, source.caption, source.where)
    return fingerprint({"kind": source.kind.value, "chosen": chosen})


def known_containers(corpus: Corpus, source: SourceConfig, planned: pa.Table) -> dict[str, Container]:
    """Those that were taken up by the same rules, and whose items are all there still.

    `planned`: `planned.planned_items`; a plan that was repaired, or a takedown, leaves fewer.
    """
    recorded = {row["container"]: row for row in journal.read_all(corpus, NAME, CONTAINERS).to_pylist()}
    live = items_of(planned) if recorded else {}
    rules = rules_of(source)
    return {
        name: Container(name, row["size"], row["mtime_ns"])
        for name, row in recorded.items()
        if row["rules"] == rules and row["items"] == live.get(name, 0)
    }


def items_of(planned: pa.Table) -> Mapping[str, int]:
    """How many live items each container has. `planned`: `planned.planned_items`."""
    return _counts(planned.filter(pc.invert(planned["gone"]))["container"])


def taken_up(source: SourceConfig, read: Sequence[Container], held: pa.ChunkedArray) -> pa.Table:
    """Rows of schema `CONTAINERS`. `held`: the container of each item that the plan has, or will have."""
    counts, rules = _counts(held), rules_of(source)
    rows = [(one.name, one.size, one.mtime_ns, counts.get(one.name, 0), rules) for one in read]
    return pa.Table.from_pylist([dict(zip(CONTAINERS.names, row, strict=True)) for row in rows], CONTAINERS)


def record(corpus: Corpus, rows: pa.Table) -> None:
    """Appends rows of schema `CONTAINERS`, after the plan has their items."""
    journal.append(corpus, NAME, rows)


def fold(corpus: Corpus) -> None:
    """One file for all. Killed in between, the rows are there twice, which says the same."""
    files = journal.files(corpus, NAME)
    if len(files) < 2:
        return
    newest_first = journal.read_all(corpus, NAME, CONTAINERS)
    newest_first = newest_first.take(pa.array(np.arange(len(newest_first))[::-1]))
    names = newest_first["container"].combine_chunks()
    first = pc.equal(pc.index_in(names, names), pa.array(np.arange(len(names), dtype=np.int32)))
    journal.append(corpus, NAME, newest_first.filter(first))
    for file in files:
        corpus.check_fence()
        corpus.delete(NAME, file)


def _counts(containers: pa.ChunkedArray) -> Mapping[str, int]:
    counts = containers.drop_null().value_counts()
    return dict(zip(counts.field("values").to_pylist(), counts.field("counts").to_pylist(), strict=True))
