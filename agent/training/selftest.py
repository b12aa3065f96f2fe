"""The part of `stoker-agent selftest` that computes: one process, one task, figures as JSON lines.

Launch: the self-test starts it, and so can a person:

    python -I -m agent.training.selftest '{"task": "versions"}'
    python -I -m agent.training.selftest '{"task": "rates", "device": "cuda", "seconds": 2}'   # its first GPU

Each line of output is one object: a `figure` with whole-number `value` and `unit`, or `error`. It ends with its
standard input, so that nothing is left when whoever started it was killed.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable
from typing import Any


def main(argv: list[str]) -> int:
    """Do the task of one JSON argument."""
    try:
        (text,) = argv
        spec = json.loads(text)
        task = spec["task"]
    except (ValueError, KeyError, TypeError) as error:
        print(f"one JSON argument with a task is needed: {error}", file=sys.stderr)
        return os.EX_USAGE
    if spec.get("watch_stdin"):
        threading.Thread(target=_end_with_stdin, name="selftest-stdin", daemon=True).start()
    try:
        import torch  # noqa: F401 - here, so that its absence is an answer and not a traceback
    except (ImportError, OSError) as error:
        emit(missing=f"{error}")
        return 0
    try:
        _task(task)(spec, emit)
    except (RuntimeError, ValueError, AssertionError) as error:
        emit(error=_one_line(error))
    return 0


def emit(**values: Any) -> None:
    """Write one line."""
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


def _task(name: str) -> Callable[[dict[str, Any], Callable[..., None]], None]:
    from agent.training import selftest_burn, selftest_links, selftest_rates

    tasks = {
        "versions": selftest_rates.versions,
        "rates": selftest_rates.rates,
        "peers": selftest_links.peers,
        "rank": selftest_links.rank,
        "burn": selftest_burn.burn,
    }
    if name not in tasks:
        raise ValueError(f"no task {name!r}; known: {', '.join(tasks)}")
    return tasks[name]


def _one_line(error: BaseException) -> str:
    """CUDA's errors are long; the first line names what failed."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"[:300]


def _end_with_stdin() -> None:
    while os.read(0, 4096):  # not sys.stdin: its lock, held here, would abort the interpreter's end
        pass
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
