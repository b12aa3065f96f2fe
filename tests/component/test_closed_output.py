"""Programs that are started with their stdout closed, as by `>&-`: Python has `None` there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

DEADLINE_S = 60.0


@pytest.mark.parametrize("entry", ["agent.__main__ import agent_main as main", "tui.__main__ import main"])
def test_a_program_whose_output_is_closed_says_what_is_wrong_and_not_where_in_python(
    entry: str, tmp_path: Path
) -> None:
    program = f"import sys; from {entry}; sys.exit(main())"
    done = subprocess.run(
        ["/bin/sh", "-c", 'exec "$@" --config /nonexistent --socket 7 >&-', "sh", sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        env={**os.environ, "HOME": str(tmp_path)},
    )
    assert (done.returncode, "Traceback" in done.stderr, done.stderr != "") == (64, False, True), done.stderr
