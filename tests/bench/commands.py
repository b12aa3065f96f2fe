"""Wall times a person feels: the plain commands, and the terminal UI from start to first paint in a real pty."""

from __future__ import annotations

import fcntl
import os
import pty
import resource
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path

from tests.bench.table import Row, bare_python_s, repeat, row_of, wall_s
from tests.fakes.daemons import Box, box

REPEATS = 9
FIRST_PAINT_DEADLINE_S = 20.0
_ENTRY = "import sys; from tui.__main__ import main; sys.exit(main())"


def rows() -> list[Row]:
    """`stoker jobs`, `stoker nodes --json`, `stoker submit`, and the first paint."""
    bare = bare_python_s()
    with tempfile.TemporaryDirectory(prefix="stoker-bench-") as folder, box(Path(folder)) as made:
        jobs = repeat(lambda: wall_s(lambda: _stoker(made, "jobs")), REPEATS)
        nodes = repeat(lambda: wall_s(lambda: _stoker(made, "nodes", "--json")), REPEATS)
        submit = repeat(lambda: _cpu_ms(made, "submit", "--hold", "--wrap", "true"), REPEATS)
        paint = repeat(lambda: _first_paint_s(made), 5)
    return [
        Row(name="python -c pass", value=bare, unit="s"),
        row_of("stoker jobs", jobs, "s", "≤ 0.4", bare),
        row_of("stoker nodes --json", nodes, "s", "≤ 0.4", bare),
        row_of("stoker submit, CPU of the command", submit, "ms", "≤ 150"),
        row_of("terminal UI, start to first paint", paint, "s", "≤ 1", bare),
    ]


def _cpu_ms(made: Box, *words: str) -> float:
    """CPU of one command, in the kernel too."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    _stoker(made, *words)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1000


def _stoker(made: Box, *words: str) -> None:
    command = [sys.executable, "-c", _ENTRY, "--socket", str(made.hub.socket), *words]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=30)


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
