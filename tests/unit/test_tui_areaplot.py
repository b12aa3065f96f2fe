"""A metric over time as blocks: scale, gaps, peaks, width."""

from collections.abc import Sequence

import pytest

from agent.api.telemetry import MetricHistory
from tui import areaplot, safe


def past(mean: Sequence[float | None], most: Sequence[float | None] | None = None, unit: str = "%") -> MetricHistory:
    known = tuple(mean)
    return MetricHistory(
        node="n1",
        series="GPU-1",
        metric="m",
        unit=unit,
        begin=1_800_000_000,
        width_s=60,
        least=known,
        mean=known,
        most=known if most is None else tuple(most),
    )


def test_height_and_gaps_are_the_values() -> None:
    drawn = areaplot.lines(past([0, 25, 50, None, 100]), 20, height=2)
    assert drawn[0] == "100% ┤    █"
    assert drawn[1] == "  0% ┤▁▄█ █"


def test_the_most_stands_in_shade_above_the_mean() -> None:
    drawn = areaplot.lines(past([25.0, 25.0], [100.0, 25.0]), 20, height=4)
    assert [line[6:] for line in drawn[:4]] == ["░", "░", "░", "██"]


@pytest.mark.parametrize(
    ("unit", "value", "top"),
    [
        ("mW", 698_000, "1000 W"),
        ("mW", 61_000, "100 W"),
        ("B", 70 * 2**30, "128 GiB"),
        ("%", 3, "100%"),
        ("°C", 62, "100°C"),
        ("MHz", 1980, "2000 MHz"),
        ("", 0.4, "0.5"),
        ("B/s", 0, "1 B/s"),
    ],
)
def test_the_scale_ends_at_a_round_value_with_its_unit(unit: str, value: float, top: str) -> None:
    assert areaplot.lines(past([value], unit=unit), 40)[0].split(" ┤")[0].strip() == top


@pytest.mark.parametrize("width", [1, 8, 20, 80, 300])
def test_no_line_is_wider_than_asked_for_where_there_is_room_for_the_scale(width: int) -> None:
    drawn = areaplot.lines(past([float(n % 100) for n in range(500)]), width)
    assert max(safe.width(line) for line in drawn[:-1]) <= max(width, 7)
    assert width < 20 or max(safe.width(line) for line in drawn) <= width


def test_of_more_buckets_than_columns_the_newest_are_drawn() -> None:
    drawn = areaplot.lines(past([0.0] * 100 + [100.0] * 10), 16, height=1)
    assert drawn[0] == "100% ┤" + "█" * 10


def test_the_summary_tells_spread_and_gap() -> None:
    assert areaplot.summary(past([10.0, 30.0, None, None], [10.0, 90.0, None, None])) == (
        "least 10%, mean 20%, most 90%; gaps 50%"
    )
    assert areaplot.summary(past([None])) == "nothing was measured in that time"
    assert areaplot.summary(past([])) == "nothing was measured in that time"
    assert areaplot.lines(past([]), 40, height=1)[0] == "100% ┤"
