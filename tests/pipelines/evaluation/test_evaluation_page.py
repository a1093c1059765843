"""The page of an evaluation: everything on it is data, and nothing of it does anything."""

from datetime import UTC, datetime
from html.parser import HTMLParser

import numpy as np
import pytest

from pipelines.evaluation.facts import (
    Breakdown,
    Change,
    Comparison,
    EvaluationReport,
    Item,
    Past,
    Score,
    Trouble,
)
from pipelines.evaluation.trend import trends
from pipelines.facts import Command
from pipelines.report import render, thumbnail

HOSTILE = "\"><script>alert(1)</script><img src=x onerror='alert(2)'>\u202egpj.exe\x1b[31m"


class _Page(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.words += data


def _report(text: str) -> EvaluationReport:
    picture = thumbnail(np.full((30, 40, 3), 90, np.uint8), 40)
    score = Score(text, 0.61237, 0.5, 0.75, 1_234)
    item = Item(text, text, (text, text), 0.125, 7, text, text, picture, text, 0.5)
    changes = (
        Change(text, 0.5, 0.75, 0.25, 0.125, 0.375, 10, 2),
        Change("median rank", 9, 8, -1, -2, -0.5, 10, 2, higher_is_better=False),
        Change("CIDEr", 0.5, 0.51, 0.01, -0.02, 0.04, 10, 9),
    )
    return EvaluationReport(
        run=text,
        corpus=text,
        started=datetime(2026, 11, 22, tzinfo=UTC),
        seconds=3.0,
        task=text,
        of=text,
        data="0",
        scored=1_234,
        references=1_240,
        scores=(score,),
        main=text,
        settings={text: text},
        facts={text: text},
        troubles=(Trouble(text, 6, (text, text)),),
        breakdowns=(Breakdown(text, {text: score}),),
        past=tuple(Past(text, text, {text: score}) for _ in range(3)),
        worst=(item, Item(text, text, (), 0.0)),
        comparison=Comparison(text, text, changes, text, (item,), (item,)),
        commands=(Command(text, text),),
        notes=(text,),
    )


def test_evaluation_page_with_hostile_texts_is_inert() -> None:
    html = render(_report(HOSTILE))
    page = _Page(html)
    assert not {"script", "iframe", "object", "link", "base", "form", "a"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    sources = [value for name, value in page.attributes if name in ("src", "href")]
    assert len(sources) == 3
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert not [sign for sign in html if sign != "\n" and not sign.isprintable()]


def test_evaluation_page_holds_the_numbers_and_the_verdicts() -> None:
    words = " ".join(_Page(render(_report("some text"))).words.split())
    for told in ("0.6124", "0.5000 to 0.7500", "1,234", "scored of 1,240", "+0.2500", "+0.1250 to +0.3750"):
        assert told in words, told
    assert "+0.3750better" in words
    assert "+0.0400within noise" in words


def test_change_of_a_rank_is_better_where_it_falls() -> None:
    _, rank, cider = _report("x").comparison.changes  # type: ignore[union-attr]
    assert (rank.verdict, cider.verdict) == ("better", "within noise")


def _past(*values: float) -> list[Past]:
    return [Past(str(n), "x", {"A": Score("A", v, v - 0.1, v + 0.1, 9)}) for n, v in enumerate(values)]


def test_trend_draws_a_higher_score_higher_and_the_last_run_apart() -> None:
    (drawn,) = trends(_past(0.2, 0.6, 0.4))
    first, second, third = drawn.dots
    assert first.x < second.x < third.x
    assert second.y < third.y < first.y
    assert [dot.last for dot in drawn.dots] == [False, False, True]
    assert all(dot.high < dot.y < dot.low for dot in drawn.dots)
    assert (drawn.lowest, drawn.highest) == pytest.approx((0.1, 0.7))
    assert 0 <= second.high < first.low <= drawn.height


def test_trend_of_one_run_or_of_endless_ranks_is_not_drawn() -> None:
    assert trends(_past(0.2)) == []
    assert trends(_past(0.2, float("inf"))) == []
    assert [one.name for one in trends(_past(0.3, 0.3))] == ["A"]
