"""Which device nodes open which MIG instance: NVIDIA's capabilities, read where the driver shows them.

    /proc/driver/nvidia/capabilities/gpuN/mig/giG/access        DeviceFileMinor: M  ─►  /dev/nvidia-caps/nvidia-capM
    /proc/driver/nvidia/capabilities/gpuN/mig/giG/ciC/access    the same of a compute instance in it

N is the minor number of `/dev/nvidiaN`. Who uses an instance needs the node of its GPU, of its GPU instance and of its
compute instance (NVIDIA MIG User Guide, “Device Nodes and Capabilities”). Those to make and watch instances
(`mig/config`, `mig/monitor`) are root's by their mode and left alone. Written after the guide and shown with stand-ins:
never yet run on a card in MIG mode.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_WHERE = re.compile(r"gpu(\d+)/mig/gi(\d+)(?:/ci(\d+))?/access")
_MINOR = re.compile(r"^DeviceFileMinor:\s*(\d+)\s*$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Roots:
    """Where devices and the driver's facts are; tests have their own."""

    dev: Path = Path("/dev")
    proc: Path = Path("/proc")


@dataclass(frozen=True, slots=True, kw_only=True)
class Capability:
    """The right to use a GPU instance, or with `ci` a compute instance in it."""

    gpu_minor: int
    gi: int
    ci: int | None
    node: Path


def instances(roots: Roots) -> Iterator[Capability]:
    """All that the driver knows; none where no GPU is in MIG mode. One that goes away meanwhile is left out."""
    top = roots.proc / "driver/nvidia/capabilities"
    for path in sorted([*top.glob("gpu*/mig/gi*/access"), *top.glob("gpu*/mig/gi*/ci*/access")]):
        where = _WHERE.fullmatch(path.relative_to(top).as_posix())
        try:
            minor = _MINOR.search(path.read_text(encoding="ascii", errors="replace"))
        except OSError:
            continue
        if where is None or minor is None:
            continue
        gpu, gi, ci = (None if each is None else int(each) for each in where.groups())
        if gpu is not None and gi is not None:
            yield Capability(
                gpu_minor=gpu, gi=gi, ci=ci, node=roots.dev / "nvidia-caps" / f"nvidia-cap{int(minor.group(1))}"
            )
