"""`darkroom preview` over a few drawn pictures, with the pocket captioner and a tiny random model."""

from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pipelines import cli
from pipelines.config import load
from pipelines.preview import preview_generators
from pipelines.preview_facts import PreviewReport
from stages.pocket import language
from stages.pocket.corpus import Written, write_broken, write_pictures
from tests.stages.generators.tiny_models import save_model

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    write_pictures(folder, 12, seed=4)
    return folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Never ends a text: it goes round."""
    return save_model(tmp_path_factory.mktemp("models") / "tiny-blip", "blip", ends=())


def _preview(photos: Path, out: Path, *words: str) -> PreviewReport:
    report: PreviewReport = preview_generators(
        load("preview", [f"source.path={photos}", f"out={out}", *words])
    )
    return report


class _Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.words += data


def test_preview_shows_two_generators_side_by_side(photos: Path, tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    report = _preview(photos, out, f"captioners=[pocket,{tiny}]", "n=3")
    pocket, other = report.writers
    assert (pocket.name, other.name, report.found, len(report.pictures)) == ("pocket", "tiny-blip", 12, 3)
    assert pocket.statuses == {"ok": 3}
    assert sum(other.statuses.values()) == 3
    assert "ok" not in other.statuses
    assert other.tokens == 64
    assert pocket.seconds > 0
    page = _Page(out.read_text())
    for picture in report.pictures:
        assert picture.uri in page.words
        ((mine,), (theirs,)) = picture.said
        assert mine.text in page.words
        assert f"{theirs.status} {theirs.error}" in " ".join(page.words.split())
    assert "script" not in page.tags
    assert len(page.sources) == 3
    assert all(source.startswith("data:image/jpeg;base64,") for source in page.sources)


def test_preview_captions_are_true_and_the_seed_chooses_the_images(photos: Path, tmp_path: Path) -> None:
    written: dict[str, Written] = {
        one.path.relative_to(photos).as_posix(): one for one in write_pictures(photos, 12, seed=4)
    }
    reports = [_preview(photos, tmp_path / "page.html", "n=6", f"seed={seed}") for seed in (1, 1, 2)]
    uris = [[picture.uri for picture in report.pictures] for report in reports]
    assert uris[0] == uris[1] != uris[2]
    said = {picture.uri: picture.said[0][0].text for picture in reports[0].pictures}
    true = [said[uri] == language.captions(written[uri].scene)[0] for uri in uris[0]]
    assert sum(true) >= 4  # bars it misreads at times


def test_preview_questions_are_answered_by_the_answerer(photos: Path, tiny: Path, tmp_path: Path) -> None:
    asked = ("what is it?", "is there a red circle?")
    report = _preview(
        photos,
        tmp_path / "page.html",
        "n=2",
        f"questions=[{','.join(asked)}]",
        "answerer=blip",
        f"answerer.what.generator.model={tiny}",
        "answerer.what.generator.max_new_tokens=3",
    )
    assert [writer.name for writer in report.writers] == ["pocket", "blip"]
    for picture in report.pictures:
        assert [[one.question for one in said] for said in picture.said] == [[""], list(asked)]


def test_preview_questions_without_an_answerer_are_answered_by_each_captioner(
    photos: Path, tmp_path: Path
) -> None:
    (writer,) = (report := _preview(photos, tmp_path / "page.html", "n=2", "questions=what is it?")).writers
    assert writer.statuses == {"ok": 4}
    assert [[one.question for one in picture.said[0]] for picture in report.pictures] == [
        ["", "what is it?"]
    ] * 2


def test_preview_question_with_the_caption_reads_that_of_the_captioner(photos: Path, tmp_path: Path) -> None:
    words = ("n=2", 'questions=["{caption}, is there a red circle?"]')
    report = _preview(photos, tmp_path / "page.html", *words, "answerer=pocket_reasoner")
    assert [writer.model for writer in report.writers] == [
        "pocket:captioner",
        "pocket:captioner + pocket:reasoner",
    ]
    for (caption,), (answer,) in [picture.said for picture in report.pictures]:
        assert caption.text in answer.question


def test_preview_of_broken_files_says_what_is_wrong_with_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "photos"
    write_broken(broken, 5, 3)
    (broken / f"{HOSTILE.replace('/', ' ')}.jpg").write_bytes(b"no image")
    assert cli.main(["preview", f"source.path={broken}", f"out={tmp_path / 'page.html'}"]) == 0
    page = _Page((tmp_path / "page.html").read_text())
    assert "the first bytes are those of no known image format" in page.words
    assert "script" not in page.tags
    assert "no known image format" in " ".join(capsys.readouterr().out.split())


def test_preview_writes_the_page_and_nothing_else(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(photos.rglob("*"))
    monkeypatch.chdir(tmp_path)
    assert cli.main(["preview", f"source.path={photos}", "n=1"]) == 0
    assert sorted(photos.rglob("*")) == before
    assert [file.name for file in tmp_path.iterdir()] == ["preview.html"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["n=0"], 2, "n must be at least 1"),
        (["captioners=nobody"], 2, "captioner must be one of blip"),
        (["captioners=/no/such/folder"], 1, "/no/such/folder"),
        (["captioner=none"], 2, "at least one must be set"),
        (["answerer=pocket"], 2, "set questions"),
        (['questions=["{tags}?"]'], 2, "a preview knows none"),
        (["captioners=openai_caption"], 2, "a preview has captions, of captioners before it"),
        (["source.path=/no/such/folder"], 2, "source folder /no/such/folder does not exist"),
        (["out=/no/such/folder/page.html", "n=1"], 1, "/no/such/folder/page.html"),
    ],
)
def test_preview_that_cannot_work_says_why_in_one_line(
    photos: Path, tmp_path: Path, words: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["preview", f"source.path={photos}", f"out={tmp_path / 'page.html'}", *words]) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert list(tmp_path.iterdir()) == []
