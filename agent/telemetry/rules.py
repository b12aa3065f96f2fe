"""What is wrong with a node's GPUs at one look. Pure: readings, jobs and what was there at install in, findings out.

Each rule is a function of the scene; how long something must be so is `watch.PATIENCE`. Thresholds stand with the
reason for where they are. What needs a value that the driver does not offer finds nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from agent.api.health import IncidentKind, KnownGpu, Severity
from agent.api.types import GpuProcess, GpuReading, GpuState
from agent.telemetry.watch import Finding

IDLE_PERCENT = 5
"""As in `verdict`: a GPU below this did nothing that anyone asked for it."""
SPIN_PERCENT = 95
"""A rank that waits in a collective spins in one kernel: NVML calls that busy."""
SPIN_POWER_SHARE = 0.3
"""Of the limit. A GPU that computes at 95 % draws more than half of it; one that spins little over its idle power
(H100: some 120 of 700 W)."""
SLOW_CLOCK_SHARE = 0.8
SLOW_POWER_SHARE = 0.85
"""Of the median of a job's GPUs. Ranks of one job do the same work: a fifth less clock is a GPU throttled or ill, but
not where it draws as much as the others, at its power limit. A fifth less clock takes a quarter of the power."""
STRAGGLER_GPUS = 3
"""With two it cannot be told which of them is the odd one."""
_HEAT = frozenset({"thermal_hw", "thermal_sw"})
_BRAKE = frozenset({"power_brake"})
NVLINK_MANY, NVLINK_TOO_MANY = 10, 100
"""Links brought up again within a minute, each of which stops all that they carry; beyond the second number the GPU
spends its time on that. Packets sent again (replays) and wrong checksums count a hundredth: a link mends them."""
SETTLED_S = 15.0
"""At work for as long, the PCIe generation told is one of a GPU at work: it is read every 10 s."""
_ASKED = {
    "gpu_reset": "reset it when its jobs have ended (nvidia-smi --gpu-reset)",
    "drain_and_reset": "let its jobs end, then reset it (nvidia-smi --gpu-reset)",
    "drain_p2p": "let the jobs that use its NVLinks end, then reset it",
    "bus_reset": "let its jobs end, then reset its bus, or power the node off and on",
    "node_reboot": "let the node's jobs end, then reboot it",
    "system_reboot": "let the node's jobs end, then reboot it",
}
"""What the driver asks for, and nothing of this version's can do: that is a person's."""
LEAKED_BYTES = 1 << 30
"""Driver and persistence daemon hold some hundred MiB of an idle GPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldBy:
    """The job that a GPU is given to."""

    job_id: int
    user: str
    gpus: int
    """Of the job in all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """All there is to look at."""

    readings: Sequence[GpuReading]
    held: Mapping[str, HeldBy]
    """By UUID; a GPU that several jobs share is left out."""
    shared: Collection[str] = ()
    """Those."""
    known: Sequence[KnownGpu] = ()
    """Empty: nothing is remembered."""
    none_found: str | None = None
    """Why there is no GPU at all; `None` while there are some, and before the first reading."""
    sampler_silent_s: float = 0.0
    """Since the sampler process was heard of."""
    rises: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """By UUID: by how much counters of errors rose within a minute."""
    busy_s: Mapping[str, float] = field(default_factory=dict)
    """By UUID: for how long it has been at work without a pause."""


def look(scene: Scene) -> list[Finding]:
    """Everything that is wrong now."""
    return [finding for rule in _RULES for finding in rule(scene)]


def blind(scene: Scene) -> frozenset[str | None]:
    """GPUs of which nothing can be told now: their values are old, or none of them is there."""
    if not scene.readings:
        return frozenset(known.uuid for known in scene.known)
    return frozenset(reading.uuid for reading in scene.readings if reading.state is not GpuState.OK)


def unsure(scene: Scene) -> frozenset[tuple[IncidentKind, str]]:
    """What may be so, of which GPU, though it is not found: a GPU that rests lowers its PCIe generation, and one whose
    link is slow does not show it.
    """
    seen = {each.uuid: each.pcie_generation_seen for each in scene.known}
    return frozenset(
        (IncidentKind.LINK_DEGRADED, each.uuid)
        for each in _readable(scene)
        if _generation(each) < (seen.get(each.uuid) or 0) and scene.busy_s.get(each.uuid, 0.0) < SETTLED_S
    )


_XID = "see dmesg for its Xid; "
_HUNG = _XID + "when its jobs cannot be killed either, reboot the node"
"""What to do about a GPU that hangs; where the reason says the first half already, the second."""

# --- the rules --------------------------------------------------------------------------------------------------------


def _state(scene: Scene) -> Iterator[Finding]:
    for reading in scene.readings:
        if reading.state is GpuState.OK or reading.mig_parent is not None:
            continue
        lost = reading.state is GpuState.LOST
        yield _of(
            scene,
            reading,
            IncidentKind.GPU_LOST if lost else IncidentKind.GPU_HUNG,
            Severity.CRITICAL,
            reading.reason or f"GPU {reading.index} is {reading.state.value}",
            "let its jobs end, reset it or reboot the node; again soon: have it replaced"
            if lost
            else _HUNG[len(_XID) :]
            if _XID[:-2] in (reading.reason or "")
            else _HUNG,
        )


def _inventory(scene: Scene) -> Iterator[Finding]:
    there = {reading.uuid: reading for reading in scene.readings}
    if not scene.known:
        return
    if not there:
        yield from _none_left(scene)
        return
    strangers = [reading for reading in there.values() if reading.uuid not in {each.uuid for each in scene.known}]
    for known in scene.known:
        if known.uuid in there:
            continue
        successor = next((each for each in strangers if _took_its_place(each, known)), None)
        advice = "stoker inventory --accept takes what is there now for right"
        if successor is None:
            what = f"GPU {known.index} ({known.name}, {known.uuid}) is not there any more; {len(there)} are"
            look_at = "see dmesg and lspci -d 10de:, power the node off and on, look at its seat; "
            kind = IncidentKind.GPU_MISSING
            yield Finding(
                kind=kind, severity=Severity.CRITICAL, what=what, advice=look_at + advice, gpu_uuid=known.uuid,
                gpu_index=known.index,
            )  # fmt: skip
        else:
            what = f"GPU {known.index} is another one than at install: {successor.uuid}, not {known.uuid}"
            yield _of(scene, successor, IncidentKind.GPU_EXCHANGED, Severity.WARNING, what, advice)


def _took_its_place(stranger: GpuReading, known: KnownGpu) -> bool:
    """By the place on PCI where both are known: indexes move up when a GPU is gone."""
    if stranger.mig_parent is not None:
        return False
    if stranger.pci and known.pci:
        return stranger.pci == known.pci
    return stranger.index == known.index


def _none_left(scene: Scene) -> Iterator[Finding]:
    """One finding for the node: it is the driver rather than that many GPUs. Nothing can be started on them anyway."""
    if scene.none_found is None:
        return
    many = f"none of the node's {len(scene.known)} GPUs is" if len(scene.known) > 1 else "the node's only GPU is not"
    advice = (
        "see nvidia-smi, dmesg and lspci -d 10de:; load the driver again or reboot the node; stoker inventory shows "
        "what there was at install"
    )
    what = f"{many} there any more: {scene.none_found}"
    yield Finding(kind=IncidentKind.GPU_MISSING, severity=Severity.CRITICAL, what=what, advice=advice)


def _links(scene: Scene) -> Iterator[Finding]:
    """Narrower, slower, or fewer NVLinks, than at install. An idle GPU lowers the generation in use: that of one at
    work is a sign, and what GPU and slot can both do.
    """
    known = {each.uuid: each for each in scene.known}
    for reading in _readable(scene):
        before, bus = known.get(reading.uuid), reading.bus
        if before is None or bus is None:
            continue
        advice = "look at its seat, riser and cable when the node is off; stoker inventory --accept takes it for right"
        if before.pcie_width and bus.pcie_width and bus.pcie_width < before.pcie_width:
            what = f"GPU {reading.index} has {bus.pcie_width} PCIe lanes, and had {before.pcie_width} at install"
            yield _of(scene, reading, IncidentKind.LINK_DEGRADED, Severity.WARNING, what, advice)
        elif before.pcie_generation and (_fastest(reading) or before.pcie_generation) < before.pcie_generation:
            what = (
                f"GPU {reading.index} and its slot can do PCIe generation {_fastest(reading)}, and could do "
                f"{before.pcie_generation} at install"
            )
            yield _of(scene, reading, IncidentKind.LINK_DEGRADED, Severity.WARNING, what, f"look at the BIOS; {advice}")
        elif (
            _generation(reading) < (before.pcie_generation_seen or 0)
            and scene.busy_s.get(reading.uuid, 0.0) >= SETTLED_S
        ):
            what = (
                f"GPU {reading.index} uses PCIe generation {bus.pcie_generation} while it works, and used "
                f"{before.pcie_generation_seen} before"
            )
            advice = f"see dmesg for errors of its PCIe link (AER); {advice}"
            yield _of(scene, reading, IncidentKind.LINK_DEGRADED, Severity.WARNING, what, advice)
        elif before.nvlinks and bus.nvlinks_active is not None and bus.nvlinks_active < before.nvlinks:
            what = f"GPU {reading.index} has {bus.nvlinks_active} NVLinks up, and had {before.nvlinks} at install"
            yield _of(scene, reading, IncidentKind.LINK_DEGRADED, Severity.WARNING, what, advice)


def _generation(reading: GpuReading) -> float:
    """That is in use; where it is not told, none is too low."""
    return math.inf if reading.bus is None or not reading.bus.pcie_generation else reading.bus.pcie_generation


def _fastest(reading: GpuReading) -> int | None:
    return None if reading.limits is None else reading.limits.pcie_generation_max


def _memory(scene: Scene) -> Iterator[Finding]:
    """Uncorrectable errors, and rows that could not be replaced or wait for a reset."""
    for reading in _readable(scene):
        errors = reading.errors
        if errors is None or reading.mig_parent is not None:
            continue
        if errors.ecc_uncorrected:
            what = f"GPU {reading.index} had {errors.ecc_uncorrected} memory errors that could not be mended"
            advice = "reset it when its jobs have ended (nvidia-smi --gpu-reset); again soon: have it replaced"
            yield _of(scene, reading, IncidentKind.ECC, Severity.CRITICAL, what, advice)
        if errors.remap_failed:
            what = f"GPU {reading.index} has no spare memory rows left"
            yield _of(scene, reading, IncidentKind.ROW_REMAP, Severity.CRITICAL, what, "have it replaced")
        elif errors.remap_pending or errors.pages_pending:
            what = f"a bad memory row of GPU {reading.index} is replaced at its next reset"
            advice = "reset it when its jobs have ended: nvidia-smi --gpu-reset"
            yield _of(scene, reading, IncidentKind.ROW_REMAP, Severity.WARNING, what, advice)


def _nvlink(scene: Scene) -> Iterator[Finding]:
    for reading in _readable(scene):
        risen = scene.rises.get(reading.uuid)
        if risen is None:
            continue
        again, mended = risen.get("nvlink_recoveries", 0), risen.get("nvlink_replays", 0) + risen.get("nvlink_crc", 0)
        weight = again + mended // 100
        if weight < NVLINK_MANY:
            continue
        what = (
            f"the NVLinks of GPU {reading.index} were brought up again {again} times within a minute, and {mended} of "
            "their packets were wrong"
        )
        grave = Severity.CRITICAL if weight >= NVLINK_TOO_MANY else Severity.WARNING
        advice = "look at nvidia-smi nvlink -e and the fabric manager's log; see that the board and its cables sit well"
        yield _of(scene, reading, IncidentKind.NVLINK_ERRORS, grave, what, advice)


def _recovery(scene: Scene) -> Iterator[Finding]:
    """What the driver wants done. It says so until it is done."""
    for reading in _readable(scene):
        action = reading.errors.recovery_action if reading.errors is not None else None
        if action in (None, "none") or reading.mig_parent is not None:
            continue
        what = f"the driver asks for a recovery of GPU {reading.index}: {action}"
        advice = _ASKED.get(action or "", "nvidia-smi -q shows it under GPU Recovery Action")
        grave = Severity.CRITICAL if action in _ASKED else Severity.WARNING
        yield _of(scene, reading, IncidentKind.RECOVERY_ACTION, grave, what, advice)


def _throttle(scene: Scene) -> Iterator[Finding]:
    """Heat and the power supply; that a busy GPU meets its own power limit is what the limit is for."""
    for reading in _readable(scene):
        words = set(reading.throttle or ())
        if reading.mig_parent is not None:
            continue
        if words & _HEAT:
            heat = "" if reading.temperature_c is None else f" at {reading.temperature_c} °C"
            what = f"GPU {reading.index} is slowed down by its heat{heat}"
            advice = "look at fans, air flow and filters; the jobs on it take longer until then"
            yield _of(scene, reading, IncidentKind.THERMAL_THROTTLE, Severity.WARNING, what, advice)
        if words & _BRAKE:
            what = f"GPU {reading.index} is slowed down by the power supply ({', '.join(sorted(words & _BRAKE))})"
            advice = "look at the power supplies and what the board is told of them (power brake)"
            yield _of(scene, reading, IncidentKind.POWER_THROTTLE, Severity.WARNING, what, advice)
        elif "hw_slowdown" in words and not words & _HEAT:
            what = f"GPU {reading.index} is slowed down by its board, which does not say why (hw_slowdown)"
            advice = "look at its power cables, at the power supplies, and at its temperatures"
            yield _of(scene, reading, IncidentKind.POWER_THROTTLE, Severity.WARNING, what, advice)


def _collective(scene: Scene) -> Iterator[Finding]:
    """All GPUs of a job of several busy at idle watts."""
    for job_id, readings in _by_job(scene).items():
        if len(readings) < 2 or not all(_spins(each) for each in readings):
            continue
        first = readings[0]
        what = f"all {len(readings)} GPUs of job {job_id} are busy at idle watts: its ranks wait for one another"
        advice = "look at the last lines of stoker logs and at py-spy dump of each rank; NCCL_DEBUG=INFO tells which"
        yield _of(scene, first, IncidentKind.HUNG_COLLECTIVE, Severity.WARNING, what, advice)


def _idle(scene: Scene) -> Iterator[Finding]:
    for reading in scene.readings:
        holder = scene.held.get(reading.uuid)
        if holder is None or reading.state is not GpuState.OK or reading.utilization_percent is None:
            continue
        if reading.utilization_percent < IDLE_PERCENT:
            what = f"GPU {reading.index} is held by job {holder.job_id} of {holder.user} and does nothing"
            advice = (
                f"ask {holder.user}, or stoker cancel {holder.job_id}; [reaper] in the configuration does it by itself"
            )
            yield _of(scene, reading, IncidentKind.HELD_IDLE, Severity.INFO, what, advice)


def _straggler(scene: Scene) -> Iterator[Finding]:
    for job_id, readings in _by_job(scene).items():
        clocks, powers = [each.sm_clock_mhz for each in readings], [each.power_mw for each in readings]
        if len(readings) < STRAGGLER_GPUS or None in clocks or None in powers:
            continue
        clock, power = _median(map(_number, clocks)), _median(map(_number, powers))
        for reading in readings:
            if (reading.utilization_percent or 0) < IDLE_PERCENT:
                continue
            if (
                _number(reading.sm_clock_mhz) < SLOW_CLOCK_SHARE * clock
                and _number(reading.power_mw) < SLOW_POWER_SHARE * power
            ):
                what = (
                    f"GPU {reading.index} runs at {reading.sm_clock_mhz} MHz while the others of job {job_id} run at "
                    f"{clock:.0f}: the whole job waits for it"
                )
                advice = (
                    "look at its temperature and throttle reasons; when the job has ended, stoker-agent selftest it"
                )
                yield _of(scene, reading, IncidentKind.STRAGGLER, Severity.WARNING, what, advice)


def _leaked(scene: Scene) -> Iterator[Finding]:
    for reading in scene.readings:
        used = reading.memory_used_bytes
        if reading.state is not GpuState.OK or used is None or used < LEAKED_BYTES or reading.divided:
            continue
        if reading.uuid in scene.held or reading.uuid in scene.shared:
            continue
        if strangers := reading.computing():
            holds = ", ".join(_process(each) for each in strangers[:3]) + (", …" if strangers[3:] else "")
            what = f"{used / 2**30:.1f} GiB of GPU {reading.index} are held by no job, but by {holds}"
            advice = "have it ended, or started as a job: nothing is started on that GPU until it is gone"
            yield _of(scene, reading, IncidentKind.MEMORY_LEAKED, Severity.WARNING, what, advice)
        elif not reading.processes:
            what = f"{used / 2**30:.1f} GiB of GPU {reading.index} are in use, and no process and no job holds them"
            advice = "fuser -v /dev/nvidia* tells who has it open; nvidia-smi --gpu-reset gives it back"
            yield _of(scene, reading, IncidentKind.MEMORY_LEAKED, Severity.CRITICAL, what, advice)


def _process(each: GpuProcess) -> str:
    whose, words = f" of {each.user}" if each.user else "", (each.command or "").split()
    return f"process {each.pid}{whose}" + (f" ({words[0]})" if words else "")


def _sampler(scene: Scene) -> Iterator[Finding]:
    if scene.sampler_silent_s > 0:
        what = f"no reading has come for {scene.sampler_silent_s:.0f} s"
        advice = "see the agent's log and dmesg; nvidia-smi that hangs as well means that the node wants a reboot"
        yield Finding(kind=IncidentKind.SAMPLER, severity=Severity.CRITICAL, what=what, advice=advice)


_RULES: tuple[Callable[[Scene], Iterator[Finding]], ...] = (
    _state,
    _inventory,
    _links,
    _memory,
    _nvlink,
    _recovery,
    _throttle,
    _collective,
    _idle,
    _straggler,
    _leaked,
    _sampler,
)


# --- below ------------------------------------------------------------------------------------------------------------


def _of(scene: Scene, reading: GpuReading, kind: IncidentKind, severity: Severity, what: str, advice: str) -> Finding:
    holder = scene.held.get(reading.uuid)
    return Finding(
        kind=kind,
        severity=severity,
        what=what,
        advice=advice,
        gpu_uuid=reading.uuid,
        gpu_index=reading.index,
        job_id=None if holder is None else holder.job_id,
        user=None if holder is None else holder.user,
    )


def _readable(scene: Scene) -> Iterator[GpuReading]:
    return (reading for reading in scene.readings if reading.state is GpuState.OK)


def _by_job(scene: Scene) -> dict[int, list[GpuReading]]:
    """The readings of each job whose GPUs can all be read."""
    found: dict[int, list[GpuReading]] = {}
    for reading in scene.readings:
        holder = scene.held.get(reading.uuid)
        if holder is not None and reading.state is GpuState.OK:
            found.setdefault(holder.job_id, []).append(reading)
    return {job: readings for job, readings in found.items() if len(readings) == scene.held[readings[0].uuid].gpus}


def _spins(reading: GpuReading) -> bool:
    power, limit = reading.power_mw, reading.power_limit_mw
    if reading.utilization_percent is None or power is None or not limit:
        return False
    return reading.utilization_percent >= SPIN_PERCENT and power <= SPIN_POWER_SHARE * limit


def _median(values: Iterable[float]) -> float:
    """As `statistics.median`, which with what it imports is 0.5 MB."""
    ranked = sorted(values)
    middle = len(ranked) // 2
    return ranked[middle] if len(ranked) % 2 else (ranked[middle - 1] + ranked[middle]) / 2


def _number(value: int | None) -> int:
    assert value is not None, "asked only where each has a value"
    return value
