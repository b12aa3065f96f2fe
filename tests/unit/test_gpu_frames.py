"""The words between sampler process and agent: what is told in full, what is told as news, and that both ends agree."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import pytest

from agent.api.decode import decode
from agent.api.types import GpuErrors, GpuProcess, GpuReading, GpuSource, GpuState
from agent.gpu.frames import SPREAD_NAMES, Frame, FrameReader, FrameWriter, Fresh, News, Renewal, Stamped, Swept


def reading(index: int = 0, second: int = 0, **values: object) -> GpuReading:
    plain = GpuReading(
        index=index,
        uuid=f"GPU-{index}",
        name="x",
        sampled_at=1000.0 + second,
        power_mw=100_000 + second,
        throttle=("power_cap",),
        spreads={"power_mw": (1.0, 2.0, 3.0)},
        errors=GpuErrors(ecc_corrected=7),
        processes=(GpuProcess(pid=1, sm_percent=5),),
    )
    return msgspec.structs.replace(plain, **values)


def stamped(index: int = 0, second: int = 0, **values: object) -> Stamped:
    return Stamped(reading=reading(index, second, **values), at=float(second))


class Pipe:
    """Both ends."""

    def __init__(self) -> None:
        self.writer = FrameWriter(GpuSource.NVML, "550", lambda processes: processes)
        self.reader = FrameReader()
        self.last: Frame | None = None

    def carry(self, *gpus: Stamped) -> tuple[Stamped, ...] | None:
        return self.carry_all(gpus)

    def carry_all(self, gpus: Iterable[Stamped | Renewal]) -> tuple[Stamped, ...] | None:
        self.last = decode(self.writer.write(gpus), Frame)
        return self.reader.read(self.last)

    @property
    def told(self) -> tuple[list[int], list[int]]:
        """Indexes told in full, and as news."""
        assert self.last is not None
        return [each.reading.index for each in self.last.gpus or ()], [each.index for each in self.last.fresh]


def test_every_value_that_a_reading_brings_is_one_of_a_reading() -> None:
    assert set(Fresh.__struct_fields__) - {"at"} <= set(GpuReading.__struct_fields__)


def test_a_gpu_is_told_in_full_once_and_then_by_its_news() -> None:
    pipe = Pipe()
    first = (stamped(0), stamped(1))
    assert pipe.carry(*first) == first
    assert pipe.told == ([0, 1], [])
    second = (stamped(0, 1), stamped(1, 1, power_mw=None, throttle=None, spreads={}))
    assert pipe.carry(*second) == second
    assert pipe.told == ([], [0, 1])


def test_what_seldom_changes_is_told_in_full_and_alone() -> None:
    pipe = Pipe()
    pipe.carry(stamped(0), stamped(1))
    changed = (stamped(0, 1), stamped(1, 1, errors=GpuErrors(ecc_corrected=8)))
    assert pipe.carry(*changed) == changed
    assert pipe.told == ([1], [0])


def test_a_gpu_that_hangs_is_told_of_once_and_never_as_new() -> None:
    pipe = Pipe()
    pipe.carry(stamped(0), stamped(1))
    hung = stamped(0, 0, state=GpuState.HUNG, state_since=1001, reason="late")
    for second in (1, 2, 3):
        live = stamped(1, second)
        assert pipe.carry(hung, live) == (hung, live)
        assert pipe.told == ([0] if second == 1 else [], [1])
    well = stamped(0, 4)
    assert pipe.carry(well, stamped(1, 4)) == (well, stamped(1, 4))


def test_processes_are_told_when_they_change() -> None:
    pipe = Pipe()
    pipe.carry(stamped(0))
    size = len(pipe.writer.write((stamped(0, 1),)))
    others = (GpuProcess(pid=2, user="ada", command="train"),)
    assert len(pipe.writer.write((stamped(0, 2, processes=others),))) > size
    pipe = Pipe()
    pipe.carry(stamped(0))
    for second, processes in ((1, others), (2, others), (3, ()), (4, others)):
        now = stamped(0, second, processes=processes)
        assert pipe.carry(now) == (now,)


def test_an_instance_that_is_gone_is_gone_and_is_told_in_full_when_it_comes_back() -> None:
    pipe = Pipe()
    pipe.carry(stamped(0), stamped(100))
    assert pipe.carry(stamped(0, 1)) == (stamped(0, 1),)
    assert pipe.carry(stamped(0, 2), stamped(100, 2)) == (stamped(0, 2), stamped(100, 2))
    assert pipe.told == ([100], [0])


def test_without_gpus_and_while_opening() -> None:
    pipe = Pipe()
    pipe.carry(stamped(0))
    assert pipe.reader.read(Frame(source=GpuSource.NVML, reason="slow", gpus=None)) is None
    assert pipe.reader.read(Frame(source=GpuSource.NVML, reason="gone", gpus=())) == ()


def test_news_of_a_gpu_nobody_told_of_is_no_frame() -> None:
    pipe = Pipe()
    pipe.carry(stamped(0))
    line = pipe.writer.write((stamped(0, 1),))
    with pytest.raises(ValueError, match="never told in full"):
        FrameReader().read(decode(line, Frame))


# --- GPUs that were asked in one go -----------------------------------------------------------------------------------

COLUMNS = Swept.__struct_fields__[5:]
BASES = [reading(0), reading(1)]
USER = GpuProcess(pid=1, sm_percent=5)


def news(second: int, *users: GpuProcess, **values: list[object]) -> News:
    """Of both GPUs; what is not said is as in `BASES`."""
    columns = [values.get(name, [getattr(base, name) for base in BASES]) for name in COLUMNS]
    spreads = [[base.spreads.get(name) for base in BASES] for name in SPREAD_NAMES]
    processes: list[tuple[GpuProcess, ...]] = [(user,) for user in users or (USER, USER)]
    return News([0, 1], BASES, float(second), 1000.0 + second, processes, spreads, columns)


def whole(told: News) -> tuple[Stamped, ...]:
    return tuple(renewal.stamped() for renewal in told)


def test_a_sweep_is_told_column_by_column_and_only_what_changed() -> None:
    pipe = Pipe()
    pipe.carry(*(Stamped(reading=base, at=0.0) for base in BASES))
    powers: list[list[object]] = [[1, 2], [1, 2], [None, 3]]
    for second, power in enumerate(powers, 1):
        told = news(second, power_mw=power)
        assert pipe.carry_all(told) == whole(told)
    assert pipe.last is not None and pipe.last.swept is not None
    assert (pipe.last.swept.power_mw, pipe.last.swept.memory_used_bytes) == ((None, 3), None)
    assert (pipe.told, pipe.last.swept.spreads) == (([], []), (None, None, None))


def test_after_a_sweep_each_may_be_told_of_alone_and_then_together_again() -> None:
    pipe = Pipe()
    pipe.carry(*(Stamped(reading=base, at=0.0) for base in BASES))
    pipe.carry_all(news(1))
    pipe.carry_all(news(2, power_mw=[5, 6]))
    hung = (stamped(0, 2, power_mw=5, state=GpuState.HUNG), stamped(1, 3, power_mw=7))
    assert pipe.carry(*hung) == hung
    well = (Stamped(reading=BASES[0], at=4.0), Stamped(reading=BASES[1], at=4.0))
    assert pipe.carry(*well) == well
    for second in (5, 6):
        told = news(second, power_mw=[5, 6])
        assert pipe.carry_all(told) == whole(told)


def test_names_that_became_known_are_told_of_a_sweep_whose_processes_are_as_before() -> None:
    named = {"": GpuProcess(pid=1)}
    writer = FrameWriter(GpuSource.NVML, "550", lambda _: (named[""],), lambda: named[""])
    reader = FrameReader()
    reader.read(decode(writer.write([Stamped(reading=base, at=0.0) for base in BASES]), Frame))
    told = news(1)
    for user in (None, None, "ada", "ada"):
        named[""] = msgspec.structs.replace(named[""], user=user) if named[""].user != user else named[""]
        gpus = reader.read(decode(writer.write(told), Frame))
        assert gpus is not None and [gpu.reading.processes for gpu in gpus] == [(named[""],)] * 2


def test_what_a_ring_told_last_goes_on_until_it_is_asked_again() -> None:
    pipe = Pipe()
    pipe.carry(*(Stamped(reading=base, at=0.0) for base in BASES))
    for second in (1, 2):
        pipe.carry_all(news(second))
    told = news(3)
    told.spreads = ([None, (4.0, 5.0, 6.0)], *told.spreads[1:])
    gpus = pipe.carry_all(told)
    assert gpus is not None
    assert [gpu.reading.spreads for gpu in gpus] == [{}, {"power_mw": (4.0, 5.0, 6.0)}]
