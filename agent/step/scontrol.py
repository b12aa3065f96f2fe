"""`scontrol` inside of a job: `show hostnames` and `show hostlist` need nobody, all else is the full program's.

`python -I -S scontrol.py WORDS`. torchrun's usual preamble, `MASTER_ADDR=$(scontrol show hostnames … | head -n 1)`,
must work while the agent is down. Standard library only.
"""

# ruff: noqa: PTH100, PTH120

from __future__ import annotations

import os
import sys

_HOUSE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def main(argv: list[str]) -> None:
    """The program; ends the process."""
    words = [word for word in argv if not word.startswith("-")]
    if words[:1] != ["show"] or len(words) < 2 or words[1] not in ("hostnames", "hostlist", "hostlistsorted"):
        os.execv(sys.executable, [sys.executable, "-I", "-m", "tui.slurm", "scontrol", *argv])  # noqa: S606
    os._exit(show(words[1], words[2] if len(words) > 2 else os.environ.get("SLURM_JOB_NODELIST", "")))


def show(what: str, text: str) -> int:
    """Print a list's names, one a line, or names as a list; the exit code."""
    from agent.api.hostlist import HostListError, shown

    try:
        answer = shown(what, text)
    except HostListError as error:
        os.write(2, f"scontrol: error: {f'{text!a} ' if text else ''}{error}\n".encode())
        return 1
    os.write(1, answer.encode() + b"\n")
    return 0


if __name__ == "__main__":
    sys.path.append(_HOUSE)
    main(sys.argv[1:])
