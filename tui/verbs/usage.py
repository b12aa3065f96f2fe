"""`stoker usage`: GPU time of a month by user, account or model."""

from __future__ import annotations

import argparse
import csv
import re

from agent.api.commandline import Parser
from agent.api.usage import UsageBy, UsageMonth
from tui import plain, safe, words
from tui.verbs.call import Call

_TITLES = ("GPU-HOURS", "SHARE", "JOBS")
_HOUR_MS = 3_600_000


def options(parser: Parser, _: str) -> None:
    """Which month, and by what."""
    parser.add_argument("--month", type=_month, metavar="YYYY-MM", help="in UTC; else this month up to now")
    parser.add_argument("--by", choices=[str(each) for each in UsageBy], default=str(UsageBy.USER), help="(user)")
    parser.add_argument("--csv", action="store_true", help="as comma-separated values, in GPU-seconds")
    parser.add_argument("--node", type=words.said, metavar="NAME", help="of this node alone")
    parser.set_defaults(work=_work)
    words.examples(
        parser,
        "stoker usage                              who used how much this month",
        "stoker usage --month 2026-10 --by account --csv > october.csv",
        "stoker usage --by model --json",
    )


def _work(call: Call, args: argparse.Namespace) -> int:
    told = call.client.usage(args.month, args.by, args.node)
    for name in told.silent:
        plain.complain(f"{safe.text(name)} did not answer, and is not counted in")
    if call.json:
        plain.as_json(told, call.out)
    elif args.csv:
        _as_csv(call, told)
    else:
        _as_table(call, told)
    return int(bool(told.silent))


def _as_csv(call: Call, told: UsageMonth) -> None:
    writer = csv.writer(call.out, lineterminator="\n")
    writer.writerow(["month", str(told.by), "gpu_seconds", "jobs"])
    for each in told.sums:
        writer.writerow([told.month, safe.text(each.name), f"{each.gpu_ms / 1000:.3f}", each.jobs])


def _as_table(call: Call, told: UsageMonth) -> None:
    total = sum(each.gpu_ms for each in told.sums)
    lines = [
        (
            safe.text(each.name) or "-",
            f"{each.gpu_ms / _HOUR_MS:.2f}",
            f"{_percent(each.gpu_ms, total)} %",
            str(each.jobs),
        )
        for each in told.sums
    ]
    plain.table([str(told.by).upper(), *_TITLES], lines, call.out)
    nodes = f"{len(told.nodes)} node{'s' if len(told.nodes) != 1 else ''}"
    print(f"{told.month}: {total / _HOUR_MS:.2f} GPU-hours on {nodes}", file=call.out)


def _percent(part: int, total: int) -> int:
    return round(100 * part / total) if total else 0


def _month(text: str) -> str:
    if not re.fullmatch(r"20\d\d-(0[1-9]|1[0-2])", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no month; write it as 2026-11")
    return text
