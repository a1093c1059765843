import base64
import shutil
import struct
import subprocess
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipelines.facts import (
    Answer,
    Command,
    Example,
    Hit,
    IndexFacts,
    Model,
    Outcome,
    PatchSavings,
    Picture,
    Reject,
    Report,
    SampleSearch,
    StageRow,
    Totals,
)
from pipelines.report import render, thumbnail
from stages.base import Image

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
HOSTILE = (
    "\"><script>alert(1)</script><img src=http://evil.test/x onerror='alert(2)'>"
    "</style></title>{{ 7 * 7 }}\u202egpj.exe\x1b[31m\x00"
)


def a_picture(height: int = 60, width: int = 80) -> str:
    pixels = np.full((height, width, 3), (200, 60, 40), np.uint8)
    return thumbnail(pixels, 64)


def a_report(text: str, thumb: str) -> Report:
    hit = Hit(0.8127, 1048577, text, text, thumb)
    return Report(
        pipeline=text,
        run=text,
        corpus=text,
        started=datetime(2026, 11, 21, 2, 0, tzinfo=UTC),
        totals=Totals(items=1_234_567, new=48_212, rejected=567, seconds=3723.0),
        source=text,
        outcome=Outcome.COMPLETE,
        stages=(StageRow(text, 48_212, 96.0, 31, 6), StageRow("write", 48_181, 20.0)),
        rejects=(Reject(text, 612, (Example(text, text),), text), Reject("too_large", 53)),
        savings=(PatchSavings(text, 7_390, 10_000),),
        indexes=(IndexFacts(text, text, 987_654, text, 0.9421, 98_211_002),),
        pictures=(Picture(thumb, text, 77, text, (Answer(text, text),)), Picture(thumb, "u", 78)),
        searches=(SampleSearch(text, (hit,), thumb), SampleSearch("none", ())),
        models=(Model(text, text, text),),
        commands=(Command(text, text),),
        notes=(text,),
    )


class Page(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_report_with_hostile_texts_is_inert() -> None:
    page = Page(render(a_report(HOSTILE, a_picture())))

    assert not {"script", "iframe", "object", "link", "base", "form", "a"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    sources = [value for name, value in page.attributes if name in ("src", "href", "srcset", "action")]
    assert len(sources) == 4
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)


def test_report_with_hidden_characters_shows_them() -> None:
    html = render(a_report(HOSTILE, a_picture()))

    assert not [char for char in html if char != "\n" and not char.isprintable()]
    assert "⟨202E⟩" in html
    assert "49" not in Page(html).text


def test_report_with_foreign_thumbnail_shows_no_picture() -> None:
    for foreign in ("http://evil.test/x.png", "javascript:alert(1)", "data:text/html,<script>"):
        page = Page(render(a_report("text", foreign)))
        assert "img" not in page.tags


def test_report_thumbnail_that_leaves_its_attribute_is_escaped() -> None:
    page = Page(render(a_report("text", 'data:image/jpeg;base64,AAAA" onload="alert(1)')))

    assert "onload" not in dict(page.attributes)


def test_report_numbers_are_all_on_the_page() -> None:
    text = Page(render(a_report("some text", a_picture()))).text

    for number in (
        *("1,234,567", "47,645", "567", "48,212", "1 h 02 min", "12.9", "502", "31", "612", "53"),
        *("26.1%", "7,390", "10,000", "987,654", "0.942", "48,181", "98.2 MB", "0.813", "1048577"),
    ):
        assert number in text, number


def test_report_policy_forbids_everything_but_inline_style_and_data_images() -> None:
    attributes = Page(render(a_report("x", a_picture()))).attributes

    assert ("content", "default-src 'none'; img-src data:; style-src 'unsafe-inline'") in attributes


def test_report_of_an_empty_run_renders_without_sections() -> None:
    report = Report("nightly", "r", "/data", datetime(2026, 1, 1, tzinfo=UTC), Totals(0, 0, 0, 0.0))
    page = Page(render(report))

    assert "section" not in page.tags
    assert "img" not in page.tags
    assert "Nothing new" in page.text


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(480, 640, (48, 64)), (640, 480, (64, 48)), (20, 30, (20, 30)), (2, 4000, (1, 64)), (1, 1, (1, 1))],
)
def test_thumbnail_keeps_the_proportions(height: int, width: int, expected: tuple[int, int]) -> None:
    pixels = np.full((height, width, 3), (200, 60, 40), np.uint8)

    uri = thumbnail(pixels, 64)

    decoded = read(base64.b64decode(uri.partition(",")[2]))
    assert decoded.shape[:2] == expected
    assert np.abs(decoded.astype(int) - (200, 60, 40)).max() <= 8


@pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on the PATH")
@pytest.mark.parametrize("width", [1200, 500])
def test_report_in_a_browser_is_laid_out(width: int, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(render(a_report(HOSTILE, a_picture())))

    shot = tmp_path / "shot.png"
    browse(tmp_path, f"--screenshot={shot}", f"--window-size={width},1400", "--hide-scrollbars")

    png = shot.read_bytes()
    pixels = read(png)
    assert struct.unpack(">II", png[16:24]) == (width, 1400)
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50
    # The page fills the window: ink in its upper and in its lower half.
    assert pixels[:700].std() > 5
    assert pixels[700:].std() > 5


@pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on the PATH")
def test_report_in_a_browser_runs_nothing(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(render(a_report(HOSTILE, a_picture())))

    page = Page(browse(tmp_path, "--dump-dom"))

    assert page.tags.count("figure") == 3
    assert "script" not in page.tags
    assert "1,234,567" in page.text


def read(encoded: bytes) -> Image:
    pixels = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR_RGB)
    assert pixels is not None
    return np.asarray(pixels, np.uint8)


def browse(folder: Path, *arguments: str) -> str:
    assert BROWSER
    quiet = ("--disable-background-networking", "--disable-component-update", "--disable-sync")
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    profile = f"--user-data-dir={folder / 'profile'}"
    page = (folder / "report.html").as_uri()
    done = subprocess.run(
        [*command, *quiet, profile, *arguments, page], capture_output=True, timeout=120, check=True
    )
    return done.stdout.decode()
