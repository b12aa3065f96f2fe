"""`scancel`: end jobs or steps of jobs, or send them a signal. scancel(1).

Rules kept here: what names a step acts on that step or on nothing: a server that knows no steps is never asked to end
the job instead.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

import msgspec

from agent.api import program
from agent.api.errors import ApiError, StokerError
from agent.api.refs import JobRef
from agent.api.tasks import TaskVerb
from agent.api.types import Job, JobState
from tui import arrays, inonego, safe
from tui.slurm import ask
from tui.slurm import job as jobs_as
from tui.slurm.argv import Options, ToolError, Words

HELP = """\
Usage: scancel [OPTIONS] [JOB...]      JOB: 17, 17_3, 17_[1-5]; 17.0 is a step of it
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
_INVALID = "Invalid job id"
_FILTERS = ("account", "jobname", "me", "name", "nodelist", "partition", "qos", "reservation", "state", "user")


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """The command; its exit code."""
    words = OPTIONS.read(argv)
    filtered = any(name in words for name in _FILTERS)
    if not words.rest and not filtered:
        raise ToolError("No job identification provided")
    targets = _targets(words.rest)
    ask.spread_nodes(words)
    signal = _signal(words.last("signal"))
    queue = ask.Queue.open(environ)
    queue.check_clusters(words)
    if filtered or "interactive" in words:
        targets = _chosen(queue, words, targets)
    failed = 0
    if signal is None and "interactive" not in words:
        targets, failed = _in_one_go(queue, targets, words)
    for target in targets:
        if "interactive" not in words or _agreed(queue, target):
            failed += not _end(queue, target, signal, words)
    return 1 if failed else 0


class _Target(msgspec.Struct, frozen=True):
    """What is to end."""

    ref: JobRef
    step: int | None

    def __str__(self) -> str:
        return str(self.ref) if self.step is None else f"{self.ref}.{self.step}"


def _targets(texts: Sequence[str]) -> list[_Target]:
    """Read `17`, `17_[1-5]`, `17.0`.

    Raises:
        ToolError: a word is neither; the batch script is the job, which scancel ends by its number alone.
    """
    found: list[_Target] = []
    for text in ask.split_ids(texts):
        job, step = ask.part_step(text)
        if "." in job or not job.strip("0"):
            raise ToolError(f"{_INVALID} {program.printable(text)}")
        try:
            found += [_Target(ref, step) for ref in arrays.refs(job)]
        except StokerError:
            raise ToolError(f"{_INVALID} {program.printable(text)}") from None
    return found


def _in_one_go(queue: ask.Queue, targets: Sequence[_Target], words: Words) -> tuple[list[_Target], int]:
    """End the tasks of an array with one call; what is left to end one by one, and how many were refused."""
    left, failed = [each for each in targets if each.step is not None], 0
    for part in inonego.parts(each.ref for each in targets if each.step is None):
        if isinstance(part, JobRef):
            left.append(_Target(part, None))
            continue
        if "verbose" in words:
            program.say(f"scancel: Terminating job {part}")
        try:
            reply = inonego.ask(queue.client, TaskVerb.CANCEL, part)
            refused = [] if reply is None else [(each.tasks, inonego.refusal(each)) for each in reply.refused]
        except ApiError as error:
            reply, refused = None, [(arrays.ranges(part.numbers), error)]
        else:
            left += [_Target(ref, None) for ref in part.refs] if reply is None else []
        for tasks, why in refused:
            failed += not _passed(inonego.name(part.array, tasks), why, words)
    return left, failed


def _end(queue: ask.Queue, target: _Target, signal: str | None, words: Words) -> bool:
    """Act on one; whether that went well. One that has ended, or is not there, is no failure, as in Slurm."""
    what = "job" if target.step is None else "step"
    if "verbose" in words:
        program.say(f"scancel: {f'Terminating {what}' if signal is None else f'Signal {signal} to {what}'} {target}")
    try:
        if target.step is not None:
            queue.client.signal_step(target.ref, target.step, signal or "KILL")
        elif signal is None:
            queue.client.cancel(target.ref)
        else:
            queue.client.signal(target.ref, signal, batch_only="batch" in words and "full" not in words)
    except ApiError as error:
        if target.step is None:
            return _passed(str(target), error, words)
        return _passed(str(target), error, words, step=True, signalled=signal is not None)
    return True


def _passed(named: str, error: ApiError, words: Words, *, step: bool = False, signalled: bool = False) -> bool:
    """Whether a refusal is none that is told of: what has ended, or is not there, without `-v`."""
    ended = signalled and error.code == "step_over" if step else error.status == 404
    if ended and "verbose" not in words:
        return True
    if "quiet" not in words:
        what = "job step id" if step else "job id"
        program.say(f"scancel: error: Kill job error on {what} {named}: {_why(error)}")
    return False


def _why(error: ApiError) -> str:
    message = safe.text(error.message)
    return f"Invalid job id specified: {message}" if error.code == "step_over" else message


def _chosen(queue: ask.Queue, words: Words, targets: Sequence[_Target]) -> list[_Target]:
    """What the options choose, of what is named or of all jobs that have not ended."""
    states = list(jobs_as.ACTIVE)
    try:
        states = (ask.states(words.listed("state")) or states) if "state" in words else states
    except KeyError as error:
        raise ToolError(f"Invalid job state specified: {program.printable(error.args[0])}") from None
    users = [ask.me()] if "me" in words else ask.users(words.listed("user"))
    default = queue.default_partition()
    found = [(job, target.step) for target in targets for job in _jobs_of(queue, target.ref)]
    if not words.rest:
        found = [(job, None) for job in queue.jobs(jobs_as.ACTIVE)]
    for name in ask.strangers(users, {job.user for job, _ in found}):
        raise ToolError(f"Invalid user name: {program.printable(name)}")
    return [
        _Target(arrays.ref(job), step)
        for job, step in found
        if job.state in states and _fits(job, words, users, default)
    ]


def _jobs_of(queue: ask.Queue, ref: JobRef) -> list[Job]:
    try:
        return queue.named(ref)
    except ApiError as error:
        if error.status != 404:
            raise
        return []


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


def _agreed(queue: ask.Queue, target: _Target) -> bool:
    job = safe.clean(queue.client.job(target.ref))
    partition = job.partition or queue.default_partition()
    what = "job_id" if target.step is None else "step_id"
    print(f"Cancel {what}={target} name={job.name} partition={partition} [y/n]? ", end="", flush=True)
    return sys.stdin.readline().strip().lower().startswith("y")
