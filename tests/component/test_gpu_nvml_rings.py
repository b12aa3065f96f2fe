"""What a GPU did between two readings: the driver's rings, and glances. Real binding, a library compiled from C."""

from __future__ import annotations

import pytest

from agent.gpu.nvml import NvmlReader
from agent.gpu.nvml_rings import SILENT_S
from tests.fakes.nvml import NvmlStandIn
from tests.fakes.sampler import nvml as nvml

NOW = 1_800_000_000.0
POWER, LOAD = 0, 1
NO_COUNTERS = tuple(f"field gpu=0 id={number} scope=* type=3 code=3 value=0" for number in (74, 75))
"""Of throttling."""


def opened(nvml: NvmlStandIn, *lines: str) -> NvmlReader:
    nvml.write(*lines)
    reader = NvmlReader(str(nvml.library))
    reader.open()
    return reader


def sample(at_s: float, value: object, ring: int = POWER) -> str:
    return f"sample gpu=0 ring={ring} at={round((NOW + at_s) * 1e6)} value={value}"


def test_a_peak_between_two_readings_is_not_lost(nvml: NvmlStandIn) -> None:
    reader = opened(nvml, sample(0.0, 100_000), sample(-5.0, 600_000))
    reader.read(0, NOW, 0.0)
    lines = [sample(0.02 * each, 100_000 if each != 25 else 690_000) for each in range(1, 51)]
    nvml.write(*lines, sample(0.5, 40, LOAD), sample(0.9, 60, LOAD))
    spreads = reader.read(0, NOW + 1, 1.0).spreads
    assert spreads == {
        "power_mw": (100_000.0, 111_800.0, 690_000.0),
        "utilization_percent": (40.0, 50.0, 60.0),
    }


def test_samples_are_taken_once_and_those_before_our_time_not_at_all(nvml: NvmlStandIn) -> None:
    lines = [sample(-30.0, 600_000), sample(-1.5, 600_000), sample(-0.5, 200_000), sample(0.0, 300_000)]
    reader = opened(nvml, *lines)
    assert reader.read(0, NOW, 0.0).spreads["power_mw"] == (200_000.0, 250_000.0, 300_000.0)
    assert reader.read(0, NOW, 1.0).spreads == {}  # NOT_FOUND
    nvml.write(*lines, sample(1.0, 50_000), sample(1.0, 50_000), sample(2.0, 80_000))
    assert reader.read(0, NOW, 2.0).spreads["power_mw"] == (50_000.0, 60_000.0, 80_000.0)


def test_a_ring_is_found_again_after_the_clock_was_set_back(nvml: NvmlStandIn) -> None:
    reader = opened(nvml, sample(0.0, 100_000))
    reader.read(0, NOW, 0.0)
    back = -7200.0
    nvml.write(sample(back, 200_000))
    seconds = range(1, int(SILENT_S) + 3)
    assert [reader.read(0, NOW + back, float(second)).spreads for second in seconds] == [{}] * len(seconds)
    nvml.write(sample(back, 200_000), sample(back + 9, 210_000))
    assert reader.read(0, NOW + back, seconds[-1] + 1.0).spreads == {"power_mw": (210_000.0,) * 3}


def test_a_ring_that_stands_still_is_not_told_again(nvml: NvmlStandIn) -> None:
    reader = opened(nvml, sample(0.0, 100_000))
    reader.read(0, NOW, 0.0)
    assert [reader.read(0, NOW, float(second)).spreads for second in range(1, 15)] == [{}] * 14


@pytest.mark.parametrize(
    ("kind", "value"), [(0, "250000.5"), (1, "250000"), (3, "250000"), (5, "250000"), (6, "25000")]
)
def test_samples_are_read_by_their_type(nvml: NvmlStandIn, kind: int, value: str) -> None:
    reader = opened(nvml, f"sampletype {kind}", sample(0.0, value))
    assert reader.read(0, NOW, 0.0).spreads["power_mw"] == (float(value),) * 3


def test_samples_of_an_unknown_type_and_absurd_ones_are_left_out(nvml: NvmlStandIn) -> None:
    assert opened(nvml, "sampletype 9", sample(0.0, 5)).read(0, NOW, 0.0).spreads == {}
    reader = opened(nvml, sample(-0.4, 5), sample(-0.2, 7), sample(0.0, 4_000_000_000), sample(0.0, 2619, LOAD))
    gpu = reader.read(0, NOW, 0.0)
    assert (gpu.spreads, gpu.dropped) == ({"power_mw": (5.0, 6.0, 7.0)}, 2)


# --- glances between two readings -------------------------------------------------------------------------------------


def test_what_is_seen_between_two_readings_of_a_board_without_rings_is_told_with_the_next(nvml: NvmlStandIn) -> None:
    reader = opened(nvml, *NO_COUNTERS, "value gpu=0 power_mw=100000 util=10")
    reader.glance(0, 0.0)  # never read: not looked at
    assert reader.read(0, NOW, 0.0).spreads == {}
    for number, (power, load, bits) in enumerate(((500_000, 90, 4), (50_000, 0, 0), (4_000_000_000, 2619, 4))):
        nvml.write(*NO_COUNTERS, f"value gpu=0 power_mw={power} util={load} reasons={bits}")
        reader.glance(0, 0.1 * number)
    nvml.write(*NO_COUNTERS, "value gpu=0 power_mw=100000 util=30 reasons=0")
    gpu = reader.read(0, NOW + 1, 1.0)
    assert gpu.spreads == {
        "power_mw": (50_000.0, 650_000 / 3, 500_000.0),
        "utilization_percent": (0.0, 40.0, 90.0),
    }
    assert (gpu.throttled_percent, gpu.dropped) == (50.0, 2)
    assert reader.read(0, NOW + 2, 2.0).spreads == {}


def test_a_glance_adds_to_the_ring_and_its_mean_is_the_rings(nvml: NvmlStandIn) -> None:
    reader = opened(nvml, sample(0.0, 100_000))
    reader.read(0, NOW, 0.0)
    nvml.write(sample(0.5, 200_000), sample(0.9, 300_000), "value gpu=0 power_mw=650000")
    reader.glance(0, 0.5)
    nvml.write(sample(0.5, 200_000), sample(0.9, 300_000), "value gpu=0 power_mw=250000")
    assert reader.read(0, NOW + 1, 1.0).spreads["power_mw"] == (200_000.0, 250_000.0, 650_000.0)
