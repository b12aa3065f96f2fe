"""The simulated source: values, holds, faults and the verb that injects them."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.api.errors import StokerError
from agent.api.types import GpuReading
from agent.gpu.base import GpuLostError, NoGpusError
from agent.gpu.simulated import SimulatedReader, inject, simulated_uuid
from agent.gpu.simulated_layout import Layout


def reader(state_dir: Path, count: int = 8, layout: Layout = Layout.NVSWITCH) -> SimulatedReader:
    return SimulatedReader(count, node_name="n1", state_dir=state_dir, layout=layout)


def grades(source: SimulatedReader, count: int) -> list[list[int | None]]:
    """`nvidia-smi topo -m` of it."""
    readings = [source.read(index, 0.0, 0.0) for index in range(count)]
    return [[one.links.get(other.uuid) for other in readings] for one in readings]


def test_uuids_are_stable_for_a_node_and_differ_between_nodes_and_gpus() -> None:
    uuids = {simulated_uuid(node, index) for node in ("n1", "n2") for index in range(64)}
    assert len(uuids) == 128
    assert all(uuid.startswith("GPU-51a0") and len(uuid) == len("GPU-" + "0" * 32) + 4 for uuid in uuids)
    assert simulated_uuid("n1", 0) == simulated_uuid("n1", 0)


def test_a_held_gpu_becomes_busy_and_calms_down_again(tmp_path: Path) -> None:
    source = reader(tmp_path)
    idle = source.read(2, 1000.0, 0.0)
    source.hold(frozenset({idle.uuid}))
    warming = source.read(2, 1003.0, 3.0)
    busy = source.read(2, 1060.0, 60.0)
    source.hold(frozenset())
    calm = source.read(2, 1200.0, 200.0)
    assert idle.utilization_percent == calm.utilization_percent == 0
    assert (busy.utilization_percent or 0) > 80
    for value in ("utilization_percent", "power_mw", "temperature_c", "memory_used_bytes"):
        assert getattr(idle, value) < getattr(warming, value) < getattr(busy, value)
    assert source.read(3, 1060.0, 60.0).utilization_percent == 0


@given(st.floats(0, 4e9), st.integers(0, 7), st.booleans())
def test_values_are_always_plausible(now: float, index: int, held: bool) -> None:
    source = reader(Path("/nonexistent"))
    if held:
        source.hold(frozenset({simulated_uuid("n1", index)}))
    gpu = source.read(index, now, 0.0)
    assert 0 <= (gpu.utilization_percent or 0) <= 100
    assert 0 < (gpu.memory_used_bytes or 0) < (gpu.memory_total_bytes or 0)
    assert 60_000 < (gpu.power_mw or 0) < (gpu.power_limit_mw or 0)
    assert 20 < (gpu.temperature_c or 0) < 90


def test_the_energy_counter_is_the_integral_of_power(tmp_path: Path) -> None:
    source = reader(tmp_path)
    source.hold(frozenset({simulated_uuid("n1", 0)}))
    readings = [source.read(0, 1000.0 + second, float(second)) for second in range(20)]
    counts = [each.energy_mj or 0 for each in readings]
    assert counts == sorted(counts)
    powers = [each.power_mw or 0 for each in readings]
    assert abs(counts[-1] - counts[0] - sum(powers[1:])) <= 1


def test_gpus_are_joined_by_a_switch_or_in_islands_of_four(tmp_path: Path) -> None:
    switched = grades(reader(tmp_path), 8)
    assert all(grade == (None if a == b else 27) for a, row in enumerate(switched) for b, grade in enumerate(row))
    islands = grades(reader(tmp_path, layout=Layout.ISLANDS), 8)
    assert islands[0] == [None, 13, 13, 13, None, None, None, None]
    assert islands[5] == [None, None, None, None, 13, None, 13, 13]
    assert [reader(tmp_path).read(index, 0.0, 0.0).numa_node for index in (0, 3, 4, 7)] == [0, 0, 1, 1]


def test_a_divided_gpu_has_instances_that_jobs_fill_one_by_one(tmp_path: Path) -> None:
    source = reader(tmp_path, layout=Layout.MIG)
    parent = source.read(0, 1000.0, 0.0)
    small, _, large = idle = source.instances(0, 1000.0, 0.0)
    assert parent.divided
    assert [(each.index, each.mig_profile) for each in idle] == [(100, "1g.10gb"), (101, "2g.20gb"), (102, "4g.40gb")]
    assert all(each.mig_parent == parent.uuid and each.uuid.startswith("MIG-51a0") for each in idle)
    source.hold(frozenset({large.uuid}))
    busier = source.read(0, 1060.0, 60.0)
    after = source.instances(0, 1060.0, 60.0)
    assert (busier.power_mw or 0) > (parent.power_mw or 0) + 100_000
    assert (after[2].memory_used_bytes or 0) > 10 * (large.memory_used_bytes or 0)
    assert after[0].memory_used_bytes == small.memory_used_bytes
    assert all(each.utilization_percent is None and each.power_mw is None for each in after)
    assert source.instances(1, 1060.0, 60.0) == ()
    assert parent.uuid not in source.read(1, 1060.0, 60.0).links


def test_no_simulated_gpus_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(NoGpusError, match="simulated_count"):
        reader(tmp_path, count=0).open()


def test_lost_hot_and_ok(tmp_path: Path) -> None:
    source = reader(tmp_path)
    assert inject(tmp_path, "3", "lost", count=8) == "simulated GPU 3 is now lost"
    inject(tmp_path, "4", "hot", count=8)
    with pytest.raises(GpuLostError, match="simulate gpu 3 ok"):
        source.read(3, 0.0, 0.0)
    assert source.read(4, 0.0, 0.0).temperature_c == 94
    assert source.read(5, 0.0, 0.0).temperature_c != 94
    inject(tmp_path, "3", "ok", count=8)
    assert source.read(3, 0.0, 0.0).index == 3
    assert source.read(4, 0.0, 0.0).temperature_c == 94


def test_hung_blocks_the_thread_that_reads_and_lets_go_when_lifted(tmp_path: Path) -> None:
    source = reader(tmp_path)
    inject(tmp_path, "0", "hung", count=8)
    answered = threading.Event()

    def read() -> None:
        source.read(0, 0.0, 0.0)
        answered.set()

    threading.Thread(target=read, daemon=True).start()
    assert not answered.wait(0.3)
    assert source.read(1, 0.0, 0.0).index == 1
    inject(tmp_path, "0", "ok", count=8)
    assert answered.wait(10)


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\x00", b"[]", b'{"3": "melted"}', b'{"three": "lost"}', b'{"3": 7}', b'{"3": ["lost"]}', b"null"],
)
def test_a_fault_file_that_makes_no_sense_injects_nothing_and_is_repaired_by_the_verb(
    tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "simulated.json").write_bytes(content)
    source = reader(tmp_path)
    assert source.read(3, 0.0, 0.0).index == 3
    inject(tmp_path, "3", "lost", count=8)
    with pytest.raises(GpuLostError):
        source.read(3, 0.0, 0.0)


@pytest.mark.parametrize("index", ["8", "-1", "", "x", "1e0", "²", "0x1", "99999999999999999999", "3\n", "\x1b[2J"])
def test_a_wrong_index_is_refused_and_nothing_is_written(tmp_path: Path, index: str) -> None:
    with pytest.raises(StokerError, match="this node's are 0 to 7") as caught:
        inject(tmp_path, index, "lost", count=8)
    assert "\x1b" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_word_is_refused_and_the_right_ones_named(tmp_path: Path) -> None:
    with pytest.raises(
        StokerError, match="'dead' is no simulated fault; use one of: lost, hung, missing, exchanged, hot, "
    ):
        inject(tmp_path, "1", "dead", count=8)
    assert list(tmp_path.iterdir()) == []


def test_no_simulated_gpus_and_no_folder_are_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(StokerError, match="no simulated GPUs"):
        inject(tmp_path, "0", "lost", count=0)
    with pytest.raises(StokerError, match=r"cannot write .*simulated\.json"):
        inject(tmp_path / "missing", "0", "lost", count=8)


# --- what the values show of a fault ----------------------------------------------------------------------------------


def held_after_a_minute(state_dir: Path, fault: str | None) -> GpuReading:
    """GPU 2, held by a job for a minute, and ill for as long."""
    source = reader(state_dir)
    source.hold(frozenset({simulated_uuid("n1", 2)}))
    if fault is not None:
        inject(state_dir, "2", fault, count=8)
    source.read(2, 1000.0, 0.0)
    return source.read(2, 1060.0, 60.0)


def test_a_well_gpu_tells_everything_and_has_nothing_against_it(tmp_path: Path) -> None:
    gpu = held_after_a_minute(tmp_path, None)
    absent = {name for name, value in msgspec.structs.asdict(gpu).items() if value is None}
    assert absent == {"state_since", "reason", "mig_parent", "mig_profile", "mig_gi", "mig_ci"}
    assert (gpu.ill, gpu.throttle, gpu.throttled_percent, gpu.dropped) == ((), (), 0.0, 0)
    assert set(gpu.spreads) == {"power_mw", "utilization_percent", "memory_utilization_percent"}
    for name, (least, mean, most) in gpu.spreads.items():
        assert least < mean < most
        assert mean == getattr(gpu, name)
    assert (gpu.bus and gpu.bus.nvlinks_active, gpu.limits and gpu.limits.power_most_mw) == (18, 700_000)


@pytest.mark.parametrize(
    ("fault", "reason", "counter"), [("hot", "thermal_hw", "thermal"), ("throttled", "power_brake", "power")]
)
def test_a_gpu_that_is_held_down_says_why_and_how_long(tmp_path: Path, fault: str, reason: str, counter: str) -> None:
    well, ill = held_after_a_minute(tmp_path, None), held_after_a_minute(tmp_path, fault)
    assert reason in (ill.throttle or ())
    assert (ill.throttled_percent or 0) > 50
    assert ill.throttled_us[counter] > 30_000_000
    assert (ill.sm_clock_mhz or 0) < 0.7 * (well.sm_clock_mhz or 0)
    assert (ill.tensor_active_percent or 0) < 0.7 * (well.tensor_active_percent or 0)


def test_a_straggler_is_as_busy_and_slower_for_no_reason(tmp_path: Path) -> None:
    well, ill = held_after_a_minute(tmp_path, None), held_after_a_minute(tmp_path, "straggler")
    assert (ill.throttle, ill.utilization_percent) == ((), well.utilization_percent)
    assert (ill.sm_clock_mhz or 0) < 0.7 * (well.sm_clock_mhz or 0)
    assert (ill.power_mw or 0) < 0.85 * (well.power_mw or 0)


def test_a_gpu_held_by_one_who_does_nothing_is_full_and_idle(tmp_path: Path) -> None:
    gpu = held_after_a_minute(tmp_path, "idle")
    assert (gpu.utilization_percent, gpu.sm_active_percent, gpu.nvlink_tx_bytes_per_s) == (0, 0, 0)
    assert (gpu.power_mw or 0) < 80_000
    assert (gpu.memory_used_bytes or 0) > 50 * 1024**3


def test_a_gpu_whose_job_died_of_an_xid_is_empty_and_wants_a_reset(tmp_path: Path) -> None:
    gpu = held_after_a_minute(tmp_path, "xid")
    assert (gpu.utilization_percent, gpu.errors and gpu.errors.recovery_action) == (0, "gpu_reset")
    assert (gpu.memory_used_bytes or 0) < 1024**3
    assert "reset it" in gpu.ill[0]


def test_a_gpu_with_bad_memory_counts_it_and_works_on(tmp_path: Path) -> None:
    gpu = held_after_a_minute(tmp_path, "ecc")
    assert gpu.errors is not None
    assert (gpu.errors.ecc_uncorrected, gpu.errors.remap_pending) == (2, True)
    assert any("uncorrectable memory errors" in each for each in gpu.ill)
    assert (gpu.utilization_percent or 0) > 80


def test_the_fault_that_the_readme_tries_is_one(tmp_path: Path) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    tried = re.findall(r"^    stoker-agent simulate gpu (\d) (\w+) .*`(\w+)` instead of `(\w+)`", readme, re.MULTILINE)
    assert [(index, word) for index, word, *_ in tried] == [("3", "hung")]
    for index, *words in tried:
        for word in words:
            assert inject(tmp_path, index, word, count=8) == f"simulated GPU 3 is now {word}"
