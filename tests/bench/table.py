"""The bench's rows and how they print: medians with their spread, the aim beside, a ratio where a time is meant."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measured figure."""

    name: str
    value: float
    unit: str
    aim: str = ""
    """What the project set itself, e.g. `≤ 0.4`."""
    spread: str = ""
    """Least to most over the repeats."""
    ratio: str = ""
    """To a bare `python -c pass` in the same run, where a wall time is meant."""


def print_table(rows: Sequence[Row]) -> None:
    """Print the rows as a Markdown table, ready for `docs/benchmarks.md`."""
    print("| figure | median | least – most | unit | aim | × bare python |")
    print("| --- | ---: | ---: | --- | --- | ---: |")
    for row in rows:
        value = f"{row.value:.3g}" if row.value < 100 else f"{row.value:.0f}"
        print(f"| {row.name} | {value} | {row.spread} | {row.unit} | {row.aim} | {row.ratio} |")


def print_wide(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    """Print a Markdown table of another shape: words first, then figures."""
    print(f"| {' | '.join(heads)} |")
    print(f"| {' | '.join('---' for _ in heads)} |")
    for line in lines:
        print(f"| {' | '.join(line)} |")


@contextmanager
def compiled_once() -> Iterator[None]:
    """Let the processes started in here keep what they compile: an installation has all of it compiled."""
    before = dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="stoker-bench-") as folder:
        os.environ["PYTHONPYCACHEPREFIX"] = folder
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


def wall_s(act: Callable[[], object]) -> float:
    """Wall seconds of one call."""
    begin = time.perf_counter()
    act()
    return time.perf_counter() - begin


def cpu_s(act: Callable[[], object]) -> float:
    """CPU seconds of one call, of this process: what a busy machine adds to the wall time is not in it."""
    begin = time.process_time()
    act()
    return time.process_time() - begin


def repeat(measure: Callable[[], float], times: int) -> list[float]:
    """`times` measurements."""
    return [measure() for _ in range(times)]


def row_of(name: str, values: Sequence[float], unit: str, aim: str = "", bare: float | None = None) -> Row:
    """A row from repeats; with `bare`, the ratio to it."""
    median = statistics.median(values)
    return Row(
        name=name,
        value=median,
        unit=unit,
        aim=aim,
        spread=f"{min(values):.3g} – {max(values):.3g}",
        ratio=f"{median / bare:.1f}" if bare else "",
    )


def bare_python_s(times: int = 9) -> float:
    """Median wall seconds of `python -c pass`: the floor of every command of ours."""
    return statistics.median(
        repeat(lambda: wall_s(lambda: subprocess.run([sys.executable, "-c", "pass"], check=True)), times)
    )
