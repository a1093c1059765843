import pytest

from pipelines.chart import chart
from tests.stages.index.measurements import a_measured


def places(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in path.split())]


def test_chart_line_rises_with_the_lists_inside_the_axes() -> None:
    drawn = chart(a_measured())

    assert drawn
    for line in drawn.lines:
        found = places(line.path)
        assert len(found) == 3
        assert found == sorted(found)
        assert [y for _, y in found] == sorted((y for _, y in found), reverse=True)
        assert (found[0][0], found[-1][0]) == (drawn.left, drawn.right)
        assert all(0 < y <= drawn.bottom for _, y in found + places(line.band))
        assert line.chosen == found[1]


def test_chart_of_equal_ratios_of_time_has_equal_distances() -> None:
    drawn = chart(a_measured(steps={1: 0.1, 8: 1.0, 64: 10.0}))

    assert drawn
    assert drawn.lists[2].at - drawn.lists[1].at == pytest.approx(drawn.lists[1].at - drawn.lists[0].at)
    assert [tick.text for tick in drawn.lists] == ["1", "8", "64"]
    assert [tick.text for tick in drawn.ms] == ["0.1", "0.2", "0.5", "1", "2", "5", "10"]


def test_chart_band_holds_its_line() -> None:
    drawn = chart(a_measured())

    assert drawn
    for line in (line for line in drawn.lines if line.reranked):
        band = places(line.band)
        for number, (x, y) in enumerate(places(line.path)):
            (low_x, low), (high_x, high) = band[number], band[-1 - number]
            assert low_x == high_x == x
            assert high < y < low


def test_chart_places_recall_and_target_on_one_scale() -> None:
    drawn = chart(a_measured())

    assert drawn
    at = {float(tick.text): tick.at for tick in drawn.recall}
    assert drawn.target is not None
    assert at[1] < drawn.target < at[0.9]
    image = next(line for line in drawn.lines if line.kind == "image" and line.reranked)
    assert at[0.9] > image.chosen[1] > drawn.target


def test_chart_with_slower_steps_first_stays_inside() -> None:
    drawn = chart(a_measured(steps={1: 0.5, 8: 0.2, 64: 0.0}))

    assert drawn
    assert all(drawn.left <= x <= drawn.right for line in drawn.lines for x, _ in places(line.path))


def test_chart_labels_that_would_overlap_are_left_out() -> None:
    drawn = chart(a_measured(steps={1: 1.0, 8: 1.001, 64: 2.0}))

    assert drawn
    assert [tick.text for tick in drawn.lists] == ["8", "64"]


def test_chart_of_one_step_is_none() -> None:
    assert chart(a_measured(1, 1, steps={1: 0.4})) is None
