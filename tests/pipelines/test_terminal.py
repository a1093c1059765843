import io
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from rich.console import Console, RenderableType

from pipelines.facts import (
    Dataset,
    Example,
    Hit,
    MetadataKey,
    Outcome,
    Reject,
    Report,
    StageRow,
    TellsOfItems,
    Totals,
)
from pipelines.index_facts import IndexFacts
from pipelines.progress import DatasetProgress, ProgressDisplay
from pipelines.terminal import console, description, hits, summary
from tests.stages.index.measurements import a_measured

HOSTILE = "\x1b[31mred\x1b]8;;http://evil.test\x07link\x9b2J[bold]loud[/bold][/]\u202egpj.exe\r\n"


def rendered(what: RenderableType) -> str:
    stream = io.StringIO()
    console(stream).print(what)
    return stream.getvalue()


def a_report(name: str = "nightly-1") -> Report:
    return Report(
        pipeline="nightly",
        run=name,
        corpus="/data",
        started=datetime(2026, 11, 21, tzinfo=UTC),
        totals=Totals(items=12345, rejected=45, new=678, seconds=60.0),
        outcome=Outcome.FAILED,
        stages=(StageRow(name, rows=678, seconds=2.0, rejected=4, workers=3),),
        rejects=(Reject("truncated", 45, (Example(f"/data/{name}", f"error {name}"),)),),
        indexes=(IndexFacts("pocket", "gen-000003", 12300, "IVF64,PQ16", recall_at_10=0.9421),),
        notes=(f"note {name}",),
    )


def assert_inert(output: str) -> None:
    assert not [char for char in output if char != "\n" and not char.isprintable()]
    assert "[bold]loud[/bold][/]" in "".join(output.split())


def test_summary_of_a_run_holds_its_numbers() -> None:
    output = rendered(summary(a_report()))

    for value in ("12,345", "678", "45", "failed", "339", "gen-000003", "0.942", "truncated"):
        assert value in output


def test_summary_of_hostile_names_is_inert() -> None:
    assert_inert(rendered(summary(a_report(HOSTILE))))


def test_hits_of_a_search_hold_score_id_uri_and_caption() -> None:
    output = rendered(hits([Hit(0.81234, 1048577, "file:///a.jpg", "two cats"), Hit(0.5, 2, "b", None)]))

    for value in ("0.8123", "1048577", "file:///a.jpg", "two cats"):
        assert value in output


def test_hits_with_hostile_uri_are_inert() -> None:
    assert_inert(rendered(hits([Hit(0.5, 1, HOSTILE, HOSTILE, original_caption=HOSTILE)])))


def test_hits_with_long_uri_lose_nothing() -> None:
    uri = "s3://bucket/" + "0123456789" * 40
    output = rendered(hits([Hit(0.5, 1, uri, "a caption")]))

    assert "".join(part for part in output.split() if part in uri).endswith(uri[-20:])
    assert "…" not in output


def test_description_of_a_corpus_holds_its_numbers() -> None:
    dataset = Dataset("captions/pocket", 12, 6144, {"truncated": 7}, "abc123", 1_400_000_000)
    index = IndexFacts("pocket", "gen-000002", 6137, "Flat")
    output = rendered(description([dataset], [index]))

    for value in ("captions/pocket", "12", "6,144", "7 truncated", "abc123", "1.4 GB", "gen-000002", "6,137"):
        assert value in output


def an_index(name: str = "pocket") -> IndexFacts:
    return IndexFacts(
        name=name,
        generation=name,
        vectors=1_000_000,
        factory=name,
        recall_at_10=0.823,
        size_bytes=72_500_000,
        deltas=1,
        tombstones=1204,
        drift=0.034,
        measured=a_measured(reached=False),
    )


@pytest.mark.parametrize("width", [80, 160])
def test_description_of_an_index_holds_its_recall_and_its_state(width: int) -> None:
    stream = io.StringIO()
    Console(file=stream, width=width, markup=False, highlight=False).print(description([], [an_index()]))

    output = " ".join(stream.getvalue().split())
    for value in (
        "1,000,000",
        "0.823",
        "72.5 MB",
        "0.820 0.823 0.826",
        "0.812",
        "0.835",
        "0.920 0.923 0.926",
    ):
        assert value in output, value
    for value in ("8 lists", "20 candidates", "4.40 ms", "0.623", "0.95", "1 delta", "1,204", "3.4%"):
        assert value in output, value


def test_description_tells_what_the_source_says_and_of_how_many_images() -> None:
    keys = [MetadataKey(f"k{number}", {"number": 3, "text": 2}) for number in range(50)]
    output = rendered(description([], [], TellsOfItems(1_000_000, 65_536, 77, tuple(keys))))
    for value in ("65,536 of 1,000,000", "77", "metadata.k0", "3 number, 2 text", "10 more keys"):
        assert value in output, value


def test_description_of_hostile_names_is_inert() -> None:
    hostile = [Dataset(HOSTILE, 1, 1, {HOSTILE: 1}, HOSTILE, 1)]
    assert_inert(rendered(description(hostile, [])))
    told = TellsOfItems(2, 1, 1, (MetadataKey(HOSTILE, {"number": 1}),))
    assert_inert(rendered(description([], [], told)))
    assert_inert(rendered(description([], [an_index(HOSTILE)])))


@pytest.fixture
def clock() -> tuple[list[float], Callable[[], float]]:
    now = [0.0]
    return now, lambda: now[0]


def test_progress_off_a_terminal_is_lines_at_most_every_interval(
    clock: tuple[list[float], Callable[[], float]],
) -> None:
    now, tick = clock
    stream = io.StringIO()
    with ProgressDisplay(console(stream), interval_s=5.0, clock=tick) as display:
        for second in range(21):
            now[0] = float(second)
            display.update([DatasetProgress("items", done=second, total=100, items=10 * second)])

    lines = stream.getvalue().splitlines()
    assert len(lines) == 5
    assert "\x1b" not in stream.getvalue()
    assert "20/100" in lines[-1]
    assert "10.0 items/s" in lines[-1]
    assert "1 min 20 s" in lines[-1]


def test_progress_resumed_run_expects_from_new_shards_only(
    clock: tuple[list[float], Callable[[], float]],
) -> None:
    now, tick = clock
    stream = io.StringIO()
    with ProgressDisplay(console(stream), clock=tick) as display:
        display.update([DatasetProgress("items", done=90, total=100, items=0)])
        now[0] = 10.0
        display.update([DatasetProgress("items", done=92, total=100, items=1024, rejects=3)])

    last = stream.getvalue().splitlines()[-1]
    assert "40 s" in last
    assert "3 rejected" in last


def test_progress_last_state_is_printed_at_the_end(clock: tuple[list[float], Callable[[], float]]) -> None:
    stream = io.StringIO()
    with ProgressDisplay(console(stream), clock=clock[1]) as display:
        display.update([DatasetProgress("items", done=0, total=2, items=0)])
        display.update([DatasetProgress("items", done=2, total=2, items=700)])

    assert "2/2" in stream.getvalue().splitlines()[-1]


def test_progress_on_a_terminal_draws_a_bar_per_dataset() -> None:
    stream = io.StringIO()
    terminal = Console(file=stream, force_terminal=True, width=120, markup=False, color_system=None)
    with ProgressDisplay(terminal) as display:
        display.update(
            [
                DatasetProgress("items", done=3, total=4, items=1500, rejects=2),
                DatasetProgress("captions/[red]x\x1b[31m", done=1, total=4, items=512),
            ]
        )

    output = stream.getvalue()
    for value in ("items", "3/4", "2 rejected", "captions/[red]x", "1/4"):
        assert value in output
    assert "\x1b[31m" not in output
