"""A node's disk was copied to another machine: real agents, a real hub, the commands that help."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.daemons import Box, wait_until
from tests.fakes.vendor import EVALUATION_FILE

_LICENSE = "import sys; from agent.__main__ import license_main; sys.exit(license_main())"
EXIT_USAGE, EXIT_LOOK = 64, 3


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[tuple[Box, Box]]:
    first, twin = Box(tmp_path / "n1", "n1", gpus=2), Box(tmp_path / "n2", "n2", gpus=2)
    with first.config.open("a", encoding="utf-8") as config:
        for each in (first, twin):
            config.write(f'[[hub.nodes]]\nname = "{each.name}"\nsocket = "{each.agent.socket}"\n')
    try:
        first.agent.start()
        first.hub.start()
        yield first, twin
    finally:
        twin.close()
        first.close()


def license_program(box: Box, *words: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "STOKER_CONFIG": str(box.config)}
    return subprocess.run(
        [sys.executable, "-c", _LICENSE, *words], env=env, check=False, capture_output=True, text=True, timeout=60
    )


def test_a_copied_node_is_told_of_on_both_sides_and_helped_with_one_command(machines: tuple[Box, Box]) -> None:
    first, twin = machines
    with first.hub.client() as hub:
        hub.activate(EVALUATION_FILE.read_text(encoding="ascii"))
        with first.agent.client() as whole:
            wait_until(lambda: whole.lease().seq == 1, "the first has its seats")
        twin.state_dir.mkdir(parents=True, exist_ok=True)
        for name in ("node.key", "lease", "gate.json"):
            shutil.copy2(first.state_dir / name, twin.state_dir / name)
        twin.agent.start()
        wait_until(lambda: [each.node for each in hub.licence().forked] == ["n2"], "the hub knows the copy")
        assert hub.licence().seats_used == 2
        with twin.agent.client() as agent, first.agent.client() as whole:
            wait_until(lambda: agent.licence().code == "LIC-423", "the copy says why it gets nothing")
            assert agent.lease().seq == whole.lease().seq == 1, "what it has it keeps"

            looked = license_program(first, "doctor")
            assert looked.returncode == EXIT_LOOK
            assert "n2 shows lease 1 and the identity of n1" in looked.stdout
            plain = license_program(first, "node", "adopt", "n2")
            assert (plain.returncode, "adopt --new n2" in plain.stderr) == (EXIT_USAGE, True), plain.stderr
            honest = license_program(first, "node", "adopt", "--new", "n1")
            assert (honest.returncode, "has an identity of its own" in honest.stderr) == (EXIT_USAGE, True)

            adopted = license_program(first, "node", "adopt", "--new", "n2")
            assert (adopted.returncode, adopted.stdout) == (0, "n2 is a copy no more, and gets seats again\n")
            wait_until(lambda: hub.licence().seats_used == 4, "both have seats")
            assert hub.licence().forked == ()
            wait_until(lambda: agent.licence().code is None, "the copy's own lease has arrived")
            assert agent.node().key != whole.node().key
            assert license_program(first, "audit", "verify").returncode == 0
