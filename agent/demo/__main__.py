"""`python -I -m agent.demo [--no-tui]`: what `./install.sh demo` runs once everything is installed.

    agent ─► hub ─► evaluation voucher ─► submit ─► screen, or the job's output ─► summary

However it ends, the job is over, no process is left, and of the demo's folder only the job's output and the services'
logs remain.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
from collections.abc import Sequence
from types import FrameType

from agent.api.commandline import Parser
from agent.api.errors import StokerError
from agent.api.types import JobState
from agent.demo import children, job
from agent.demo.place import Place
from agent.demo.source import choose_source
from agent.demo.told import say

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; 0 only if its job COMPLETED, 130 when it was interrupted."""
    parser = Parser(prog="install.sh demo", description="A real training job on this machine.")
    parser.add_argument("--no-tui", action="store_true", help="print progress even on a terminal")
    plain = parser.parse_args(argv).no_tui or not (sys.stdin.isatty() and sys.stdout.isatty())
    for number in _SIGNALS:
        signal.signal(number, _interrupt)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # a pipe should see progress too
    children.adopt()
    place = Place.make()
    try:
        return _demo(place, plain)
    except KeyboardInterrupt:
        print(f"\ninterrupted; nothing is left running. What was written: {place.root}", file=sys.stderr)
        return 130
    except StokerError as error:
        print(f"the demo failed: {error}\nlogs of the services: {place.logs}", file=sys.stderr)
        return 1
    finally:
        children.end_all()
        place.tidy()


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """Leave by way of every `finally`, once: an impatient second Ctrl-C must not cut the cleaning up short."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _demo(place: Place, plain: bool) -> int:
    print(f"Stoker's demo, in {place.root}")
    if os.geteuid() == 0:
        print("You are root, so root may own jobs here (allow_root_jobs); not on a real node.")
    source = choose_source()
    say(source.sentence)
    place.write_config(source.name)
    place.write_entry()
    print(f"Another terminal has its commands after:  . {shlex.quote(str(place.entry))}")
    with children.service(place, "agent"), children.service(place, "hub"), job.client(place) as hub:
        job.activate(place)
        ended = job.run(place, hub, plain)
        job.print_summary(hub, ended)
    return 0 if ended.state is JobState.COMPLETED else 1


if __name__ == "__main__":
    sys.exit(main())
