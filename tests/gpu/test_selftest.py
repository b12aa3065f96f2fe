"""`stoker-agent selftest --quick` on a real GPU, with a torch that can use it."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.selftest import config_file, selftest

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]

PYTHON = os.environ.get("STOKER_TEST_TORCH_PYTHON", sys.executable)
"""Where torch is in another interpreter than the tests'."""


@pytest.fixture
def cuda() -> None:
    try:
        ctypes.CDLL("libcuda.so.1")  # without the driver's library no torch can; to import one takes two seconds
    except OSError:
        pytest.skip("no CUDA driver")
    code = "import sys, torch; sys.exit(0 if torch.cuda.is_available() else 1)"
    try:
        subprocess.run([PYTHON, "-c", code], check=True, capture_output=True, timeout=120)
    except (OSError, subprocess.SubprocessError):
        pytest.skip("no GPU that torch can use")


def test_a_healthy_gpu_is_measured_and_passes(cuda: None, tmp_path: Path) -> None:
    words = ("--quick", "--force", "--burn", "0.2", "--python", PYTHON, "--report", "r.json")
    done = selftest(config_file(tmp_path, '[gpu]\nsource = "nvml"\n'), *words)
    made = json.loads((tmp_path / "r.json").read_text())
    found = {f"{each['subject']}: {each['name']}": each for each in made["checks"]}
    first = next(gpu["index"] for gpu in made["gpus"])
    for dtype in ("fp32", "tf32", "fp16", "bf16"):
        assert found[f"GPU {first}: GEMM {dtype}"]["value"] > 1000
    assert found[f"GPU {first}: memory copy"]["value"] > 100_000
    assert found[f"GPU {first}: burn-in: results"]["verdict"] == "PASS"
    assert made["burn"][0]["readings"] > 0
    if made["verdict"] == "no verdict":
        assert "no range is known" in made["summary"], "a model that models.toml does not have"
    else:
        assert (done.returncode, made["verdict"]) == (0, "PASS"), done.stdout
