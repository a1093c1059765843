"""Tars night after night: which are opened again, and whether items are found where they are by then."""

import hashlib
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipelines import containers
from pipelines.changes import Change, record, tombstones
from pipelines.compact import compact
from pipelines.containers import known_containers
from pipelines.corpus import Corpus, DatasetInfo
from pipelines.forget import forget
from pipelines.jobs import CompactConfig, ForgetConfig, VerifyConfig
from pipelines.plan import extend, planned_shards, read_planned
from pipelines.planned import planned_items
from pipelines.source_diff import SourceDiff, Wishes, compare
from pipelines.verify import verify
from stages.schemas import ITEMS, shard_of
from stages.sources.config import Kind, SourceConfig, SourceRun
from stages.sources.kinds import digests, list_items, reader
from stages.sources.listing import Listing


def picture(number: int) -> bytes:
    """No two have the same size."""
    return np.random.default_rng(number).bytes(1000 + number)


class Tars:
    """A folder of tars and the corpus of what was planned from it; a night stores digests only."""

    def __init__(self, root: Path) -> None:
        self.folder, self.corpus = root / "tars", Corpus(str(root / "corpus"))
        self.folder.mkdir()
        self.config = SourceConfig(str(self.folder), Kind.TAR)
        self._clock = 10**18

    def write(self, name: str, files: dict[str, bytes]) -> None:
        with tarfile.open(self.folder / name, "w") as tar:
            for member, data in files.items():
                told = tarfile.TarInfo(member)
                told.size = len(data)
                tar.addfile(told, io.BytesIO(data))
        self._clock += 10**9
        os.utime(self.folder / name, ns=(self._clock, self._clock))

    def spoil(self, name: str) -> None:
        """Other bytes, of the same size and time."""
        found = (self.folder / name).stat()
        (self.folder / name).write_bytes(b"\xaa" * found.st_size)
        os.utime(self.folder / name, ns=(found.st_mtime_ns, found.st_mtime_ns))

    def listing(self) -> Listing:
        known = known_containers(self.corpus, self.config, planned_items(self.corpus))
        return list_items(self.config, SourceRun(), known)

    def diff(self, **wishes: Any) -> SourceDiff:
        return compare(
            self.corpus,
            self.config,
            self.listing(),
            lambda rows: digests(self.config, SourceRun(), rows),
            Wishes(**wishes),
        )

    def night(self, die_before: str = "", **wishes: Any) -> SourceDiff:
        """`die_before`: the step at which everything ends, as when the process is killed."""
        diff = self.diff(**wishes)
        steps: dict[str, Callable[[], object]] = {
            "plan": lambda: extend(self.corpus, diff.new, diff.details) if len(diff.new) else None,
            "changes": lambda: record(self.corpus, diff.changes),
            "containers": lambda: containers.record(self.corpus, diff.containers),
            "items": self._store,
        }
        for name, step in steps.items():
            if name == die_before:
                break
            step()
        return diff

    def _store(self) -> None:
        self.corpus.claim(DatasetInfo.of("items", ITEMS, {}))
        for planned in planned_shards(self.corpus):
            if planned.shard in self.corpus.shards("items"):
                continue
            rows = self._read(read_planned(self.corpus, planned))
            kept = [
                {**row, "sha256": hashlib.sha256(row["bytes"]).hexdigest()}
                for row in rows.to_pylist()
                if row["status"] == "ok"
            ]
            table = pa.Table.from_pylist(kept, ITEMS)
            self.corpus.write_shard("items", shard_of(rows["image_id"][0].as_py()), table)

    def _read(self, rows: pa.Table) -> pa.Table:
        return reader(self.config, SourceRun())(rows.drop_columns(["reused_from"]))

    def pictures(self) -> dict[str, bytes | None]:
        """What is read now of every live item, by URI."""
        shards = [read_planned(self.corpus, planned) for planned in planned_shards(self.corpus)]
        rows = self._read(pa.concat_tables(shards))
        uris = rows["uri"].to_pylist()
        assert len(uris) == len(set(uris))
        return dict(zip(uris, rows["bytes"].to_pylist(), strict=True))

    def ids(self) -> dict[str, int]:
        tables = [read_planned(self.corpus, planned) for planned in planned_shards(self.corpus)]
        rows = pa.concat_tables(tables)
        return dict(zip(rows["uri"].to_pylist(), rows["image_id"].to_pylist(), strict=True))

    def forget(self, *uris: str) -> None:
        file = Path(self.corpus.location).parent / "takedown.txt"
        file.write_text("\n".join(uris))
        forget(ForgetConfig(corpus=self.corpus.location, uris=str(file)))


A = {f"{number}.jpg": picture(number) for number in range(4)}
B = {f"{number}.jpg": picture(100 + number) for number in range(3)}
WANTED = {f"a.tar/{name}": data for name, data in A.items()} | {
    f"b.tar/{name}": data for name, data in B.items()
}


@pytest.fixture
def tars(tmp_path: Path) -> Tars:
    made = Tars(tmp_path)
    made.write("a.tar", A)
    made.write("b.tar", B)
    made.night()
    return made


def _counts(diff: SourceDiff) -> dict[str, int]:
    found = {change.value: diff.count(change) for change in Change}
    return {name: count for name, count in ({"new": len(diff.new)} | found).items() if count}


def test_compare_unchanged_tars_are_not_opened_again(tars: Tars) -> None:
    before = tars.ids()
    for name in ("a.tar", "b.tar"):
        tars.spoil(name)
    assert _counts(tars.night()) == {}
    assert tars.ids() == before
    assert tars.listing().unchanged == ("a.tar", "b.tar")


def test_compare_new_tar_is_taken_up_and_others_stay_closed(tars: Tars) -> None:
    tars.spoil("a.tar")
    tars.write("c.tar", {"x.jpg": picture(200)})
    assert _counts(tars.night()) == {"new": 1}
    assert tars.listing().unchanged == ("a.tar", "b.tar", "c.tar")


def test_compare_tar_written_again_in_another_order_keeps_its_items(tars: Tars) -> None:
    before = tars.ids()
    for notes in (5000, 0, 2000):
        tars.write("a.tar", {"notes.bin": bytes(notes)} | dict(reversed(A.items())))
        assert tars.pictures()["a.tar/0.jpg"] is None
        assert _counts(tars.night()) == {"touched": 4}
        assert tars.ids() == before
        assert tars.pictures() == WANTED
    assert _counts(tars.night()) == {}
    assert tars.listing().unchanged == ("a.tar", "b.tar")


def test_compare_tar_with_a_member_changed_one_gone_and_one_new_follows_it(tars: Tars) -> None:
    before = tars.ids()
    now = {"9.jpg": picture(9), "0.jpg": A["0.jpg"], "1.jpg": picture(1)[::-1], "3.jpg": A["3.jpg"]}
    tars.write("a.tar", now)
    assert _counts(tars.night()) == {"new": 2, "replaced": 1, "deleted": 1, "touched": 2}
    assert tars.pictures() == {f"a.tar/{name}": data for name, data in now.items()} | {
        uri: data for uri, data in WANTED.items() if uri.startswith("b.tar/")
    }
    kept = [uri for uri in before if uri not in ("a.tar/1.jpg", "a.tar/2.jpg")]
    assert {uri: tars.ids()[uri] for uri in kept} == {uri: before[uri] for uri in kept}
    assert before["a.tar/1.jpg"] in tombstones(tars.corpus)
    assert _counts(tars.night()) == {}


def test_compare_tar_that_is_gone_is_buried_with_all_its_items(tars: Tars) -> None:
    (tars.folder / "b.tar").unlink()
    assert _counts(tars.night()) == {"deleted": 3}
    assert set(tars.ids()) == {f"a.tar/{name}" for name in A}
    tars.write("b.tar", B)
    assert _counts(tars.night()) == {"new": 3}
    assert tars.pictures() == WANTED


# Nothing of it, one member and a half, one member, and a header alone.
@pytest.mark.parametrize("left", [0, 0.4, 0.25, 0.1])
def test_compare_tar_that_cannot_be_read_tonight_keeps_its_items_until_it_can(
    tars: Tars, left: float
) -> None:
    before, whole = tars.ids(), (tars.folder / "a.tar").read_bytes()
    (tars.folder / "a.tar").write_bytes(whole[: int(left * len(whole))] or b"not a tar" * 100)
    told = tars.night()
    assert _counts(told).keys() <= {"touched"}
    assert any("a.tar" in note for note in told.notes)
    assert tars.ids() == before
    (tars.folder / "a.tar").write_bytes(whole)
    tars.night()
    assert tars.ids() == before
    assert tars.pictures() == WANTED


def test_compare_tar_under_another_name_takes_its_values_along(tars: Tars) -> None:
    (tars.folder / "b.tar").rename(tars.folder / "z.tar")
    assert _counts(tars.night()) == {"new": 3, "moved": 3}
    assert tars.listing().unchanged == ("a.tar", "z.tar")


def test_compare_with_a_limit_takes_the_rest_of_a_tar_another_night(tmp_path: Path) -> None:
    tars = Tars(tmp_path)
    tars.write("a.tar", A)
    tars.write("b.tar", B)
    assert _counts(tars.night(limit=3)) == {"new": 3}
    assert tars.listing().unchanged == ()
    assert _counts(tars.night(limit=3)) == {"new": 3}
    assert tars.listing().unchanged == ("a.tar",)
    assert _counts(tars.night(limit=3)) == {"new": 1}
    assert tars.listing().unchanged == ("a.tar", "b.tar")
    assert tars.pictures() == WANTED


@pytest.mark.parametrize("step", ["plan", "changes", "containers", "items"])
@pytest.mark.parametrize("limit", [None, 2])
def test_night_killed_at_any_step_loses_nothing(tars: Tars, step: str, limit: int | None) -> None:
    now = {"8.jpg": picture(8), "1.jpg": A["1.jpg"], "0.jpg": picture(0)[::-1], "3.jpg": A["3.jpg"]}
    tars.write("a.tar", now)
    tars.write("c.tar", B | {"7.jpg": picture(7)})
    (tars.folder / "b.tar").unlink()
    tars.night(die_before=step, limit=limit)
    for _ in range(1 if limit is None else 4):
        tars.night(limit=limit)
    assert tars.pictures() == {f"a.tar/{name}": data for name, data in now.items()} | {
        f"c.tar/{name}": data for name, data in (B | {"7.jpg": picture(7)}).items()
    }
    assert _counts(tars.night()) == {}
    assert tars.listing().unchanged == ("a.tar", "c.tar")


def test_forgotten_item_of_a_tar_stays_out_whenever_it_is_read_again(tars: Tars) -> None:
    tars.forget("a.tar/2.jpg")
    assert _counts(tars.night()) == {}
    assert tars.listing().unchanged == ("a.tar", "b.tar")
    tars.write("a.tar", dict(reversed(A.items())))
    assert _counts(tars.night()) == {"touched": 3}
    tars.write("c.tar", {"copy.jpg": A["2.jpg"], "other.jpg": picture(300)})
    diff = tars.night()
    assert (diff.new["uri"].to_pylist(), diff.banned) == (["c.tar/other.jpg"], 1)
    tars.write("b.tar", {"0.jpg": A["2.jpg"], "1.jpg": B["1.jpg"]})
    assert _counts(tars.night()) == {"replaced": 1, "deleted": 1, "touched": 1}
    assert tars.listing().unchanged == ("a.tar", "b.tar", "c.tar")
    assert {data for data in tars.pictures().values() if data == A["2.jpg"]} == set()


def test_verify_repaired_plan_finds_its_places_again(tars: Tars) -> None:
    before = tars.ids()
    path = Path(tars.corpus.path("plan", "plan-000001.parquet"))
    path.write_bytes(path.read_bytes()[:-100])
    assert verify(VerifyConfig(corpus=tars.corpus.location, repair=True)).damages
    assert set(tars.pictures().values()) == {None}
    assert _counts(tars.night()) == {"touched": 7}
    assert tars.ids() == before
    assert tars.pictures() == WANTED
    assert tars.listing().unchanged == ("a.tar", "b.tar")


def test_compact_keeps_places_and_what_need_not_be_opened(tars: Tars) -> None:
    tars.write("a.tar", dict(reversed(A.items())))
    tars.night()
    (tars.folder / "b.tar").unlink()
    tars.write("c.tar", B)
    tars.night()
    wanted, before = tars.pictures(), tars.ids()
    compact(CompactConfig(corpus=tars.corpus.location))
    assert (tars.pictures(), tars.ids()) == (wanted, before)
    assert len(tars.corpus.entries("containers")) == 1
    for name in ("a.tar", "c.tar"):
        tars.spoil(name)
    assert _counts(tars.night()) == {}
    tars.write("d.tar", {"x.jpg": picture(400)})
    assert _counts(tars.night()) == {"new": 1}
    assert tars.listing().unchanged == ("a.tar", "c.tar", "d.tar")


def test_verify_damaged_record_of_tars_is_set_aside_and_they_are_read_again(tars: Tars) -> None:
    (entry,) = tars.corpus.entries("containers")
    assert not verify(VerifyConfig(corpus=tars.corpus.location)).notes
    path = Path(entry.path)
    path.write_bytes(path.read_bytes()[:-9] + b"\0" * 9)
    (damage,) = verify(VerifyConfig(corpus=tars.corpus.location, repair=True)).damages
    assert damage.path == f"containers/{entry.base_name}"
    assert tars.listing().unchanged == ()
    assert _counts(tars.night()) == {}
    assert tars.listing().unchanged == ("a.tar", "b.tar")


@pytest.mark.parametrize(
    "other", [{"extensions": (".jpg", ".bin")}, {"metadata": ("x",)}, {"caption": "x"}, {"where": "x"}]
)
def test_known_containers_of_other_rules_are_opened_again(tars: Tars, other: dict[str, Any]) -> None:
    tars.config = SourceConfig(str(tars.folder), Kind.TAR, **other)
    assert known_containers(tars.corpus, tars.config, planned_items(tars.corpus)) == {}
