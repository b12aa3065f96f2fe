"""What is expected of a GPU model, from `models.toml`: pure once it is read."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import msgspec

from agent.api.decode import convert
from agent.selftest.checks import Check, Verdict

MODELS = Path(__file__).with_name("models.toml")


class Model(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A GPU model's figures; the file says what each means."""

    key: str
    names: tuple[str, ...]
    memory_gb: int
    gemm_tflops: dict[str, float]
    memory_gb_s: float
    pcie: tuple[int, int]
    nvlink_gb_s: float | None = None
    nvlinks: int | None = None
    floor_percent: dict[str, int] = msgspec.field(default_factory=dict)
    unconfirmed: tuple[str, ...] = ()
    """Figures that no public page confirms which we could read."""


class _Default(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    floor_percent: dict[str, int]


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    model: tuple[Model, ...]
    default: _Default
    pcie_gb_s: dict[str, float]


@dataclass(frozen=True)
class Expected:
    """All models."""

    path: Path = MODELS

    @cached_property
    def _file(self) -> _File:
        return convert(tomllib.loads(self.path.read_text(encoding="utf-8")), _File)

    @property
    def models(self) -> tuple[Model, ...]:
        """As the file lists them."""
        return self._file.model

    def of(self, name: str) -> Model | None:
        """The model of a GPU by the driver's name, or by our key; `None` for one we know nothing of."""
        wanted = plain(name)
        return next(
            (each for each in self.models if wanted in (plain(each.key), *(plain(known) for known in each.names))), None
        )

    def pcie_mb_s(self, generation: int, width: int) -> int | None:
        """What such a link carries in one direction."""
        lane = self._file.pcie_gb_s.get(str(generation))
        return None if lane is None else int(1000 * lane * width)

    def floor_percent(self, model: Model | None, figure: str, kind: str) -> int:
        """The share of the peak that still passes: the figure's own, else its kind's, else everybody's."""
        own = model.floor_percent if model else {}
        return own.get(figure, own.get(kind, self._file.default.floor_percent[kind]))


def plain(name: str) -> str:
    """A name as it is compared: the vendor's word, blanks, dashes and case do not count."""
    return re.sub(r"[\s_-]+", " ", re.sub(r"^nvidia\s+", "", name.strip(), flags=re.IGNORECASE)).lower()


def rate(
    subject: str, name: str, value: int, unit: str, *, peak: float | None, floor_percent: int, uuid: str | None = None
) -> Check:
    """A measured rate against a peak in the same unit; without a peak there is no verdict."""
    if not peak:
        return Check(
            subject=subject,
            name=name,
            found=shown(value, unit),
            expected="not known",
            verdict=Verdict.NONE,
            uuid=uuid,
            value=value,
            unit=unit,
        )
    good = value * 100 >= peak * floor_percent
    return Check(
        subject=subject,
        name=name,
        found=f"{shown(value, unit)} ({100 * value / peak:.0f} %)",
        expected=f">= {shown(peak * floor_percent / 100, unit)} ({floor_percent} % of {shown(peak, unit)})",
        verdict=Verdict.PASS if good else Verdict.FAIL,
        detail=None if good else _SLOW.get(name.partition(" ")[0], "slower than a healthy one of its model"),
        uuid=uuid,
        value=value,
        unit=unit,
    )


_SLOW = {
    "GEMM": "slower than a healthy one of its model; see its temperature, power limit and clocks: nvidia-smi -q",
    "memory": "its memory is slower than that of a healthy one; see its remapped rows: nvidia-smi -q -d ROW_REMAPPER",
    "host": "the way to the host is slow; see slot, riser and BIOS for the link's width and generation",
    "device": "the way to the host is slow; see slot, riser and BIOS for the link's width and generation",
    "peer": "the way between these GPUs is slow; see: nvidia-smi nvlink -s, nvidia-smi topo -m",
    "all-reduce": "the GPUs together are slow; see: nvidia-smi nvlink -s, and the fabric manager's service",
}


def shown(value: float, unit: str) -> str:
    """GFLOP/s as TFLOP/s and MB/s as GB/s where they are thousands, with three digits that count."""
    bigger = {"GFLOP/s": "TFLOP/s", "MB/s": "GB/s"}.get(unit)
    if bigger is not None and value >= 1000:
        value, unit = value / 1000, bigger
    return f"{value:.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"
