"""`srun --quiet` outside of a job."""

from __future__ import annotations

import pytest

from tui.slurm import alloc, srun


@pytest.mark.parametrize("words", [["-Q"], ["--quiet"], []])
def test_errors_are_told_all_the_same(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    tell = srun._teller(alloc.read([*words, "true"], srun._OWN))
    tell("job 17 queued and waiting for resources")
    tell("error: n1: task 0: Exited with exit code 3")
    said = capsys.readouterr().err.splitlines()
    assert said[-1] == "srun: error: n1: task 0: Exited with exit code 3"
    assert len(said) == (1 if words else 2)
