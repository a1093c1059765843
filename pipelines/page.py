"""What the page of a night shows: read from the shards that the night wrote, and no others."""

import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.changes import tombstones, without
from pipelines.corpus import Corpus
from pipelines.facts import (
    Answer,
    Command,
    Example,
    Hit,
    Model,
    Outcome,
    PatchSavings,
    Picture,
    Reject,
    Report,
    SampleSearch,
    Totals,
)
from pipelines.metadata import CAPTION_CHARS, cut, told_values
from pipelines.night import Night
from pipelines.reuse import ITEMS
from pipelines.search import Searcher
from pipelines.source_diff import describe_diff
from pipelines.thumbnails import thumbnails
from stages.questions.files import load_questions
from stages.schemas import TOLD, Status, shard_of

_EXAMPLES = 5
_HITS = 6


def night_report(night: Night) -> Report:
    """Everything on the page. Raises what reading the corpus raises."""
    chosen = _choose_pictures(night)
    pictures = _pictures(night, chosen)
    return Report(
        pipeline="nightly",
        run=night.run,
        corpus=night.config.corpus,
        started=night.started,
        totals=Totals(night.items, night.tally.images, night.tally.rejected(ITEMS), night.seconds),
        source=describe_diff(night.diff),
        outcome=Outcome.FAILED if night.failed else Outcome.COMPLETE,
        stages=night.tally.stages(),
        rejects=tuple(_rejects(night)),
        savings=_savings(night),
        indexes=night.indexes,
        pictures=pictures,
        searches=tuple(_searches(night, pictures)),
        models=tuple(
            Model(name, str(product.info.properties.get("model", "")), product.info.fingerprint)
            for name, product in night.wanted.items()
            if name != ITEMS
        ),
        commands=_commands(night),
        notes=tuple(night.notes),
    )


def _rejects(night: Night) -> Iterable[Reject]:
    for dataset, reasons in night.tally.rejects.items():
        for reason, count in reasons.most_common():
            shards = night.tally.rejects_in[dataset, reason]
            yield Reject(reason, count, _examples(night.corpus, dataset, reason, shards), dataset)


def _examples(corpus: Corpus, dataset: str, reason: str, shards: Sequence[int]) -> tuple[Example, ...]:
    """Those whose item is good come first: that of others is bad everywhere, and known as such. Of these, one
    of each error before a second of any.
    """
    found: list[tuple[bool, Example]] = []
    gone = tombstones(corpus)
    for shard in shards:
        table = without(corpus.read_shard(dataset, shard, ["image_id", "status", "error"]), gone)
        bad = table.filter(pc.equal(table["status"], reason)).to_pylist()
        items = corpus.read_rows(ITEMS, [row["image_id"] for row in bad], ["uri", "status"]).to_pylist()
        found += [
            (item["status"] != Status.OK, Example(item["uri"], row["error"] or ""))
            for item, row in zip(items, bad, strict=True)
        ]
    seen = Counter[str]()
    order = []
    for is_bad, example in found:
        order.append((is_bad, seen[example.error]))
        seen[example.error] += 1
    return tuple(found[number][1] for number in sorted(range(len(found)), key=order.__getitem__)[:_EXAMPLES])


def _savings(night: Night) -> tuple[PatchSavings, ...]:
    totals, encoder = night.tally.totals, night.config.encoder
    if encoder is None or "patches" not in totals:
        return ()
    return (PatchSavings(encoder.name, int(totals["patches"]), int(totals["patches_undetailed"])),)


def _choose_pictures(night: Night) -> list[int]:
    """Ids of random `ok` items of this night, from at most eight of its shards."""
    generator = np.random.default_rng(night.config.report.seed)
    shards = sorted(set(night.tally.shards))
    some = sorted(generator.choice(shards, min(8, len(shards)), replace=False)) if shards else []
    ids: list[int] = []
    gone = tombstones(night.corpus)
    for shard in some:
        items = without(night.corpus.read_shard(ITEMS, int(shard), ["image_id", "status"]), gone)
        ids += items.filter(pc.equal(items["status"], "ok"))["image_id"].to_pylist()
    count = min(night.config.report.pictures, len(ids))
    return sorted(int(item) for item in generator.choice(ids, count, replace=False)) if ids else []


def _pictures(night: Night, ids: Sequence[int]) -> tuple[Picture, ...]:
    thumbnails = _thumbnails(night, ids)
    items = night.corpus.read_rows(ITEMS, ids, ["uri", *TOLD.names]).to_pylist()
    captions = _captions(night, ids)
    answers = _answers(night, ids)
    asked_for = load_questions(night.config.questions).needs.metadata if night.config.asks else ()
    return tuple(
        Picture(
            thumbnail=shown,
            uri=item["uri"],
            image_id=id,
            caption=caption,
            answers=answers.get(id, ()),
            original_caption=cut(item["original_caption"], CAPTION_CHARS),
            told=told_values(item["metadata"], asked_for),
        )
        for id, item, caption in zip(ids, items, captions, strict=True)
        if (shown := thumbnails[id]) is not None
    )


def _dataset(night: Night, kind: str) -> str | None:
    return next((name for name, product in night.wanted.items() if product.kind == kind), None)


def _captions(night: Night, ids: Sequence[int]) -> list[str | None]:
    """Only what stands as a caption: a loop or a refusal, whose status is not `ok`, is none."""
    statuses, texts = (_column(night, "captions", ids, column) for column in ("status", "caption"))
    return [text if status == Status.OK else None for status, text in zip(statuses, texts, strict=True)]


def _column(night: Night, kind: str, ids: Sequence[int], column: str) -> list[Any]:
    dataset = _dataset(night, kind)
    if dataset is None:
        return [None] * len(ids)
    values: list[Any] = night.corpus.read_rows(dataset, ids, [column])[column].to_pylist()
    return values


def _answers(night: Night, ids: Sequence[int]) -> dict[int, tuple[Answer, ...]]:
    dataset = _dataset(night, "answers")
    found: dict[int, tuple[Answer, ...]] = {}
    if dataset is None:
        return found
    for shard in sorted({shard_of(item) for item in ids}):
        columns = ["image_id", "question", "answer", "status"]
        table = night.corpus.read_shard(dataset, shard, columns)
        wanted = table.filter(pc.is_in(table["image_id"], pa.array(ids, pa.int64())))
        for row in wanted.to_pylist():
            answer = Answer(row["question"], _said(row["status"], row["answer"]))
            found[row["image_id"]] = (*found.get(row["image_id"], ()), answer)
    return found


def _said(status: str, answer: str | None) -> str:
    return (answer or "") if status == Status.OK else f"({status})"


def _thumbnails(night: Night, ids: Sequence[int]) -> dict[int, str | None]:
    source = night.config.source
    return thumbnails(night.corpus, (source.what, source.how), night.config.decode, ids)


def _searches(night: Night, pictures: Sequence[Picture]) -> Iterable[SampleSearch]:
    """The configured texts, or captions of the night; and one picture that has a vector."""
    encoder, count = night.config.encoder, night.config.report.searches
    if encoder is None or not night.indexes or not count or not pictures:
        return
    searcher = Searcher(night.corpus, encoder.name)
    texts: Sequence[str] = ()
    if searcher.reads_text:
        captions = dict.fromkeys(picture.caption for picture in pictures if picture.caption)
        texts = night.config.report.queries or tuple(captions)[:count]
    for text in texts:
        yield SampleSearch(text, _with_thumbnails(night, searcher.text(text, _HITS)))
    ends = _column(night, "embeddings", [picture.image_id for picture in pictures], "status")
    for picture in [one for one, end in zip(pictures, ends, strict=True) if end == Status.OK][-1:]:
        hits = _with_thumbnails(night, searcher.item(picture.image_id, _HITS))
        yield SampleSearch(picture.uri, hits, picture.thumbnail)


def _with_thumbnails(night: Night, hits: Sequence[Hit]) -> tuple[Hit, ...]:
    pictures = _thumbnails(night, [hit.image_id for hit in hits])
    return tuple(replace(hit, thumbnail=pictures[hit.image_id]) for hit in hits)


def _commands(night: Night) -> tuple[Command, ...]:
    corpus = shlex.quote(f"corpus={night.config.corpus}")
    source = shlex.quote(f"source.path={night.config.source.path}")
    search = [Command("Search it", f'darkroom search {corpus} text="…" k=10')] if night.indexes else []
    return (
        Command("Work on what is new", f"darkroom nightly {source} {corpus}"),
        *search,
        Command("See what it holds", f"darkroom describe {corpus}"),
    )
