"""`stoker jobs`: the queue, and the history page by page."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from agent.api.commandline import Parser, meant
from agent.api.errors import StokerError
from agent.api.types import FINAL_STATES, Job, JobState, LinkState
from tui import arrays, pages, plain, printed, safe, words
from tui.cluster import job_order
from tui.verbs.call import Call

ENDED_SHOWN = 20
"""Ended jobs that are listed beside the queue unless told otherwise."""
PAGE_SHOWN = 100
"""Jobs of a page of the history unless told otherwise."""
_SHORT = {"PD": "PENDING", "CF": "CONFIGURING", "R": "RUNNING", "CG": "COMPLETING", "CD": "COMPLETED", "F": "FAILED",
          "TO": "TIMEOUT", "CA": "CANCELLED", "OOM": "OUT_OF_MEMORY", "NF": "NODE_FAIL", "PR": "PREEMPTED",
          "DL": "DEADLINE"}  # fmt: skip
_GROUPS = {"ACTIVE": set(JobState) - FINAL_STATES, "ENDED": set(FINAL_STATES), "ALL": set(JobState)}


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which jobs are to be listed; what is `None` does not matter."""

    state: str | None = None
    """Slurm's states joined by commas, as `states` writes them."""
    user: str | None = None
    limit: int | None = None
    name: str | None = None
    partition: str | None = None
    account: str | None = None
    array: int | None = None
    since: int | None = None
    until: int | None = None
    before: int | None = None
    page: int = 1
    history: bool = False
    """One page of all that ever was, and not the queue with its latest."""

    @property
    def filters(self) -> dict[str, Any]:
        """What the server is asked beside state, user and limit."""
        named = {"name": self.name, "partition": self.partition, "account": self.account, "array": self.array}
        return {**named, "since": self.since, "until": self.until}


def options(parser: Parser, _: str) -> None:
    """What narrows and pages the list."""
    add = parser.add_argument
    add("-u", "--user", type=words.said, help="only this user's")
    add("-t", "--state", metavar="STATES", type=_states, help="only these, joined by commas: PENDING,RUNNING or PD,R")
    add("--name", type=words.said, help="only jobs of this name")
    add("-p", "--partition", type=words.said, help="only of this partition")
    add("-A", "--account", type=words.said, help="only of this account")
    add("--array", type=words.count, metavar="ID", help="only the tasks of this array")
    add("-a", "--all", action="store_true", help="the history too: everything, newest first, page by page")
    add("--since", type=words.moment, metavar="WHEN", help="not ended before: 2h, 3d, yesterday, 2026-11-20T14:30")
    add("--until", type=words.moment, metavar="WHEN", help="not submitted after")
    add("-n", "--limit", type=words.count, help=f"ended jobs to list ({ENDED_SHOWN}), or a page's ({PAGE_SHOWN})")
    add("--page", type=words.page, default=1, help="which page of the history, from 1")
    add("--before", type=words.count, metavar="ID", help="the page of jobs whose numbers are lower")
    add("-r", "--expand", action="store_true", help="a line for each task of an array")
    parser.set_defaults(work=_work)
    words.examples(
        parser,
        "stoker jobs                           the queue, and the jobs that ended last",
        "stoker jobs -u alice -t PD            what waits, with priority, reason and expected start",
        "stoker jobs --all --since 3d -t F     what failed in three days",
        "stoker jobs --all --before 4000       the page after the one that ended with 4000",
        "stoker jobs --array 17 -r             each task of an array",
    )


def _work(call: Call, args: argparse.Namespace) -> int:
    history = args.all or args.page > 1 or any(each is not None for each in (args.since, args.until, args.before))
    wanted = Wanted(
        state=args.state,
        user=args.user,
        limit=args.limit,
        name=args.name,
        partition=args.partition,
        account=args.account,
        array=args.array,
        since=args.since,
        until=args.until,
        before=args.before,
        page=max(1, args.page),
        history=history,
    )
    return jobs(call, wanted, expand=args.expand)


def jobs(call: Call, wanted: Wanted | None = None, *, expand: bool = False) -> int:
    """Print the queue and what ended last, or a page of the history."""
    asked = wanted or Wanted()
    found, more = _page(call, asked) if asked.history else (_queue(call, asked), None)
    _tell_silent(call, found)
    if call.json:
        plain.as_json(found, call.out)
        return 0
    safely = safe.clean(found)
    ordered = safely if asked.history else sorted(safely, key=job_order)
    lines = arrays.singly(ordered) if expand else arrays.collapse(ordered)
    now = time.time()
    plain.table(printed.JOB_TITLES, [printed.job_line(line, now) for line in lines], call.out)
    if more is not None:
        plain.note(f"more with the same words and {more}")
    return 0


def _tell_silent(call: Call, found: Sequence[Job]) -> None:
    """Name the nodes whose jobs are listed as they were last heard of, and perhaps not all of them; and from when.

    One may answer again by now: that what is listed is older, its jobs themselves tell.
    """
    heard = {each.node: each.as_of for each in found if each.as_of is not None}
    away = [each.name for each in call.client.nodes() if each.link is not LinkState.UP or each.name in heard]
    if away:
        whose = "its jobs are" if len(away) == 1 else "their jobs are"
        named = ", ".join(name if name not in heard else f"{name} (since {_at(heard[name])})" for name in away)
        plain.note(f"no answer of {named}: {whose} listed as last heard, or left out; see stoker nodes")


def _at(moment: int) -> str:
    return time.strftime("%H:%M:%S", time.localtime(moment))


def _queue(call: Call, wanted: Wanted) -> list[Job]:
    """What runs and waits, and the last that ended; or those in the states asked for."""
    ask, filters = call.client.jobs, wanted.filters
    if wanted.state is not None and not wanted.limit:
        return call.jobs(state=wanted.state, user=wanted.user, **filters)
    if wanted.state is not None:
        return ask(state=wanted.state, user=wanted.user, limit=wanted.limit, **filters)
    limit = ENDED_SHOWN if wanted.limit is None else wanted.limit
    found = call.jobs(state=_written(_GROUPS["ACTIVE"]), user=wanted.user, **filters)
    return found + (ask(state=_written(FINAL_STATES), user=wanted.user, limit=limit, **filters) if limit else [])


def _page(call: Call, wanted: Wanted) -> tuple[list[Job], str | None]:
    """One page, newest first, and the option that tells the next one."""
    size = wanted.limit or PAGE_SHOWN
    asked = {"state": wanted.state, "user": wanted.user, **wanted.filters}
    found = pages.newest(call.client, wanted.page * size, wanted.before, **asked)[(wanted.page - 1) * size :]
    if len(found) < size:
        return found, None
    if len(pages.nodes(call.client)) > 1:  # each with numbers of its own
        return found, f"--page {wanted.page + 1}"
    return found, f"--before {min(job.id for job in found)}"


def states(text: str) -> str:
    """Slurm's states, long or short, joined by commas; `active`, `ended` and `all` are several.

    Raises:
        StokerError: one of them is no state.
    """
    found: dict[str, None] = {}
    for word in text.upper().split(","):
        known = word.strip()
        if known in _GROUPS:
            found.update(dict.fromkeys(sorted(_GROUPS[known])))
        elif (long := _SHORT.get(known, known)) in set(JobState):
            found[long] = None
        else:
            choices = [*JobState, *_GROUPS]
            raise StokerError(
                f"{word!r} is no state of a job{meant(known, choices) or '; try PENDING, RUNNING, FAILED'}"
            )
    return ",".join(found)


def _states(text: str) -> str:
    try:
        return states(text)
    except StokerError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _written(wanted: set[JobState] | frozenset[JobState]) -> str:
    return ",".join(sorted(wanted))
