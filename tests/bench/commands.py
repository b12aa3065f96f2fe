"""What commands cost: CPU (user and system) and wall of the plain ones, and the terminal UI's start in a real pty.

Everything is compiled before it is measured, as it is where Stoker is installed.
"""

from __future__ import annotations

import fcntl
import os
import pty
import resource
import select
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path

from tests.bench.table import Row, compiled_once, repeat, row_of
from tests.fakes.daemons import Box, box

REPEATS = 15
FIRST_PAINT_DEADLINE_S = 20.0
_ENTRY = "import sys; from tui.__main__ import main; sys.exit(main())"
_VERBS = {
    "stoker submit": "submit --hold --wrap true",
    "stoker jobs": "jobs",
    "stoker show": "show 1",
    "stoker logs": "logs 1",
    "stoker cancel": "cancel 1",
    "stoker nodes --json": "nodes --json",
    "sbatch": "slurm sbatch --hold --wrap true",
    "squeue": "slurm squeue",
    "sinfo": "slurm sinfo",
    "scancel": "slurm scancel 1",
}


def rows() -> list[Row]:
    """Every verb in turn, again and again, so that a busy moment of the machine is everybody's."""
    with (
        compiled_once(),
        tempfile.TemporaryDirectory(prefix="stoker-bench-") as folder,
        box(Path(folder)) as made,
    ):
        os.environ["STOKER_SOCKET"] = str(made.hub.socket)
        commands = {name: ["-c", _ENTRY, *words.split()] for name, words in _VERBS.items()}
        commands = {"python -c pass": ["-c", "pass"]} | commands
        for words in commands.values():
            _cost(words)
        costs = [[_cost(words) for words in commands.values()] for _ in range(REPEATS)]
        paint = repeat(lambda: _first_paint_s(made), 5)
    found: list[Row] = []
    bare = statistics.median(run[0][1] for run in costs)
    for number, name in enumerate(commands):
        aim = "" if number == 0 else "≤ 150"
        found.append(row_of(f"{name}, CPU", [run[number][0] for run in costs], "ms", aim))
        found.append(row_of(f"{name}, wall", [run[number][1] for run in costs], "s", "", bare if number else None))
    return [*found, row_of("terminal UI, start to first paint", paint, "s", "≤ 1", bare)]


def _cost(words: list[str]) -> tuple[float, float]:
    """CPU milliseconds of one command, in the kernel too, and its wall seconds."""
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL, timeout=30)
    wall, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1000, wall


def _first_paint_s(made: Box) -> float:
    """Seconds until the cluster's name stands on the screen."""
    begin = time.perf_counter()
    pid, master = pty.fork()
    if pid == 0:
        os.environ["TERM"] = "xterm-256color"
        os.execv(sys.executable, [sys.executable, "-c", _ENTRY, "--socket", str(made.hub.socket)])
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("4H", 36, 120, 0, 0))
    try:
        return _until_painted(master, begin)
    finally:
        os.kill(pid, signal.SIGTERM)
        _drain(master)
        os.waitpid(pid, 0)
        os.close(master)


def _until_painted(master: int, begin: float) -> float:
    screen = b""
    while time.perf_counter() - begin < FIRST_PAINT_DEADLINE_S:
        if not select.select([master], [], [], 0.5)[0]:
            continue
        screen += os.read(master, 65536)
        if b"Overview" in screen:
            return time.perf_counter() - begin
    raise AssertionError(f"nothing painted in {FIRST_PAINT_DEADLINE_S:.0f} s: {screen[-500:]!r}")


def _drain(master: int) -> None:
    """Read until the other side closes, so that the program's farewell does not block it."""
    while True:
        try:
            if not os.read(master, 65536):
                return
        except OSError:
            return
