"""What a hub knows of its own machine beside the files of the kernel: GPUs as the agent's NVML has them."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from agent.hub.owngpus import nvml_uuids
from licensing.fingerprint import Kind
from licensing.hardware import Reader
from tests.fakes.daemons import box, wait_until
from tests.fakes.nvml import NvmlStandIn, uuid

THREE = [uuid(index) for index in range(3)]


@pytest.mark.skipif(Path("/proc/driver/nvidia/gpus").exists(), reason="the driver tells its own GPUs here")
def test_a_hub_without_the_drivers_files_knows_the_gpus_that_its_agent_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvml = NvmlStandIn(tmp_path, monkeypatch)
    nvml.write("gpus 3")
    with box(tmp_path / "n1", library=nvml.library, voucher=False) as made, made.hub.client() as hub:
        assert sorted(nvml_uuids(made.agent.socket)) == THREE
        found = wait_until(lambda: hub.licence().hardware, "the hub looked at its machine")
        assert found is not None and "gpus" in found.seen
    assert nvml_uuids(made.agent.socket) == [], "nobody listens there any more"


def test_simulated_gpus_are_no_marks_of_a_machine(tmp_path: Path) -> None:
    with box(tmp_path / "n1", voucher=False) as made, made.hub.client() as hub:
        assert nvml_uuids(made.agent.socket) == []
        found = wait_until(lambda: hub.licence().hardware, "the hub looked at its machine")
        assert found is not None
        assert "gpus" not in found.seen or Path("/proc/driver/nvidia/gpus").exists()


def test_an_agent_that_hangs_is_given_up_before_the_reading_is(tmp_path: Path) -> None:
    """It takes the connection and never answers."""
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(tmp_path / "s"))
        mute.listen()
        reader = Reader(tmp_path / "root", nvml=lambda: nvml_uuids(tmp_path / "s"))
        assert reader.read() == []
        assert not any(thread.is_alive() for thread in reader._hanging.values())


def test_nvml_is_asked_for_what_the_driver_does_not_tell(tmp_path: Path) -> None:
    """/proc has question marks until a GPU was used once."""
    folder = tmp_path / "proc/driver/nvidia/gpus"
    asked: list[int] = []

    def nvml() -> list[str]:
        asked.append(1)
        return THREE

    def seen() -> set[str]:
        return {value for kind, value in Reader(tmp_path, nvml=nvml).read() if kind is Kind.GPU}

    assert seen() == set(THREE)
    for number, name in enumerate((THREE[0], "GPU-????????-????-????-????-????????????")):
        place = folder / f"0000:0{number}:00.0"
        place.mkdir(parents=True)
        (place / "information").write_text(f"Model: \t\t NVIDIA H100\nGPU UUID: \t {name}\n")
    assert seen() == set(THREE)
    (folder / "0000:01:00.0/information").write_text(f"GPU UUID: \t {THREE[1]}\n")
    asked.clear()
    assert (seen(), asked) == (set(THREE[:2]), []), "where the driver tells all, nobody else is asked"
