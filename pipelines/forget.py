"""Takedown: images leave search at once, their data at the next compaction, and never come back."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.changes import Change, about, gone, record, tombstones, without
from pipelines.config import ConfigError
from pipelines.corpus import Corpus
from pipelines.evaluation.taken_down import drop_items
from pipelines.forgotten import FORGOTTEN, Forgotten, remember, uri_digest
from pipelines.jobs import ForgetConfig
from pipelines.lock import locked
from pipelines.planned import planned_items
from pipelines.report import shows
from pipelines.reuse import ITEMS, item_digests, stored_rows
from stages.schemas import CAPTIONS, Status

_PAGE = (
    b"<!doctype html><meta charset=utf-8><title>Darkroom</title>"
    b"<p>This page showed an image that was taken down. The numbers of the run are in metrics.json.</p>\n"
)


@dataclass(frozen=True)
class Takedown:
    """What a takedown did. `images`: gone with it, copies of the same bytes among them; `pages`: of reports.

    `unknown`: what was asked for and is not in the corpus; URIs among it are kept out all the same.
    """

    images: int
    copies: int
    pages: int
    unknown: tuple[str, ...] = ()


def forget(config: ForgetConfig) -> Takedown:
    """Takes down what one of the files names, with every image of the same bytes.

    First what must not come back is remembered, then the tombstones are written, then report pages that
    show it are emptied: killed in between, the same command goes on. Raises: ConfigError, LockedError.
    """
    asked = _asked(config)
    with locked(Corpus(config.corpus), config.steal_lock) as corpus:
        items = _items(corpus)
        named = items.filter(pc.is_in(items[_column(config)].cast(pa.string()), pa.array(asked)))
        found = _of_the_same_bytes(items, named)
        known = set(named[_column(config)].cast(pa.string()).to_pylist())
        unknown = tuple(one for one in asked if one not in known)
        ids, texts = found["image_id"].to_pylist(), _texts(corpus, found)
        remember(corpus, _remembered(found, unknown if config.uris else ()))
        already = set(tombstones(corpus).tolist())
        record(corpus, gone(sorted(set(ids) - already), Change.FORGOTTEN))
        shown = ids + _asked_about(corpus, ids)
        pages = [path for path in _pages(corpus) if shows(corpus.read_bytes(path).decode(), shown, texts)]
        for path in pages:
            corpus.write_bytes(_PAGE, path)
        drop_items(corpus, ids, texts)
        return Takedown(len(found), len(found) - len(named), len(pages), unknown)


def keep_out(corpus: Corpus) -> int:
    """Takes down what a night found to be of bytes that were taken down: nothing told before it was read.

    So its URI is left out from now on, and what the plan says of it goes with the next compaction. Returns
    how many images it is.
    """
    if not len(Forgotten(corpus).digests):
        return 0
    judged = [
        rows.filter(pc.equal(rows["status"], Status.FORGOTTEN.value))
        for _, rows in corpus.scan(ITEMS, ["image_id", "uri", "status"])
    ]
    if not judged or not len(found := without(pa.concat_tables(judged), tombstones(corpus))):
        return 0
    for name in ("size", "sha256"):
        found = found.append_column(name, pa.nulls(len(found), FORGOTTEN.field(name).type))
    remember(corpus, _remembered(found, ()))
    record(corpus, gone(found["image_id"].to_pylist(), Change.FORGOTTEN))
    return len(found)


def _of_the_same_bytes(items: pa.Table, named: pa.Table) -> pa.Table:
    """The named items, those of equal bytes, and copies of all these that no night has made yet."""
    known = named["sha256"].drop_null().combine_chunks()
    chosen = pc.or_(
        pc.is_in(items["sha256"], known), pc.is_in(items["image_id"], named["image_id"].combine_chunks())
    )
    unread = items.filter(pc.and_(pc.is_null(items["sha256"]), pc.is_valid(items["reused_from"])))
    ids = items.filter(chosen)["image_id"].combine_chunks()
    while len(copies := unread.filter(pc.is_in(unread["reused_from"], ids))["image_id"]) > 0:
        unread = unread.filter(pc.invert(pc.is_in(unread["reused_from"], ids)))
        ids = pa.concat_arrays([ids, copies.combine_chunks()])
    return items.filter(pc.is_in(items["image_id"], ids))


def _column(config: ForgetConfig) -> str:
    return "uri" if config.uris else "image_id" if config.ids else "sha256"


def _asked(config: ForgetConfig) -> list[str]:
    """The lines of the file, each once."""
    file = str(config.uris or config.ids or config.sha256)
    try:
        lines = Path(file).expanduser().read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from error
    asked = list(dict.fromkeys(line for line in lines if line.strip()))
    if not asked:
        raise ConfigError(f"{file} names nothing: one a line is wanted")
    if config.ids and (wrong := [one for one in asked if not one.isdecimal()]):
        raise ConfigError(f"ids: {file} must hold image ids, got {wrong[0]!r}")
    return asked


def _items(corpus: Corpus) -> pa.Table:
    """image_id, uri, size, reused_from and sha256 of every item that was ever planned and is still on disk.

    Also of those that are gone already: what was deleted may have to be forgotten.
    """
    planned = planned_items(corpus).select(["image_id", "uri", "size", "reused_from"])
    return planned.append_column("sha256", item_digests(corpus, planned["image_id"].combine_chunks()))


def _remembered(found: pa.Table, uris: Sequence[str]) -> pa.Table:
    digests = [uri_digest(uri) for uri in found["uri"].to_pylist()]
    rows = found.drop_columns(["uri"]).append_column("uri_sha256", pa.array(digests, pa.string()))
    strangers = [{"uri_sha256": uri_digest(uri)} for uri in uris]
    return pa.concat_tables(
        [rows.select(FORGOTTEN.names).cast(FORGOTTEN), pa.Table.from_pylist(strangers, schema=FORGOTTEN)]
    )


def _texts(corpus: Corpus, found: pa.Table) -> set[str]:
    """What a page may say of these images away from their ids: URIs, and captions, which are searched for.

    What the source says of them stands beside their ids, or beside that of the group they were shown with.
    """
    texts, ids = set(found["uri"].to_pylist()), found["image_id"].combine_chunks()
    for dataset in (name for name in corpus.datasets() if name.startswith("captions/")):
        rows = stored_rows(corpus, dataset, CAPTIONS, ids, ["image_id", "caption"])
        texts.update(rows["caption"].drop_null().to_pylist())
    return texts - {""}


def _asked_about(corpus: Corpus, ids: Sequence[int]) -> list[int]:
    """The images at which answers about a group of images stand that one of these is in."""
    found: set[int] = set()
    for dataset in (name for name in corpus.datasets() if name.startswith("answers/")):
        for _, rows in corpus.scan(dataset, ["image_id", "images"]):
            found.update(rows.filter(about(rows, np.array(ids, np.int64)))["image_id"].to_pylist())
    return sorted(found)


def _pages(corpus: Corpus) -> Iterator[str]:
    """Report pages, those among MLflow's artifacts included, by their path below the corpus."""
    for folder in ("runs", "mlflow"):
        for info in corpus.entries(folder, recursive=True):
            if info.base_name == "report.html":
                yield info.path.removeprefix(corpus.path(""))
