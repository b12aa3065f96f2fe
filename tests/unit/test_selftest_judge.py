"""Verdicts: rates against the models' figures, and what a burn-in's readings come to."""

from __future__ import annotations

from typing import Any

import pytest

from agent.api.queue import Drain, LinkGrade
from agent.api.types import Gpu, GpuProcess, GpuSource, Node
from agent.gpu.inspection import HW_POWER_BRAKE, HW_SLOWDOWN, HW_THERMAL, SW_POWER_CAP, SW_THERMAL
from agent.selftest import burn, judge
from agent.selftest.checks import Check, Verdict
from agent.selftest.errors import SelftestError
from agent.selftest.expected import Expected
from agent.selftest.machine import choose, refusal
from agent.selftest.order import Order
from tests.fakes.selftest import answer, inspection, second_by_second, uuid

EXPECTED = Expected()
BURNED = ({"burn": 100, "value": 700_000, "unit": "GFLOP/s"}, {"done": True})


def verdicts(checks: Any) -> dict[str, Verdict]:
    return {each.name: each.verdict for each in checks}


def bad(checks: Any) -> dict[str, str]:
    return {each.name: each.found for each in checks if each.verdict is Verdict.FAIL}


# --- the data -------------------------------------------------------------------------------------------------------


def test_the_models_are_sound() -> None:
    spellings = [name.lower() for model in EXPECTED.models for name in (model.key, *model.names)]
    own = [len({model.key.lower(), *(name.lower() for name in model.names)}) for model in EXPECTED.models]
    assert len(set(spellings)) == sum(own), "no name means two models"
    assert {model.key for model in EXPECTED.models} >= {
        "A100 SXM 80GB", "H100 SXM", "H100 PCIe", "H200 SXM", "B200", "L40S", "RTX 4090", "RTX 6000 Ada"
    }  # fmt: skip
    for model in EXPECTED.models:
        peaks = model.gemm_tflops
        assert peaks["fp32"] <= peaks["tf32"] <= peaks["bf16"] <= peaks.get("fp8", 1e9), model.key
        assert set(model.floor_percent) <= {*peaks, "gemm", "memory", "pcie", "nvlink", "all_reduce"}, model.key
        assert (model.nvlink_gb_s is None) == (model.nvlinks is None), model.key
        assert EXPECTED.pcie_mb_s(*model.pcie), model.key
        assert set(model.unconfirmed) <= {*peaks, "gemm", "memory", "nvlink"}, model.key
        assert all(25 <= EXPECTED.floor_percent(model, name, "gemm") <= 80 for name in peaks), model.key


def test_each_model_says_what_its_figures_were_checked_against() -> None:
    blocks = EXPECTED.path.read_text(encoding="utf-8").split("[[model]]")[1:]
    assert len(blocks) == len(EXPECTED.models)
    assert all("\n# checked: " in block for block in blocks)


def test_the_floors_let_boards_pass_that_were_measured_in_public() -> None:
    """The figures that the comments in models.toml name: the least of each."""
    measured: dict[str, dict[str, float]] = {
        "A100 PCIe 40GB": {"fp32": 17.6, "tf32": 97.3, "fp16": 197.5, "bf16": 211.7},
        "H100 SXM": {"fp32": 49.6, "tf32": 372, "fp16": 668, "bf16": 719},
        "H100 PCIe": {"fp32": 35.8, "tf32": 225.7, "fp16": 437, "bf16": 449},
        "B200": {"bf16": 1532},
        "RTX 4090": {"fp32": 50.2, "fp16": 158.6},
    }
    for key, rates in measured.items():
        lines = [
            {"figure": f"gemm {name}", "value": int(1000 * rate), "unit": "GFLOP/s"} for name, rate in rates.items()
        ]
        checks = list(judge.gpu_rates(inspection(name=key), answer(*lines), EXPECTED, None))
        assert {each.verdict for each in checks} == {Verdict.PASS}, checks


# --- rates ----------------------------------------------------------------------------------------------------------


def rates(order: Order | None = None, found: dict[str, Any] | None = None, **values: int) -> list[Check]:
    lines = [
        {"figure": name.replace("_", " "), "value": value, "unit": "GFLOP/s" if name.startswith("gemm") else "MB/s"}
        for name, value in values.items()
    ]
    return list(judge.gpu_rates(inspection(**(found or {})), answer(*lines), EXPECTED, order))


def test_a_rate_at_its_floor_passes_and_just_below_it_fails() -> None:
    floor = int(1000 * 989.4 * 0.65) + 1
    (passed,), (slow,) = rates(gemm_bf16=floor), rates(gemm_bf16=floor - 1000)
    assert (passed.verdict, passed.detail) == (Verdict.PASS, None)
    assert passed.found == "643 TFLOP/s (65 %)" and passed.expected == ">= 643 TFLOP/s (65 % of 989 TFLOP/s)"
    assert slow.verdict is Verdict.FAIL and "nvidia-smi" in (slow.detail or "")


def test_memory_and_bus_are_judged() -> None:
    healthy = rates(memory=3_000_000, host_to_device=55_000, device_to_host=54_000)
    assert set(verdicts(healthy).values()) == {Verdict.PASS}
    assert set(verdicts(rates(memory=2_000_000, host_to_device=12_000, device_to_host=2_000)).values()) == {
        Verdict.FAIL
    }


def test_the_bus_is_judged_by_the_order_then_by_the_slot() -> None:
    assert bad(rates(host_to_device=25_000)) != {}
    assert bad(rates(found={"pcie_generation_max": 4}, host_to_device=25_000)) == {}, "a slot of generation 4"
    narrow = Order(model="H100", count=1, pcie_generation=4, pcie_width=8)
    assert bad(rates(narrow, host_to_device=12_000)) == {}, "x8 was ordered"


def test_an_unknown_model_has_figures_and_no_verdict() -> None:
    checks = rates(found={"name": "NVIDIA Something 9000"}, gemm_bf16=1, memory=1, host_to_device=1)
    assert {each.verdict for each in checks} == {Verdict.NONE}
    assert [each.value for each in checks] == [1, 1, 1]


def test_a_dtype_that_is_not_offered_is_no_failure_and_an_error_is_one() -> None:
    quiet = answer({"figure": "gemm fp8", "value": None, "unit": "GFLOP/s", "why": "needs 8.9"})
    (check,) = judge.gpu_rates(inspection(), quiet, EXPECTED, None)
    assert (check.verdict, check.found, check.detail) == (Verdict.NONE, "not offered", "needs 8.9")
    (broken,) = judge.gpu_rates(inspection(), answer(problem="CUDA error: uncorrectable ECC"), EXPECTED, None)
    assert (broken.verdict, broken.name) == (Verdict.FAIL, "computes") and "ECC" in broken.found


def test_links_are_judged_over_nvlink_only_and_wrong_sums_always_fail() -> None:
    pair = [inspection(0), inspection(1)]
    copy = {"figure": "peer copy", "source": 0, "target": 1, "unit": "MB/s"}
    for value, links, verdict in (
        (380_000, 18, "PASS"),
        (90_000, 18, "FAIL"),
        (90_000, 4, "PASS"),
        (9, 0, "no verdict"),
    ):
        linked = [inspection(0, links={uuid(1): LinkGrade.NVLINK + links - 1} if links else {}), inspection(1)]
        (check,) = judge.peer_copies(linked, answer(copy | {"value": value}), EXPECTED)
        assert (check.subject, check.verdict) == ("GPU 0 > 1", verdict)
    summed = {"figure": "all-reduce", "unit": "MB/s", "ranks": 2, "backend": "nccl"}
    for value, wrong, verdict in ((350_000, 0, "PASS"), (50_000, 0, "FAIL"), (350_000, 7, "FAIL")):
        (check,) = judge.all_reduce(pair, answer(summed | {"value": value, "wrong": wrong}), EXPECTED)
        assert check.verdict == verdict
    bare = [inspection(0, nvlinks=None), inspection(1, nvlinks=None)]
    (check,) = judge.all_reduce(bare, answer(summed | {"value": 9_000}), EXPECTED)
    assert check.verdict is Verdict.PASS and "sums right" in check.found


@pytest.mark.parametrize(
    ("found", "name"),
    [
        ({"error": "GPU 0 is lost"}, "answers"),
        ({"pcie_width": 8}, "PCIe link"),
        ({"remap_failed": True}, "spare memory rows"),
        ({"ecc_uncorrected": 2}, "ECC before the test"),
    ],
)
def test_a_sick_gpu_fails_before_any_load(found: dict[str, Any], name: str) -> None:
    assert list(bad(judge.at_rest(inspection(**found)))) == [name]
    assert list(judge.at_rest(inspection())) == []


# --- the burn-in ----------------------------------------------------------------------------------------------------


def burned(*seconds: Any, said: Any = BURNED, problem: str | None = None) -> list[Check]:
    samples = second_by_second(*seconds)
    span = (100.0, 100.0 + len(seconds) - 1)
    return list(burn.judge(inspection(), samples, span, answer(*said, problem=problem), EXPECTED))


def test_a_calm_burn_in_passes_and_the_power_limit_is_no_throttling() -> None:
    calm = [inspection(temperature_c=70, throttle=SW_POWER_CAP)] * 5
    checks = burned(*calm)
    assert {each.verdict for each in checks} == {Verdict.PASS}
    assert any("power limit in 5 of 5" in each.found for each in checks)
    assert {each.name for each in checks} == {
        "burn-in: results", "burn-in rate bf16", "burn-in: temperature", "burn-in: throttling", "burn-in: memory errors"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("moment", "name", "found"),
    [
        ({"temperature_c": 87}, "burn-in: temperature", "87 °C"),
        ({"throttle": HW_THERMAL | HW_SLOWDOWN}, "burn-in: throttling", "hardware thermal slowdown in 1 of 4"),
        ({"throttle": SW_THERMAL}, "burn-in: throttling", "software thermal slowdown in 1 of 4"),
        ({"throttle": HW_POWER_BRAKE}, "burn-in: throttling", "power brake"),
        ({"ecc_uncorrected": 1}, "burn-in: memory errors", "1 uncorrectable"),
        ({"ecc_corrected": 3}, "burn-in: memory errors", "3 corrected"),
        ({"rows_remapped": 1}, "burn-in: memory errors", "1 rows remapped"),
        ({"error": "GPU 0 is lost to the driver"}, "burn-in: answers", "GPU 0 is lost"),
    ],
)
def test_one_bad_moment_fails_it(moment: dict[str, Any], name: str, found: str) -> None:
    well = inspection(temperature_c=70)
    (failure,) = bad(burned(well, well, inspection(**({"temperature_c": 70} | moment)), well)).items()
    assert failure[0] == name and found in failure[1]


def test_errors_from_before_do_not_count_and_a_counter_that_begins_anew_does() -> None:
    assert bad(burned(*[inspection(ecc_corrected=9)] * 4)) == {}
    values = (9, 9, 0, 2)
    assert "2 corrected" in bad(burned(*(inspection(ecc_corrected=each) for each in values)))["burn-in: memory errors"]


def test_a_silence_of_the_driver_fails_it_at_each_end_and_in_between() -> None:
    well = inspection()
    for seconds in ([well, *[None] * 16, well], [well, *[None] * 20], [*[None] * 20, well]):
        assert list(bad(burned(*seconds))) == ["burn-in: watched"]
    assert list(bad(burned(None))) == list(bad(burned(*[None] * 30))) == ["burn-in: watched"], "never read at all"
    assert bad(burned(well, *[None] * 10, well)) == {}


def test_wrong_results_an_early_end_and_a_slow_one_fail_it() -> None:
    well = [inspection()] * 3
    wrong = ({"burn": 50, "value": 700_000, "wrong": 3}, *BURNED)
    assert bad(burned(*well, said=wrong)) == {"burn-in: results": "3 wrong values"}
    assert "SIGABRT" in bad(burned(*well, said=BURNED[:1], problem="was ended by SIGABRT"))["burn-in: ran"]
    assert bad(burned(*well, said=())) == {"burn-in: ran": "it ended early"}
    slow = ({"burn": 100, "value": 100_000, "unit": "GFLOP/s"}, {"done": True})
    assert list(bad(burned(*well, said=slow))) == ["burn-in rate bf16"]


def test_what_the_driver_does_not_tell_is_no_pass() -> None:
    blind = inspection(
        temperature_c=None, throttle=None, ecc_corrected=None, ecc_uncorrected=None, rows_remapped=None, slowdown_c=None
    )
    found = verdicts(burned(*[blind] * 3))
    assert (
        found["burn-in: temperature"] is found["burn-in: throttling"] is found["burn-in: memory errors"] is Verdict.NONE
    )


def test_the_summary_counts_seconds_and_extremes() -> None:
    gpus = [
        inspection(temperature_c=60),
        inspection(temperature_c=75, throttle=SW_POWER_CAP, ecc_corrected=1),
        inspection(temperature_c=70, throttle=SW_THERMAL, error="lost"),
    ]
    seen = burn.summary(uuid(0), second_by_second(*gpus))
    assert (seen.readings, seen.seconds, seen.temperature_max_c) == (2, 2, 75)
    assert (seen.power_capped_readings, seen.throttled_readings, seen.ecc_corrected) == (1, 0, 1)
    assert burn.summary(uuid(5), second_by_second(*gpus)).readings == 0


# --- may it be tested now? ------------------------------------------------------------------------------------------

DRAINED = Drain(reason="selftest", by="root", at=1)


def node(*gpus: Gpu, drain: Drain | None = None) -> Node:
    return Node(
        name="n1", version="1", time=1.0, boot_id="b", mode="user", key="0" * 64, gpu_source=GpuSource.NVML,
        gpus=gpus, cpu_count=1, memory_total_bytes=1, memory_available_bytes=1, drain=drain,
    )  # fmt: skip


def known(index: int, **more: Any) -> Gpu:
    return Gpu(index=index, uuid=uuid(index), name="H100", sampled_at=1.0, **more)


def refused(node: Node | None, *indexes: int, everything: bool = True, force: bool = False) -> str | None:
    return refusal(node, [inspection(index) for index in indexes], everything=everything, force=force)


def test_only_drained_and_empty_gpus_may_be_tested() -> None:
    free = node(known(0, drain=DRAINED), known(1, drain=DRAINED))
    assert refused(free, 0, 1) is None
    assert refused(node(known(0), known(1), drain=DRAINED), 0, 1) is None, "the whole node is drained"
    said = refused(node(known(0, drain=DRAINED), known(1)), 0, 1) or ""
    assert said.endswith("drain first: stoker drain n1:1 --reason selftest")
    assert (refused(node(known(0), known(1)), 0, 1) or "").endswith("stoker drain n1 --reason selftest")
    part = refused(node(known(0), known(1)), 1, everything=False) or ""
    assert part.endswith("stoker drain n1:1 --reason selftest")


def test_jobs_and_strangers_on_a_drained_gpu_are_named() -> None:
    assert "stoker wait 17" in (refused(node(known(0, drain=DRAINED, job_id=17)), 0) or "")
    stranger = GpuProcess(pid=4711, user="alice", command="python")
    said = refused(node(known(0, drain=DRAINED, processes=(stranger,))), 0) or ""
    assert "process 4711 (python, alice)" in said


def test_without_an_agent_only_force_will_do_and_with_one_it_will_not() -> None:
    assert "--force" in (refused(None, 0) or "")
    assert refused(None, 0, force=True) is None
    busy = inspection(processes=(GpuProcess(pid=9),))
    assert "process 9" in (refusal(None, [busy], everything=True, force=True) or "")
    assert "--force is for machines whose agent does not run" in (refused(node(known(0)), 0, force=True) or "")


def test_strange_and_divided_gpus_are_refused() -> None:
    assert "not known to the agent" in (refused(node(known(0, drain=DRAINED)), 5) or "")
    assert "MIG" in (refusal(node(), [inspection(divided=True)], everything=True, force=False) or "")


def test_gpus_are_chosen_by_index_or_uuid() -> None:
    gpus = [inspection(index) for index in range(3)]
    assert [each.reading.index for each in choose(gpus, "2, GPU-0,2")] == [2, 0]
    assert choose(gpus, None) == gpus
    for words in ("3", "", "0,", "x"):
        with pytest.raises(SelftestError, match="there are: 0, 1, 2"):
            choose(gpus, words)
