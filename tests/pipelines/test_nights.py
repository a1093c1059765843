"""Night after night: a folder that changes, and a corpus that follows it without computing twice."""

import json
import os
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pipelines import cli
from pipelines.changes import tombstones
from pipelines.corpus import Corpus
from pipelines.search import Searcher
from stages.pocket.corpus import write_broken, write_pictures

PICTURES, SEED = 30, 31
DATASETS = ("embeddings/pocket", "captions/pocket")


class Nights:
    """A folder of photos and its corpus."""

    def __init__(self, root: Path) -> None:
        self.photos, self.corpus = root / "photos", Corpus(str(root / "corpus"))

    def run(self, *more: str) -> int:
        words = (
            f"source.path={self.photos}",
            f"corpus={self.corpus.location}",
            "cluster=local",
            "tracking=off",
        )
        return cli.main(["nightly", *words, "report.searches=0", *more])

    def read(self, dataset: str) -> pa.Table:
        """The rows of all items that are not gone."""
        table = pa.concat_tables(self.corpus.read_shard(dataset, one) for one in self.corpus.shards(dataset))
        gone = pa.array(tombstones(self.corpus))
        return table.filter(pc.invert(pc.is_in(table["image_id"], gone)))

    def ids(self) -> dict[str, int]:
        items = self.read("items")
        return dict(zip(items["uri"].to_pylist(), items["image_id"].to_pylist(), strict=True))

    def values(self, dataset: str) -> dict[str, object]:
        """What a dataset says of each URI."""
        uris = {item: uri for uri, item in self.ids().items()}
        return {uris[row.pop("image_id")]: row for row in self.read(dataset).to_pylist()}

    def files(self) -> dict[str, bytes]:
        root = Path(self.corpus.location)
        return {
            path.relative_to(root).as_posix(): path.read_bytes()
            for path in root.rglob("*")
            if path.is_file() and path.name != "LOCK"
        }


@pytest.fixture(scope="module")
def first_night(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nights]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipelines.plan.SHARD_ROWS", 20)
        nights = Nights(tmp_path_factory.mktemp("nights"))
        for number, one in enumerate(write_pictures(nights.photos / "drawn", PICTURES, SEED)):
            one.path.rename(nights.photos / f"{number:02d}{one.path.suffix}")
        write_broken(nights.photos, 2, SEED)
        assert nights.run() == 0
        yield nights


@pytest.fixture
def nights(first_night: Nights, tmp_path: Path) -> Nights:
    """The state after the first night, to do as one likes with."""
    copy = Nights(tmp_path)
    shutil.copytree(first_night.photos, copy.photos)
    shutil.copytree(first_night.corpus.location, copy.corpus.location)
    return copy


def _pictures(nights: Nights) -> list[Path]:
    return sorted(path for path in nights.photos.iterdir() if path.is_file())


def test_nightly_after_a_folder_changed_follows_it_and_keeps_what_it_can(nights: Nights) -> None:
    deleted, changed, moved, copied, touched, *_ = _pictures(nights)
    other = _pictures(nights)[-1]
    ids, captions, embeddings = nights.ids(), nights.values(DATASETS[1]), nights.values(DATASETS[0])
    before = nights.files()
    deleted.unlink()
    shutil.copy(other, changed)
    moved.rename(nights.photos / "moved.jpg")
    shutil.copy(copied, nights.photos / "copy.jpg")
    os.utime(touched)
    assert nights.run() == 0
    after = nights.files()
    assert {name: after.get(name) for name in before if "/shard-" in name} == {
        name: data for name, data in before.items() if "/shard-" in name
    }
    now = nights.ids()
    kept = {path.name for path in nights.photos.iterdir()} & set(ids) - {changed.name}
    assert {uri: now[uri] for uri in kept} == {uri: ids[uri] for uri in kept}
    assert set(now) - set(ids) == {"moved.jpg", "copy.jpg"}
    assert set(ids) - set(now) == {deleted.name, moved.name}
    assert now[changed.name] != ids[changed.name]
    items = {row["uri"]: row for row in nights.read("items").to_pylist()}
    origins = {uri: row["reused_from"] for uri, row in items.items() if row["reused_from"] is not None}
    assert origins == {
        "moved.jpg": ids[moved.name],
        "copy.jpg": ids[copied.name],
        changed.name: ids[other.name],
    }
    for dataset, old in ((DATASETS[0], embeddings), (DATASETS[1], captions)):
        new = nights.values(dataset)
        assert new["moved.jpg"] == old[moved.name]
        assert new["copy.jpg"] == old[copied.name]
        assert new[changed.name] == old[other.name]
    again = nights.files()
    assert nights.run() == 0
    assert nights.files() == again


def test_search_after_a_file_was_deleted_does_not_find_it_any_more(nights: Nights) -> None:
    deleted = _pictures(nights)[3]
    item = nights.ids()[deleted.name]
    searcher = Searcher(nights.corpus, "pocket")
    assert searcher.image(str(deleted), 1)[0].image_id == item
    shutil.copy(deleted, nights.photos.parent / "query.jpg")
    deleted.unlink()
    assert nights.run() == 0
    for opened in (searcher, Searcher(nights.corpus, "pocket")):
        found = opened.image(str(nights.photos.parent / "query.jpg"), PICTURES)
        assert item not in [hit.image_id for hit in found]
        assert len(found) == PICTURES - 1


def test_nightly_with_most_files_gone_refuses_and_changes_nothing(nights: Nights) -> None:
    for path in _pictures(nights)[: PICTURES - 3]:
        path.unlink()
    before = nights.files()
    assert nights.run() == 2
    assert nights.files() == before
    assert nights.run("max_deleted_ratio=1") == 0
    assert len(nights.ids()) == 5


def test_nightly_with_retry_redrives_rejects_of_that_reason_only(nights: Nights) -> None:
    items = {row["uri"]: row for row in nights.read("items").to_pylist()}
    bad = {row["status"]: uri for uri, row in items.items() if row["status"] != "ok"}
    assert sorted(bad) == ["empty", "truncated"]
    assert nights.run("retry=truncated,unreadable", "max_reject_ratio=1") == 0
    now = nights.ids()
    assert {uri for uri in now if now[uri] != items[uri]["image_id"]} == {bad["truncated"]}
    assert len(now) == len(items)


def test_nightly_with_a_limit_takes_up_so_many_a_night(nights: Nights) -> None:
    write_pictures(nights.photos / "more", 7, SEED + 1)
    counts = []
    for _ in range(3):
        assert nights.run("limit=4", "index=none") == 0
        counts.append(len(nights.ids()))
    assert counts == [PICTURES + 6, PICTURES + 9, PICTURES + 9]


def test_nightly_dry_run_says_what_would_be_done_and_writes_nothing(
    nights: Nights, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pictures(nights.photos / "more", 7, SEED + 1)
    _pictures(nights)[0].unlink()
    before = nights.files()
    assert nights.run("dry_run=true") == 0
    said = list(pairwise(capsys.readouterr().out.split()))
    assert nights.files() == before
    assert {("new", "7"), ("deleted", "1"), ("captions/pocket", "7")} <= set(said)


def test_nightly_where_a_file_changed_after_items_were_made_describes_it_as_changed(nights: Nights) -> None:
    """A second captioner reads a file again: its caption must not be of other bytes than `items` says."""
    victim, other = _pictures(nights)[:2]
    stat = victim.stat()
    content = bytearray(victim.read_bytes())
    content[-3] ^= 1
    victim.write_bytes(content)
    os.utime(victim, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert nights.run("captioner.name=second") == 0
    captions = nights.values("captions/second")
    statuses = {uri: row["status"] for uri, row in captions.items()}  # type: ignore[index]
    assert statuses[victim.name] == "changed"
    assert statuses[other.name] == "ok"


def test_forget_by_uri_takes_it_out_of_search_and_keeps_it_out(nights: Nights) -> None:
    victim = _pictures(nights)[5]
    shutil.copy(victim, nights.photos / "twin.jpg")
    assert nights.run() == 0
    ids = nights.ids()
    listed = nights.photos.parent / "takedown.txt"
    listed.write_text(f"{victim.name}\nnever seen.jpg\n")
    assert cli.main(["forget", f"corpus={nights.corpus.location}", f"uris={listed}"]) == 0
    found = Searcher(nights.corpus, "pocket").image(str(victim), PICTURES)
    assert {ids[victim.name], ids["twin.jpg"]}.isdisjoint(hit.image_id for hit in found)
    shutil.copy(victim, nights.photos / "third name.jpg")
    shutil.copy(_pictures(nights)[0], nights.photos / "never seen.jpg")
    assert nights.run() == 0
    assert {victim.name, "twin.jpg", "third name.jpg", "never seen.jpg"}.isdisjoint(nights.ids())


def test_forget_empties_the_report_pages_that_show_the_image(nights: Nights) -> None:
    victim = _pictures(nights)[5]
    shutil.copy(victim, nights.photos / "<twin> & \x1b.jpg")
    assert nights.run("report.pictures=100", "captioner.name=second") == 0
    listed = nights.photos.parent / "takedown.txt"
    listed.write_text(f"{nights.ids()[victim.name]}\n")
    assert cli.main(["forget", f"corpus={nights.corpus.location}", f"ids={listed}"]) == 0
    for run in nights.corpus.entries("runs"):
        page = nights.corpus.read_bytes("runs", run.base_name, "report.html").decode()
        assert "twin" not in page
        assert victim.name not in page
        assert json.loads(nights.corpus.read_bytes("runs", run.base_name, "metrics.json"))


def _says(path: Path, text: str) -> bool:
    """Whether a file holds a text: in its bytes, and for Parquet, which is compressed, in its values."""
    if path.suffix == ".parquet" and text in str(pq.read_table(path).to_pydict()):
        return True
    return text.encode() in path.read_bytes()


def test_forget_and_compact_leave_no_trace_of_the_image_in_the_corpus(nights: Nights) -> None:
    captions = {uri: row["caption"] for uri, row in nights.values("captions/pocket").items()}  # type: ignore[index]
    uri, caption = next((u, c) for u, c in captions.items() if list(captions.values()).count(c) == 1)
    secret = "a name that nothing else has.jpg"
    (nights.photos / uri).rename(nights.photos / secret)
    assert nights.run("tracking=mlflow", "report.searches=2", "captioner.name=second") == 0
    root = Path(nights.corpus.location)
    (root / "quarantine" / "items").mkdir(parents=True)
    shutil.copy(next((root / "items").glob("shard-*")), root / "quarantine" / "items")

    def holding(text: str) -> list[Path]:
        return [path for path in root.rglob("*") if path.is_file() and _says(path, text)]

    assert holding(secret)
    assert holding(caption)
    listed = nights.photos.parent / "takedown.txt"
    listed.write_text(f"{secret}\n")
    assert cli.main(["forget", f"corpus={root}", f"uris={listed}"]) == 0
    assert cli.main(["compact", f"corpus={root}"]) == 0
    assert [holding(secret), holding(uri), holding(caption)] == [[], [], []]
    assert nights.run() == 0
    assert [holding(secret), holding(caption)] == [[], []]
    assert len(Searcher(nights.corpus, "pocket").text("a red circle", 100)) == PICTURES - 1


@pytest.mark.parametrize(
    ("words", "content"),
    [(["uris={}"], ""), (["ids={}"], "not a number\n"), ([], "a.jpg\n"), (["uris={}", "ids={}"], "a\n")],
)
def test_forget_of_nothing_in_particular_is_refused(
    tmp_path: Path, first_night: Nights, words: list[str], content: str
) -> None:
    listed = tmp_path / "list.txt"
    listed.write_text(content)
    before = first_night.files()
    given = [word.format(listed) for word in words]
    assert cli.main(["forget", f"corpus={first_night.corpus.location}", *given]) == 2
    assert first_night.files() == before
