"""The source as it is, held against the plan: what is new, what changed, what is gone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.changes import CHANGES, Change, gone
from pipelines.containers import taken_up
from pipelines.corpus import Corpus
from pipelines.forgotten import Forgotten
from pipelines.plan import NEW, split_copies
from pipelines.planned import SAID, planned_items
from pipelines.reuse import item_digests
from stages.sources.config import SourceConfig
from stages.sources.listing import FILES, Details, Listing

Digest: TypeAlias = Callable[[pa.Table], Sequence[str | None]]
"""SHA-256 of the bytes of items (uri, size, mtime_ns, `PLACE`); None for one that cannot be read."""


_PART = 8192


@dataclass(frozen=True)
class Wishes:
    """What beside the source decides what is new. `limit`: of new items; `retry`: ids to be tried again.

    `reuse`: whether byte-identical files share one computation, for which files of equal size are read.
    """

    limit: int | None = None
    retry: Sequence[int] = ()
    reuse: bool = True


@dataclass(frozen=True)
class SourceDiff:
    """What a night has to take up. `new`: schema `plan.NEW`, by URI; `changes`: schema `CHANGES`.

    `known`: items of the corpus before; `banned`: files left out because they were taken down; `unwanted`:
    because they do not meet `source.where`, of what was listed this time. `details`: what `detail` of new
    rows numbers. `containers`: those taken up as a whole, schema `CONTAINERS`.
    """

    new: pa.Table
    changes: pa.Table
    known: int
    banned: int
    details: Details
    containers: pa.Table
    notes: tuple[str, ...] = ()
    unwanted: int = 0

    def count(self, change: Change) -> int:
        return pc.sum(pc.equal(self.changes["change"], change.value)).as_py() or 0

    @property
    def copies(self) -> int:
        """New items that share the values of another of the same bytes; retried ones are none."""
        return len(split_copies(self.new)[1]) - self.count(Change.RETRIED)

    @property
    def fates(self) -> dict[str, int]:
        """How many images became what, beside those that are simply new; in words for a person."""
        return {
            "changed": self.count(Change.REPLACED),
            "moved": self.count(Change.MOVED),
            "deleted": self.count(Change.DELETED),
            "tried again": self.count(Change.RETRIED),
            "left out because they were taken down": self.banned,
            "left out by source.where": self.unwanted,
            "share the values of an identical one": self.copies,
        }

    @property
    def live(self) -> int:
        """Items of the corpus once the changes are made."""
        return self.known + len(self.new) - len(self.changes) + self.count(Change.TOUCHED)


def describe_diff(diff: SourceDiff) -> str:
    """One line of what is not simply new; empty where there is nothing of the kind."""
    told = ", ".join(f"{count:,} {what}" for what, count in diff.fates.items() if count)
    return f"of the images, {told}" if told else ""


def compare(
    corpus: Corpus, source: SourceConfig, listing: Listing, digest: Digest, wishes: Wishes
) -> SourceDiff:
    """Writes nothing; items are read through `digest`.

    An item is changed where its size differs, or its time and then its bytes. One that is gone while the
    same bytes are new elsewhere was moved.
    """
    planned, forgotten = planned_items(corpus), Forgotten(corpus)
    live = planned.filter(pc.invert(planned["gone"]))
    items, doubled = _newest(live)
    listed = _held(_all_rows(listing, items), items)
    listed = listed.append_column("banned", forgotten.has_uri(listed["uri"]))
    found, touched = _look_again(corpus, listed, digest)
    found = found.filter(pc.invert(_out_of_reach(found, listing)))
    wanted = found.filter(pc.or_(found["wanted"], pc.is_valid(found["image_id"])))
    allowed = wanted.filter(pc.invert(wanted["banned"]))
    taken = allowed.slice(0, wishes.limit)
    known = planned.filter(pc.invert(planned["forgotten"]))
    read = _digested(taken, _worth_reading(taken, known if wishes.reuse else None, forgotten), digest)
    new = read.filter(pc.invert(forgotten.has_bytes(read["sha256"])))
    new = _with_origins(corpus, new, known, listed, digest) if wishes.reuse else _alone(new)
    again = _to_retry(listed, wanted, listing, wishes)
    changes = [
        gone(_ids(live.filter(forgotten.has_uri(live["uri"]))), Change.FORGOTTEN),
        gone(_ids(doubled), Change.REPLACED),
        gone(_ids(read.filter(pc.is_valid(read["image_id"]))), Change.REPLACED),
        *_departed(items, listed, new),
        gone(_ids(again), Change.RETRIED),
        touched,
    ]
    planned_next = pa.concat_tables([new.select(NEW.names).cast(NEW), _retried(again)]).sort_by("uri")
    cut = set(allowed["container"].slice(len(taken)).drop_null().unique().to_pylist())
    whole = [one for one in listing.read if one.name not in cut]
    return SourceDiff(
        planned_next,
        pa.concat_tables(changes),
        len(live),
        banned=len(wanted) - len(allowed) + len(read) - len(new),
        details=listing.details,
        containers=taken_up(source, whole, _staying(listed, wanted, planned_next)),
        notes=listing.notes,
        unwanted=len(found) - len(wanted),
    )


def _ids(rows: pa.Table) -> list[int]:
    ids: list[int] = rows["image_id"].to_pylist()
    return ids


def _all_rows(listing: Listing, items: pa.Table) -> pa.Table:
    """The listing with the known items of containers that were not read, or not to their end, by URI."""
    names = pa.array([*listing.unchanged, *listing.unread], pa.string())
    rows = items.filter(pc.is_in(items["container"], names)).select(list(SAID))
    rows = rows.filter(pc.invert(pc.is_in(rows["uri"], listing.rows["uri"].combine_chunks())))
    rows = rows.append_column("detail", pa.nulls(len(rows), pa.int64()))
    rows = rows.append_column("wanted", pa.repeat(True, len(rows))).cast(FILES)
    return pa.concat_tables([listing.rows, rows]).sort_by("uri")


def _out_of_reach(found: pa.Table, listing: Listing) -> pa.ChunkedArray:
    """Known items of containers that cannot be read to their end, whose bytes were not read: they stay."""
    unread = pc.is_in(found["container"], pa.array(listing.unread, pa.string()))
    return pc.and_(unread, pc.and_(pc.is_valid(found["image_id"]), pc.is_null(found["sha256"])))


def _to_retry(listed: pa.Table, found: pa.Table, listing: Listing, wishes: Wishes) -> pa.Table:
    """Rejects that are to be tried again, but those that are new by themselves, or cannot be read tonight."""
    again = listed.filter(pc.is_in(listed["image_id"], pa.array(wishes.retry, pa.int64())))
    unread = pc.is_in(again["container"], pa.array(listing.unread, pa.string()))
    new = pc.is_in(again["uri"], found["uri"].combine_chunks())
    return again.filter(pc.invert(pc.or_(unread, new)))


def _departed(items: pa.Table, listed: pa.Table, new: pa.Table) -> list[pa.Table]:
    """Journal rows of items that the source no longer has: moved, or deleted."""
    unseen = items.filter(pc.invert(pc.is_in(items["uri"], listed["uri"].combine_chunks())))
    moved = pc.is_in(unseen["image_id"], new["reused_from"].combine_chunks())
    return [
        gone(_ids(unseen.filter(moved)), Change.MOVED),
        gone(_ids(unseen.filter(pc.invert(moved))), Change.DELETED),
    ]


def _staying(listed: pa.Table, found: pa.Table, planned_next: pa.Table) -> pa.ChunkedArray:
    """The container of each listed item that the plan will have: known and as it was, or new."""
    other = pc.is_in(listed["uri"], found["uri"].combine_chunks())
    same = pc.invert(pc.or_(other, pc.is_null(listed["image_id"])))
    kept = pc.and_(same, pc.invert(listed["banned"]))
    planned = pc.is_in(listed["uri"], planned_next["uri"].combine_chunks())
    return listed.filter(pc.or_(kept, planned))["container"]


def _newest(live: pa.Table) -> tuple[pa.Table, pa.Table]:
    """One item a URI, and the older ones: a night that was killed before it buried them left two."""
    newest_first = live.sort_by([("image_id", "descending")])
    first = pc.index_in(newest_first["uri"], newest_first["uri"].combine_chunks())
    stands = pc.equal(first, pa.array(np.arange(len(live), dtype=np.int32)))
    return newest_first.filter(stands), newest_first.filter(pc.invert(stands))


def _held(listing: pa.Table, items: pa.Table) -> pa.Table:
    """The listing with what is known of each file: image_id, known_size, known_mtime_ns; null where new."""
    row = pc.index_in(listing["uri"], items["uri"].combine_chunks())
    for name, column in (("image_id", "image_id"), ("known_size", "size"), ("known_mtime_ns", "mtime_ns")):
        listing = listing.append_column(name, items[column].take(row))
    return listing


def _look_again(corpus: Corpus, listed: pa.Table, digest: Digest) -> tuple[pa.Table, pa.Table]:
    """Files that are new or changed, with `sha256` where they had to be read; and those only touched.

    Where the size is the same and the time is not, the bytes decide.
    """
    same_size = pc.equal(listed["known_size"], listed["size"])
    same = pc.and_(same_size, pc.equal(listed["known_mtime_ns"], listed["mtime_ns"]))
    doubtful = pc.and_(pc.or_(same_size, pc.equal(listed["known_size"], -1)), pc.invert(same))
    doubtful = pc.fill_null(doubtful, False)
    listed = _digested(listed, doubtful, digest)
    rows = listed.filter(doubtful)
    stored = item_digests(corpus, rows["image_id"].combine_chunks())
    unchanged = pc.is_in(
        listed["image_id"], rows.filter(_equal(rows["sha256"], stored))["image_id"].combine_chunks()
    )
    unchanged = pc.and_(unchanged, doubtful)
    found = listed.filter(pc.invert(pc.or_(pc.fill_null(same, False), unchanged)))
    touched = listed.filter(unchanged)
    touched = touched.append_column("change", pa.repeat(Change.TOUCHED.value, len(touched)))
    return found, touched.select(CHANGES.names).cast(CHANGES)


def _equal(one: pa.ChunkedArray, other: pa.Array) -> pa.ChunkedArray:
    """False where either is null."""
    return pc.fill_null(pc.equal(one, other), False)


def _digested(files: pa.Table, chosen: pa.ChunkedArray, digest: Digest) -> pa.Table:
    """With `sha256` filled in for the chosen rows; kept where it is known already."""
    if "sha256" not in files.column_names:
        files = files.append_column("sha256", pa.nulls(len(files), pa.string()))
    known = files["sha256"]
    rows = np.flatnonzero(pc.and_(chosen, pc.is_null(known)).to_numpy())
    # A part at a time: of a million files the URIs and digests would be half a gigabyte of Python's strings.
    said = files.select(list(SAID))
    parts = [said.take(rows[start : start + _PART]) for start in range(0, len(rows), _PART)]
    found = pa.chunked_array([pa.array(digest(part), pa.string()) for part in parts], pa.string())
    place = np.full(len(files), -1)
    place[rows] = np.arange(len(rows))
    read = found.take(pa.array(place, mask=place < 0))
    return files.set_column(files.column_names.index("sha256"), "sha256", pc.coalesce(known, read))


def _worth_reading(files: pa.Table, known: pa.Table | None, forgotten: Forgotten) -> pa.ChunkedArray:
    """bool [files]: of a size that other files have, of which only some can have the same bytes.

    `known`: items to look for among; None: only files that were taken down are looked for.
    """
    sizes = files["size"]
    worth = pc.is_in(sizes, forgotten.sizes)
    if known is not None:
        first = pc.index_in(sizes, sizes.combine_chunks())
        shared = files["size"].filter(pc.not_equal(first, pa.array(np.arange(len(files), dtype=np.int32))))
        for others in (shared, known["size"]):
            worth = pc.or_(worth, pc.is_in(sizes, others.combine_chunks()))
    return pc.and_(worth, pc.greater(sizes, 0))


def _with_origins(
    corpus: Corpus, new: pa.Table, known: pa.Table, listed: pa.Table, digest: Digest
) -> pa.Table:
    """With `reused_from`: the first known item of the same bytes, whose values are to be copied."""
    read = new.filter(pc.is_valid(new["sha256"]))
    alike = known.filter(pc.is_in(known["size"], read["size"].combine_chunks()))
    digests = item_digests(corpus, alike["image_id"].combine_chunks())
    # Planned by a night that was killed before it read them.
    unread = pc.and_(pc.is_null(digests), pc.is_in(alike["uri"], listed["uri"].combine_chunks()))
    unread = pc.and_(unread, pc.invert(alike["gone"]))
    alike = _digested(alike.append_column("sha256", digests), unread, digest).sort_by("image_id")
    row = pc.index_in(new["sha256"], alike["sha256"].combine_chunks(), skip_nulls=True)
    return new.append_column("reused_from", alike["image_id"].take(row))


def _alone(new: pa.Table) -> pa.Table:
    """As `_with_origins` where nothing is to be shared."""
    rows = new.drop_columns(["sha256"]).append_column("sha256", pa.nulls(len(new), pa.string()))
    return rows.append_column("reused_from", pa.nulls(len(new), pa.int64()))


def _retried(again: pa.Table) -> pa.Table:
    """Their old ids are their origins: what is well there is kept."""
    rows = again.rename_columns({"image_id": "reused_from"})
    rows = rows.append_column("sha256", pa.nulls(len(rows), pa.string()))
    return rows.select(NEW.names).cast(NEW)
