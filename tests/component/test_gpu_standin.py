"""That the tests' library in place of NVIDIA's answers whatever the reader asks: nothing it calls is never run."""

from __future__ import annotations

import ast
import ctypes
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pynvml
import pytest

import agent.gpu
from tests.fakes.nvml import CONTROL_VARIABLE, compiled, mig_uuid

FOLDER = Path(str(agent.gpu.__file__)).parent
SUPERSEDED = {
    "nvmlDeviceGetMemoryInfo": "OLD_DRIVER",
    "nvmlDeviceGetComputeRunningProcesses_v2": "OLD_DRIVER",
    "nvmlDeviceGetGraphicsRunningProcesses_v2": "OLD_DRIVER",
    "nvmlEventSetWait": "OLD_EVENTS",
}
"""What is asked only of a library that lacks the newer one."""


def asked() -> Iterator[str]:
    """The library's functions that the reader's code names, through the binding or past it."""
    for path in sorted(FOLDER.glob("*.py")):
        tree = ast.parse(path.read_text())
        told = {id(each.value) for each in ast.walk(tree) if isinstance(each, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and re.match(r"nvml[A-Z]", node.attr):
                of_binding = isinstance(node.value, ast.Name) and node.value.id == "pynvml"
                yield from looked_up(node.attr) if of_binding else (node.attr,)
            elif (
                isinstance(node, ast.Constant) and id(node) not in told and re.match(r"nvml[A-Z]\w+$", str(node.value))
            ):
                yield str(node.value)


def looked_up(wrapper: str) -> Iterator[str]:
    """What a wrapper of the binding calls in the library; a structure, a constant or an error calls nothing."""
    found = getattr(pynvml, wrapper)
    if not inspect.isfunction(found):
        return
    source = inspect.getsource(found)
    names = re.findall(r'_nvmlGetFunctionPointer\("(\w+)"', source)
    assert len(names) <= 1, f"{wrapper} looks up several: {names}"
    yield from names or (name for inner in re.findall(r"\b(nvml[A-Z]\w+)\(", source)[1:] for name in looked_up(inner))


@pytest.mark.parametrize("function", sorted(set(asked())))
def test_the_stand_in_has_every_function_that_the_reader_asks(function: str) -> None:
    library = ctypes.CDLL(str(compiled((SUPERSEDED[function],) if function in SUPERSEDED else ())))
    assert hasattr(library, function)


def test_the_search_finds_them_by_each_of_its_ways() -> None:
    found = set(asked())
    by_wrapper, by_name, by_attribute = "nvmlDeviceGetSerial", "nvmlDeviceGetSamples", "nvmlDeviceGetMemoryInfo_v2"
    assert {by_wrapper, by_name, by_attribute, *SUPERSEDED} <= found
    assert len(found) >= 50


@pytest.mark.parametrize(
    ("profile", "total_mib", "told"),
    [("2g.20gb", 20096, "2g.20gb"), ("1c.3g.40gb", 40448, "1c.3g.40gb"), ("1g.6gb", 5900, "1g.6gb")],
)
def test_an_old_drivers_mig_instance_is_named_by_its_attributes(
    tmp_path: Path, profile: str, total_mib: int, told: str
) -> None:
    control = tmp_path / "control"
    control.write_text(f"mig gpu=0 slot=2 profile={profile} total={total_mib << 20} used=0\n")
    script = (
        "import sys; from agent.gpu.nvml import NvmlReader;"
        "r = NvmlReader(sys.argv[1]); r.open(); r.read(0, 0., 0.);"
        "print([(g.uuid, g.mig_profile) for g in r.instances(0, 0., 0.)])"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", script, str(compiled(("OLD_DRIVER",)))],
        env={**os.environ, CONTROL_VARIABLE: str(control)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == f"[('{mig_uuid(0, 2)}', '{told}')]\n", done.stderr
