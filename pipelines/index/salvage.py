"""What is damaged of an index is set aside, and what is sound of it kept for the next build to go on from.

Searches then say what to do, instead of answering from what is damaged or from a part of the vectors.
"""

from dataclasses import replace

from pipelines.corpus import QUARANTINE, Corpus
from pipelines.index import layout
from pipelines.index.layout import (
    CURRENT,
    META,
    PARTS,
    Generation,
    PartRecord,
    current_generation,
    generations,
    read_generation,
    read_part,
    read_template,
    shards_in,
)
from pipelines.index.parts import is_whole
from stages.index.damage import IndexDamaged


def set_index_aside(corpus: Corpus, path: str) -> str:
    """Moves a template, a part, a generation or CURRENT away, and with it every generation that names it.

    Where the newest goes, a new one names the parts that are left: the next build encodes what they do not
    cover. If all are left searches read it at once, and its recall is measured when it next grows.
    """
    _, name, *rest = path.split("/")
    newest, following = _newest(corpus, name), layout.next_generation(corpus, name)
    before = None if newest is None else _readable(corpus, name, newest)
    _move(corpus, path)
    for generation in generations(corpus, name):
        meta = _readable(corpus, name, generation)
        if meta is not None and rest[-1] in (meta.template, *meta.parts):
            _move(corpus, f"index/{name}/{generation}")
    present, current = generations(corpus, name), current_generation(corpus, name)
    left = None if newest is None or newest in present else _left_of(corpus, name, before)
    if left is not None:
        corpus.check_fence()
        corpus.write_bytes(layout.to_json(left), "index", name, following, META)
    if current in present:
        return "set aside"
    if left is not None and left.accepted:
        layout.switch(corpus, name, following)
        return "set aside; its recall is measured again when it grows"
    _move(corpus, f"index/{name}/{CURRENT}")
    return "set aside; darkroom index, or the next night, makes again what is missing"


def _newest(corpus: Corpus, name: str) -> str | None:
    """The last generation that was finished; the current one was, whatever it lacks now."""
    current, present = current_generation(corpus, name), generations(corpus, name)
    finished = [one for one in present if one == current or corpus.exists("index", name, one, META)]
    return finished[-1] if finished else None


def _move(corpus: Corpus, path: str) -> None:
    if corpus.exists(path):
        corpus.check_fence()
        corpus.move(path, f"{QUARANTINE}/{path}")


def _readable(corpus: Corpus, name: str, generation: str) -> Generation | None:
    try:
        return read_generation(corpus, name, generation)
    except (IndexDamaged, FileNotFoundError):
        return None


def _left_of(corpus: Corpus, name: str, before: Generation | None) -> Generation | None:
    """A generation of the sound parts; None where none is left, or no template for them."""
    present = {entry.base_name for entry in corpus.entries("index", name, PARTS)}
    whole = sorted(part for part in present if is_whole(corpus, name, (PARTS, part)))
    records = {part: read_part(corpus, name, (PARTS, part)) for part in whole}
    parts = _disjoint(records) if before is None else [part for part in before.parts if part in records]
    if not parts:
        return None
    one = records[parts[0]]
    try:
        template = read_template(corpus, name, one.template)
    except (IndexDamaged, FileNotFoundError):
        return None
    if before is not None and list(before.parts) == parts:
        return replace(before, truth=None)
    rows, size = (sum(getattr(records[part], key) for part in parts) for key in ("rows", "size"))
    return Generation(
        template=one.template,
        parts=tuple(parts),
        embeddings=one.embeddings,
        factory=template.factory,
        reason=template.reason,
        dim=template.dim,
        vectors=rows,
        size=template.file.size + size,
        config={},  # unlike any that is asked for: so it is measured
        accepted=False,
    )


def _disjoint(records: dict[str, PartRecord]) -> list[str]:
    """The largest part, and of its template and embeddings those that cover other shards; as they ascend."""
    taken: list[str] = []
    covered: set[int] = set()
    for part in sorted(records, key=lambda part: (-records[part].rows, part)):
        record, first = records[part], records[taken[0]] if taken else records[part]
        shards = set(shards_in(record.shards))
        if (record.template, record.embeddings) == (
            first.template,
            first.embeddings,
        ) and not shards & covered:
            taken.append(part)
            covered |= shards
    return sorted(taken, key=lambda part: records[part].shards)
