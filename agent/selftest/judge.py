"""From what was measured to verdicts. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from agent.api.queue import LinkGrade
from agent.gpu.inspection import GpuInspection
from agent.selftest.checks import CPU, NODE, Check, Verdict, gpu
from agent.selftest.compute import Answer, Told
from agent.selftest.expected import Expected, Model, rate
from agent.selftest.order import Order


def at_rest(found: GpuInspection) -> Iterator[Check]:
    """What a GPU must not show before any load."""
    subject, uuid = gpu(found.reading.index), found.reading.uuid
    if found.error is not None:
        yield _bad(subject, "answers", found.error, "an answer", "the driver has given it up; see dmesg", uuid)
        return
    width, widest = found.pcie_width, found.pcie_width_max
    if width is not None and widest is not None and width < widest:
        yield _bad(
            subject,
            "PCIe link",
            f"x{width}",
            f"x{widest}",
            "fewer lanes than GPU and slot both have; seat it again, see riser and BIOS",
            uuid,
        )
    if found.remap_failed:
        yield _bad(subject, "spare memory rows", "none left", "some", "have it replaced", uuid)
    if found.ecc_uncorrected:
        yield _bad(
            subject,
            "ECC before the test",
            f"{found.ecc_uncorrected} uncorrectable",
            "0",
            "errors since the driver was loaded; see: nvidia-smi -q -d ECC",
            uuid,
        )


def gpu_rates(found: GpuInspection, answer: Answer, expected: Expected, order: Order | None) -> Iterator[Check]:
    """One GPU's rates against its model's."""
    subject, uuid = gpu(found.reading.index), found.reading.uuid
    model = expected.of(found.reading.name)
    for told in answer.figures:
        assert told.figure is not None
        kind, _, which = told.figure.partition(" ")
        if told.value is None:
            yield _not_offered(subject, told, uuid)
        elif kind == "gemm":
            yield _gemm(subject, which, told, model, expected, uuid)
        elif kind == "memory":
            floor = expected.floor_percent(model, "memory", "memory")
            peak = model.memory_gb_s * 1000 if model else None
            yield rate(subject, "memory copy", told.value, told.unit, peak=peak, floor_percent=floor, uuid=uuid)
        else:
            floor = expected.floor_percent(model, "pcie", "pcie")
            peak = pcie_peak_mb_s(found, model, expected, order)
            yield rate(subject, told.figure, told.value, told.unit, peak=peak, floor_percent=floor, uuid=uuid)
    if answer.problem:
        detail = "torch cannot compute on it though the driver shows it; see dmesg and the fabric manager's service"
        yield _bad(subject, "computes", answer.problem, "no error", detail, uuid)


def _gemm(subject: str, dtype: str, told: Told, model: Model | None, expected: Expected, uuid: str) -> Check:
    peak = model.gemm_tflops.get(dtype) if model else None
    assert told.value is not None
    return rate(
        subject,
        f"GEMM {dtype}",
        told.value,
        told.unit,
        peak=None if peak is None else 1000 * peak,
        floor_percent=expected.floor_percent(model, dtype, "gemm"),
        uuid=uuid,
    )


def pcie_peak_mb_s(found: GpuInspection, model: Model | None, expected: Expected, order: Order | None) -> int | None:
    """What its link should carry: as ordered, else what the model has, as far as the slot's generation goes."""
    generation, width = model.pcie if model else (None, None)
    if generation is not None and found.pcie_generation_max is not None:
        generation = min(generation, found.pcie_generation_max)
    generation = (order.pcie_generation if order else None) or generation
    width = (order.pcie_width if order else None) or width
    return expected.pcie_mb_s(generation, width) if generation and width else None


def peer_copies(gpus: Sequence[GpuInspection], answer: Answer, expected: Expected) -> Iterator[Check]:
    """Copies between GPUs: over NVLink against the model's links; over PCIe there is no verdict."""
    for told in answer.figures:
        one, other = gpus[told.source], gpus[told.target]
        model = expected.of(one.reading.name)
        peak = _nvlink_mb_s(one, other, model)
        floor = expected.floor_percent(model, "nvlink", "nvlink")
        subject = f"{gpu(one.reading.index)} > {other.reading.index}"
        assert told.value is not None
        yield rate(subject, "peer copy", told.value, told.unit, peak=peak, floor_percent=floor, uuid=one.reading.uuid)
    if answer.problem:
        yield _bad(NODE, "peer copies", answer.problem, "no error", "see: nvidia-smi topo -m, and dmesg")


def _nvlink_mb_s(one: GpuInspection, other: GpuInspection, model: Model | None) -> float | None:
    """What the NVLinks between two GPUs carry in one direction; `None` where there are none or we know no rate."""
    links = one.reading.links.get(other.reading.uuid, 0) - LinkGrade.NVLINK + 1
    if links < 1 or model is None or not model.nvlink_gb_s or not model.nvlinks:
        return None
    return 1000 * model.nvlink_gb_s * min(links, model.nvlinks) / model.nvlinks


def all_reduce(gpus: Sequence[GpuInspection], answer: Answer, expected: Expected) -> Iterator[Check]:
    """Its sums must be right; its rate is judged where all GPUs are of a model whose NVLinks we know."""
    names = {each.reading.name for each in gpus}
    model = expected.of(names.pop()) if len(names) == 1 else None
    subject = NODE if gpus else CPU
    for told in answer.figures:
        name = f"all-reduce, {told.ranks} ranks ({told.backend})"
        if told.wrong:
            detail = "sums over the links came out wrong: data is damaged on its way; do not use this machine"
            yield _bad(subject, name, f"{told.wrong} wrong sums", "0 wrong sums", detail)
            continue
        assert told.value is not None
        linked = all(each.nvlinks for each in gpus)
        peak = 1000 * model.nvlink_gb_s if model and model.nvlink_gb_s and linked else None
        floor = expected.floor_percent(model, "all_reduce", "all_reduce")
        judged = rate(subject, name, told.value, told.unit, peak=peak, floor_percent=floor)
        yield judged if peak else _right(judged)
    if answer.problem:
        where = "nvidia-smi topo -m, dmesg" if gpus else "whether the loopback interface is up: ip link show lo"
        yield _bad(subject, "all-reduce", answer.problem, "no error", f"see: {where}")


def cpu_rates(answer: Answer) -> Iterator[Check]:
    """The CPU path: figures without verdicts, for there is no table of CPUs."""
    for told in answer.figures:
        assert told.figure is not None
        if told.value is None:
            yield _not_offered(CPU, told, None)
            continue
        name = told.figure.replace("gemm", "GEMM").replace("memory", "memory copy")
        yield rate(CPU, name, told.value, told.unit, peak=None, floor_percent=0)
    if answer.problem:
        yield _bad(CPU, "computes", answer.problem, "no error", "torch does not compute on this machine's CPU")


def _right(check: Check) -> Check:
    """A rate that nobody expects, of sums that were right."""
    return Check(
        subject=check.subject,
        name=check.name,
        found=f"{check.found}, sums right",
        expected="sums right",
        verdict=Verdict.PASS,
        value=check.value,
        unit=check.unit,
    )


def _not_offered(subject: str, told: Told, uuid: str | None) -> Check:
    name = (told.figure or "").replace("gemm", "GEMM")
    return Check(
        subject=subject,
        name=name,
        found="not offered",
        expected="-",
        verdict=Verdict.NONE,
        detail=told.why or "torch does not offer it here",
        uuid=uuid,
    )


def _bad(subject: str, name: str, found: str, wanted: str, detail: str, uuid: str | None = None) -> Check:
    return Check(
        subject=subject, name=name, found=found, expected=wanted, verdict=Verdict.FAIL, detail=detail, uuid=uuid
    )
