"""What a source says of its items, seen as a whole: which keys its metadata has."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines import journal, plan
from pipelines.changes import tombstones, without
from pipelines.corpus import Corpus
from pipelines.facts import MetadataKey, TellsOfItems, Told
from pipelines.plan import planned_shards
from stages.questions.templates import as_text
from stages.schemas import SHARD_ROWS, TOLD
from stages.sources.listing import Listing
from stages.told import at_name, parsed

_PART = 1 << 16
_SHOWN = 20
# Of a picture on a page.
CAPTION_CHARS, _VALUE_CHARS, _VALUES = 300, 80, 6

_TYPES: dict[type, str] = {
    bool: "truth value",
    int: "number",
    float: "number",
    str: "text",
    list: "list",
    dict: "object",
}


class Keys:
    """Counts the keys of JSON objects."""

    def __init__(self) -> None:
        self._found: dict[str, Counter[str]] = {}

    def add(self, texts: Iterable[str | None]) -> None:
        for text in texts:
            for name, value in parsed(text).items():
                counts = self._found.setdefault(name, Counter())
                if value is not None:
                    counts[_TYPES[type(value)]] += 1

    def counted(self) -> tuple[MetadataKey, ...]:
        """The most frequent first; one that is null everywhere has no types."""
        keys = [MetadataKey(name, dict(counts.most_common())) for name, counts in self._found.items()]
        return tuple(sorted(keys, key=lambda key: (-key.count, key.name)))


def tells_of_items(corpus: Corpus) -> TellsOfItems | None:
    """Of up to 65,536 items that are not gone, in shards spread over the corpus; None for nothing said."""
    gone, shards, keys = tombstones(corpus), corpus.shards("items"), Keys()
    looked_at = captions = 0
    chosen = [shards[place] for place in evenly(len(shards), _PART // SHARD_ROWS)]
    for _, table in corpus.scan("items", ["image_id", *TOLD.names], chosen):
        kept = without(table, gone)
        looked_at += len(kept)
        captions += len(kept) - kept["original_caption"].null_count
        keys.add(kept["metadata"].to_pylist())
    found = keys.counted()
    if not captions and not found:
        return None
    items = sum(shard.rows - len(shard.gone) for shard in planned_shards(corpus))
    return TellsOfItems(items if len(chosen) < len(shards) else looked_at, looked_at, captions, found)


def told_parts(corpus: Corpus, listing: Listing) -> Iterator[pa.Table]:
    """Schema `TOLD`, some rows at a time: of the items that were listed, then of those that were planned."""
    numbers = listing.rows["detail"].drop_null().combine_chunks()
    for start in range(0, len(numbers), _PART):
        yield listing.details.read(numbers[start : start + _PART])
    for file in journal.files(corpus, plan.NAME):
        with corpus.open_parquet(plan.NAME, file) as opened:
            for batch in opened.iter_batches(_PART, columns=TOLD.names):
                yield pa.Table.from_batches([batch])


def lacking(parts: Iterable[pa.Table], caption: bool, names: Iterable[str]) -> list[str]:
    """Which of these nothing says anything like: the original caption, and names of metadata.

    Looks for the names as parts of the texts, which takes 0.2 s for a million items of 300 bytes, and ends
    where all were seen; so a name may turn out to be no key after all, but none is missed.
    """
    wanted = {f"metadata.{name}": name for name in names}
    for told in parts:
        if caption and told["original_caption"].null_count < len(told):
            caption = False
        wanted = {shown: name for shown, name in wanted.items() if not _has(told["metadata"], name)}
        if not wanted and not caption:
            return []
    return [*(["original_caption"] if caption else []), *wanted]


def _has(texts: pa.ChunkedArray, name: str) -> bool:
    """A name with dots may be that of a key in an object."""
    for key in {name, name.rpartition(".")[2]}:
        for quoted in {json.dumps(key), json.dumps(key, ensure_ascii=False)}:
            if pc.any(pc.match_substring(texts, quoted)).as_py():
                return True
    return False


def shown_keys(parts: Iterable[pa.Table]) -> str:
    """The keys of the first rows, for a message."""
    first = next(iter(parts), None)
    keys = Keys()
    keys.add([] if first is None else first["metadata"].slice(0, 1000).to_pylist())
    names = [f"metadata.{key.name}" for key in keys.counted()]
    return ", ".join(names[:_SHOWN]) or "nothing"


def evenly(count: int, most: int) -> list[int]:
    """At most so many of the numbers below `count`, spread over all of them, ascending."""
    if not count:
        return []
    return sorted(set(np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist()))


def told_values(text: str | None, first: Sequence[str] = ()) -> tuple[Told, ...]:
    """A few values of one image for a page: those named `first`, then as they come, without nested ones."""
    told = parsed(text)
    values = {name: at_name(told, name) for name in [*first, *told]}
    plain = {
        name: as_text(value)
        for name, value in values.items()
        if name in first or not isinstance(value, list | dict)
    }
    shown = [(name, value) for name, value in plain.items() if value is not None]
    return tuple(Told(name[:_VALUE_CHARS], str(cut(value, _VALUE_CHARS))) for name, value in shown[:_VALUES])


def cut(text: str | None, most: int) -> str | None:
    return text if text is None or len(text) <= most else f"{text[: most - 1]}…"
