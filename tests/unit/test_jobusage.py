"""The account of a job's GPUs: integrals, energy, memory, idle time, curve, what it survives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.api.queue import JobUsage, UsagePoint, Verdict
from agent.api.types import GpuProcess, GpuReading, GpuState
from agent.telemetry.curve import MAX_POINTS, Curve
from agent.telemetry.gpuaccount import GAP_S
from agent.telemetry.hostuse import HostUse
from agent.telemetry.jobusage import JobUsageKeeper

GIB = 1024**3
EPOCH = 1_750_000_000.0


def reading(index: int = 0, **values: object) -> GpuReading:
    given = {
        "index": index,
        "uuid": f"GPU-{index}",
        "name": "H100",
        "sampled_at": 0.0,
        "memory_total_bytes": 80 * GIB,
        "memory_used_bytes": 40 * GIB,
        "utilization_percent": 90,
        "memory_utilization_percent": 30,
        "power_mw": 500_000,
        "power_limit_mw": 700_000,
    }
    return msgspec.convert({**given, **values}, GpuReading)


class Node:
    """A node's GPUs under a keeper, with a clock the test turns."""

    def __init__(self, keeper: JobUsageKeeper | None = None, at: float = 0.0) -> None:
        self.keeper = keeper or JobUsageKeeper()
        self.at = at
        """Seconds since `EPOCH`, and monotonic ones."""

    def sample(
        self,
        *readings: GpuReading,
        held_by: Mapping[str, Sequence[int]],
        pids: Mapping[int, int] | None = None,
        step_s: float = 1.0,
    ) -> None:
        """One round, `step_s` after the one before."""
        self.at += step_s
        fresh = [msgspec.structs.replace(each, sampled_at=EPOCH + self.at) for each in readings]
        self.keeper.observe(fresh, held_by, now=EPOCH + self.at, monotonic=self.at, pids=pids or {})

    def run(self, seconds: int, *readings: GpuReading, job: int = 17) -> None:
        """Rounds of the same, one a second; the job holds all these GPUs."""
        held_by = {each.uuid: (job,) for each in readings}
        for _ in range(seconds):
            self.sample(*readings, held_by=held_by)

    def usage(self, job: int = 17) -> JobUsage:
        found = self.keeper.usage(job)
        assert found is not None
        return found


def curve_of(node: Node, job: int = 17) -> tuple[UsagePoint, ...]:
    found = node.keeper.snapshot(job)
    assert found is not None
    return found[1]


# --- integrals --------------------------------------------------------------------------------------------------------


def test_the_integral_the_means_and_the_peak_are_those_of_the_readings() -> None:
    node = Node()
    node.run(101, reading(0, utilization_percent=80), reading(1, utilization_percent=40, memory_used_bytes=10 * GIB))
    node.run(100, reading(0, utilization_percent=100, memory_used_bytes=60 * GIB), reading(1, utilization_percent=0))
    usage = node.usage()
    assert (usage.measured_s, usage.gpu_seconds, usage.samples) == (200.0, 400.0, 201)
    assert usage.gpu_busy_seconds == pytest.approx(80 + 40 + 100)
    assert usage.utilization_percent == pytest.approx(55)
    assert [each.utilization_percent for each in usage.gpus] == [90, 20]
    assert usage.memory_peak_bytes == 100 * GIB
    assert [each.memory_peak_bytes for each in usage.gpus] == [60 * GIB, 40 * GIB]
    assert usage.gpus[0].memory_utilization_percent == 30


def test_a_reading_told_twice_counts_once() -> None:
    node = Node()
    for _ in range(5):
        node.at += 1
        node.keeper.observe([reading(sampled_at=5.0)], {"GPU-0": (17,)}, now=EPOCH + node.at, monotonic=node.at)
    assert (node.usage().samples, node.usage().measured_s) == (1, 0.0)


@pytest.mark.parametrize("state", [GpuState.HUNG, GpuState.LOST])
def test_an_ill_gpu_counts_nothing_and_the_others_go_on(state: GpuState) -> None:
    node = Node()
    node.run(61, reading(0), reading(1))
    node.run(60, reading(0), reading(1, state=state, utilization_percent=0))
    usage = node.usage()
    assert usage.measured_s == 120
    assert usage.gpus[1].utilization_percent == 90
    assert usage.gpu_busy_seconds == pytest.approx(0.9 * 180)


def test_a_gap_is_not_measured_though_the_gpu_was_held() -> None:
    node = Node()
    node.run(11, reading(energy_mj=1_000_000))
    node.sample(reading(energy_mj=51_000_000), held_by={"GPU-0": (17,)}, step_s=100.0)
    node.run(10, reading(energy_mj=51_000_000))
    usage = node.usage()
    assert (usage.measured_s, usage.gpu_seconds) == (20, 120)
    assert usage.gpus[0].energy_j == 50_000  # the counter went on
    assert [point.utilization_percent for point in curve_of(node)].count(None) == 1


def test_a_gpu_nobody_holds_is_on_nobodys_account_and_neither_is_an_unknown_job() -> None:
    node = Node()
    node.sample(reading(), held_by={})
    assert node.keeper.jobs() == ()
    keeper = node.keeper
    assert (keeper.usage(17), keeper.snapshot(17), keeper.save(17), keeper.take(17), keeper.activity(17)) == (None,) * 5


def test_values_the_driver_does_not_offer_are_absent_and_not_nought() -> None:
    node = Node()
    bare = reading(
        utilization_percent=None, memory_utilization_percent=None, power_mw=None, memory_used_bytes=None, uuid="MIG-1"
    )
    node.run(120, bare)
    usage = node.usage()
    assert (usage.utilization_percent, usage.memory_peak_bytes, usage.energy_kwh) == (None, None, None)
    assert (usage.verdict, usage.measured_s) == (Verdict.UNKNOWN, 119)
    assert "MIG" in (usage.sentence or "")
    assert curve_of(node)[-1] == UsagePoint(at=int(EPOCH) + 120)


# --- energy -----------------------------------------------------------------------------------------------------------


def counted(node: Node, start_mj: int, seconds: int, power_mw: int = 500_000) -> None:
    """Rounds in which the counter rises as the power says."""
    for second in range(seconds):
        node.sample(reading(power_mw=power_mw, energy_mj=start_mj + second * power_mw), held_by={"GPU-0": (17,)})


def test_energy_is_the_difference_of_the_counter() -> None:
    node = Node()
    counted(node, 10**12, 3601, power_mw=400_000)
    usage = node.usage()
    assert usage.energy_kwh == pytest.approx(0.4)
    assert usage.gpus[0].energy_j == pytest.approx(1_440_000)
    assert "power × time" not in (usage.sentence or "")


def test_a_counter_that_falls_is_a_reload_and_made_up_for_by_power() -> None:
    node = Node()
    counted(node, 10**12, 101)
    counted(node, 0, 100)
    usage = node.usage()
    assert usage.gpus[0].energy_j == pytest.approx(500 * 200)
    assert "power × time" not in (usage.sentence or "")  # half a percent of it


def test_a_counter_that_leaps_is_not_believed() -> None:
    node = Node()
    counted(node, 0, 101)
    counted(node, 10**15, 100)
    assert node.usage().gpus[0].energy_j == pytest.approx(500 * 200)


def test_without_a_counter_energy_is_power_and_time_and_said_so() -> None:
    node = Node()
    node.run(101, reading(power_mw=500_000))
    usage = node.usage()
    assert usage.gpus[0].energy_j == pytest.approx(50_000)
    assert "100 % of its energy is power × time" in (usage.sentence or "")


def test_what_a_gpu_draws_for_the_next_job_is_not_on_the_account_of_the_last() -> None:
    node = Node()
    counted(node, 0, 11)
    node.run(100, reading(energy_mj=5_500_000), job=18)
    counted(node, 60_000_000, 11)
    assert node.usage(17).gpus[0].energy_j == pytest.approx(10_000)
    assert node.usage(18).gpus[0].energy_j is None


# --- idle time --------------------------------------------------------------------------------------------------------


def test_idle_time_is_without_a_break_and_of_all_gpus() -> None:
    node = Node()
    node.run(31, reading(0, utilization_percent=2), reading(1, utilization_percent=0))
    assert node.usage().idle_s == 30
    node.run(1, reading(0, utilization_percent=0), reading(1, utilization_percent=60))
    assert node.usage().idle_s == 0
    node.run(10, reading(0, utilization_percent=0), reading(1, utilization_percent=0))
    assert node.usage().idle_s == 10


def test_a_mig_instance_without_a_process_is_idle_and_with_one_it_is_not_known_to_be() -> None:
    node = Node()
    node.run(11, reading(utilization_percent=None))
    assert node.usage().idle_s == 10
    node.run(5, reading(utilization_percent=None, processes=[{"pid": 1}]))
    assert node.usage().idle_s == 0


# --- shared GPUs ------------------------------------------------------------------------------------------------------


def shared(*memory: int | None) -> GpuReading:
    """A GPU with a process for each, pids from 100."""
    processes = [GpuProcess(pid=100 + index, memory_used_bytes=each) for index, each in enumerate(memory)]
    return msgspec.structs.replace(reading(), processes=tuple(processes))


def test_a_shared_gpu_is_split_by_the_memory_of_each_jobs_processes() -> None:
    node = Node()
    for _ in range(101):
        gpu = shared(30 * GIB, 10 * GIB, 5 * GIB)
        node.sample(gpu, held_by={"GPU-0": (17, 18)}, pids={100: 17, 101: 18})
    one, other = node.usage(17), node.usage(18)
    assert [one.gpu_busy_seconds, other.gpu_busy_seconds] == pytest.approx([67.5, 22.5])
    assert one.gpu_seconds == other.gpu_seconds == 50
    assert (one.memory_peak_bytes, other.memory_peak_bytes) == (30 * GIB, 10 * GIB)
    assert one.energy_kwh == pytest.approx(3 * (other.energy_kwh or 0), rel=1e-3)
    assert one.verdict is Verdict.UNKNOWN
    assert "its part by the memory" in (one.sentence or "")


@pytest.mark.parametrize("gpu", [shared(), shared(None, None), shared(5 * GIB, None), shared(0, 0)])
def test_where_the_driver_tells_no_memory_by_process_the_parts_are_equal_and_said_so(gpu: GpuReading) -> None:
    node = Node()
    for _ in range(101):
        node.sample(gpu, held_by={"GPU-0": (17, 18)}, pids={100: 17, 101: 18})
    assert node.usage(17).gpu_busy_seconds == node.usage(18).gpu_busy_seconds == pytest.approx(45)
    assert "equal parts" in (node.usage(17).sentence or "")


def test_a_holder_that_has_no_process_on_a_shared_gpu_is_idle() -> None:
    node = Node()
    for _ in range(101):
        node.sample(shared(30 * GIB), held_by={"GPU-0": (17, 18)}, pids={100: 17})
    assert (node.usage(17).idle_s, node.usage(18).idle_s) == (0, 100)
    assert node.usage(18).verdict is Verdict.IDLE


# --- the host ---------------------------------------------------------------------------------------------------------


def test_host_memory_is_the_peak_and_cpu_time_goes_on_over_attempts() -> None:
    node = Node()
    node.run(5, reading())
    for memory, cpu in ((GIB, 10.0), (3 * GIB, 20.0), (2 * GIB, 15.0)):
        node.keeper.observe_host(17, HostUse(memory_bytes=memory, cpu_seconds=cpu))
    assert (node.usage().host_memory_peak_bytes, node.usage().cpu_seconds) == (3 * GIB, 20.0)
    _, _, saved = node.keeper.take(17) or pytest.fail()
    node.keeper.restore(17, saved, goes_on=False)
    node.keeper.observe_host(17, HostUse(memory_bytes=None, cpu_seconds=7.0))
    assert (node.usage().host_memory_peak_bytes, node.usage().cpu_seconds) == (3 * GIB, 27.0)


def test_a_job_without_gpus_has_an_account_of_the_host_and_no_verdict() -> None:
    keeper = JobUsageKeeper()
    keeper.observe_host(17, HostUse(memory_bytes=GIB, cpu_seconds=3.0))
    usage = keeper.usage(17) or pytest.fail()
    assert (usage.host_memory_peak_bytes, usage.cpu_seconds, usage.verdict) == (GIB, 3.0, Verdict.UNKNOWN)
    assert (usage.sentence, usage.gpus, usage.utilization_percent) == (None, (), None)


def test_slow_sampling_is_no_gap() -> None:
    node = Node(JobUsageKeeper(period_s=60))
    for _ in range(11):
        node.sample(reading(power_mw=500_000), held_by={"GPU-0": (17,)}, step_s=60.0)
    assert node.usage().measured_s == 600
    assert node.usage().gpus[0].energy_j == pytest.approx(300_000)


# --- over a restart, over attempts ------------------------------------------------------------------------------------


def test_an_account_goes_on_over_a_restart_of_the_agent_and_the_energy_meanwhile_counts() -> None:
    node = Node()
    counted(node, 0, 101)
    saved = node.keeper.save(17) or b""
    after = Node(JobUsageKeeper(), at=node.at + 300)
    after.keeper.restore(17, saved, goes_on=True)
    counted(after, 401 * 500_000, 100)
    usage = after.usage()
    assert usage.gpus[0].energy_j == pytest.approx(500 * 500)
    assert (usage.measured_s, usage.gpu_seconds) == (199, 500)
    assert after.usage().gpu_busy_seconds == pytest.approx(199 * 0.9)
    points = curve_of(after)
    assert [point.at for point in points] == sorted(point.at for point in points)
    assert None in [point.utilization_percent for point in points]


def test_a_new_attempt_adds_to_the_account_and_not_what_others_did_between() -> None:
    node = Node()
    counted(node, 0, 101)
    usage, points, saved = node.keeper.take(17) or pytest.fail()
    assert usage.energy_kwh is not None
    assert len(points) > 1
    assert node.keeper.jobs() == ()
    node.at += 1000
    node.keeper.restore(17, saved, goes_on=False)
    counted(node, 900_000_000, 101)
    usage = node.usage()
    assert usage.gpus[0].energy_j == pytest.approx(500 * 200)
    assert (usage.gpu_seconds, usage.measured_s, usage.memory_peak_bytes) == (200, 200, 40 * GIB)


def test_a_job_that_waits_to_run_again_keeps_its_account_in_memory() -> None:
    node = Node()
    counted(node, 0, 101)
    node.keeper.observe_host(17, HostUse(memory_bytes=GIB, cpu_seconds=20.0))
    node.keeper.pause(17)
    node.keeper.pause(18)
    node.at += 1000
    counted(node, 900_000_000, 101)
    node.keeper.observe_host(17, HostUse(memory_bytes=GIB, cpu_seconds=5.0))
    usage = node.usage()
    assert usage.gpus[0].energy_j == pytest.approx(500 * 200)
    assert (usage.gpu_seconds, usage.cpu_seconds) == (200, 25.0)


def test_the_peak_of_an_attempt_on_another_gpu_is_not_added_to_the_one_before() -> None:
    node = Node()
    node.run(5, reading(0))
    _, _, saved = node.keeper.take(17) or pytest.fail()
    node.keeper.restore(17, saved, goes_on=False)
    node.run(5, reading(1))
    assert node.usage().memory_peak_bytes == 40 * GIB
    assert [each.uuid for each in node.usage().gpus] == ["GPU-0", "GPU-1"]


@pytest.mark.parametrize(
    "saved", [b"", b"{}", b"\x00\xff", b"[]", b'{"activity": 3}', b'{"activity":{"window_s":"x"}}']
)
def test_damaged_bytes_are_refused_and_the_account_begins_anew(saved: bytes) -> None:
    node = Node()
    with pytest.raises(msgspec.MsgspecError):
        node.keeper.restore(17, saved, goes_on=True)
    node.run(11, reading())
    assert node.usage().measured_s == 10


def test_a_job_that_is_known_keeps_its_account() -> None:
    node = Node()
    node.run(11, reading())
    saved = node.keeper.save(17) or b""
    node.run(10, reading())
    node.keeper.restore(17, saved, goes_on=True)
    assert node.usage().measured_s == 20


@given(
    st.lists(
        st.tuples(st.integers(0, 100), st.floats(0.1, 3 * GAP_S), st.sampled_from(["go", "restart", "requeue"])),
        min_size=1,
        max_size=60,
    )
)
def test_whatever_happens_sums_stay_within_time_and_never_fall(steps: list[tuple[int, float, str]]) -> None:
    node, counter, last = Node(), 0, JobUsage()
    for utilization, passed, what in steps:
        counter += int(passed * 500_000)
        node.sample(
            reading(utilization_percent=utilization, energy_mj=counter), held_by={"GPU-0": (17,)}, step_s=passed
        )
        if what != "go":
            saved = node.keeper.save(17) if what == "restart" else (node.keeper.take(17) or pytest.fail())[2]
            node = Node(JobUsageKeeper(), at=node.at)
            node.keeper.restore(17, saved or b"", goes_on=what == "restart")
        usage = node.usage()
        assert usage.gpu_busy_seconds <= usage.measured_s + 0.1 <= usage.gpu_seconds + 0.3
        assert usage.gpu_seconds <= node.at + 0.1
        assert usage.gpu_busy_seconds >= last.gpu_busy_seconds
        assert (usage.energy_kwh or 0) >= (last.energy_kwh or 0)
        assert (usage.energy_kwh or 0) <= node.at * 0.5 / 3600 + 1e-6
        last = usage


# --- the curve --------------------------------------------------------------------------------------------------------


def test_a_curve_has_few_points_however_long_the_run_and_keeps_its_means() -> None:
    curve = Curve()
    for second in range(100_000):
        curve.add(EPOCH + second, 1.0, utilization=second % 100, memory=float(second), power=100.0)
        assert len(curve.steps) <= MAX_POINTS
    points = curve.points()
    assert len(points) > MAX_POINTS / 4
    assert points[-1].at == int(EPOCH) + 99_999
    assert all(abs((point.utilization_percent or 0) - 49.5) < 10 for point in points)
    assert sum(step.seconds for step in curve.steps) == pytest.approx(100_000)
    memory = [point.memory_bytes or 0 for point in points]
    assert memory == sorted(memory)


def test_a_gap_stays_a_gap_until_it_is_shorter_than_a_step() -> None:
    curve = Curve()
    for second in [*range(100), *range(1000, 1100)]:
        curve.add(EPOCH + second, 1.0, utilization=50.0, memory=None, power=None)
    absent = [point for point in curve.points() if point.utilization_percent is None]
    assert [point.at for point in absent] == [int(EPOCH) + 999]
    for second in range(1100, 400_000):
        curve.add(EPOCH + second, 1.0, utilization=50.0, memory=None, power=None)
    assert all(point.utilization_percent == 50 for point in curve.points())


@given(
    st.lists(
        st.tuples(st.floats(-5e4, 5e4), st.floats(0.01, 30), st.none() | st.floats(0, 100)), min_size=1, max_size=900
    )
)
def test_no_clock_makes_a_curve_long_or_turn_back(steps: list[tuple[float, float, float | None]]) -> None:
    curve, now = Curve(), EPOCH
    for leap, seconds, utilization in steps:
        now += leap
        curve.add(now, seconds, utilization=utilization, memory=None, power=None)
    points = curve.points()
    assert 1 <= len(points) <= MAX_POINTS
    assert [point.at for point in points] == sorted(point.at for point in points)
    assert msgspec.json.decode(msgspec.json.encode(curve), type=Curve) == curve
