"""Which shards miss which datasets, and which of them can be worked on tonight."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pipelines.corpus import Corpus
from pipelines.plan import PlannedShard, planned_shards
from pipelines.product import ModelProduct, Product


@dataclass(frozen=True)
class Missing:
    """Shards by what they miss, in the order to work on them: one stream for those that miss the same.

    `waiting`: how many shards of a dataset lack one of another that nobody makes tonight, by both names.
    """

    streams: Mapping[frozenset[str], Sequence[PlannedShard]]
    waiting: Mapping[tuple[str, str], int] = field(default_factory=dict)

    @property
    def notes(self) -> list[str]:
        return [
            f"{count:,} shards of {name} wait for {needed}" for (name, needed), count in self.waiting.items()
        ]


def missing_shards(corpus: Corpus, wanted: Mapping[str, Product]) -> Missing:
    """What is left to do. Questions about several images come last, in streams of their own: pictures of
    other shards are read for them, which no other dataset has a use for.
    """
    needs = _needs(wanted)
    done = {name: set(corpus.shards(name)) for name in {*wanted, *(one for _, one in needs)}}
    streams: dict[frozenset[str], list[PlannedShard]] = defaultdict(list)
    apart: dict[frozenset[str], list[PlannedShard]] = defaultdict(list)
    waiting: Counter[tuple[str, str]] = Counter()
    for planned in planned_shards(corpus):
        lacking = {name for name in wanted if planned.shard not in done[name]}
        blocked = [pair for pair in needs if pair[0] in lacking and planned.shard not in done[pair[1]]]
        waiting.update(blocked)
        lacking -= {name for name, _ in blocked}
        grouped = {name for name in lacking if _is_grouped(wanted[name])}
        for names, found in ((lacking - grouped, streams), (grouped, apart)):
            if names:
                found[frozenset(names)].append(planned)
    return Missing(streams | apart, waiting)


def _needs(wanted: Mapping[str, Product]) -> list[tuple[str, str]]:
    """Which dataset reads which other one that is not made tonight, or is read as texts, from its files."""
    return [
        (product.name, need.dataset)
        for product in wanted.values()
        if isinstance(product, ModelProduct)
        for need in product.needs
        if need.dataset not in wanted or need.text is not None
    ]


def _is_grouped(product: Product) -> bool:
    return isinstance(product, ModelProduct) and product.grouped
