"""Takedowns of what nobody compares before it is read: items of lists and Parquet, and of killed nights."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pipelines import cli
from pipelines.changes import tombstones
from pipelines.corpus import Corpus
from pipelines.plan import NEW, extend
from pipelines.search import Searcher
from stages.pocket.corpus import write_pictures
from tests.stages.sources.misbehaving_server import Server, files_of

PICTURES, SEED = 8, 77


@dataclass
class Nights:
    """A corpus, and the words that name its source."""

    root: Path
    source: list[str] = field(default_factory=list)

    @property
    def corpus(self) -> Corpus:
        return Corpus(str(self.root / "corpus"))

    def run(self, *more: str) -> int:
        words = [*self.source, f"corpus={self.corpus.location}", "cluster=local", "tracking=off"]
        return cli.main(["nightly", *words, "report.searches=0", *more])

    def forget(self, uri: str) -> None:
        listed = self.root / "takedown.txt"
        listed.write_text(f"{uri}\n")
        assert cli.main(["forget", f"corpus={self.corpus.location}", f"uris={listed}"]) == 0
        listed.unlink()

    def ids(self) -> dict[str, int]:
        corpus = self.corpus
        rows = pa.concat_tables(corpus.read_shard("items", one) for one in corpus.shards("items"))
        rows = rows.filter(pc.invert(pc.is_in(rows["image_id"], pa.array(tombstones(corpus)))))
        return dict(zip(rows["uri"].to_pylist(), rows["image_id"].to_pylist(), strict=True))

    def searched(self) -> set[str]:
        return {hit.uri for hit in Searcher(self.corpus, "pocket").text("a circle", 10 * PICTURES)}

    def holding(self, text: str) -> list[Path]:
        files = (path for path in Path(self.corpus.location).rglob("*") if path.is_file())
        return [path for path in files if _says(path, text)]


def _says(path: Path, text: str) -> bool:
    if path.suffix == ".parquet" and text in str(pq.read_table(path).to_pydict()):
        return True
    return text.encode() in path.read_bytes()


@pytest.fixture
def nights(tmp_path: Path) -> Nights:
    return Nights(tmp_path)


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    drawn = [one.path for one in write_pictures(tmp_path / "drawn" / "all", PICTURES, SEED)]
    return [path.rename(tmp_path / "drawn" / f"{n:02d}{path.suffix}") for n, path in enumerate(drawn)]


@pytest.fixture
def served(tmp_path: Path, pictures: list[Path]) -> Iterator[Server]:
    with Server({"photos": files_of(tmp_path / "drawn")}) as server:
        yield server


def _write_list(nights: Nights, rows: list[dict[str, str]]) -> None:
    text = "".join(f"{json.dumps(row)}\n" for row in rows)
    (nights.root / "list.jsonl").write_text(text)
    path = nights.root / "list.jsonl"
    nights.source = [
        "source=list",
        f"source.path={path}",
        "source.allow_http=true",
        "source.allow_private=true",
    ]


def test_forget_keeps_the_bytes_out_under_another_url_and_leaves_no_trace(
    nights: Nights, pictures: list[Path], served: Server
) -> None:
    rows = [{"url": served.url(f"/photos/{path.name}")} for path in pictures]
    _write_list(nights, rows)
    assert nights.run() == 0
    nights.forget(rows[2]["url"])
    twin = {
        "url": served.url(f"/photos/{pictures[2].name}?elsewhere"),
        "caption": "a caption that nothing else has",
        "title": "a title that nothing else has",
    }
    other = {"url": served.url(f"/photos/{pictures[3].name}?elsewhere"), "caption": "of another picture"}
    _write_list(nights, [*rows, twin, other])
    assert nights.run("max_reject_ratio=0") == 0
    kept = {row["url"] for row in [*rows, other]} - {rows[2]["url"]}
    assert nights.ids().keys() == kept
    assert nights.searched() == kept
    assert cli.main(["compact", f"corpus={nights.corpus.location}"]) == 0
    asked = served.seen.paths[f"/photos/{pictures[2].name}?elsewhere"]
    assert nights.run() == 0
    assert served.seen.paths[f"/photos/{pictures[2].name}?elsewhere"] == asked == 1
    for trace in (twin["url"], twin["caption"], twin["title"], rows[2]["url"]):
        assert nights.holding(trace) == []
    assert nights.holding(other["caption"])


def test_forget_keeps_the_bytes_out_of_other_rows_of_parquet(nights: Nights, pictures: list[Path]) -> None:
    def write(name: str, paths: list[Path], captions: list[str]) -> None:
        columns = {"image": pa.array([path.read_bytes() for path in paths], pa.binary()), "caption": captions}
        pq.write_table(pa.table(columns), nights.root / "data" / name)

    (nights.root / "data").mkdir()
    nights.source = ["source=parquet", f"source.path={nights.root / 'data'}"]
    write("one.parquet", pictures, [f"one {number}" for number in range(PICTURES)])
    assert nights.run() == 0
    victim = sorted(nights.ids())[2]
    nights.forget(victim)
    write("two.parquet", pictures[1:4], ["two 1", "a caption that nothing else has", "two 3"])
    assert nights.run() == 0
    assert len(nights.ids()) == PICTURES - 1 + 2
    assert nights.searched() == nights.ids().keys()
    assert cli.main(["compact", f"corpus={nights.corpus.location}"]) == 0
    assert nights.run() == 0
    assert len(nights.ids()) == PICTURES - 1 + 2
    assert nights.holding("a caption that nothing else has") == []
    assert nights.holding("two 3")


@pytest.mark.parametrize("is_copy", [False, True])
def test_forget_of_what_a_killed_night_has_planned_under_another_name_keeps_it_out(
    nights: Nights, pictures: list[Path], is_copy: bool
) -> None:
    folder = nights.root / "drawn"
    nights.source = [f"source.path={folder}"]
    assert nights.run() == 0
    victim = pictures[2]
    twin = folder / f"twin{victim.suffix}"
    twin.write_bytes(victim.read_bytes())
    stat = twin.stat()
    row = {"uri": twin.name, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    origin = {"reused_from": nights.ids()[victim.name]} if is_copy else {}
    extend(nights.corpus, pa.Table.from_pylist([{**row, **origin}], schema=NEW))  # and there it was killed
    nights.forget(victim.name)
    assert nights.run() == 0
    assert {victim.name, twin.name}.isdisjoint(nights.ids())
    assert len(nights.ids()) == PICTURES - 1
    assert nights.searched() == nights.ids().keys()
