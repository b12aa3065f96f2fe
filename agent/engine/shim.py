"""The shim: one process per running job, which outlives the agent. `python -I -S shim.py [--detach] ATTEMPT_DIR`.

    launcher ──► shim ──► job                      claim ──► shim ──► started, log, exit
                  ▲                                           ▲
               SIGTERM = stop, SIGUSR1 = ask            stop, ask.N

It takes the attempt's lock, starts the job that `claim` describes behind a gate, writes `started`, opens the gate,
carries the output, enforces the time limit, ends the job when asked, sweeps what is left, and writes `exit`.

With `--detach` it forks itself away once it holds the lock and the parent's exit status is the answer to the launcher:
0 handed off, 73 the attempt has or had a shim, 65 the claim cannot be obeyed, 74 the records cannot be written.

With `--serve FD` it is the fork server that makes such shims (`forkserver`), with `--keep SOCKET` the same in a unit of
its own (`keeper`).

Standard library only. This file only finds its modules (they are compiled once, a script is compiled at every start);
`entry` is the way in, `supervise` the work.
"""

# ruff: noqa: PTH100, PTH120

from __future__ import annotations

import os
import sys

_HOUSE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
"""The folder that holds `agent`. `-I -S` leaves it out; appended, so that the standard library goes first."""


if __name__ == "__main__":
    sys.path.append(_HOUSE)
    if sys.argv[1:2] == ["--serve"]:
        from agent.engine.forkserver import serve

        sys.path.remove(_HOUSE)
        serve(int(sys.argv[2]))
    if sys.argv[1:2] == ["--keep"]:
        from agent.engine.keeper import keep

        sys.path.remove(_HOUSE)
        keep(sys.argv[2])
    from agent.engine.entry import main

    sys.path.remove(_HOUSE)
    main(sys.argv[1:])
