"""The source held against the plan, on real files: new, changed, touched, moved, gone, doubled, banned."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from pipelines.changes import Change, record, tombstones
from pipelines.corpus import Corpus
from pipelines.forgotten import FORGOTTEN, remember, uri_digest
from pipelines.plan import extend, planned_shards, read_planned
from pipelines.source_diff import SourceDiff, Wishes, compare
from stages.schemas import ITEMS, shard_of
from stages.sources.config import SourceConfig, SourceRun
from stages.sources.digest import digest_files
from stages.sources.kinds import digests, list_items


class Source:
    """A folder of files and the corpus of what was planned from it; a night stores digests only."""

    def __init__(self, root: Path) -> None:
        self.folder, self.corpus = root / "photos", Corpus(str(root / "corpus"))
        self.folder.mkdir()
        self._clock = 10**18

    def write(self, name: str, content: bytes) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        self.touch(name)

    def touch(self, name: str) -> None:
        self._clock += 10**9
        os.utime(self.folder / name, ns=(self._clock, self._clock))

    def diff(self, **wishes: object) -> SourceDiff:
        config = SourceConfig(str(self.folder))
        return compare(
            self.corpus,
            config,
            list_items(config, SourceRun(), {}),
            lambda rows: digests(config, SourceRun(), rows),
            Wishes(**wishes),  # type: ignore[arg-type]
        )

    def night(self, **wishes: object) -> SourceDiff:
        diff = self.diff(**wishes)
        if len(diff.new):
            extend(self.corpus, diff.new)
        record(self.corpus, diff.changes)
        for planned in planned_shards(self.corpus):
            if planned.shard not in self.corpus.shards("items"):
                self._store(read_planned(self.corpus, planned))
        return diff

    def _store(self, rows: pa.Table) -> None:
        digests = digest_files(SourceConfig(str(self.folder)), SourceRun(), rows["uri"].to_pylist())
        table = pa.Table.from_pylist(
            [
                {"image_id": item, "uri": uri, "sha256": digest, "status": "ok"}
                for item, uri, digest in zip(
                    rows["image_id"].to_pylist(), rows["uri"].to_pylist(), digests, strict=True
                )
            ],
            schema=ITEMS,
        )
        self.corpus.write_shard("items", shard_of(rows["image_id"][0].as_py()), table)

    def live(self) -> dict[str, int]:
        """URI -> id of everything that is planned and not gone."""
        rows = pa.concat_tables(read_planned(self.corpus, planned) for planned in planned_shards(self.corpus))
        uris = rows["uri"].to_pylist()
        assert len(uris) == len(set(uris))
        return dict(zip(uris, rows["image_id"].to_pylist(), strict=True))

    def origins(self) -> dict[str, int]:
        rows = pa.concat_tables(read_planned(self.corpus, planned) for planned in planned_shards(self.corpus))
        rows = rows.filter(pc.is_valid(rows["reused_from"]))
        return dict(zip(rows["uri"].to_pylist(), rows["reused_from"].to_pylist(), strict=True))


@pytest.fixture
def source(tmp_path: Path) -> Source:
    made = Source(tmp_path)
    for number in range(6):
        made.write(f"{number}.jpg", bytes([number]) * (100 + number))
    made.night()
    return made


def _counts(diff: SourceDiff) -> dict[str, int]:
    found = {change.value: diff.count(change) for change in Change}
    return {"new": len(diff.new)} | {name: count for name, count in found.items() if count}


def test_compare_with_nothing_new_finds_nothing(source: Source) -> None:
    before = source.live()
    assert _counts(source.night()) == {"new": 0}
    assert source.live() == before


def test_compare_new_file_gets_an_id_and_others_keep_theirs(source: Source) -> None:
    before = source.live()
    source.write("new.jpg", b"something else")
    assert _counts(source.night()) == {"new": 1}
    assert {uri: item for uri, item in source.live().items() if uri != "new.jpg"} == before


@pytest.mark.parametrize("content", [b"\xff" * 100, b"of another size"], ids=["same size", "other size"])
def test_compare_changed_file_gets_a_new_id_and_the_old_is_buried(source: Source, content: bytes) -> None:
    before = source.live()
    source.write("0.jpg", content)
    assert _counts(source.night()) == {"new": 1, "replaced": 1}
    after = source.live()
    assert after.pop("0.jpg") not in before.values()
    assert after == {uri: item for uri, item in before.items() if uri != "0.jpg"}
    assert tombstones(source.corpus).tolist() == [before["0.jpg"]]
    assert _counts(source.night()) == {"new": 0}


def test_compare_touched_file_keeps_its_id_and_is_read_once(source: Source) -> None:
    before = source.live()
    source.touch("3.jpg")
    assert _counts(source.night()) == {"new": 0, "touched": 1}
    assert source.live() == before
    assert _counts(source.night()) == {"new": 0}


def test_compare_deleted_file_is_buried_and_never_comes_back_under_its_id(source: Source) -> None:
    before = source.live()
    last = max(before, key=lambda uri: before[uri])
    content = (source.folder / last).read_bytes()
    (source.folder / last).unlink()
    assert _counts(source.night()) == {"new": 0, "deleted": 1}
    assert last not in source.live()
    source.write(last, content)
    assert _counts(source.night()) == {"new": 1}
    assert source.live()[last] > max(before.values())


def test_compare_moved_file_takes_its_values_along(source: Source) -> None:
    before = source.live()
    (source.folder / "2.jpg").rename(source.folder / "elsewhere.jpg")
    assert _counts(source.night()) == {"new": 1, "moved": 1}
    assert source.origins() == {"elsewhere.jpg": before["2.jpg"]}
    assert before["2.jpg"] in tombstones(source.corpus)


def test_compare_copy_of_a_known_file_shares_its_values(source: Source) -> None:
    known = source.live()["1.jpg"]
    source.write("copy.jpg", (source.folder / "1.jpg").read_bytes())
    diff = source.night()
    assert (_counts(diff), diff.copies) == ({"new": 1}, 1)
    assert source.origins() == {"copy.jpg": known}


def test_compare_copies_among_new_files_share_those_of_the_first_by_uri(source: Source) -> None:
    for name in ("c.jpg", "a.jpg", "b.jpg"):
        source.write(name, b"all the same")
    assert source.night().copies == 2
    assert source.origins() == dict.fromkeys(("b.jpg", "c.jpg"), source.live()["a.jpg"])


def test_compare_without_reuse_shares_nothing(source: Source) -> None:
    source.write("copy.jpg", (source.folder / "1.jpg").read_bytes())
    assert source.night(reuse=False).copies == 0
    assert source.origins() == {}


def test_compare_files_of_equal_size_and_other_bytes_share_nothing(source: Source) -> None:
    source.write("new.jpg", b"\xaa" * 101)
    assert source.night().copies == 0


def test_compare_with_a_limit_takes_the_first_and_the_rest_next_time(source: Source) -> None:
    for number in range(10, 20):
        source.write(f"{number}.jpg", bytes([number]) * 50)
    source.write("0.jpg", b"changed")
    assert _counts(source.night(limit=4)) == {"new": 4, "replaced": 1}
    assert _counts(source.night(limit=4)) == {"new": 4}
    assert _counts(source.night()) == {"new": 3}
    assert len(source.live()) == 16


def test_compare_retried_item_gets_a_new_id_with_the_old_as_origin(source: Source) -> None:
    before = source.live()
    assert _counts(source.night(retry=[before["4.jpg"]])) == {"new": 1, "retried": 1}
    assert source.origins() == {"4.jpg": before["4.jpg"]}
    assert before["4.jpg"] in tombstones(source.corpus)


def test_compare_after_a_kill_between_plan_and_journal_buries_the_older_of_two(source: Source) -> None:
    before = source.live()
    source.write("0.jpg", b"changed")
    extend(source.corpus, source.diff().new)
    assert _counts(source.night()) == {"new": 0, "replaced": 1}
    assert tombstones(source.corpus).tolist() == [before["0.jpg"]]
    assert len(source.live()) == 6


def test_compare_after_a_kill_before_items_finds_copies_all_the_same(source: Source) -> None:
    source.write("new.jpg", b"never read")
    extend(source.corpus, source.diff().new)
    planned = {uri: item for uri, item in source.live().items() if uri == "new.jpg"}
    source.write("other.jpg", b"never read")
    source.night()
    assert source.origins() == {"other.jpg": planned["new.jpg"]}


def test_compare_leaves_out_what_was_taken_down_under_any_name(source: Source) -> None:
    content = (source.folder / "5.jpg").read_bytes()
    row = {"image_id": None, "uri_sha256": uri_digest("secret.jpg"), "size": len(content)}
    digest = digest_files(SourceConfig(str(source.folder)), SourceRun(), ["5.jpg"])[0]
    remember(source.corpus, pa.Table.from_pylist([row | {"sha256": digest}], schema=FORGOTTEN))
    source.write("secret.jpg", b"whatever it holds by then")
    source.write("under another name.jpg", content)
    source.write("harmless.jpg", np.random.default_rng(0).bytes(len(content)))
    diff = source.night()
    assert diff.new["uri"].to_pylist() == ["harmless.jpg"]
    assert diff.banned == 2
