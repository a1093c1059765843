"""What a person sees: tables and lines.

Everything from data goes through `legible` into `Text`: neither markup nor escape sequences in it do a thing.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import IO

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from pipelines import quantities as q
from pipelines.facts import Compaction, Dataset, Hit, Report, TellsOfItems, Verification
from pipelines.index_facts import IndexFacts, IndexPlan
from pipelines.legible import legible
from pipelines.preview_facts import PreviewReport, Said
from stages.index.curve import RECALL_AT, Measured

_LONGEST = 400  # characters of a text that may be a loop; the page has all of it
_KEYS = 40  # of metadata; format=json has all of them
PLAIN_WIDTH = 160
"""Columns where the output is a file or a pipe: rich's 80 would fold every URI."""


def console(file: IO[str] | None = None) -> Console:
    """A console whose texts are never markup, wide enough for URIs where it is not a terminal."""
    stream = file or sys.stdout
    width = None if stream.isatty() else PLAIN_WIDTH
    return Console(file=stream, markup=False, highlight=False, emoji=False, width=width)


def summary(report: Report) -> RenderableType:
    """What a run did, for the end of it."""
    totals = report.totals
    head = (
        f"{report.run}: {report.outcome}. {totals.new:,} of {totals.items:,} images in "
        f"{q.duration(totals.seconds)} ({q.rate(totals.items_per_s)} items/s), {totals.rejected:,} rejected."
    )
    parts: list[RenderableType] = [Text(legible(head))]
    if report.source:
        parts.append(Text(legible(report.source)))
    if report.stages:
        parts.append(_stage_table(report))
    if report.rejects:
        parts.append(_reject_table(report))
    if report.indexes:
        parts.append(_index_table(report.indexes))
    parts.extend(Text(legible(note), style="yellow") for note in report.notes)
    return Group(*parts)


def previewed(report: PreviewReport) -> RenderableType:
    """What each generator says of each picture, and what it takes."""
    texts = new_table("picture", *(writer.name for writer in report.writers))
    for picture in report.pictures:
        cells = [Text("\n".join(legible(_line_of(one), _LONGEST) for one in said)) for said in picture.said]
        shown = [Text(legible(picture.error))] * len(cells) if picture.error else cells
        texts.add_row(Text(legible(picture.uri)), *shown, end_section=True)
    taken = new_table("generator", "model", "s/picture>", "tokens/picture>", "texts")
    for writer in report.writers:
        tokens = q.NONE if writer.tokens is None else f"{writer.tokens:.1f}"
        statuses = ", ".join(f"{count:,} {status}" for status, count in writer.statuses.items())
        add_row(taken, writer.name, writer.model, f"{writer.seconds:.2f}", tokens, statuses)
    notes = [Text(legible(note), style="yellow") for note in report.notes]
    return Group(texts, taken, *notes)


def _line_of(said: Said) -> str:
    asked = f"{said.question} " if said.question else ""
    return f"{asked}{said.text}" if said.ok else f"{asked}{said.text} ({said.status}: {said.error})"


def hits(found: Sequence[Hit]) -> Table:
    """The hits of one search, best first as given."""
    said = any(hit.original_caption for hit in found)
    table = new_table("score>", "image_id>", "uri", "caption", *(["original caption"] if said else []))
    for hit in found:
        told = [hit.original_caption or ""] if said else []
        add_row(table, f"{hit.score:.4f}", str(hit.image_id), hit.uri, hit.caption or "", *told)
    return table


def description(
    datasets: Sequence[Dataset], indexes: Sequence[IndexFacts], told: TellsOfItems | None = None
) -> RenderableType:
    """What a corpus holds, and what the source says of its images."""
    table = new_table("dataset", "shards>", "rows>", "rejects", "size>", "fingerprint")
    for dataset in datasets:
        rejects = ", ".join(f"{count:,} {reason}" for reason, count in dataset.rejects.items())
        numbers = (f"{dataset.shards:,}", f"{dataset.rows:,}", rejects or q.NONE, q.size(dataset.size_bytes))
        add_row(table, dataset.name, *numbers, dataset.fingerprint)
    parts = [table, *([_index_table(indexes)] if indexes else []), *([_told_table(told)] if told else [])]
    return Group(*parts)


def _told_table(told: TellsOfItems) -> Table:
    """Original captions and metadata, of all images or of those that were looked at."""
    looked_at = f"{told.looked_at:,} of {told.items:,}" if told.looked_at < told.items else f"{told.items:,}"
    table = new_table(f"said by the source, of {looked_at} images", "images>", "types")
    if told.captions:
        add_row(table, "original_caption", f"{told.captions:,}", "text")
    for key in told.keys[:_KEYS]:
        types = [kind if len(key.types) == 1 else f"{count:,} {kind}" for kind, count in key.types.items()]
        add_row(table, f"metadata.{key.name}", f"{key.count:,}", ", ".join(types))
    if len(told.keys) > _KEYS:
        add_row(table, f"and {len(told.keys) - _KEYS:,} more keys", "", "")
    return table


def compaction(done: Compaction) -> RenderableType:
    """What became of the files of each dataset."""
    table = new_table("dataset", "files>", "after>", "size>", "after>", "rows dropped>")
    for one in done.datasets:
        after = q.NONE if one.bytes_after is None else q.size(one.bytes_after)
        files = (f"{one.files_before:,}", f"{one.files_after:,}")
        add_row(table, one.name, *files, q.size(one.bytes_before), after, f"{one.rows_dropped:,}")
    rebuilt = [Text(legible(f"index {name}: built again, without what is gone")) for name in done.indexes]
    return Group(table, *rebuilt)


def exported(
    files: int, written: int, left_out: Mapping[str, int], without_caption: Mapping[str, int]
) -> RenderableType:
    """What became of the items of an export."""
    table = new_table("items", "why", ">")
    add_row(table, "written", f"files: {files:,}", f"{written:,}")
    for what, counts in (("left out", left_out), ("written without a caption", without_caption)):
        for reason, count in counts.items():
            add_row(table, what, reason, f"{count:,}")
    return table


def forecast(images: Mapping[str, int], rows: Mapping[str, int], seconds: float | None) -> RenderableType:
    """What a night would do."""
    found = new_table("images", ">")
    for what, count in images.items():
        if count or what == "new":
            add_row(found, what, f"{count:,}")
    todo = new_table("dataset", "rows to make>")
    for name, count in rows.items():
        add_row(todo, name, f"{count:,}")
    lasts = "at a rate that is not known yet" if seconds is None else f"about {q.duration(seconds)}"
    return Group(found, todo, Text(f"{lasts}; nothing was written"))


def index_plan(plan: IndexPlan) -> RenderableType:
    """What a build would take, phase by phase."""
    head = f"{plan.factory}: {plan.reason}; trained on {plan.sample:,}"
    table = new_table("phase", "time>", "processes>", "memory of each>", "disk>", "")
    for phase in plan.phases:
        sizes = (q.size(int(phase.memory)), q.size(int(phase.disk)))
        where = "GPU, not measured" if phase.gpu else ""
        add_row(table, phase.name, q.duration(phase.seconds), f"{phase.processes:,}", *sizes, where)
    add_row(table, "in all", q.duration(plan.seconds), "", "", "", "")
    asked = [f"{seconds * 1000:,.1f} ms over {nprobe}" for nprobe, seconds in plan.searches.items()]
    told = [f"a search on one core, its codes in memory: {', '.join(asked)} lists, before the re-rank"]
    return Group(Text(legible(head)), table, *(Text(legible(note)) for note in [*told, *plan.notes]))


def verification(found: Verification) -> RenderableType:
    """What is damaged, what is unfinished, and what else lies about."""
    head = f"{found.files:,} files, {q.size(found.size_bytes)}: {len(found.damages):,} damaged"
    parts: list[RenderableType] = [Text(legible(head))]
    if found.damages:
        table = new_table("damaged", "problem", "repaired")
        for damage in found.damages:
            add_row(table, damage.path, damage.problem, damage.repaired or q.NONE)
        parts.append(table)
    parts += [
        Text(legible(f"unfinished: {name} lacks {count:,} of the planned shards"))
        for name, count in found.unfinished.items()
    ]
    return Group(*parts, *(Text(legible(note)) for note in found.notes))


def _stage_table(report: Report) -> Table:
    table = new_table("stage", "rows>", "rejected>", "workers>", "time>", "items/s per worker>")
    for row in report.stages:
        numbers = (f"{row.rows:,}", f"{row.rejected:,}", f"{row.workers:,}", q.duration(row.seconds))
        add_row(table, row.name, *numbers, q.rate(row.rows_per_s))
    return table


def _reject_table(report: Report) -> Table:
    table = new_table("rejected", "dataset", "rows>", "for example", "error")
    for reject in report.rejects:
        example = reject.examples[0] if reject.examples else None
        cells = (reject.reason, reject.dataset, f"{reject.count:,}")
        add_row(table, *cells, example.uri if example else "", example.error if example else "")
    return table


def outlook(name: str, why: str, rows: int) -> RenderableType:
    """What `darkroom index` would do."""
    encoded = f"up to {rows:,} vectors would be encoded" if rows else "no vector would be encoded"
    return Text(legible(f"index {name}: {why}; {encoded}"))


def indexed(index: IndexFacts, page: str | None) -> RenderableType:
    """What `darkroom index` made, or found where nothing was due."""
    told = Text("nothing to do" if page is None else f"report: {legible(page)}", overflow="fold")
    return Group(_index_table([index]), told)


def _index_table(indexes: Sequence[IndexFacts]) -> RenderableType:
    table = new_table("index", "generation", "vectors>", "recall@10>", "size>", "bytes each>", "factory")
    for index in indexes:
        recall = q.NONE if index.recall_at_10 is None else f"{index.recall_at_10:.3f}"
        size = q.NONE if index.size_bytes is None else q.size(index.size_bytes)
        each = q.NONE if index.bytes_per_vector is None else f"{index.bytes_per_vector:.1f}"
        add_row(table, index.name, index.generation, f"{index.vectors:,}", recall, size, each, index.factory)
    lines = [f"{index.name}: {'; '.join(said)}" for index in indexes if (said := _index_details(index))]
    return Group(table, *(Text(legible(line)) for line in lines))


def _index_details(index: IndexFacts) -> list[str]:
    said = []
    if index.measured is not None:
        said += _measured_details(index.measured)
    if index.deltas:
        said.append(f"a base and {q.some(index.deltas, 'delta')}")
    if index.tombstones:
        said.append(f"{q.some(index.tombstones, 'item')} gone since")
    if index.drift is not None:
        said.append(f"drift {q.percent(index.drift)}")
    return said


def _measured_details(measured: Measured) -> list[str]:
    said = [
        f"recall@1/10/100 of {kind} queries {' '.join(f'{by_k[at].value:.3f}' for at in RECALL_AT)} "
        f"(@10 from {by_k[10].low:.3f} to {by_k[10].high:.3f})"
        for kind, by_k in measured.point.recall.items()
    ]
    if measured.k_factor > 1:
        said.append(f"recall@10 by codes alone {measured.plain.worst().value:.3f}")
    candidates = q.some(measured.k_factor, "candidate")
    said.append(f"{q.some(measured.nprobe, 'list')} and {candidates} a hit in {q.rate(measured.ms)} ms")
    if not measured.reached:
        said.append(f"target {measured.target:g} not reached")
    return said


def new_table(*columns: str) -> Table:
    """A table with these columns; `>` behind a name aligns its numbers to the right."""
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for column in columns:
        right = column.endswith(">")
        # Folded, not cut: a URI has to be copied from here.
        table.add_column(
            column.rstrip(">"), justify="right" if right else "left", overflow="fold", no_wrap=right
        )
    return table


def add_row(table: Table, *cells: str) -> None:
    """Cells of data, as texts that do nothing."""
    table.add_row(*(Text(legible(cell)) for cell in cells))
