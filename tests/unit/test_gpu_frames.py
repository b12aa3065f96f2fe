"""The words between sampler process and agent: what is told in full, what is told as news, and that both ends agree."""

from __future__ import annotations

import msgspec
import pytest

from agent.api.decode import decode
from agent.api.types import GpuErrors, GpuProcess, GpuReading, GpuSource, GpuState
from agent.gpu.frames import Frame, FrameReader, FrameWriter, Fresh, Stamped


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
