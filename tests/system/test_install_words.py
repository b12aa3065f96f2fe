"""What install.sh says before it does anything, under each shell that may run it."""

from __future__ import annotations

import os
import random
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "install.sh"
SHELLS = {"dash": ["dash"], "bash": ["bash", "--posix"], "busybox": ["busybox", "sh"]}


@pytest.fixture(params=list(SHELLS))
def shell(request: pytest.FixtureRequest) -> list[str]:
    words = SHELLS[request.param]
    if shutil.which(words[0]) is None:
        pytest.skip(f"{words[0]} is not installed")
    return words


@pytest.fixture
def checkout() -> Iterator[Path]:
    """A folder that everybody may read, with the script and the files it looks at in a dry run."""
    with tempfile.TemporaryDirectory(prefix="stoker-words-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        for each in (
            "install.sh",
            "pyproject.toml",
            "requirements.lock",
            "agent/__init__.py",
            "agent/units",
            "tests/means.sh",
        ):
            source = SCRIPT.parent / each
            (folder / each).parent.mkdir(exist_ok=True)
            shutil.copytree(source, folder / each) if source.is_dir() else shutil.copy(source, folder / each)
        for each in ("tui", "licensing"):
            (folder / each).mkdir()
        yield folder


def _run(
    shell: list[str], script: Path, *words: str, user: int | None = None, **env: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*shell, str(script), *words],
        cwd="/",
        env={"PATH": os.environ["PATH"], "LC_ALL": "C", **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        user=user,
    )


def _fake_python(folder: Path, body: str) -> str:
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    return str(path)


def test_help_names_every_verb(shell: list[str]) -> None:
    done = _run(shell, SCRIPT, "--help")
    assert done.returncode == 0
    for word in ("demo", "test", "install", "--dry-run", "--uninstall", "--no-tui", "PYTHON", "STOKER_TORCH"):
        assert word in done.stdout


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["dmeo"], "unknown word: dmeo; did you mean demo?"),
        (["tests"], "unknown word: tests; did you mean test?"),
        (["--uninstal"], "unknown word: --uninstal; did you mean --uninstall?"),
        (["--dryrun"], "unknown word: --dryrun; did you mean --dry-run?"),
        (["x; rm -rf /"], "unknown word: x; rm -rf /"),
        (["demo", "test"], "two verbs, demo and test"),
        (["demo", "--dry-run"], "--dry-run and --uninstall belong to install"),
        (["test", "--no-tui"], "--no-tui belongs to demo"),
    ],
)
def test_words_it_does_not_know_are_refused_with_advice(shell: list[str], words: list[str], sentence: str) -> None:
    done = _run(shell, SCRIPT, *words)
    assert done.returncode == 64
    assert done.stderr.startswith(f"install.sh: {sentence}\n")
    assert done.stdout == ""


def test_a_file_cut_short_does_nothing(shell: list[str], tmp_path: Path) -> None:
    whole = SCRIPT.read_bytes().rstrip(b"\n")
    cuts = set(range(len(whole) - 40, len(whole))) | set(random.Random(7).sample(range(len(whole)), 25))
    cut = tmp_path / "cut" / "install.sh"
    cut.parent.mkdir()
    for length in sorted(cuts):
        cut.write_bytes(whole[:length])
        done = _run(shell, cut, "demo", PYTHON="/nonexistent")
        assert done.stdout == "", f"cut at {length} of {len(whole)} it did something"
        assert "PYTHON=" not in done.stderr, f"cut at {length} of {len(whole)} it went as far as looking for a Python"
    assert os.listdir(cut.parent) == ["install.sh"]


def test_a_python_without_venv_names_the_package(shell: list[str], checkout: Path) -> None:
    body = 'case "$2" in *ensurepip*) exit 1 ;; *python_version*) echo 3.12.1 ;; esac'
    done = _run(shell, checkout / "install.sh", "demo", PYTHON=_fake_python(checkout, body))
    assert done.returncode == 69
    assert "has no venv module; install the package that brings it: apt-get install python3-venv" in done.stderr
    assert "python3.12-venv" in done.stderr
    assert not (checkout / ".venv").exists()


def test_an_old_python_is_refused(shell: list[str], checkout: Path) -> None:
    done = _run(shell, checkout / "install.sh", "demo", PYTHON=_fake_python(checkout, "exit 1"))
    assert done.returncode == 69
    assert "is not a Python of at least 3.11" in done.stderr


def test_no_python_at_all_says_what_to_install(shell: list[str], checkout: Path) -> None:
    tools = checkout / "tools"
    tools.mkdir()
    for name in ("tail", "dirname", "sed", "id"):
        (tools / name).symlink_to(shutil.which(name) or name)
    runner = shutil.which(shell[0])
    assert runner is not None
    done = _run([runner, *shell[1:]], checkout / "install.sh", "test", PATH=str(tools))
    assert done.returncode == 69
    assert "no Python 3.11 or newer found" in done.stderr


def test_a_failing_package_step_shows_the_end_of_its_log(checkout: Path) -> None:
    """pip's own words are what helps; a lock file that asks for the impossible makes it speak.

    The environment is there already, as at a second try: making one takes most of ten seconds.
    """
    python = checkout / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    (checkout / "requirements.lock").write_text("stoker-no-such-package==1 --hash=sha256:" + "0" * 64 + "\n")
    (checkout / "requirements-train.lock").write_text("")
    done = _run(["dash"], checkout / "install.sh", "demo", PIP_NO_INDEX="1", HOME=str(checkout))
    assert done.returncode == 1
    assert "failed: locked packages. The end of .venv/install.log" in done.stderr
    assert "No matching distribution found for stoker-no-such-package==1" in done.stderr


def test_installing_needs_root(shell: list[str], checkout: Path) -> None:
    user = 65534 if os.geteuid() == 0 else None
    for words in ([], ["install"], ["--uninstall"]):
        done = _run(shell, checkout / "install.sh", *words, user=user)
        assert done.returncode == 77
        assert "sudo ./install.sh" in done.stderr


def test_slurms_names_are_left_to_a_slurm(shell: list[str], checkout: Path) -> None:
    def would() -> list[str]:
        done = _run(shell, checkout / "install.sh", "--dry-run", PYTHON="/usr/bin/python3", PATH=path)
        assert done.returncode == 0, done.stderr
        return [line for line in done.stdout.splitlines() if "/usr/local/bin/s" in line or "Slurm" in line]

    path = os.environ["PATH"]
    if shutil.which("sbatch") is None:
        for name in ("sbatch", "squeue", "scancel", "sinfo", "srun", "salloc", "scontrol", "sacct", "seff"):
            assert f"would link /usr/local/bin/{name}" in would()
    tools = checkout / "slurm"
    tools.mkdir()
    (tools / "squeue").write_text("#!/bin/sh\n")
    (tools / "squeue").chmod(0o755)
    path = f"{tools}:{path}"
    names = {f"would link /usr/local/bin/{name}" for name in ("sbatch", "squeue", "srun", "sacct")}
    assert not names & set(would())
    assert f"would leave Slurm's names alone: {tools}/squeue is there" in would()


def test_anybody_may_ask_what_would_be_done(shell: list[str], checkout: Path) -> None:
    user = 65534 if os.geteuid() == 0 else None
    done = _run(shell, checkout / "install.sh", "--dry-run", user=user, PYTHON="/usr/bin/python3")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()
    assert all(line.startswith("would ") for line in done.stdout.splitlines())
