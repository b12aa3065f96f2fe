"""`sbatch`, `squeue`, … by the name that the program is called with; else `python -m tui.slurm NAME …`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import PurePath

from agent.api import program
from agent.api.errors import StokerError

NAMES = (
    "sbatch", "squeue", "scancel", "sinfo", "srun", "salloc", "scontrol", "sacct", "seff", "sprio", "sshare",
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """The program; returns its exit code."""
    program.collect_seldom()
    words = list(sys.argv if argv is None else argv)
    name = PurePath(words[0]).name if words else ""
    if name not in NAMES:
        words = words[1:]
        name = words[0] if words else ""
    if name not in NAMES:
        program.say(f"stoker slurm: name one of Slurm's commands: {', '.join(NAMES)}")
        return 2
    return program.run(name, lambda: run(name, words[1:]))


def run(name: str, words: Sequence[str]) -> int:
    """One command; its exit code."""
    from tui.slurm.argv import complain

    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # a terminal that is not UTF-8 shows a ?
    module = import_module(f"tui.slurm.{name}")
    if any(word in ("--help", "--usage") for word in _own(name, words)) or (name == "sbatch" and words[:1] == ["-h"]):
        print(module.HELP, end="")
        return 0
    if any(word in ("--version", "-V") for word in words[:1]):
        from agent import __version__

        print(f"{name} of Stoker {__version__}")
        return 0
    try:
        code: int = module.main(list(words), os.environ)
        return code
    except StokerError as error:
        sys.stdout.flush()
        return complain(name, error)


def _own(name: str, words: Sequence[str]) -> Sequence[str]:
    """The words before a command or script of the user's, whose `--help` is not ours."""
    return words[:1] if name in ("srun", "salloc", "sbatch") else words


if __name__ == "__main__":
    sys.exit(main())
