"""`stoker-agent selftest`: what it does one after the other.

    order, key, place of the report ─► agent: drained? ─► driver: inventory ─► torch: rates, links, burn-in ─► report

Nothing is tested before all that could be refused was looked at. No clock, limit or mode of a GPU is ever set.
"""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path
from typing import Any

from agent.api.errors import StokerError
from agent.api.program import INTERRUPTED, printable
from agent.config import Config
from agent.gate import NodeSignature
from agent.selftest import report as reports
from agent.selftest import table
from agent.selftest.checks import Verdict
from agent.selftest.compute import Torch
from agent.selftest.errors import FAILED, NOTHING_TESTED, PASSED, SelftestError
from agent.selftest.expected import Expected
from agent.selftest.options import FULL_BURN_MIN
from agent.selftest.order import Order
from agent.selftest.order import read as read_order
from agent.selftest.session import Plan, Session


def run(args: Any, config: Config) -> int:
    """Do it; the exit code."""
    try:
        return _verify(args) if args.verify is not None else _test(args, config)
    except StokerError as error:
        print(f"stoker-agent selftest: {printable(str(error))}", file=sys.stderr)
        return error.exit_code if isinstance(error, SelftestError) else NOTHING_TESTED
    except KeyboardInterrupt:
        print("stoker-agent selftest: interrupted; what it started is ended, and there is no report", file=sys.stderr)
        return INTERRUPTED


def _verify(args: Any) -> int:
    found = reports.verify(args.verify)
    key = found.key_hex
    if args.key is not None and args.key.lower() != key:
        raise SelftestError(f"REFUSED {args.verify}: signed by {key}, not by the key you named", FAILED)
    if args.json:
        sys.stdout.write(found.text)
        return PASSED
    for line in table.lines(found.report):
        print(line)
    whose = "the key you named" if args.key else "see that it is the node's: `key` in GET /v1/node of its agent"
    print(f"\nGENUINE: unchanged since {table.moment(found.signed_at)}, signed by {key} ({whose})")
    return PASSED


def _test(args: Any, config: Config) -> int:
    if args.key is not None:
        raise SelftestError("--key goes with --verify", 64)
    if args.python is not None and shutil.which(args.python) is None:
        raise SelftestError(f"cannot run {args.python}: it is no program; name an interpreter that has torch", 64)
    began = int(time.time())
    order = read_order(args.order) if args.order is not None else None
    path = args.report or reports.unused(time.strftime(f"selftest-{config.name}-%Y%m%d-%H%M%S", time.gmtime(began)))
    reports.prepare(path)
    signature = NodeSignature(config.state_dir)
    session = Session(config, _plan(args, order), Expected(), Torch(python=args.python), _say)
    made = session.run(began, signature.key_hex)
    data = reports.encode(made, signature, int(time.time()))
    reports.write(path, data)
    _show(made, data, args.json, path)
    return {Verdict.PASS: PASSED, Verdict.FAIL: FAILED}.get(Verdict(made.verdict), NOTHING_TESTED)


def _plan(args: Any, order: Order | None) -> Plan:
    asked_min = args.burn or 0.0
    burn_min = FULL_BURN_MIN if args.full and args.burn is None else asked_min
    return Plan(
        full=args.full,
        burn_s=60 * burn_min,
        cpu_burn_s=60 * asked_min,
        gpus=args.gpus,
        force=args.force,
        order=order,
    )


def _show(made: reports.Report, data: bytes, as_json: bool, path: Path) -> None:
    if as_json:
        sys.stdout.write(data.decode())
    else:
        for line in table.lines(made):
            print(line)
        print(f"report: {path}   (stoker-agent selftest --verify {path})")


def _say(text: str) -> None:
    print(printable(text), file=sys.stderr, flush=True)
