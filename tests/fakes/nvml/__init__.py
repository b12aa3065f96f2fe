"""A stand-in for `libnvidia-ml.so.1`, compiled from C, so that the real binding and the real ctypes calls are tested.

The grammar of its control file is at the head of `standin.c`.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

CONTROL_VARIABLE = "STOKER_TEST_NVML"
_SOURCE = Path(__file__).with_name("standin.c")


def uuid(index: int) -> str:
    """The UUID that the stand-in gives its GPU."""
    return f"GPU-00000000-0000-4000-8000-{index:012d}"


def mig_uuid(index: int, slot: int) -> str:
    """The UUID that the stand-in gives a MIG instance."""
    return f"MIG-00000000-0000-4000-8000-{index:06d}{slot:06d}"


class NvmlStandIn:
    """The library and the control file that drives it; a process finds the latter through its environment."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, defines: tuple[str, ...] = ()) -> None:
        self.library = compiled(defines)
        self._control = folder / "nvml-control"
        monkeypatch.setenv(CONTROL_VARIABLE, str(self._control))
        self.write()

    def write(self, *lines: str | bytes) -> None:
        """Replace the orders; another process obeys within 20 ms, this one at its next call."""
        fresh = self._control.with_suffix(".new")
        fresh.write_bytes(b"".join(os.fsencode(line) + b"\n" for line in lines))
        fresh.replace(self._control)
        ctypes.CDLL(str(self.library)).standin_obey_now()


@functools.cache
def compiled(defines: tuple[str, ...] = ()) -> Path:
    """The stand-in, compiled once a process."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler; install gcc")
    folder = Path(tempfile.mkdtemp(prefix="stoker-nvml-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    library = folder / "libnvidia-ml.so.1"
    flags = ["-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-Wl,-soname,libnvidia-ml.so.1", "-pthread"]
    subprocess.run(
        [compiler, *flags, *(f"-D{name}" for name in defines), "-o", str(library), str(_SOURCE)], check=True, timeout=60
    )
    return library
