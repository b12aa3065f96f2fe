"""Judges a burn-in: what the GPUs were seen to do each second, and what came out of their products. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import msgspec

from agent.gpu.inspection import SW_POWER_CAP, THROTTLES, GpuInspection, Inspection
from agent.selftest.checks import Check, Verdict, gpu, untold
from agent.selftest.compute import Answer
from agent.selftest.expected import Expected, rate

GAP_MAX_S = 15.0
"""Longest time without a reading; beyond it nobody watched."""


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What one GPU was seen to do, for the report."""

    uuid: str
    readings: int
    seconds: int
    temperature_max_c: int | None = None
    power_max_mw: int | None = None
    sm_clock_min_mhz: int | None = None
    sm_clock_max_mhz: int | None = None
    power_capped_readings: int = 0
    throttled_readings: int = 0
    ecc_corrected: int | None = None
    """New ones."""
    ecc_uncorrected: int | None = None
    rows_remapped: int | None = None
    pcie_replays: int | None = None


def summary(uuid: str, samples: Sequence[Inspection]) -> Seen:
    """One GPU's readings in a few numbers."""
    mine = list(_of(uuid, samples))
    good = [each for _, each in mine if each.error is None]
    readings = [each.reading for each in good]
    clocks = [each.sm_clock_mhz for each in readings if each.sm_clock_mhz is not None]
    masks = [each.throttle for each in good if each.throttle is not None]
    return Seen(
        uuid=uuid,
        readings=len(good),
        seconds=int(mine[-1][0] - mine[0][0]) if mine else 0,
        temperature_max_c=max(
            (each.temperature_c for each in readings if each.temperature_c is not None), default=None
        ),
        power_max_mw=max((each.power_mw for each in readings if each.power_mw is not None), default=None),
        sm_clock_min_mhz=min(clocks, default=None),
        sm_clock_max_mhz=max(clocks, default=None),
        power_capped_readings=sum(bool(mask & SW_POWER_CAP) for mask in masks),
        throttled_readings=sum(any(mask & bit for bit in THROTTLES) for mask in masks),
        ecc_corrected=_rise([each.ecc_corrected for each in good]),
        ecc_uncorrected=_rise([each.ecc_uncorrected for each in good]),
        rows_remapped=_rise([each.rows_remapped for each in good]),
        pcie_replays=_rise([each.pcie_replays for each in good]),
    )


def judge(
    found: GpuInspection, samples: Sequence[Inspection], span: tuple[float, float], answer: Answer, expected: Expected
) -> Iterator[Check]:
    """The lines of one GPU.

    Args:
        found: how it was before.
        samples: of all GPUs, in order.
        span: when the burn-in began and ended, by the samples' clock.
        answer: what its products came to.
        expected: the models.
    """
    subject, uuid = gpu(found.reading.index), found.reading.uuid
    yield from results(subject, answer, uuid)
    model = expected.of(found.reading.name)
    told = [each for each in answer.told if each.burn is not None and each.value is not None]
    if told:
        mean = sum(each.value or 0 for each in told) // len(told)
        peak = 1000 * model.gemm_tflops["bf16"] if model and "bf16" in model.gemm_tflops else None
        floor = expected.floor_percent(model, "bf16", "gemm")
        yield rate(subject, "burn-in rate bf16", mean, "GFLOP/s", peak=peak, floor_percent=floor, uuid=uuid)
    mine = list(_of(uuid, samples))
    gone = next((each.error for _, each in mine if each.error is not None), None)
    if gone is not None:
        yield _line(subject, "burn-in: answers", gone, "an answer", "lost under load; see dmesg for its Xid", uuid)
    gap = _gap_s([at for at, each in mine if each.error is None], span)
    good = [each for _, each in mine if each.error is None]
    if gap > GAP_MAX_S or not good:
        detail = "the driver fell silent under load, so nobody watched; see dmesg for an Xid"
        yield _line(subject, "burn-in: watched", f"{gap:.0f} s unread", f"<= {GAP_MAX_S:.0f} s", detail, uuid)
    if good:
        yield _temperature(subject, good, uuid)
        yield _throttle(subject, good, uuid)
        yield _errors(subject, good, uuid)


def results(subject: str, answer: Answer, uuid: str | None = None) -> Iterator[Check]:
    """Whether all products came out the same; of the CPU as well."""
    products = sum(each.burn or 0 for each in answer.told)
    wrong = sum(each.wrong for each in answer.told if each.burn is not None)
    done = any(each.done for each in answer.told)
    if not done:
        why = answer.problem or "it ended early"
        yield _line(subject, "burn-in: ran", why, "to its end", "it did not survive full load; see dmesg", uuid)
    elif not wrong:
        same = f"{products} products the same"
        yield Check(
            subject=subject,
            name="burn-in: results",
            found=same,
            expected="all the same",
            verdict=Verdict.PASS,
            uuid=uuid,
        )
    if wrong:
        detail = "it computes wrong results under load, silently; do not use it, have it replaced"
        yield _line(subject, "burn-in: results", f"{wrong} wrong values", "all the same", detail, uuid)


def _temperature(subject: str, good: Sequence[GpuInspection], uuid: str) -> Check:
    name, limit = "burn-in: temperature", good[0].slowdown_c
    hottest = max((each.reading.temperature_c for each in good if each.reading.temperature_c is not None), default=None)
    if hottest is None or limit is None:
        return untold(subject, name, f"< {limit} °C" if limit else "below slowdown", uuid)
    detail = "it reached the temperature at which it slows itself down; see fans, air and dust"
    verdict = Verdict.PASS if hottest < limit else Verdict.FAIL
    return _line(subject, name, f"{hottest} °C", f"< {limit} °C", detail, uuid, verdict)


def _throttle(subject: str, good: Sequence[GpuInspection], uuid: str) -> Check:
    name, masks = "burn-in: throttling", [each.throttle for each in good if each.throttle is not None]
    if not masks:
        return untold(subject, name, "none", uuid)
    seen = {bit: sum(bool(mask & bit) for mask in masks) for bit in THROTTLES}
    words = [f"{THROTTLES[bit]} in {count} of {len(masks)} readings" for bit, count in seen.items() if count]
    capped = sum(bool(mask & SW_POWER_CAP) for mask in masks)
    found = "; ".join(words) or "none"
    if capped:
        found += f" (at its power limit in {capped} of {len(masks)}, as any GPU at full load)"
    detail = "it cannot hold its clocks; see cooling, power cables and supplies"
    return _line(subject, name, found, "none", detail, uuid, Verdict.FAIL if words else Verdict.PASS)


def _errors(subject: str, good: Sequence[GpuInspection], uuid: str) -> Check:
    name = "burn-in: memory errors"
    counts = {
        "uncorrectable": _rise([each.ecc_uncorrected for each in good]),
        "corrected": _rise([each.ecc_corrected for each in good]),
        "rows remapped": _rise([each.rows_remapped for each in good]),
    }
    if all(count is None for count in counts.values()):
        return untold(subject, name, "no new ones", uuid)
    words = [f"{count} {what}" for what, count in counts.items() if count]
    detail = "new ECC errors under load; see: nvidia-smi -q -d ECC,ROW_REMAPPER. Have it replaced if they come again"
    verdict = Verdict.FAIL if words else Verdict.PASS
    return _line(subject, name, ", ".join(words) or "none new", "no new ones", detail, uuid, verdict)


def _of(uuid: str, samples: Sequence[Inspection]) -> Iterator[tuple[float, GpuInspection]]:
    for sample in samples:
        for each in sample.gpus:
            if each.reading.uuid == uuid:
                yield sample.at, each


def _gap_s(times: Sequence[float], span: tuple[float, float]) -> float:
    """Longest time without a reading."""
    points = [span[0], *(at for at in times if span[0] <= at <= span[1]), span[1]]
    return max(later - earlier for earlier, later in pairwise(points))


def _rise(values: Sequence[int | None]) -> int | None:
    """How far a counter went up; one that begins anew in between counts from 0. `None` where it is not told."""
    told = [value for value in values if value is not None]
    if not told:
        return None
    return sum(later - earlier if later >= earlier else later for earlier, later in pairwise(told))


def _line(
    subject: str,
    name: str,
    found: str,
    wanted: str,
    detail: str,
    uuid: str | None,
    verdict: Verdict = Verdict.FAIL,
) -> Check:
    return Check(
        subject=subject,
        name=name,
        found=found,
        expected=wanted,
        verdict=verdict,
        detail=detail if verdict is Verdict.FAIL else None,
        uuid=uuid,
    )
