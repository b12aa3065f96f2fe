"""Six hundred jobs while the agent is killed a hundred times: what was lost, doubled, mistold or torn. Aim: nothing.

A shorter run: STOKER_BENCH_JOBS, STOKER_BENCH_KILLS.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from tests.bench.table import Row
from tests.fakes.daemons import box
from tests.fakes.ordeal import Ordeal

JOBS, KILLS = int(os.environ.get("STOKER_BENCH_JOBS", "600")), int(os.environ.get("STOKER_BENCH_KILLS", "100"))
SEED = 20260101


def rows() -> list[Row]:
    """One run of some minutes."""
    with tempfile.TemporaryDirectory(prefix="stoker-bench-") as folder, box(Path(folder)) as made:
        found = Ordeal(made, jobs=JOBS, seed=SEED).run(least_kills=KILLS, pause_s=(0.02, 0.6), deadline_s=900)
    return [
        Row(name="jobs accepted", value=found.jobs, unit="jobs", aim=f"{JOBS}"),
        Row(name="kill -9 of the agent", value=found.kills, unit="", aim=f"≥ {KILLS}"),
        Row(name="wrong outcomes", value=len(found.wrong), unit="jobs", aim="0"),
        Row(name="run twice", value=len(found.doubled), unit="jobs", aim="0"),
        Row(name="accepted and never run", value=len(found.missing), unit="jobs", aim="0"),
        Row(name="logs with lines lost or doubled", value=len(found.torn), unit="jobs", aim="0"),
    ]
