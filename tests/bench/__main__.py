"""`python -m tests.bench [PART …]`: measures what the project promises and prints tables. Never part of the suite.

Parts: sampler, gpupeers (nvitop and gpustat on the same stand-in library), calls (what each call to the driver takes,
on a real one too: STOKER_BENCH_NVML), daemons (resident memory, idle CPU), jobs (throughput, latency, ten thousand
queued), history (the store with a long history), rings (a node's history of its GPUs), hang (a GPU that hangs, one that
is lost; eleven minutes), commands (wall and CPU times), kills (jobs under kill -9), peers (task-spooler and Slurm on
the same jobs), units (the same jobs as systemd units), screen (what the screen costs), sched (the scheduler: CPU time
of a pass, and a simulation of a realistic queue), licence (documents read per CPU-second, how fast bad ones go, seat
checkouts through the one writer, `stoker-license status`), usage (the ledger of GPU time: rows a second, a month's
report). The machines are shared and noisy: every time is a median of repeats, beside the same machine's bare
`python -c pass`.
"""

from __future__ import annotations

import sys

from tests.bench import (
    calls,
    commands,
    daemons,
    gpupeers,
    hang,
    history,
    jobs,
    kills,
    licence,
    rings,
    rivals,
    sampler,
    sched,
    screen,
    units,
    usage,
)
from tests.bench.table import print_table

PARTS = {
    "sampler": sampler.rows,
    "gpupeers": gpupeers.rows,
    "calls": calls.rows,
    "daemons": daemons.rows,
    "jobs": jobs.rows,
    "history": history.rows,
    "rings": rings.rows,
    "hang": hang.rows,
    "commands": commands.rows,
    "kills": kills.rows,
    "peers": rivals.rows,
    "units": units.rows,
    "sched": sched.rows,
    "screen": screen.rows,
    "usage": usage.rows,
    "licence": licence.rows,
}


def main(words: list[str]) -> int:
    """Run the named parts, or all."""
    unknown = [word for word in words if word not in PARTS]
    if unknown:
        print(f"no bench part {unknown[0]!r}; there are: {', '.join(PARTS)}", file=sys.stderr)
        return 64
    for name in words or PARTS:
        print(f"\n## {name}\n", flush=True)
        print_table(PARTS[name]())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
