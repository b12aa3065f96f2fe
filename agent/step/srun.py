"""`srun` inside of a job: starts the ranks of a step on this node. `python -I -S srun.py [OPTIONS] COMMAND [ARGS]`.

    srun ──► rank 0 … rank N-1     each with SLURM_PROCID, its GPUs, a process group of its own
     ├─ output: whole lines, labelled where asked, or straight into a file of the rank's own
     ├─ signals: what srun gets, all ranks get
     └─ guard: a child that ends all of it should srun itself be killed

Standard library only. This file only finds its modules (they are compiled once, a script is compiled at every start);
`step` is the work.
"""

# ruff: noqa: PTH100, PTH120

from __future__ import annotations

import os
import sys

_HOUSE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
"""The folder that holds `agent`. `-I -S` leaves it out; appended, so that the standard library goes first."""


if __name__ == "__main__":
    sys.path.append(_HOUSE)
    from agent.step.step import main

    sys.path.remove(_HOUSE)
    main(sys.argv[1:])
