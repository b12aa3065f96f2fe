"""The metrics page, read back by Prometheus's own OpenMetrics parser."""

from __future__ import annotations

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
from agent.telemetry.openmetrics import render
from tests.fakes.openmetrics import names, parsed, value

GIB = 1024**3


def gpu(index: int = 0, **values: object) -> Gpu:
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
    assert value(series, "stoker_gpu_info", gpu="0", uuid="GPU-0", name="NVIDIA H100") == 1
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
    assert of_ill == {"stoker_gpu_info", "stoker_gpu_state", "stoker_gpu_data_age_seconds", "stoker_gpu_seated"}
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
    assert of_first == {"stoker_job_gpus"}
    assert "stoker_job_energy_joules_total" not in names(series)


def test_the_queue_is_counted_by_reason_and_its_oldest_wait_is_told() -> None:
    waiting = [
        job(1, JobState.PENDING, reason="Resources", submitted_at=900),
        job(2, JobState.PENDING, reason="Priority", submitted_at=950),
        job(3, JobState.PENDING, reason="Priority", submitted_at=960),
        job(4, JobState.PENDING, reason="JobHeldUser", submitted_at=1, held=True),
        job(5, JobState.PENDING, submitted_at=2, begin_at=5000),
        job(6),
    ]
    series = parsed(render(node(), waiting, {}))
    counts = {reason: value(series, "stoker_queue_jobs", reason=reason) for reason in ("Resources", "Priority", "None")}
    assert counts == {"Resources": 1, "Priority": 2, "None": 1}
    assert value(series, "stoker_queue_oldest_seconds") == 100
    assert value(parsed(render(node(), [], {})), "stoker_queue_oldest_seconds") == 0


def test_a_mig_instance_tells_whose_part_it_is() -> None:
    series = parsed(render(node(gpu(100, mig_parent="GPU-0", mig_profile="1g.10gb", utilization_percent=None)), [], {}))
    what = {"gpu": "100", "uuid": "GPU-100", "name": "NVIDIA H100", "mig_parent": "GPU-0", "mig_profile": "1g.10gb"}
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
