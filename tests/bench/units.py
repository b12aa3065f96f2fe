"""Jobs in systemd units: the same trivial jobs under a systemd that is booted for them, in namespaces of its own.

Needs root, see `tests.fakes.sysd_ns`. The agent runs inside, as in an installation; the submits come from outside, by
the socket in a folder that both see.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.bench.rivals import SLOTS, measured, request
from tests.bench.table import Row
from tests.fakes.daemons import Box, activate_evaluation
from tests.fakes.sysd_ns import Systemd, why_not


def rows() -> list[Row]:
    """Rate of a burst, and latency of single jobs on an idle machine."""
    reason = why_not()
    if reason is not None:
        print(f"no units: {reason}", file=sys.stderr)
        return []
    with tempfile.TemporaryDirectory(prefix="stoker-bench-", dir="/tmp") as name:
        folder = Path(name)
        made = Box(folder / "box", gpus=SLOTS, launcher="systemd")
        with Systemd(share=[folder, made.run_dir]) as booted:
            for daemon in (made.agent, made.hub):
                daemon.entering = booted.entering()
            try:
                return _of(made, folder / "out")
            finally:
                made.close()


def _of(made: Box, out: Path) -> list[Row]:
    made.agent.start()
    made.hub.start()
    activate_evaluation(made)
    number = 0
    with made.agent.client() as client:

        def submit(path: Path) -> None:
            nonlocal number
            number += 1
            client.submit(request(made, path), f"bench-{number}")

        return measured("Stoker, in units", submit, out, rate_aim="≥ 50", latency_aim="≤ 30")
