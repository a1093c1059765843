"""Nights over tars of images that bring captions and metadata along."""

import io
import json
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from darkroom import Corpus
from pipelines import cli
from pipelines import corpus as stored
from stages.pocket.corpus import write_pictures
from tests.pipelines.test_nights import _says

PICTURES, SHARD_ROWS = 8, 3
SECRET = "a word that nothing else says"
QUESTIONS = """
mine:
  questions:
    - {name: place, question: "taken in {metadata.where.city}. what color is the background?"}
    - {name: told, question: "{original_caption} how many objects are there?"}
    - name: clip
      images: group by metadata.clip order by metadata.frame
      question: "{metadata.note} what kind of picture is this?"
"""
# By key; frames of the clip come as 10, 9, "last", which is no number; 00 and 07 have the same bytes.
FRAMES: dict[str, Any] = {"06": 10, "01": 9, "04": "last"}


def _told(key: str) -> dict[str, Any]:
    told: dict[str, Any] = {
        "where": {"city": f"city {key}"},
        "width": 100 * int(key),
        "license": "<b>cc0</b>",
        "note": SECRET if key == "06" else f"note {key}",
    }
    if key in FRAMES:
        told |= {"clip": "one", "frame": FRAMES[key]}
    if key == "05":
        told |= {"where": None}
    return told


def _member(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mtime = len(data), 1_700_000_000
    tar.addfile(entry, io.BytesIO(data))


class Tars:
    """Two tars of eight pictures, with .json and .txt; and their corpus."""

    def __init__(self, root: Path) -> None:
        self.root, self.folder = root, root / "corpus"

    def run(self, *more: str) -> int:
        source = ["source=tar", f"source.path={self.root / 'tars'}"]
        plain = ["cluster=local", "tracking=off", "max_reject_ratio=1"]
        asked = f"questions={self.root / 'questions.yaml'}"
        return cli.main(["nightly", *source, f"corpus={self.folder}", *plain, asked, *more])

    def answers(self, name: str) -> dict[str, dict[str, Any]]:
        items = Corpus(self.folder).items().read_all().to_pylist()
        uris = {row["image_id"]: row["uri"] for row in items}
        rows = Corpus(self.folder).answers().read_all().to_pylist()
        return {
            _key(uris[row["image_id"]]): row | {"uris": [_key(uris[one]) for one in row["images"] or ()]}
            for row in rows
            if row["name"] == name
        }

    def items(self) -> dict[str, dict[str, Any]]:
        return {_key(row["uri"]): row for row in Corpus(self.folder).items().read_all().to_pylist()}


def _key(uri: str) -> str:
    return Path(uri).stem


@pytest.fixture(scope="module")
def first_night(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tars]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipelines.plan.SHARD_ROWS", SHARD_ROWS)
        tars = Tars(tmp_path_factory.mktemp("told"))
        files = [one.path for one in write_pictures(tars.root / "drawn", PICTURES - 1, seed=31)]
        (tars.root / "tars").mkdir()
        (tars.root / "questions.yaml").write_text(QUESTIONS)
        for number in range(2):
            with tarfile.open(tars.root / "tars" / f"{number}.tar", "w") as tar:
                for place in range(number * 4, number * 4 + 4):
                    key, file = f"{place:02d}", files[place % len(files)]
                    _member(tar, f"{key}{file.suffix}", file.read_bytes())
                    _member(tar, f"{key}.json", json.dumps(_told(key)).encode())
                    if key != "03":
                        _member(tar, f"{key}.txt", f"original {key} <i>".encode())
        assert tars.run("report.pictures=100", "report.searches=1") == 0
        yield tars


@pytest.fixture
def tars(first_night: Tars, tmp_path: Path) -> Tars:
    copy = Tars(tmp_path)
    shutil.copytree(first_night.root, copy.root, dirs_exist_ok=True)
    return copy


def test_night_over_tars_keeps_what_they_say_also_of_identical_images(first_night: Tars) -> None:
    items = first_night.items()
    assert len(items) == PICTURES
    assert items["07"]["reused_from"] == items["00"]["image_id"]
    for key, item in items.items():
        assert json.loads(item["metadata"]) == _told(key)
        assert item["original_caption"] == (None if key == "03" else f"original {key} <i>")


def test_night_asks_with_what_the_source_says_and_asks_nothing_where_that_is_missing(
    first_night: Tars,
) -> None:
    places, told = first_night.answers("place"), first_night.answers("told")
    for key in first_night.items():
        if key == "05":
            assert (places[key]["status"], places[key]["answer"]) == ("not_asked", None)
        else:
            assert f"<metadata.where.city>city {key}</metadata.where.city>" in places[key]["question"]
        if key == "03":
            assert told[key]["status"] == "not_asked"
        else:
            assert f"<original_caption>original {key} " in told[key]["question"]
            assert "<i>" not in told[key]["question"]


def test_night_asks_a_clip_of_two_tars_in_the_order_of_its_numbers(first_night: Tars) -> None:
    asked = first_night.answers("clip")
    assert {key: row["uris"] for key, row in asked.items()} == {"01": ["01", "06", "04"]}
    assert asked["01"]["status"] == "ok"
    assert f"2: {SECRET}" in asked["01"]["question"]


def test_search_and_describe_tell_what_the_source_says(
    first_night: Tars, capsys: pytest.CaptureFixture[str]
) -> None:
    where = "where=metadata.width >= 300 and metadata.where.city is not None"
    words = ["search", f"corpus={first_night.folder}", "text=a picture", "k=10", where]
    capsys.readouterr()
    assert cli.main([*words, "format=json"]) == 0
    hits = json.loads(capsys.readouterr().out)
    assert sorted(_key(hit["uri"]) for hit in hits) == ["03", "04", "06", "07"]
    for hit in hits:
        assert hit["metadata"] == _told(_key(hit["uri"]))
    assert cli.main(words) == 0
    assert "original 06 <i>" in capsys.readouterr().out
    assert cli.main(["describe", f"corpus={first_night.folder}", "format=json"]) == 0
    told = json.loads(capsys.readouterr().out)["told"]
    assert (told["items"], told["looked_at"], told["captions"]) == (PICTURES, PICTURES, PICTURES - 1)
    types = {key["name"]: key["types"] for key in told["keys"]}
    assert types["width"] == {"number": PICTURES}
    assert types["where"] == {"object": PICTURES - 1}
    assert types["frame"] == {"number": 2, "text": 1}
    assert cli.main(["describe", f"corpus={first_night.folder}"]) == 0
    assert "metadata.frame" in capsys.readouterr().out


def test_report_shows_what_the_source_says_as_text(first_night: Tars) -> None:
    (page,) = first_night.folder.glob("runs/*/report.html")
    html = page.read_text("utf-8")
    assert "original 06 &lt;i&gt;" in html
    assert "&lt;b&gt;cc0&lt;/b&gt;" in html
    assert "<b>cc0" not in html


def test_night_again_has_nothing_to_do_whatever_where_says(
    tars: Tars, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tars.run() == 0
    assert "nothing to do" in capsys.readouterr().out
    assert tars.run("source.where=metadata.width > 100000") == 0
    assert len(tars.items()) == PICTURES


def test_where_of_a_source_chooses_by_metadata(first_night: Tars, tmp_path: Path) -> None:
    tars = Tars(tmp_path)
    shutil.copytree(first_night.root / "tars", tars.root / "tars")
    shutil.copy(first_night.root / "questions.yaml", tars.root)
    where = "source.where=metadata.width in (100, 400) or original_caption is None"
    assert tars.run(where, "index=none", "encoder=none", "report.pictures=0") == 0
    assert sorted(tars.items()) == ["01", "03", "04"]
    assert tars.run("index=none", "encoder=none", "report.pictures=0") == 0
    assert len(tars.items()) == PICTURES


def test_where_of_a_source_on_a_key_that_is_left_out_is_refused(
    first_night: Tars, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tars = Tars(tmp_path)
    shutil.copy(first_night.root / "questions.yaml", tars.root)
    assert tars.run("source.where=metadata.width > 1", "source.metadata=[note,where]") == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "source.where reads metadata.width, which source.metadata leaves out" in line


@pytest.mark.parametrize(
    ("question", "named"),
    [
        ("{metadata.town}?", "metadata.town, which"),
        ("{metadata.where.country} {metadata.width}?", "metadata.where.country, which"),
    ],
)
@pytest.mark.parametrize("more", [[], ["dry_run=true"]], ids=["night", "dry run"])
def test_question_about_what_the_source_says_of_no_image_is_refused_before_the_night(
    tars: Tars, capsys: pytest.CaptureFixture[str], question: str, named: str, more: list[str]
) -> None:
    shutil.rmtree(tars.folder)
    capsys.readouterr()
    assert tars.run(f"questions=[{question!r}]", *more) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert named in line
    assert "metadata.license" in line
    assert not tars.folder.exists()


def test_preview_asks_with_what_the_source_says(tars: Tars) -> None:
    page = tars.root / "page.html"
    words = ["preview", "source=tar", f"source.path={tars.root / 'tars'}", f"out={page}", "captioners=pocket"]
    questions = "questions=['{metadata.note} {original_caption} what is it?']"
    assert cli.main([*words, "n=20", questions, "source.where=metadata.width > 0"]) == 0
    html = page.read_text("utf-8")
    assert SECRET in html
    assert "original 02" in html
    assert "note 00" not in html


def test_forget_and_compact_leave_no_trace_of_what_the_source_said(tars: Tars) -> None:
    secrets = [SECRET, "original 06", "city 06", "1.tar/06"]

    def holding(text: str) -> list[str]:
        files = [path for path in tars.folder.rglob("*") if path.is_file() and _says(path, text)]
        return [path.relative_to(tars.folder).as_posix() for path in files]

    for secret in secrets:
        assert holding(secret), secret
    (uri,) = (row["uri"] for key, row in tars.items().items() if key == "06")
    (tars.root / "takedown.txt").write_text(f"{uri}\n")
    assert cli.main(["forget", f"corpus={tars.folder}", f"uris={tars.root / 'takedown.txt'}"]) == 0
    pages = [name for secret in secrets for name in holding(secret) if name.endswith(".html")]
    assert pages == []
    assert cli.main(["compact", f"corpus={tars.folder}"]) == 0
    assert {secret: holding(secret) for secret in secrets} == {secret: [] for secret in secrets}
    assert cli.main(["verify", f"corpus={tars.folder}"]) == 0
    assert tars.run() == 0
    assert {secret: holding(secret) for secret in secrets} == {secret: [] for secret in secrets}
    assert len(tars.items()) == PICTURES - 1
    assert len(tars.answers("place")) == PICTURES - 1


def test_metadata_of_a_file_goes_over_that_of_the_source(tars: Tars) -> None:
    uris = {key: row["uri"] for key, row in tars.items().items()}
    rows = [{"uri": uris["05"], "note": "from a file"}, {"uri": uris["02"], "note": None}]
    pq.write_table(pa.Table.from_pylist(rows), tars.root / "known.parquet")
    more = [f"context.metadata={tars.root / 'known.parquet'}", "answers=filed"]
    assert tars.run("questions=['{metadata.note} what is it?']", *more) == 0
    table = pa.concat_tables(table for _, table in stored.Corpus(str(tars.folder)).scan("answers/filed"))
    items = {row["image_id"]: _key(row["uri"]) for row in tars.items().values()}
    asked = {items[row["image_id"]]: row["question"] for row in table.to_pylist()}
    assert "from a file" in asked["05"]
    assert "note 02" in asked["02"]
    assert "note 01" in asked["01"]
