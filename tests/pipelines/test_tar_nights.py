"""Whole nights over tars with the pocket models: what is said beside images, and places that move."""

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from pipelines import cli
from pipelines.changes import tombstones
from pipelines.corpus import Corpus
from stages.pocket.corpus import write_pictures

PICTURES, SEED = 24, 61


class TarNights:
    """A folder of tars and its corpus."""

    def __init__(self, root: Path) -> None:
        self.tars, self.corpus = root / "tars", Corpus(str(root / "corpus"))
        self.tars.mkdir()
        self.pictures = [one.path for one in write_pictures(root / "drawn", PICTURES, SEED)]

    def write(self, name: str, numbers: Sequence[int]) -> None:
        with tarfile.open(self.tars / name, "w") as tar:
            for number in numbers:
                said = {
                    self.pictures[number].suffix: self.pictures[number].read_bytes(),
                    ".json": json.dumps({"number": number}).encode(),
                    ".txt": b"picture %d" % number,
                }
                for extension, data in said.items():
                    told = tarfile.TarInfo(f"{number:03d}{extension}")
                    told.size = len(data)
                    tar.addfile(told, io.BytesIO(data))

    def run(self, *more: str) -> int:
        words = (
            f"source.path={self.tars}",
            f"corpus={self.corpus.location}",
            "cluster=local",
            "tracking=off",
        )
        return cli.main(["nightly", "source=tar", *words, "report.searches=0", *more])

    def read(self, dataset: str) -> dict[int, dict[str, object]]:
        """The rows of all items that are not gone, by id."""
        table = pa.concat_tables(table for _, table in self.corpus.scan(dataset))
        table = table.filter(pc.invert(pc.is_in(table["image_id"], pa.array(tombstones(self.corpus)))))
        return {row["image_id"]: row for row in table.to_pylist()}


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> TarNights:
    made = TarNights(tmp_path_factory.mktemp("tars"))
    made.write("a.tar", range(16))
    made.write("b.tar", range(16, 20))
    assert made.run("encoder=none") == 0
    return made


def test_nightly_over_tars_follows_them_and_reads_images_where_they_are_by_then(nights: TarNights) -> None:
    first = nights.read("items")
    assert {row["status"] for row in first.values()} == {"ok"}
    said = {row["uri"]: (row["original_caption"], json.loads(str(row["metadata"]))) for row in first.values()}
    assert said == {
        f"{'a' if number < 16 else 'b'}.tar/{number:03d}{nights.pictures[number].suffix}": (
            f"picture {number}",
            {"number": number},
        )
        for number in range(20)
    }
    nights.write("a.tar", range(14, -1, -1))
    (nights.tars / "b.tar").unlink()
    nights.write("c.tar", range(18, PICTURES))
    assert nights.run("encoder=none", "captioner.name=second", "max_deleted_ratio=1") == 0
    items, captions = nights.read("items"), nights.read("captions/second")
    assert items.keys() == captions.keys()
    assert {row["status"] for row in captions.values()} == {"ok"}
    kept = {item: row for item, row in first.items() if row["uri"] in {row["uri"] for row in items.values()}}
    assert {item: items[item] for item in kept} == kept
    assert len(kept) == 15
    assert len(items) == 15 + 6


def test_nightly_of_tars_that_cannot_be_read_says_so_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.tar.gz").write_bytes(b"\x1f\x8b" + bytes(999))
    words = ["nightly", "source=tar", f"source.path={tmp_path}", f"corpus={tmp_path / 'corpus'}"]
    assert cli.main([*words, "cluster=local", "tracking=off"]) == 2
    told = capsys.readouterr().err.strip()
    assert "a.tar.gz" in told
    assert "decompress" in told
    assert "\n" not in told
    assert not (tmp_path / "corpus").exists()
