"""How the GPUs of a node reach one another, as `nvidia-smi topo -m` has it: a matrix of NVLinks and PCIe. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from agent.api.queue import LinkGrade
from agent.api.types import Gpu
from tui import units
from tui.spans import Role, Span

_WIDE, _NARROW = 6, 3
_WORDS = {LinkGrade.SYSTEM: "SYS", LinkGrade.NODE: "NODE", LinkGrade.BRIDGE: "PIX"}
LEGEND = "NV18: 18 NVLinks   PIX: one PCIe switch   NODE: one NUMA node   SYS: across the sockets"


def lines(gpus: Sequence[Gpu], width: int) -> list[list[Span]]:
    """A line for each whole GPU: its way to each other one, then its NUMA node, lanes and NVLinks."""
    whole = [gpu for gpu in gpus if gpu.mig_parent is None]
    if len(whole) < 2:
        return [[(" one GPU has nobody to be linked with", Role.DIM)]] if whole else []
    tail = ("  NUMA", "  PCIe", "  NVLINKS")
    cells = _WIDE if 7 + _WIDE * len(whole) + sum(map(len, tail)) <= width else _NARROW
    head = "".join(f"{gpu.index:>{cells}}" for gpu in whole) + ("".join(tail) if cells == _WIDE else "")
    drawn: list[list[Span]] = [[(" GPU   ", Role.HEAD), (head, Role.HEAD)]]
    for one in whole:
        line: list[Span] = [(f" {one.index:>3}   ", Role.STRONG)]
        line += [_cell(one, other, cells) for other in whole]
        if cells == _WIDE:
            line.append((_tail(one), Role.TEXT))
        drawn.append(line)
    return [*drawn, [(f" {LEGEND}"[: width - 1], Role.DIM)]]


def grade_word(grade: int) -> str:
    """`NV18`, `PIX`, `NODE`, `SYS`."""
    if grade >= LinkGrade.NVLINK:
        return f"NV{grade - LinkGrade.NVLINK + 1}"
    return next((word for known, word in _WORDS.items() if known == grade), str(grade))


def _cell(one: Gpu, other: Gpu, cells: int) -> Span:
    if one.uuid == other.uuid:
        return f"{'X':>{cells}}", Role.DIM
    grade = one.links.get(other.uuid, int(LinkGrade.SYSTEM))
    word = grade_word(grade)
    short = word.removeprefix("NV") if cells == _NARROW else word
    return f"{short[: cells - 1]:>{cells}}", Role.OK if grade >= LinkGrade.NVLINK else Role.TEXT


def _tail(gpu: Gpu) -> str:
    bus = gpu.bus
    numa = units.UNKNOWN if gpu.numa_node is None else str(gpu.numa_node)
    if bus is None:
        return f"{numa:>6}{units.UNKNOWN:>6}{units.UNKNOWN:>9}"
    lanes = units.UNKNOWN if bus.pcie_width is None else f"x{bus.pcie_width}"
    active, total = (units.UNKNOWN if each is None else str(each) for each in (bus.nvlinks_active, bus.nvlinks_total))
    return f"{numa:>6}{lanes:>6}{f'{active}/{total}':>9}"
