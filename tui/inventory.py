"""The GPUs that a node is known to have, beside those that are there: a row for each, and how they differ. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from agent.api.health import KnownGpu
from agent.api.types import Gpu, GpuState
from tui import units
from tui.spans import Cell, Column, Role, Row, cell

COLUMNS = (
    Column(title="GPU", least=3, right=True),
    Column(title="STATE", least=9, most=22, firm=True),
    Column(title="MODEL", least=10, most=28),
    Column(title="LANES", least=5, most=9, firm=True),
    Column(title="NVLINKS", least=7, most=9, firm=True),
    Column(title="UUID", least=12, grow=True),
)


def table_rows(known: Sequence[KnownGpu], there: Sequence[Gpu]) -> list[Row]:
    """What should be there, then what is there and should not."""
    whole = {gpu.uuid: gpu for gpu in there if gpu.mig_parent is None}
    rows = [_row(each, whole.get(each.uuid)) for each in known]
    strangers = [gpu for gpu in whole.values() if gpu.uuid not in {each.uuid for each in known}]
    return rows + [_stranger(gpu, remembered=bool(known)) for gpu in strangers]


def differences(known: Sequence[KnownGpu], there: Sequence[Gpu]) -> list[str]:
    """A sentence for each; none where nothing is known yet."""
    return list(_differences(known, there)) if known else []


def _differences(known: Sequence[KnownGpu], there: Sequence[Gpu]) -> Iterator[str]:
    whole = {gpu.uuid: gpu for gpu in there if gpu.mig_parent is None}
    for each in known:
        gpu = whole.pop(each.uuid, None)
        if gpu is None:
            yield f"GPU {each.index} ({each.name}, {each.uuid}) is missing"
            continue
        for what, before, now in _links(each, gpu):
            if now is not None and before is not None and now < before:
                yield f"GPU {each.index} has {now} {what}, and had {before}"
    for gpu in whole.values():
        yield f"GPU {gpu.index} ({gpu.name}, {gpu.uuid}) is new"


def _links(each: KnownGpu, gpu: Gpu) -> tuple[tuple[str, int | None, int | None], ...]:
    bus = gpu.bus
    width, nvlinks = (None, None) if bus is None else (bus.pcie_width, bus.nvlinks_active)
    return ("PCIe lanes", each.pcie_width, width), ("NVLinks", each.nvlinks, nvlinks)


def _row(each: KnownGpu, gpu: Gpu | None) -> Row:
    if gpu is None:
        state, lanes, nvlinks = cell("x missing", Role.BAD), _of(None, each.pcie_width), _of(None, each.nvlinks)
    else:
        (_, width, width_now), (_, links, links_now) = _links(each, gpu)
        state, lanes, nvlinks = _state(gpu), _of(width_now, width), _of(links_now, links)
    return Row(key=each.uuid, cells=(cell(str(each.index)), state, cell(each.name), lanes, nvlinks, cell(each.uuid)))


def _state(gpu: Gpu) -> Cell:
    if gpu.state is GpuState.OK:
        return cell("● there", Role.OK)
    return cell(f"! there, {gpu.state.value}", Role.BAD)


def _stranger(gpu: Gpu, *, remembered: bool) -> Row:
    bus = gpu.bus
    state = cell("~ new", Role.WARN) if remembered else cell("○ not yet kept", Role.DIM)
    width, nvlinks = (None, None) if bus is None else (bus.pcie_width, bus.nvlinks_active)
    cells = (cell(str(gpu.index)), state, cell(gpu.name), _of(width, None), _of(nvlinks, None), cell(gpu.uuid))
    return Row(key=gpu.uuid, cells=cells)


def _of(now: int | None, known: int | None) -> Cell:
    """`16`, or `!8 of 16` where it was more."""
    if now is not None and known is not None and now < known:
        return cell(f"!{now} of {known}", Role.BAD)
    return cell(units.UNKNOWN if now is None else str(now))
