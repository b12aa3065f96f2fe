"""Which GPUs the demo takes, asked of the real sampler process over the stand-in for NVML."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.demo.source import choose_source
from tests.fakes.nvml import NvmlStandIn


@pytest.fixture
def nvml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NvmlStandIn:
    standin = NvmlStandIn(tmp_path, monkeypatch)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(standin.library.parent))
    return standin


def test_gpus_that_answer_are_used(nvml: NvmlStandIn) -> None:
    nvml.write("gpus 2")
    source = choose_source()
    assert source.name == "nvml"
    assert source.sentence.startswith("GPUs: this machine's 2, driver ")


def test_a_driver_without_gpus_is_no_source(nvml: NvmlStandIn) -> None:
    nvml.write("gpus 0")
    source = choose_source()
    assert source.name == "simulated"
    assert source.sentence.startswith("GPUs: 8 simulated ones (")


def test_a_driver_that_hangs_is_given_up(nvml: NvmlStandIn) -> None:
    nvml.write("hang nvmlInitWithFlags gpu=*", "hang nvmlInit_v2 gpu=*")
    source = choose_source(deadline_s=3.0)
    assert source.name == "simulated"
    assert "the driver does not answer" in source.sentence
