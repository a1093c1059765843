import base64
import shutil
import struct
import subprocess
from dataclasses import replace
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
    IndexReport,
    Model,
    Outcome,
    PatchSavings,
    Picture,
    Reject,
    Report,
    SampleSearch,
    StageRow,
    Told,
    Totals,
)
from pipelines.index_facts import IndexFacts
from pipelines.report import render, thumbnail
from stages.base import Image
from stages.index.curve import Measured
from tests.stages.index.measurements import a_measured

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
        pictures=(
            Picture(thumb, text, 77, text, (Answer(text, text),), text, (Told(text, text),)),
            Picture(thumb, "u", 78),
        ),
        searches=(SampleSearch(text, (hit,), thumb), SampleSearch("none", ())),
        models=(Model(text, text, text),),
        commands=(Command(text, text),),
        notes=(text,),
    )


def an_index(text: str, measured: Measured | None) -> IndexFacts:
    recall = None if measured is None else measured.point.worst().value
    return IndexFacts(
        name=text,
        generation=text,
        vectors=1_000_000,
        factory=text,
        recall_at_10=recall,
        size_bytes=72_500_000,
        reason=text,
        template=text,
        trained_on=262_144,
        deltas=3,
        tombstones=1204,
        drift=0.034,
        measured=measured,
    )


def an_index_report(text: str, measured: Measured | None) -> IndexReport:
    return IndexReport(
        run=text,
        corpus=text,
        started=datetime(2026, 11, 21, 2, 0, tzinfo=UTC),
        seconds=3723.0,
        index=an_index(text, measured),
        added=20_480,
        phases={text: 3600.0, "merge": 96.0},
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


INDEX_NUMBERS = (
    *("1,000,000", "72.5 MB", "72.5 bytes", "3 deltas", "1,204", "262,144", "3.4%"),
    *("500 image", "250 text", "0.920", "0.923", "0.926", "0.912", "0.935", "0.723", "0.823", "0.623"),
    *("8 lists", "20 candidates", "4.40", "3.50", "target 0.95"),
)


def test_index_report_numbers_are_all_on_the_page() -> None:
    text = Page(render(an_index_report("some text", a_measured()))).text

    for number in (*INDEX_NUMBERS, "1 h 02 min", "20,480", "1 h 00 min", "1 min 36 s"):
        assert number in text, number
    assert "not reached" not in text


def test_report_of_a_night_shows_the_same_of_its_index() -> None:
    report = replace(a_report("some text", a_picture()), indexes=(an_index("some text", a_measured()),))

    text = Page(render(report)).text

    for number in INDEX_NUMBERS:
        assert number in text, number


def test_index_report_with_hostile_texts_is_inert() -> None:
    html = render(an_index_report(HOSTILE, a_measured()))
    page = Page(html)

    assert not {"script", "iframe", "object", "link", "base", "form", "a", "img"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on") or name in ("src", "href")]
    assert not [char for char in html if char != "\n" and not char.isprintable()]


def test_index_report_of_a_missed_target_says_so() -> None:
    text = Page(render(an_index_report("x", a_measured(reached=False)))).text

    assert "0.95 recall@10 was not reached" in text


def test_index_report_draws_a_line_for_each_kind_with_and_without_rerank() -> None:
    page = Page(render(an_index_report("x", a_measured())))
    exact = Page(render(an_index_report("x", a_measured(k_factor=1))))

    assert page.tags.count("polyline") == 4
    assert page.tags.count("circle") == 2
    assert exact.tags.count("polyline") == 2
    assert "codes alone" in page.text


@pytest.mark.parametrize("measured", [None, a_measured(1, 1, steps={1: 0.4})], ids=["unmeasured", "flat"])
def test_index_report_without_a_curve_draws_none(measured: Measured | None) -> None:
    page = Page(render(an_index_report("x", measured)))

    assert "polyline" not in page.tags
    assert ("not measured" in page.text) == (measured is None)


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
@pytest.mark.parametrize(
    ("report", "width"),
    [
        (a_report(HOSTILE, a_picture()), 1200),
        (a_report(HOSTILE, a_picture()), 500),
        (an_index_report(HOSTILE, a_measured()), 500),
    ],
    ids=["night", "night-phone", "index-phone"],
)
def test_report_in_a_browser_is_laid_out(report: Report | IndexReport, width: int, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(render(report))

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
