"""`scancel`: end jobs, or send them a signal. scancel(1)."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from agent.api import program
from agent.api.errors import ApiError
from agent.api.refs import JobRef
from agent.api.types import Job, JobState
from tui import arrays, safe
from tui.slurm import ask
from tui.slurm import job as jobs_as
from tui.slurm.argv import Options, ToolError, Words

HELP = """\
Usage: scancel [OPTIONS] [JOB...]      JOB: 17, 17_3, 17_[1-5]
  -u, --user=NAME  --me  -n, --name=NAME  -p, --partition=NAME  -A, --account=NAME  -q, --qos=NAME
  -t, --state=STATES     PENDING, RUNNING
  -s, --signal=SIGNAL    only send it: USR1, 10
  -b, --batch            to the batch script alone;  -f, --full  to it and all below
  -i, --interactive      ask for each  -v, --verbose  -Q, --quiet
"""
OPTIONS = Options(
    "account:A= batch:b clusters:M= cron ctld full:f help hurry:H interactive:i jobname= me name:n= nodelist:w= "
    "partition:p= qos:q= quiet:Q reservation:R= sibling=! signal:s= state:t= usage user:u= verbose:v version:V wckey=!"
)
_FILTERS = ("account", "jobname", "me", "name", "nodelist", "partition", "qos", "reservation", "state", "user")


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """The command; its exit code."""
    words = OPTIONS.read(argv)
    filtered = any(name in words for name in _FILTERS)
    if not words.rest and not filtered:
        raise ToolError("No job identification provided")
    refs = ask.refs(words.rest)
    signal = _signal(words.last("signal"))
    queue = ask.Queue.open(environ)
    queue.check_clusters(words)
    if filtered or "interactive" in words:
        refs = [arrays.ref(each) for each in _chosen(queue, words)]
    failed = 0
    for ref in refs:
        if "interactive" not in words or _agreed(queue, ref):
            failed += not _end(queue, ref, signal, words)
    return 1 if failed else 0


def _end(queue: ask.Queue, ref: JobRef, signal: str | None, words: Words) -> bool:
    """Act on one job; whether that went well. One that has ended, or is not there, is no failure, as in Slurm."""
    if "verbose" in words:
        doing = "Terminating job" if signal is None else f"Signal {signal} to job"
        program.say(f"scancel: {doing} {ref}")
    try:
        if signal is None:
            queue.client.cancel(ref)
        else:
            queue.client.signal(ref, signal, batch_only="batch" in words and "full" not in words)
    except ApiError as error:
        if error.status == 404 and "verbose" not in words:
            return True
        if "quiet" not in words:
            program.say(f"scancel: error: Kill job error on job id {ref}: {safe.text(error.message)}")
        return False
    return True


def _chosen(queue: ask.Queue, words: Words) -> list[Job]:
    """The jobs that the options choose, of those named or of all that have not ended."""
    states = list(jobs_as.ACTIVE)
    try:
        states = (ask.states(words.listed("state")) or states) if "state" in words else states
    except KeyError as error:
        raise ToolError(f"Invalid job state specified: {program.printable(error.args[0])}") from None
    users = [ask.me()] if "me" in words else ask.users(words.listed("user"))
    found = queue.named_all(words.rest, "Invalid job id") if words.rest else queue.jobs(jobs_as.ACTIVE)
    default = queue.default_partition()
    return [each for each in found if each.state in states and _fits(each, words, users, default)]


def _fits(each: Job, words: Words, users: Sequence[str], default: str) -> bool:
    facts = {
        "account": each.account or "",
        "jobname": each.name,
        "name": each.name,
        "nodelist": "" if each.state is JobState.PENDING else each.node,
        "partition": each.partition or default,
        "qos": each.qos or "normal",
        "reservation": each.reservation or "",
    }
    return jobs_as.all_listed(words, facts) and (not users or each.user in users)


def _signal(text: str | None) -> str | None:
    """A signal by name or number; KILL and TERM end the job as no signal does.

    Raises:
        ToolError: it is none.
    """
    from agent.api import signals  # only here: its import costs every other call

    if text is None:
        return None
    number = signals.number_of(text)
    if number is None:
        raise ToolError(f"Unknown job signal: {program.printable(text)}", bare=True)
    name = signals.name_of(number)
    return None if name == "KILL" else name


def _agreed(queue: ask.Queue, ref: JobRef) -> bool:
    job = safe.clean(queue.client.job(ref))
    partition = job.partition or queue.default_partition()
    print(f"Cancel job_id={ref} name={job.name} partition={partition} [y/n]? ", end="", flush=True)
    return sys.stdin.readline().strip().lower().startswith("y")
