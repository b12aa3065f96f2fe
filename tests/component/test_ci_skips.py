"""What `conftest.py` holds for the whole suite, shown on suites of their own: no skips in CI, and what is dear once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).parents[1] / "conftest.py"
SURROUNDINGS = CONFTEST.parent / "fakes/surroundings.py"

SUITE = {
    "test_passes.py": "def test_it(): pass",
    "test_gpu.py": "import pytest\n@pytest.mark.gpu\ndef test_it(): pytest.skip('no GPU')",
    "test_xfails.py": "import pytest\n@pytest.mark.xfail(strict=True)\ndef test_it(): assert False",
    "test_skipped.py": "import pytest\ndef test_it(): pytest.skip('no sshd')",
    "test_skipped_file.py": "import pytest\npytest.skip('no systemd', allow_module_level=True)",
}


SHARING = {
    "tests/__init__.py": "",
    "tests/fakes/__init__.py": "",
    "tests/fakes/surroundings.py": SURROUNDINGS.read_text(),
    "tests/fakes/shell.py": """
import pathlib, pytest
@pytest.fixture(scope="module")
def made():
    with open("started", "a") as file: file.write("once ")
""",
    "test_lends.py": """
import pytest
from tests.fakes.shell import made as made
@pytest.mark.parametrize("number", range(12))
def test_it(made, number): pass
""",
}


def _run(folder: Path, *words: str, suite: dict[str, str] = SUITE, forbid: bool = True) -> tuple[int, list[str]]:
    """The exit status, and the lines that name what must not be skipped."""
    (folder / "conftest.py").write_text(CONFTEST.read_text())
    (folder / "pytest.ini").write_text("[pytest]\npythonpath = .\nmarkers = gpu: needs a GPU\n")
    for name, text in suite.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    env = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST_", "STOKER_"))}
    env |= {"STOKER_FORBID_SKIPS": "1"} if forbid else {}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *words]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=100)
    return done.returncode, sorted(line for line in done.stdout.splitlines() if "CI does not allow" in line)


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_skip_fails_the_run_and_is_named(tmp_path: Path, workers: str) -> None:
    status, named = _run(tmp_path, "-n", workers)
    assert status == 1
    assert [line.split(": ")[1] for line in named] == ["test_skipped.py::test_it", "test_skipped_file.py"]
    assert "no sshd" in named[0] and "no systemd" in named[1]


def test_other_outcomes_do_not(tmp_path: Path) -> None:
    assert _run(tmp_path, "-n", "0", "test_passes.py", "test_gpu.py", "test_xfails.py") == (0, [])


def test_outside_ci_a_skip_is_only_told(tmp_path: Path) -> None:
    assert _run(tmp_path, "-n", "0", forbid=False) == (0, [])


def test_what_a_file_shares_is_started_once_though_it_stands_elsewhere(tmp_path: Path) -> None:
    assert _run(tmp_path, "-n", "4", suite=SHARING) == (0, [])
    assert (tmp_path / "started").read_text() == "once "
