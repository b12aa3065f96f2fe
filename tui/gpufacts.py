"""Every value that is read of a GPU, in groups, as the page of a GPU and the page of a node write them. Pure.

Rules kept here: a value that driver or board do not offer is a dash, never a 0; what speaks against the GPU has a `!`
before it; the values of a GPU that does not answer are the last ones, and the page says since when. A field that this
program does not know of yet is written under its own name, so that nothing that is read is missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from agent.api.types import Gpu, GpuBus, GpuErrors, GpuLimits, GpuState
from tui import safe, units
from tui.session import Clock
from tui.spans import Role, Span, bar, fit

Line = tuple[str, str, Role]
"""Label, value, what it is."""
COLUMN = 38
"""Cells of a column of values."""
_LABEL = 15
_STALE_S = 3.0
_NOT_VALUES = frozenset(
    """index uuid name state state_since reason sampled_at links processes age_s job_id job_ids seated drain
    ill""".split()  # noqa: SIM905 - easier on the eye
)
"""Told elsewhere on the page: in its head, among its processes, in the matrix of links."""


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """Some values under a title."""

    title: str
    lines: tuple[Line, ...]


def groups(gpu: Gpu) -> list[Group]:
    """All of them; those that concern MIG only where there is any."""
    made = [
        ("Utilisation", _utilisation(gpu)),
        ("Power", _power(gpu)),
        ("Memory", _memory(gpu)),
        ("Temperature", _temperature(gpu)),
        ("Clocks", _clocks(gpu)),
        ("Throttling", _throttling(gpu)),
        ("PCIe", _pcie(gpu)),
        ("NVLink", _nvlink(gpu)),
        ("ECC and rows", _errors(gpu)),
        ("MIG", _mig(gpu)),
        ("Place", _place(gpu)),
        ("More", _more(gpu)),
    ]
    return [Group(title=title, lines=found) for title, lines in made if (found := tuple(lines))]


def flow(found: Sequence[Group], width: int) -> list[list[Span]]:
    """The groups in as many columns as there is room for, each put under the shortest, so the first stay on top."""
    count = max(1, width // COLUMN)
    columns: list[list[list[Span]]] = [[] for _ in range(count)]
    for group in found:
        min(columns, key=len).extend(_group_lines(group))
    each = width // count
    return [
        [span for column in columns for span in fit(tuple(column[line] if line < len(column) else ()), each)]
        for line in range(max(map(len, columns)))
    ]


def state_line(gpu: Gpu, age_s: float, clock: Clock, wall: float) -> list[Span]:
    """How it is, and since when: `! hung since 11:05:26 (74 s): the driver does not answer`."""
    if gpu.state is GpuState.OK:
        if age_s >= _STALE_S:
            return [(f" ~ stale: last read {units.age(age_s)} ago", Role.WARN)]
        return [(" ● ok", Role.OK), (f"   read {units.age(age_s)} ago", Role.DIM), (f"   {essentials(gpu)}", Role.TEXT)]
    sign = "x" if gpu.state is GpuState.LOST else "!"
    since = gpu.state_since if gpu.state_since is not None else round(wall - age_s)
    words = f" {sign} {gpu.state.value} since {clock.moment(since)} ({units.age(wall - since)})"
    reason = f": {gpu.reason}" if gpu.reason else ""
    return [
        (words, Role.BAD),
        (reason, Role.WARN),
        (f"; the values are those of {clock.moment(gpu.sampled_at)}" if gpu.sampled_at else "", Role.DIM),
    ]


def essentials(gpu: Gpu) -> str:
    """What must be in sight on the smallest terminal: `90%  60/80G  65°C  573 W`."""
    memory = units.gib_of(gpu.memory_used_bytes, gpu.memory_total_bytes)
    watts = units.watts(gpu.power_mw)
    return f"{units.percent(gpu.utilization_percent)}  {memory}  {units.celsius(gpu.temperature_c)}  {watts}"


def is_old(gpu: Gpu, age_s: float) -> bool:
    """Whether its values are not those of now."""
    return gpu.state is not GpuState.OK or age_s >= _STALE_S


def process_lines(gpu: Gpu, clock: Clock, job_of: str) -> list[list[Span]]:
    """Who has it open: `job_of` is the job that holds it, as it is written."""
    lines: list[list[Span]] = [[(" Processes", Role.HEAD), (f"  {len(gpu.processes)}", Role.DIM)]]
    if not gpu.processes:
        words = f"{job_of} holds it, and no process is seen on it" if job_of else "none"
        return [*lines, [(f"   {words}", Role.DIM)]]
    lines.append([("      PID  USER        KIND       SM     MEMORY  SINCE         COMMAND", Role.DIM)])
    for each in gpu.processes:
        since = units.UNKNOWN if each.started_at is None else clock.moment(each.started_at)
        words = (
            f" {each.pid:>8}  {safe.fit(each.user or '?', 10)}  {safe.fit(each.kind, 8)} "
            f"{units.percent(each.sm_percent):>5} {units.size(each.memory_used_bytes):>10}  {safe.fit(since, 12)}  "
        )
        lines.append([(words, Role.TEXT), (each.command or "", Role.STRONG)])
    return lines


# --- the groups -------------------------------------------------------------------------------------------------------


def _utilisation(gpu: Gpu) -> Iterator[Line]:
    yield "GPU", _percent(gpu.utilization_percent) + _spread(gpu, "utilization_percent", 1, "%"), Role.STRONG
    yield "memory bus", _percent(gpu.memory_utilization_percent), Role.TEXT
    yield "SM active", _percent(gpu.sm_active_percent), Role.TEXT
    yield "SM occupancy", _percent(gpu.sm_occupancy_percent), Role.TEXT
    yield "tensor cores", _percent(gpu.tensor_active_percent), Role.TEXT
    yield "DRAM", _percent(gpu.dram_active_percent), Role.TEXT
    yield "encoder", _percent(gpu.encoder_percent), Role.TEXT
    yield "decoder", _percent(gpu.decoder_percent), Role.TEXT


def _memory(gpu: Gpu) -> Iterator[Line]:
    used, all_of_it = gpu.memory_used_bytes, gpu.memory_total_bytes
    share = f" {used / all_of_it:.0%}" if used is not None and all_of_it else ""
    yield "used", units.size(used) + share, Role.STRONG
    yield "of", units.size(all_of_it), Role.TEXT
    yield "free", units.size(gpu.memory_free_bytes), Role.TEXT
    yield "driver's own", units.size(gpu.memory_reserved_bytes), Role.TEXT


def _power(gpu: Gpu) -> Iterator[Line]:
    limits = gpu.limits or GpuLimits()
    yield "now", units.watts(gpu.power_mw) + _spread(gpu, "power_mw", 1000, " W"), Role.STRONG
    yield "limit", units.watts(gpu.power_limit_mw), Role.TEXT
    yield "as delivered", units.watts(limits.power_default_mw), Role.TEXT
    least, most = units.watts(limits.power_least_mw), units.watts(limits.power_most_mw)
    yield "can be set to", units.UNKNOWN if limits.power_most_mw is None else f"{least} to {most}", Role.TEXT
    yield "energy", units.UNKNOWN if gpu.energy_mj is None else f"{gpu.energy_mj / 3.6e9:.2f} kWh", Role.TEXT


def _temperature(gpu: Gpu) -> Iterator[Line]:
    limits = gpu.limits or GpuLimits()
    hot = limits.temperature_slowdown_c
    over = gpu.temperature_c is not None and hot is not None and gpu.temperature_c >= hot
    yield "GPU", ("!" if over else "") + units.celsius(gpu.temperature_c), Role.BAD if over else Role.STRONG
    yield "memory", units.celsius(gpu.memory_temperature_c), Role.TEXT
    yield "full clocks to", units.celsius(limits.temperature_most_c), Role.TEXT
    yield "memory's most", units.celsius(limits.memory_temperature_most_c), Role.TEXT
    yield "slows down at", units.celsius(hot), Role.TEXT
    yield "shuts down at", units.celsius(limits.temperature_shutdown_c), Role.TEXT
    yield "fan", _percent(gpu.fan_percent), Role.TEXT


def _clocks(gpu: Gpu) -> Iterator[Line]:
    limits = gpu.limits or GpuLimits()
    yield "SM", _of(_mhz(gpu.sm_clock_mhz), _mhz(limits.sm_clock_max_mhz)), Role.STRONG
    yield "memory", _of(_mhz(gpu.memory_clock_mhz), _mhz(limits.memory_clock_max_mhz)), Role.TEXT
    state = gpu.performance_state
    yield "P-state", units.UNKNOWN if state is None else f"P{state}", Role.TEXT


def _throttling(gpu: Gpu) -> Iterator[Line]:
    if gpu.throttle is None:
        yield "now", units.UNKNOWN, Role.TEXT
    elif gpu.throttle:
        harmless = set(gpu.throttle) <= {"power_cap", "app_clocks", "display_clocks", "sync_boost"}
        yield "now", ("" if harmless else "!") + ", ".join(gpu.throttle), Role.TEXT if harmless else Role.WARN
    else:
        yield "now", "nothing", Role.TEXT
    yield "of the time", _percent(gpu.throttled_percent), Role.TEXT
    for name, spent_us in gpu.throttled_us.items():
        yield f"by {name}", units.countdown(spent_us / 1e6), Role.TEXT


def _pcie(gpu: Gpu) -> Iterator[Line]:
    bus, limits, errors = gpu.bus or GpuBus(), gpu.limits or GpuLimits(), gpu.errors or GpuErrors()
    yield "generation", _of(_number(bus.pcie_generation), _number(limits.pcie_generation_max)), Role.TEXT
    narrow = None not in (bus.pcie_width, limits.pcie_width_max) and bus.pcie_width != limits.pcie_width_max
    lanes = _of(_number(bus.pcie_width), _number(limits.pcie_width_max))
    yield "lanes", ("!" if narrow else "") + lanes, Role.WARN if narrow else Role.TEXT
    yield "in", _rate(gpu.pcie_rx_bytes_per_s), Role.TEXT
    yield "out", _rate(gpu.pcie_tx_bytes_per_s), Role.TEXT
    yield _counter("replays", errors.pcie_replays)


def _nvlink(gpu: Gpu) -> Iterator[Line]:
    bus, errors = gpu.bus or GpuBus(), gpu.errors or GpuErrors()
    yield "links up", _of(_number(bus.nvlinks_active), _number(bus.nvlinks_total)), Role.TEXT
    yield "in", _rate(gpu.nvlink_rx_bytes_per_s), Role.TEXT
    yield "out", _rate(gpu.nvlink_tx_bytes_per_s), Role.TEXT
    yield _counter("CRC errors", errors.nvlink_crc)
    yield _counter("replays", errors.nvlink_replays)
    yield _counter("recoveries", errors.nvlink_recoveries)


def _errors(gpu: Gpu) -> Iterator[Line]:
    errors = gpu.errors or GpuErrors()
    yield "corrected", _ever(errors.ecc_corrected, errors.ecc_corrected_ever), Role.TEXT
    bad = bool(errors.ecc_uncorrected)
    text = _ever(errors.ecc_uncorrected, errors.ecc_uncorrected_ever)
    yield "uncorrected", ("!" if bad else "") + text, Role.BAD if bad else Role.TEXT
    remapped = f"{_number(errors.rows_remapped_corrected)} + {_number(errors.rows_remapped_uncorrected)}"
    yield "rows replaced", remapped if remapped != f"{units.UNKNOWN} + {units.UNKNOWN}" else units.UNKNOWN, Role.TEXT
    yield _flag("row at reset", errors.remap_pending, Role.WARN)
    yield _flag("no spare rows", errors.remap_failed, Role.BAD)
    yield "pages retired", _number(errors.pages_retired), Role.TEXT
    yield _flag("page at reset", errors.pages_pending, Role.WARN)
    action = errors.recovery_action
    wanted = action not in (None, "none")
    yield "driver wants", f"!{action}" if wanted else action or units.UNKNOWN, Role.BAD if wanted else Role.TEXT


def _mig(gpu: Gpu) -> Iterator[Line]:
    if gpu.divided:
        yield "mode", "divided", Role.TEXT
    if gpu.mig_parent is not None:
        yield "profile", gpu.mig_profile or units.UNKNOWN, Role.STRONG
        yield "GPU instance", _number(gpu.mig_gi), Role.TEXT
        yield "compute inst.", _number(gpu.mig_ci), Role.TEXT
        yield "part of", gpu.mig_parent, Role.TEXT


def _place(gpu: Gpu) -> Iterator[Line]:
    yield "PCI", gpu.pci or units.UNKNOWN, Role.TEXT
    yield "device", units.UNKNOWN if gpu.minor is None else f"/dev/nvidia{gpu.minor}", Role.TEXT
    yield "NUMA node", _number(gpu.numa_node), Role.TEXT
    words = ", ".join(gpu.failed)
    yield "failed now", f"!{words}" if words else "no value", Role.WARN if words else Role.TEXT
    yield "left out", f"{units.count(gpu.dropped, 'impossible value')}", Role.TEXT


_KNOWN = _NOT_VALUES | frozenset(
    """utilization_percent memory_utilization_percent sm_active_percent sm_occupancy_percent tensor_active_percent
    dram_active_percent encoder_percent decoder_percent memory_used_bytes memory_total_bytes memory_reserved_bytes
    power_mw power_limit_mw energy_mj temperature_c memory_temperature_c fan_percent sm_clock_mhz memory_clock_mhz
    performance_state throttle throttled_us throttled_percent pcie_rx_bytes_per_s pcie_tx_bytes_per_s
    nvlink_rx_bytes_per_s nvlink_tx_bytes_per_s spreads errors bus limits dropped numa_node minor pci mig_parent
    mig_profile mig_gi mig_ci divided failed memory_free_bytes temperature_most_c memory_temperature_most_c
    ecc_corrected ecc_uncorrected ecc_corrected_ever ecc_uncorrected_ever rows_remapped_corrected
    rows_remapped_uncorrected remap_pending remap_failed pages_retired pages_pending pcie_replays nvlink_crc
    nvlink_replays nvlink_recoveries recovery_action
    pcie_generation pcie_width nvlinks_total nvlinks_active
    power_default_mw power_least_mw power_most_mw temperature_slowdown_c temperature_shutdown_c sm_clock_max_mhz
    memory_clock_max_mhz pcie_generation_max pcie_width_max""".split()  # noqa: SIM905 - easier on the eye
)


def _more(gpu: Gpu) -> Iterator[Line]:
    """What this program has no words for yet, also of what is told in parts."""
    for part in (gpu, gpu.errors, gpu.bus, gpu.limits):
        for name in part.__struct_fields__ if part is not None else ():
            value = getattr(part, name)
            if name in _KNOWN or isinstance(value, msgspec.Struct):
                continue
            text = units.size(value) if name.endswith("_bytes") and isinstance(value, int) else str(value)
            yield name.removesuffix("_bytes").replace("_", " "), units.UNKNOWN if value is None else text, Role.TEXT


# --- below ------------------------------------------------------------------------------------------------------------


def _group_lines(group: Group) -> list[list[Span]]:
    lines: list[list[Span]] = [[(f" {group.title}", Role.HEAD)]]
    for label, value, role in group.lines:
        faint = Role.DIM if value == units.UNKNOWN else role
        lines.append([(f"   {safe.fit(label, _LABEL)}", Role.DIM), (value, faint)])
    return [*lines, []]


def _percent(value: float | None) -> str:
    """A share with a bar before it."""
    if value is None:
        return units.UNKNOWN
    return f"{value:>3.0f}% {''.join(text for text, _ in bar(value / 100, 6))}"


def _spread(gpu: Gpu, name: str, divisor: int, unit: str) -> str:
    """What the driver noted between two readings: ` 410-698 W`."""
    spread = gpu.spreads.get(name)
    return "" if spread is None else f"  {spread[0] / divisor:.0f}-{spread[2] / divisor:.0f}{unit}"


def _of(value: str, most: str) -> str:
    return value if most == units.UNKNOWN else f"{value} of {most}"


def _mhz(value: int | None) -> str:
    return units.UNKNOWN if value is None else f"{value} MHz"


def _number(value: int | None) -> str:
    return units.UNKNOWN if value is None else str(value)


def _rate(value: int | None) -> str:
    return units.UNKNOWN if value is None else f"{units.size(value)}/s"


def _counter(label: str, value: int | None) -> Line:
    return label, _number(value), Role.TEXT


def _ever(now: int | None, ever: int | None) -> str:
    return _number(now) + (f", {ever} in its life" if ever is not None else "")


def _flag(label: str, value: bool | None, role: Role) -> Line:
    if value is None:
        return label, units.UNKNOWN, Role.TEXT
    return label, "!yes" if value else "no", role if value else Role.TEXT
