"""The kernel kills a process of the job for memory, in a real memory cgroup."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.engine.launch import shim_command
from agent.engine.oom import OomCounter
from agent.engine.records import AttemptDir, Exit
from tests.fakes.attempts import Bench, finish

HOG = "x = [bytearray(1 << 20) for _ in range(400)]"
LIMIT = 96 << 20

MakeCgroup = Callable[[str], Path]


def _memory_root() -> tuple[Path, str] | None:
    """Where memory cgroups can be made, and the name of their limit."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, options, *_ = line.split()
        path = Path(where)
        if kind == "cgroup" and "memory" in options.split(",") and os.access(path, os.W_OK):
            return path, "memory.limit_in_bytes"
        if kind == "cgroup2" and os.access(path, os.W_OK):
            with contextlib.suppress(OSError):
                (path / "cgroup.subtree_control").write_text("+memory")
                return path, "memory.max"
    return None


def _make(name: str) -> Path:
    found = _memory_root()
    if os.geteuid() != 0 or found is None:
        pytest.skip("a memory limit needs root and a memory cgroup")
    cgroup = found[0] / name
    cgroup.mkdir()
    (cgroup / found[1]).write_text(str(LIMIT))
    for swap in ("memory.swap.max", "memory.memsw.limit_in_bytes"):
        with contextlib.suppress(OSError):
            (cgroup / swap).write_text("0" if swap == "memory.swap.max" else str(LIMIT))
    return cgroup


@pytest.fixture
def make_cgroup() -> Iterator[MakeCgroup]:
    made: list[Path] = []

    def make(prefix: str) -> Path:
        made.append(_make(f"{prefix}{uuid.uuid4().hex[:8]}"))
        return made[-1]

    yield make
    for cgroup in made:
        for _ in range(100):  # its last process may still be on its way out
            try:
                cgroup.rmdir()
                break
            except OSError:
                time.sleep(0.02)


def _run_in(cgroup: Path, attempt: AttemptDir) -> Exit:
    command = [*shim_command(sys.executable), str(attempt.path)]
    enter = 'echo $$ > "$0/cgroup.procs" && exec "$@"'
    subprocess.run(["/bin/sh", "-c", enter, str(cgroup), *command], check=True, timeout=60)
    return finish(attempt)


def test_a_job_killed_for_memory_is_told_apart_in_a_unit_and_beside_others(
    tmp_path: Path, make_cgroup: MakeCgroup
) -> None:
    bench = Bench(tmp_path)
    for prefix in ("stoker-job-", "shared-"):
        ended = _run_in(make_cgroup(prefix), bench.attempt([sys.executable, "-c", HOG]))
        assert (ended.signal, ended.oom, ended.why) == (9, True, None)


def test_a_kill_inside_the_job_counts_in_a_unit_only(tmp_path: Path, make_cgroup: MakeCgroup) -> None:
    """In a cgroup with others, the victim may have been theirs: nothing is claimed that is not known."""
    bench = Bench(tmp_path)
    script = f"{sys.executable} -c '{HOG}'; echo went on; exit 3"
    unit = _run_in(make_cgroup("stoker-job-"), bench.attempt(script))
    shared = _run_in(make_cgroup("shared-"), bench.attempt(script))
    assert (unit.code, unit.oom) == (3, True)
    assert (shared.code, shared.oom) == (3, False)


def test_a_job_that_a_person_kills_is_not_out_of_memory(tmp_path: Path, make_cgroup: MakeCgroup) -> None:
    ended = _run_in(make_cgroup("stoker-job-"), Bench(tmp_path).attempt("kill -KILL $$"))
    assert (ended.signal, ended.oom) == (9, False)


def test_without_a_memory_cgroup_nothing_is_claimed() -> None:
    assert OomCounter().happened(died_of_kill=True) is False
