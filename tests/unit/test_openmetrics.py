"""The metrics page, read back by Prometheus's own OpenMetrics parser."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.api.types import (
    Gpu,
    GpuProcess,
    GpuSource,
    GpuState,
    Job,
    JobState,
    Node,
)
from agent.jobs.row import JobRow, new_rows
from agent.jobs.spec import JobSpec
from agent.jobs.tally import tally
from agent.telemetry.gpumetrics import THROTTLE_REASONS
from agent.telemetry.host import OwnUse
from agent.telemetry.openmetrics import More, render
from tests.fakes.openmetrics import names, parsed, value

GIB = 1024**3


def gpu(index: int = 0, **values: Any) -> Gpu:
    given = {
        "index": index,
        "uuid": f"GPU-{index}",
        "name": "NVIDIA H100",
        "sampled_at": 1000.0,
        "memory_total_bytes": 80 * GIB,
        "memory_used_bytes": GIB,
        "utilization_percent": 37,
        "power_mw": 251_300,
        "power_limit_mw": 700_000,
        "temperature_c": 61,
        "sm_clock_mhz": 1755,
        "memory_clock_mhz": 2619,
        "memory_utilization_percent": 23,
        "energy_mj": 12_345_678,
        "processes": (GpuProcess(pid=4711), GpuProcess(pid=4712)),
        "age_s": 0.25,
        "seated": True,
        "pci": "0000:3b:00",
        "numa_node": 1,
    }
    return msgspec.convert({**given, **values}, Gpu)


def node(*gpus: Gpu, **values: object) -> Node:
    given = {
        "name": "n1",
        "version": "0.1.0",
        "time": 1000.0,
        "boot_id": "b",
        "mode": "system",
        "key": "00",
        "gpu_source": GpuSource.NVML,
        "driver_version": "550.54.15",
        "gpus": gpus,
        "cpu_count": 16,
        "cpu_percent": 25.0,
        "load_1m": 1.5,
        "memory_total_bytes": 64 * GIB,
        "memory_available_bytes": 32 * GIB,
    }
    return msgspec.convert({**given, **values}, Node)


def job(number: int = 17, state: JobState = JobState.RUNNING, user: str = "ada", **values: object) -> Job:
    given = {"id": number, "node": "n1", "name": "x", "user": user, "state": state, "submitted_at": 1, "work_dir": "/"}
    return msgspec.convert({**given, **values}, Job)


def test_values_are_in_base_units_under_names_that_say_so() -> None:
    series = parsed(render(node(gpu()), [], {}))
    expected = {
        "stoker_gpu_utilization_ratio": 0.37,
        "stoker_gpu_memory_total_bytes": 80 * GIB,
        "stoker_gpu_memory_used_bytes": GIB,
        "stoker_gpu_power_watts": 251.3,
        "stoker_gpu_power_limit_watts": 700,
        "stoker_gpu_temperature_celsius": 61,
        "stoker_gpu_sm_clock_hertz": 1_755_000_000,
        "stoker_gpu_memory_clock_hertz": 2_619_000_000,
        "stoker_gpu_processes": 2,
        "stoker_gpu_memory_utilization_ratio": 0.23,
        "stoker_gpu_energy_joules_total": 12_345.678,
        "stoker_gpu_data_age_seconds": 0.25,
        "stoker_gpu_seated": 1,
    }
    assert {name: value(series, name, gpu="0", uuid="GPU-0") for name in expected} == expected
    what = {"gpu": "0", "uuid": "GPU-0", "name": "NVIDIA H100", "pci": "0000:3b:00", "numa_node": "1"}
    assert value(series, "stoker_gpu_info", **what) == 1
    assert value(series, "stoker_host_cpu_ratio") == 0.25
    assert value(series, "stoker_gpu_source_info", source="nvml", driver_version="550.54.15") == 1


def test_a_held_gpu_carries_its_job_and_user_and_no_process_id() -> None:
    text = render(node(gpu(0, job_id=17), gpu(1)), [job()], {})
    series = parsed(text)
    assert value(series, "stoker_gpu_power_watts", gpu="0", uuid="GPU-0", job_id="17", user="ada") == 251.3
    assert value(series, "stoker_gpu_power_watts", gpu="1", uuid="GPU-1") == 251.3
    assert "4711" not in text


def test_a_gpu_that_is_not_ok_shows_state_and_age_and_none_of_its_old_values() -> None:
    series = parsed(render(node(gpu(0, state=GpuState.HUNG, age_s=90.0), gpu(1)), [], {}))
    of_ill = {name for name, labels in series if ("gpu", "0") in labels}
    assert of_ill == {
        "stoker_gpu_info",
        "stoker_gpu_state",
        "stoker_gpu_data_age_seconds",
        "stoker_gpu_seated",
        "stoker_gpu_drained",
    }
    states = {state: value(series, "stoker_gpu_state", gpu="0", uuid="GPU-0", state=state) for state in GpuState}
    assert states == {GpuState.OK: 0, GpuState.HUNG: 1, GpuState.LOST: 0}


def test_a_value_the_driver_does_not_offer_has_no_series() -> None:
    series = parsed(render(node(gpu(power_mw=None, utilization_percent=None)), [], {}))
    assert not {"stoker_gpu_power_watts", "stoker_gpu_utilization_ratio"} & names(series)
    assert "stoker_gpu_temperature_celsius" in names(series)


def test_a_node_without_gpus_is_a_valid_page() -> None:
    bare = node(gpu_source=GpuSource.NONE, driver_version=None, cpu_percent=None, load_1m=None)
    series = parsed(render(bare, [], {}))
    assert value(series, "stoker_gpus") == 0
    assert not {name for name in names(series) if name.startswith("stoker_gpu_") and "source" not in name}


def test_jobs_are_counted_in_every_state_even_at_zero_and_ended_ones_as_the_store_has_them() -> None:
    given = {JobState.RUNNING: 2, JobState.PENDING: 1, JobState.COMPLETED: 12_345}
    series = parsed(render(node(), [job(1)], given))
    counts = {state: value(series, "stoker_jobs", state=state) for state in JobState}
    assert counts == {**dict.fromkeys(JobState, 0), **given}


def test_a_running_job_has_its_account_and_no_series_once_it_has_ended_or_while_it_waits() -> None:
    usage = {
        "gpu_seconds": 7200.5,
        "gpu_busy_seconds": 3600.25,
        "utilization_percent": 50.0,
        "memory_peak_bytes": GIB,
        "host_memory_peak_bytes": 2 * GIB,
        "cpu_seconds": 12.5,
        "energy_kwh": 1.5,
        "idle_s": 30.0,
    }
    series = parsed(
        render(node(), [job(gpu_uuids=["GPU-0", "GPU-1"], usage=usage), job(18, JobState.PENDING, usage=usage)], {})
    )
    expected = {
        "stoker_job_gpus": 2,
        "stoker_job_gpu_seconds_total": 7200.5,
        "stoker_job_gpu_busy_seconds_total": 3600.25,
        "stoker_job_gpu_utilization_ratio": 0.5,
        "stoker_job_gpu_memory_peak_bytes": GIB,
        "stoker_job_host_memory_peak_bytes": 2 * GIB,
        "stoker_job_cpu_seconds_total": 12.5,
        "stoker_job_energy_joules_total": 5_400_000,
        "stoker_job_idle_seconds": 30,
    }
    assert {name: value(series, name, job_id="17", user="ada") for name in expected} == expected
    assert {dict(labels).get("job_id") for _, labels in series} == {None, "17"}


def test_a_running_job_of_which_nothing_is_measured_has_no_figures() -> None:
    series = parsed(render(node(), [job(), job(18, usage={"cpu_seconds": None})], {}))
    of_first = {name for name, labels in series if ("job_id", "17") in labels}
    assert of_first == {"stoker_job_gpus", "stoker_job_info"}
    assert "stoker_job_energy_joules_total" not in names(series)


def waiting(job_id: int, submitted_at: int, **spec: Any) -> JobRow:
    asked = JobSpec(name="n", script_name="s", submit_dir="/", work_dir="/", **spec)
    return new_rows(job_id, asked, user="ada", uid=1, key=None, digest="d", submitted_at=submitted_at)[0]


def test_the_queue_is_counted_by_reason_and_its_oldest_wait_is_told() -> None:
    rows = [
        waiting(1, 900),
        waiting(2, 950),
        waiting(3, 960),
        waiting(4, 1, held="user"),
        waiting(5, 2, begin_at=5000),
        waiting(6, 970),
    ]
    words = {1: "Resources", 2: "Priority", 3: "Priority", 4: "JobHeldUser", 5: "BeginTime"}
    queue = tally(rows, {job_id: (word, "a sentence") for job_id, word in words.items()})
    series = parsed(render(node(), [], {}, More(queue=queue)))
    counts = {reason: value(series, "stoker_queue_jobs", reason=reason) for reason in (*words.values(), "None")}
    assert counts == {"Resources": 1, "Priority": 2, "JobHeldUser": 1, "BeginTime": 1, "None": 1}
    assert value(series, "stoker_queue_oldest_seconds") == 100
    assert value(parsed(render(node(), [], {})), "stoker_queue_oldest_seconds") == 0


def test_a_mig_instance_tells_whose_part_it_is() -> None:
    series = parsed(render(node(gpu(100, mig_parent="GPU-0", mig_profile="1g.10gb", utilization_percent=None)), [], {}))
    what = {"gpu": "100", "uuid": "GPU-100", "name": "NVIDIA H100", "mig_parent": "GPU-0", "mig_profile": "1g.10gb"}
    what |= {"pci": "0000:3b:00", "numa_node": "1"}
    assert value(series, "stoker_gpu_info", **what) == 1


@given(st.text(st.characters(categories=None), max_size=30), st.text(max_size=30))
def test_no_foreign_text_can_break_the_page_or_a_terminal(name: str, user: str) -> None:
    hostile = node(msgspec.structs.replace(gpu(0, job_id=17), name=name))
    text = render(hostile, [job(user=user)], {})
    text.encode()
    assert all(each.isprintable() for line in text.split("\n") for each in line)
    shown = {dict(labels)["name"] for sample, labels in parsed(text) if sample == "stoker_gpu_info"}
    assert shown == {"".join(each if each.isprintable() else "\ufffd" for each in name)}


@pytest.mark.parametrize("name", ['"} 1\nevil 1', "\\", '\\"', "\x1b[2J", "a\ud800b", "x" * 10_000, "{}=,#"])
def test_hostile_names_in_particular(name: str) -> None:
    text = render(node(msgspec.structs.replace(gpu(), name=name, uuid=name)), [], {})
    text.encode()
    assert "evil" not in names(parsed(text))


def test_the_page_ends_as_the_standard_wants() -> None:
    assert render(node(gpu()), [job()], {}).endswith("\n# EOF\n")


FULL: dict[str, Any] = {
    "memory_reserved_bytes": 512 * 1024**2,
    "encoder_percent": 3,
    "decoder_percent": 4,
    "sm_active_percent": 84.5,
    "sm_occupancy_percent": 37.0,
    "tensor_active_percent": 51.0,
    "dram_active_percent": 41.0,
    "memory_temperature_c": 70,
    "fan_percent": 110,
    "performance_state": 2,
    "throttle": ("power_cap",),
    "throttled_us": {"power": 1_500_000, "thermal": 0},
    "throttled_percent": 12.5,
    "pcie_rx_bytes_per_s": 1000,
    "pcie_tx_bytes_per_s": 2000,
    "nvlink_rx_bytes_per_s": 3000,
    "nvlink_tx_bytes_per_s": 4000,
    "spreads": {"power_mw": (200_000.0, 250_000.0, 400_500.0), "utilization_percent": (10.0, 37.0, 90.0)},
    "errors": {
        "ecc_corrected": 5,
        "ecc_uncorrected": 1,
        "ecc_corrected_ever": 50,
        "ecc_uncorrected_ever": 10,
        "rows_remapped_corrected": 2,
        "rows_remapped_uncorrected": 3,
        "remap_pending": True,
        "remap_failed": False,
        "pages_retired": 6,
        "pages_pending": False,
        "pcie_replays": 7,
        "nvlink_crc": 8,
        "nvlink_replays": 9,
        "nvlink_recoveries": 10,
        "recovery_action": "gpu_reset",
    },
    "bus": {"pcie_generation": 4, "pcie_width": 8, "nvlinks_total": 18, "nvlinks_active": 17},
    "limits": {
        "power_default_mw": 700_000,
        "power_least_mw": 200_000,
        "power_most_mw": 750_000,
        "temperature_slowdown_c": 87,
        "temperature_shutdown_c": 92,
        "sm_clock_max_mhz": 1980,
        "memory_clock_max_mhz": 2619,
        "pcie_generation_max": 5,
        "pcie_width_max": 16,
    },
    "dropped": 11,
    "links": {"GPU-1": 28},
    "ill": ("PCIe replays",),
}


def test_everything_that_is_read_is_on_the_page() -> None:
    series = parsed(render(node(gpu(**FULL)), [], {}))
    expected = {
        "memory_free_bytes": 80 * GIB - GIB - 512 * 1024**2,
        "memory_reserved_bytes": 512 * 1024**2,
        "encoder_utilization_ratio": 0.03,
        "decoder_utilization_ratio": 0.04,
        "sm_active_ratio": 0.845,
        "sm_occupancy_ratio": 0.37,
        "tensor_active_ratio": 0.51,
        "dram_active_ratio": 0.41,
        "utilization_most_ratio": 0.9,
        "memory_temperature_celsius": 70,
        "fan_speed_ratio": 1.1,
        "performance_state": 2,
        "throttled_ratio": 0.125,
        "pcie_receive_bytes_per_second": 1000,
        "pcie_transmit_bytes_per_second": 2000,
        "nvlink_receive_bytes_per_second": 3000,
        "nvlink_transmit_bytes_per_second": 4000,
        "power_least_watts": 200,
        "power_most_watts": 400.5,
        "power_limit_default_watts": 700,
        "power_limit_least_watts": 200,
        "power_limit_most_watts": 750,
        "temperature_slowdown_celsius": 87,
        "temperature_shutdown_celsius": 92,
        "sm_clock_most_hertz": 1.98e9,
        "memory_clock_most_hertz": 2.619e9,
        "pcie_generation": 4,
        "pcie_lanes": 8,
        "pcie_generation_most": 5,
        "pcie_lanes_most": 16,
        "nvlinks": 18,
        "nvlinks_active": 17,
        "row_remap_pending": 1,
        "row_remap_failed": 0,
        "page_retirement_pending": 0,
        "pages_retired_total": 6,
        "pcie_replays_total": 7,
        "readings_dropped_total": 11,
        "ill_signs": 1,
    }
    shown = {name: value(series, f"stoker_gpu_{name}", gpu="0", uuid="GPU-0") for name in expected}
    assert shown == expected
    for name, key, counts in (
        ("ecc_errors", "kind", {"corrected": 5, "uncorrected": 1}),
        ("ecc_aggregate_errors", "kind", {"corrected": 50, "uncorrected": 10}),
        ("rows_remapped", "kind", {"corrected": 2, "uncorrected": 3}),
        ("nvlink_errors", "kind", {"crc": 8, "replay": 9, "recovery": 10}),
        ("throttled_seconds", "reason", {"power": 1.5, "thermal": 0}),
    ):
        for kind, count in counts.items():
            assert value(series, f"stoker_gpu_{name}_total", gpu="0", uuid="GPU-0", **{key: kind}) == count
    own = {"gpu": "0", "uuid": "GPU-0"}
    reasons = {
        dict(labels)["reason"]: count
        for (name, labels), count in series.items()
        if name == "stoker_gpu_throttle_reason"
    }
    assert reasons == {**dict.fromkeys(THROTTLE_REASONS, 0), "power_cap": 1}
    assert value(series, "stoker_gpu_recovery_action", action="gpu_reset", **own) == 1
    assert value(series, "stoker_gpu_recovery_action", action="none", **own) == 0
    assert value(series, "stoker_gpu_link_grade", peer="GPU-1", **own) == 28


def test_counters_and_limits_go_on_when_the_job_changes() -> None:
    held = parsed(render(node(gpu(job_id=17, job_ids=(17, 18), **FULL)), [job(), job(18, user="grace")], {}))
    for name in ("energy_joules_total", "power_limit_watts", "pcie_lanes", "state", "seated", "data_age_seconds"):
        found = [dict(labels) for each, labels in held if each == f"stoker_gpu_{name}"]
        assert found
        assert not any("job_id" in labels for labels in found)
    for number, user in (("17", "ada"), ("18", "grace")):
        assert value(held, "stoker_gpu_job", gpu="0", uuid="GPU-0", job_id=number, user=user) == 1


def test_a_drained_gpu_and_a_drained_node_are_marked() -> None:
    drain = {"reason": "r", "by": "ada", "at": 1}
    series = parsed(render(node(gpu(drain=drain), gpu(1)), [], {}))
    assert [value(series, "stoker_gpu_drained", gpu=str(i), uuid=f"GPU-{i}") for i in (0, 1)] == [1, 0]
    assert value(series, "stoker_drained") == 0
    series = parsed(render(node(gpu(), drain=drain), [], {}))
    assert value(series, "stoker_gpu_drained", gpu="0", uuid="GPU-0") == value(series, "stoker_drained") == 1


def test_processes_are_told_by_number_only_where_that_is_asked_for() -> None:
    process = GpuProcess(pid=4711, memory_used_bytes=GIB, user="ada", sm_percent=40)
    text = render(node(gpu(processes=(process,))), [], {}, More(process_ids=True))
    labels = {"gpu": "0", "uuid": "GPU-0", "pid": "4711", "owner": "ada", "kind": "compute"}
    assert value(parsed(text), "stoker_gpu_process_memory_bytes", **labels) == GIB
    assert value(parsed(text), "stoker_gpu_process_sm_ratio", **labels) == 0.4
    assert "4711" not in render(node(gpu(processes=(process,))), [], {})


def test_a_running_job_says_what_it_is() -> None:
    series = parsed(render(node(), [job(partition="main", qos="normal", account="vision")], {}))
    what = {"name": "x", "account": "vision", "partition": "main", "qos": "normal"}
    assert value(series, "stoker_job_info", job_id="17", user="ada", **what) == 1


def test_the_agent_tells_of_itself_and_of_the_hosts_totals() -> None:
    totals = {
        "disk_read": 1,
        "disk_written": 2,
        "network_received": None,
        "network_sent": 4,
        "swap_used": 5,
    }
    own = OwnUse(cpu_seconds=1.5, resident_bytes=GIB)
    series = parsed(render(node(), [], {}, More(totals=totals, own=own, silent_s=0.0, textfile=(12.5, 3))))
    assert value(series, "stoker_host_disk_written_bytes_total") == 2
    assert "stoker_host_network_received_bytes_total" not in names(series)
    assert value(series, "stoker_host_swap_used_bytes") == 5
    assert value(series, "stoker_agent_cpu_seconds_total") == 1.5
    assert value(series, "stoker_textfile_written_timestamp_seconds") == 12.5
    assert value(series, "stoker_textfile_errors_total") == 3
    assert value(series, "stoker_page_timestamp_seconds") == 1000
