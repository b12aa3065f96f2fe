"""What `stoker-agent` prints goes to readers that leave early, and to full disks: a code, and no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.daemons import box

PROGRAM = "import sys; from agent.__main__ import agent_main; sys.exit(agent_main())"


def told(stdout: int, *words: str) -> tuple[int, str]:
    """The exit code and what was said on stderr."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words], stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=60
    )
    return done.returncode, done.stderr


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "stoker.toml"
    path.write_text(f'[node]\nmode = "user"\nstate_dir = "{tmp_path}/state"\nrun_dir = "{tmp_path}/run"\n')
    return str(path)


@pytest.fixture
def closed_pipe() -> int:
    read_fd, write_fd = os.pipe()
    os.close(read_fd)
    return write_fd


def test_a_reader_that_has_left(config: str, closed_pipe: int) -> None:
    assert told(closed_pipe, "--config", config, "config", "check") == (141, "")


def test_the_metrics_page_for_a_reader_that_has_left(tmp_path: Path, closed_pipe: int) -> None:
    with box(tmp_path / "box", gpus=1, hub=False) as made:
        assert told(closed_pipe, "--config", str(made.config), "metrics") == (141, "")


def test_a_full_disk(config: str) -> None:
    with open("/dev/full", "wb") as full:
        code, said = told(full.fileno(), "--config", config, "config", "check")
    assert (code, said) == (1, "stoker-agent: cannot write the output: No space left on device\n")


@pytest.mark.parametrize(("words", "said"), [(("3", "hungg"), "no simulated fault"), (("99", "hung"), "are 0 to 3")])
def test_a_word_that_simulate_does_not_know_is_a_matter_of_usage(
    tmp_path: Path, words: tuple[str, str], said: str
) -> None:
    config = tmp_path / "stoker.toml"
    config.write_text(f'[node]\nstate_dir = "{tmp_path}"\n[gpu]\nsource = "simulated"\nsimulated_count = 4\n')
    code, error = told(subprocess.DEVNULL, "--config", str(config), "simulate", "gpu", *words)
    assert (code, said in error) == (64, True), error
