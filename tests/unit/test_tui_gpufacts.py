"""What the page of a GPU writes: every value, its state, its columns; the matrix of links; the band of the past."""

from __future__ import annotations

from datetime import UTC

import msgspec
import pytest

from agent.api.queue import LinkGrade
from agent.api.telemetry import MetricHistory
from agent.api.types import Gpu, GpuErrors, GpuState
from agent.gpu.simulated_gpu import SimulatedGpu
from tests.fakes.values import NOW, gpu
from tui import bandplot, gpufacts, safe, topology
from tui.session import Clock
from tui.spans import plain

CLOCK = Clock(wall=lambda: float(NOW), zone=UTC)


def whole() -> Gpu:
    """One of which everything is known."""
    made = SimulatedGpu(index=0, slot=0, uuid="GPU-1", links={}, nvlinks=18, numa_node=0)
    reading = made.read(float(NOW), 1.0, held=frozenset({"GPU-1"}), fault=None)
    return msgspec.convert(msgspec.structs.asdict(reading), Gpu, from_attributes=True)


def written(of: Gpu) -> dict[str, dict[str, str]]:
    return {group.title: {label: value for label, value, _ in group.lines} for group in gpufacts.groups(of)}


def test_every_field_of_a_reading_has_a_place() -> None:
    """A new field is shown under its own name, and is to be given a better place."""
    assert "More" not in written(whole())


def test_values_are_written_with_their_units_and_peaks() -> None:
    found = written(whole())
    assert found["Power"]["now"].endswith(" W") and "-" in found["Power"]["now"], "what the driver noted in between"
    assert found["Clocks"]["SM"].endswith("MHz of 1980 MHz")
    assert found["NVLink"]["links up"] == "18 of 18"
    assert found["Temperature"]["slows down at"] == "87°C"


def test_what_is_not_offered_is_a_dash_and_never_a_nought() -> None:
    bare = Gpu(index=0, uuid="GPU-1", name="T4", sampled_at=0.0)
    for title, lines in written(bare).items():
        for label, value in lines.items():
            assert value == "–" or (title == "Place" and label in ("left out", "failed now")), (title, label)


def test_what_speaks_against_it_has_a_sign() -> None:
    bad = gpu(0, temperature_c=95, throttle=("thermal_hw",), limits={"temperature_slowdown_c": 87},
              errors={"ecc_uncorrected": 2, "remap_pending": True, "recovery_action": "gpu_reset"})  # fmt: skip
    found = written(bad)
    assert found["Temperature"]["GPU"] == "!95°C"
    assert found["Throttling"]["now"] == "!thermal_hw"
    assert found["ECC and rows"]["uncorrected"] == "!2"
    assert (found["ECC and rows"]["row at reset"], found["ECC and rows"]["driver wants"]) == ("!yes", "!gpu_reset")
    assert bad.errors == GpuErrors(ecc_uncorrected=2, remap_pending=True, recovery_action="gpu_reset")


def test_at_the_power_limit_is_no_fault() -> None:
    assert written(gpu(0, throttle=("power_cap",)))["Throttling"]["now"] == "power_cap"


@pytest.mark.parametrize(
    ("changed", "age_s", "words"),
    [
        ({}, 0.4, " ● ok   read 0 s ago   0%  0/80G  34°C  70 W"),
        ({}, 7.0, " ~ stale: last read 7 s ago"),
        (
            {"state": GpuState.HUNG, "state_since": NOW - 74, "reason": "no answer"},
            75.0,
            " ! hung since 11:05:26 (74 s): no answer; the values are those of 11:06:40",
        ),
        (
            {"state": GpuState.LOST, "state_since": NOW - 5},
            5.0,
            " x lost since 11:06:35 (5 s); the values are those of 11:06:40",
        ),
    ],
)  # fmt: skip
def test_the_head_says_since_when(changed: dict[str, object], age_s: float, words: str) -> None:
    line = gpufacts.state_line(msgspec.structs.replace(gpu(0), **changed), age_s, CLOCK, float(NOW))
    assert plain(line) == words


@pytest.mark.parametrize("width", [30, 38, 77, 116, 155, 300])
def test_columns_fill_the_width_and_keep_every_value(width: int) -> None:
    groups = gpufacts.groups(whole())
    lines = gpufacts.flow(groups, width)
    assert all(safe.width(plain(line)) <= width for line in lines)
    titles = [group.title for group in groups]
    assert all(any(f" {title}" in plain(line) for line in lines) for title in titles)
    assert f" {titles[0]}" in plain(lines[0]), "the first stay on top"


def test_the_matrix_names_the_way_between_each_two() -> None:
    links = {"GPU-n1-1": LinkGrade.NVLINK + 17, "GPU-n1-2": LinkGrade.NODE}
    drawn = [plain(line) for line in topology.lines([gpu(0, links=links), gpu(1), gpu(2), gpu(3)], 100)]
    assert drawn[1].split()[:5] == ["0", "X", "NV18", "NODE", "SYS"]
    assert plain(topology.lines([gpu(0, links=links), gpu(1)], 20)[1]).split() == ["0", "X", "18"]


def test_sixteen_gpus_fit_the_smallest_terminal() -> None:
    assert all(safe.width(plain(line)) <= 76 for line in topology.lines([gpu(index) for index in range(16)], 76))


def past(least: list[float | None], mean: list[float | None], most: list[float | None]) -> MetricHistory:
    return MetricHistory(
        node="n1", series="GPU-1", metric="utilization_percent", unit="%", begin=NOW, width_s=60,
        least=tuple(least), mean=tuple(mean), most=tuple(most),
    )  # fmt: skip


def test_a_band_has_least_mean_and_most_and_gaps_stay_gaps() -> None:
    drawn = [plain(line) for line in bandplot.lines(past([50, None, 0], [75, None, 0], [100, None, 0]), 20, 5, UTC)]
    column = [line[6] for line in drawn[:4]]
    assert column == ["░", "▓", "█", "█"], "most over mean over least"
    assert [line[7] for line in drawn[:4]] == [" ", " ", " ", "·"]
    assert drawn[3][8] == "▁", "nought is not a gap"


def test_a_year_and_nothing_at_all_can_be_drawn() -> None:
    nothing: list[float | None] = [None] * 40
    assert len(bandplot.lines(past(nothing, nothing, nothing), 60, 8, UTC)) == 8
    assert bandplot.name_of("pcie_rx_bytes_per_s") == "pcie rx"
