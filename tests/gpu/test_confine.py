"""A real GPU's device node is hidden from a job. `tests/component/test_shim_confine.py` has the attempts to undo it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.fakes.attempts import Bench, log

NODE = Path("/dev/nvidia0")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not NODE.exists(), reason="no NVIDIA GPU here"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can hide devices"),
]


@pytest.mark.parametrize(("hidden", "said"), [((), "opened"), ((str(NODE),), "Permission denied")])
def test_a_hidden_gpu_cannot_be_opened_and_another_one_can(tmp_path: Path, hidden: tuple[str, ...], said: str) -> None:
    bench = Bench(tmp_path)
    who = {"uid": 54321, "gid": 54321, "groups": ()}
    bench.run(f"exec 3<>{NODE} && echo opened; true", hidden_devices=hidden, confine="on", **who)
    assert said in log(bench.last).decode()


def test_nvidias_own_tool_sees_no_gpu_that_is_hidden(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    who = {"uid": 54321, "gid": 54321, "groups": ()}
    hidden = tuple(str(path) for path in Path("/dev").glob("nvidia[0-9]*"))
    bench.run("nvidia-smi -L | grep -c UUID", hidden_devices=hidden, confine="on", **who)
    assert log(bench.last).decode().split()[-1] == "0"
