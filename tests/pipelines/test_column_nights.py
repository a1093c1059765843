"""Nights over Parquet files with a column of images, and over lists of URIs."""

import hashlib
import http.server
import json
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pipelines import cli
from pipelines.changes import tombstones
from pipelines.corpus import Corpus
from pipelines.plan import planned_shards, read_planned
from stages.pocket.corpus import write_pictures
from tests.pipelines.killing import draw_kills, kill_all, played
from tests.pipelines.zygote import Zygote

PICTURES, SEED, SHARD_ROWS = 26, 7, 10
DATASETS = ("items", "captions/pocket", "embeddings/pocket")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("drawn")
    return [one.path.read_bytes() for one in write_pictures(folder, PICTURES + 6, SEED)]


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.plan.SHARD_ROWS", SHARD_ROWS)


class Nights:
    """A source and its corpus."""

    def __init__(self, root: Path, source: str, path: Path, *words: str) -> None:
        self.words = [f"source={source}", f"source.path={path}", *words]
        self.corpus = Corpus(str(root / "corpus"))

    def run(self, *more: str, cluster: str = "local") -> int:
        plain = [f"corpus={self.corpus.location}", f"cluster={cluster}", "tracking=off", "index=none"]
        return cli.main(["nightly", *self.words, *plain, "report.searches=0", *more])

    def ids(self) -> dict[str, int]:
        """Of the items that are not gone, by URI."""
        items = self._rows("items")
        return dict(zip(items["uri"].to_pylist(), items["image_id"].to_pylist(), strict=True))

    def digests(self) -> dict[str, str]:
        items = self._rows("items")
        return dict(zip(items["uri"].to_pylist(), items["sha256"].to_pylist(), strict=True))

    def captions(self) -> dict[str, str]:
        """By URI."""
        uris = {item: uri for uri, item in self.ids().items()}
        rows = self._rows("captions/pocket").to_pylist()
        return {uris[row["image_id"]]: row["caption"] for row in rows}

    def shards(self) -> dict[str, tuple[int, bytes]]:
        files = Path(self.corpus.location).rglob("shard-*.parquet")
        return {str(file): (file.stat().st_mtime_ns, file.read_bytes()) for file in files}

    def _rows(self, dataset: str) -> pa.Table:
        rows = pa.concat_tables(table for _, table in self.corpus.scan(dataset))
        return rows.filter(pc.invert(pc.is_in(rows["image_id"], pa.array(tombstones(self.corpus)))))


def write(path: Path, images: Sequence[bytes], rows: int = 6, first: int = 0) -> None:
    """As Hugging Face's datasets do, in row groups of so many rows; with a later time than before."""
    structs = [{"bytes": data, "path": f"{number}.png"} for number, data in enumerate(images, first)]
    table = pa.table({"image": structs, "label": [f"label {number}" for number in range(len(images))]})
    path.parent.mkdir(parents=True, exist_ok=True)
    before = path.stat().st_mtime_ns if path.exists() else 0
    pq.write_table(table, path, row_group_size=rows)
    if path.stat().st_mtime_ns <= before:
        os.utime(path, ns=(before + 1, before + 1))


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def uri(file: str, row: int) -> str:
    return f"{file}/{row:09d}"


@pytest.fixture
def parquet(tmp_path: Path, images: list[bytes]) -> Nights:
    """After the first night, over two files."""
    write(tmp_path / "data/a.parquet", images[:20])
    write(tmp_path / "data/b.parquet", images[20:PICTURES])
    nights = Nights(tmp_path, "parquet", tmp_path / "data")
    assert nights.run() == 0
    return nights


def test_night_over_parquet_has_every_row_with_what_the_columns_say(
    parquet: Nights, images: list[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = [uri("a.parquet", n) for n in range(20)] + [uri("b.parquet", n) for n in range(6)]
    assert parquet.digests() == {one: digest(data) for one, data in zip(wanted, images, strict=False)}
    items = pa.concat_tables(table for _, table in parquet.corpus.scan("items")).to_pylist()
    assert len(items) == PICTURES
    assert all(json.loads(row["metadata"])["label"] == f"label {int(row['uri'][-9:])}" for row in items)
    planned = [read_planned(parquet.corpus, shard) for shard in planned_shards(parquet.corpus)]
    groups = [
        set(zip(one["container"].to_pylist(), one["row_group"].to_pylist(), strict=True)) for one in planned
    ]
    assert sum(map(len, groups)) == len(set.union(*groups)), "a row group lies in two shards"
    files = parquet.shards()
    assert parquet.run() == 0
    assert "nothing to do" in capsys.readouterr().out
    assert parquet.shards() == files
    (report,) = Path(parquet.corpus.location).glob("runs/*/report.html")
    assert report.read_text().count("data:image/") >= 10


def test_night_over_parquet_says_the_same_of_pictures_as_one_over_their_list(
    parquet: Nights, images: list[bytes], tmp_path: Path
) -> None:
    listed = _listed(tmp_path / "other", images[:PICTURES])
    assert listed.run() == 0
    one, other = (
        {night.digests()[uri]: text for uri, text in night.captions().items()} for night in (parquet, listed)
    )
    assert one == other


def test_parquet_file_that_is_added_or_gone_changes_only_its_items(
    parquet: Nights, images: list[bytes], tmp_path: Path
) -> None:
    before, files = parquet.ids(), parquet.shards()
    write(tmp_path / "data/c.parquet", images[PICTURES:])
    (tmp_path / "data/b.parquet").unlink()
    assert parquet.run() == 0
    after = parquet.ids()
    assert {uri for uri in after if uri not in before} == {uri("c.parquet", n) for n in range(6)}
    assert {uri for uri in before if uri not in after} == {uri("b.parquet", n) for n in range(6)}
    assert all(after[uri] == item for uri, item in before.items() if uri in after)
    assert files.items() <= parquet.shards().items()


def test_parquet_file_with_rows_appended_and_one_changed_keeps_the_ids_of_the_others(
    parquet: Nights, images: list[bytes], tmp_path: Path
) -> None:
    before, files = parquet.ids(), parquet.shards()
    rows = [*images[:20], *images[PICTURES : PICTURES + 4]]
    rows[3] = images[PICTURES + 4]
    write(tmp_path / "data/a.parquet", rows, rows=4)  # the row groups are others as well
    assert parquet.run() == 0
    after = parquet.ids()
    changed = {uri for uri, item in after.items() if before.get(uri) != item}
    assert changed == {uri("a.parquet", n) for n in (3, 20, 21, 22, 23)}
    assert parquet.digests() == {
        **{uri("a.parquet", n): digest(data) for n, data in enumerate(rows)},
        **{uri("b.parquet", n): digest(data) for n, data in enumerate(images[20:PICTURES])},
    }
    assert files.items() <= parquet.shards().items()
    # What is made again is read where the rows are now.
    captions = parquet.captions()
    assert parquet.run("overwrite=[captions/pocket]") == 0
    assert parquet.captions() == captions


def test_parquet_file_that_is_damaged_tonight_is_a_note_and_its_items_stay(
    parquet: Nights, images: list[bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, good = parquet.ids(), (tmp_path / "data/b.parquet").read_bytes()
    (tmp_path / "data/b.parquet").write_bytes(good[:-30])
    assert parquet.run() == 0
    assert "b.parquet" in capsys.readouterr().out
    assert parquet.ids() == before
    (tmp_path / "data/b.parquet").write_bytes(good)
    assert parquet.run() == 0
    assert parquet.ids() == before


def test_parquet_night_of_wrong_columns_ends_in_one_line_and_code_2(
    tmp_path: Path, images: list[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "data/a.parquet", images[:2])
    assert Nights(tmp_path, "parquet", tmp_path / "data", "source.column=picture").run() == 2
    said = capsys.readouterr().err.strip()
    assert "picture" in said
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "corpus").exists()


def _listed(folder: Path, images: Sequence[bytes], *words: str) -> Nights:
    """Pictures in a folder and a list of them."""
    (folder / "photos").mkdir(parents=True)
    names = [f"photos/{number:03d}.png" for number in range(len(images))]
    for name, data in zip(names, images, strict=True):
        (folder / name).write_bytes(data)
    _write_list(folder, names)
    return Nights(folder, "list", folder / "list.csv", *words)


def _write_list(folder: Path, uris: Sequence[str]) -> None:
    lines = [f"{uri},what {uri} shows,{number}" for number, uri in enumerate(uris)]
    (folder / "list.csv").write_text("\n".join(["url,caption,width", *lines, ""]))


def test_list_that_is_edited_changes_only_what_it_says(
    tmp_path: Path, images: list[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    nights = _listed(tmp_path, images[:14])
    assert nights.run() == 0
    before, files = nights.ids(), nights.shards()
    assert nights.run() == 0
    assert "nothing to do" in capsys.readouterr().out
    items = {row["uri"]: row for _, table in nights.corpus.scan("items") for row in table.to_pylist()}
    assert items["photos/003.png"]["original_caption"] == "what photos/003.png shows"
    assert items["photos/003.png"]["metadata"] == '{"width": 3}'
    (tmp_path / "photos/002.png").write_bytes(images[20])
    (tmp_path / "new.png").write_bytes(images[21])
    gone = ["photos/000.png", "photos/001.png"]
    _write_list(tmp_path, [*(uri for uri in before if uri not in gone), "new.png", "none.png"])
    assert nights.run("max_reject_ratio=1") == 0
    after = nights.ids()
    assert [uri for uri in before if uri not in after] == gone
    assert {uri for uri in after if before.get(uri) != after[uri]} == {
        "photos/002.png",
        "new.png",
        "none.png",
    }
    assert nights.digests()["photos/002.png"] == digest(images[20])
    assert nights.digests()["none.png"] is None
    assert files.items() <= nights.shards().items()
    (tmp_path / "none.png").write_bytes(images[22])
    assert nights.run() == 0
    assert nights.digests()["none.png"] == digest(images[22])


class _Handler(http.server.BaseHTTPRequestHandler):
    images: Sequence[bytes] = ()
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.images[int(self.path[1:])])

    def log_message(self, *_: Any) -> None:
        """Nothing is printed."""


@pytest.fixture
def web(images: list[bytes]) -> Iterator[tuple[str, list[str]]]:
    """Where the pictures are served, and the paths that were asked for."""
    asked: list[str] = []
    handler = type("Handler", (_Handler,), {"images": images, "asked": asked})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
        thread.join()


def test_http_list_that_is_unchanged_is_not_fetched_again(
    tmp_path: Path, images: list[bytes], web: tuple[str, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    at, asked = web
    nights = Nights(
        tmp_path, "list", tmp_path / "list.csv", "source.allow_http=true", "source.allow_private=true"
    )
    _write_list(tmp_path, [f"{at}/{number}" for number in range(12)])
    assert nights.run("report.pictures=0") == 0
    assert nights.digests() == {f"{at}/{n}": digest(images[n]) for n in range(12)}
    asked.clear()
    assert nights.run() == 0
    assert "nothing to do" in capsys.readouterr().out
    assert asked == []
    _write_list(tmp_path, [f"{at}/{number}" for number in range(13)])
    assert nights.run("report.pictures=0") == 0
    assert asked == ["/12"]


def test_http_list_that_is_not_allowed_ends_in_one_line_and_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _write_list(tmp_path, ["https://example.org/1.png"])
    assert Nights(tmp_path, "list", tmp_path / "list.csv").run() == 2
    said = capsys.readouterr().err.strip()
    assert "allow_http=true" in said
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "corpus").exists()


@pytest.mark.parametrize("source", ["parquet", "list"])
def test_preview_shows_pictures_of(tmp_path: Path, images: list[bytes], source: str) -> None:
    _listed(tmp_path, images[:5])
    write(tmp_path / "a.parquet", images[:5])
    path = tmp_path / ("list.csv" if source == "list" else "a.parquet")
    words = [f"source={source}", f"source.path={path}", "n=3", f"out={tmp_path / 'page.html'}"]
    assert cli.main(["preview", "captioners=[pocket]", *words]) == 0
    assert (tmp_path / "page.html").read_text().count("data:image/") >= 3


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    with Zygote() as process:
        yield process


@pytest.mark.slow
def test_parquet_night_killed_at_any_moment_and_run_again_is_as_undisturbed(
    zygote: Zygote, tmp_path: Path, images: list[bytes]
) -> None:
    data = tmp_path / "data"
    write(data / "a.parquet", images[:12], rows=4)
    plain = ("cluster=local", "tracking=off", "index=exact", "questions=[how many objects are there?]")
    words = ("nightly", *plain, "source=parquet", f"source.path={data}")
    first = played(zygote, words, None, tmp_path / "first")
    # One row is another, four are new, and all lie in other row groups.
    write(data / "a.parquet", [*images[:3], images[13], *images[4:16]], rows=5)
    second = played(zygote, words, first.after, tmp_path / "second")
    kill_all(zygote, second, draw_kills(second, 3, 1, 2, seed=SEED), tmp_path)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("source", ["parquet", "list"])
def test_night_on_ray_says_the_same_as_in_one_process(
    tmp_path: Path, images: list[bytes], source: str, ray_cluster: None
) -> None:
    _listed(tmp_path / "local", images[:15])
    write(tmp_path / "data/a.parquet", images[:15], rows=25)  # a row group of two shards
    path = tmp_path / "local/list.csv" if source == "list" else tmp_path / "data"
    local, far = (Nights(tmp_path / name, source, path) for name in ("one", "ray"))
    assert local.run() == 0
    few = ("encoder.actors.count=1", "captioner.actors.count=1")
    assert far.run("source.how.shards_ahead=3", *few, cluster="ray") == 0
    assert far.ids() == local.ids()
    assert far.digests() == local.digests()
    assert far.captions() == local.captions()
