"""What is asked of jobs: `stoker cancel`, `hold`, `release`, `requeue`, `top`, `nice`, `update`, `signal`."""

from __future__ import annotations

import argparse
import getpass
import sys
from collections.abc import Callable, Sequence

from agent.api.commandline import Parser
from agent.api.errors import StokerError
from agent.api.refs import JobRef
from agent.api.tasks import TasksReply, TaskVerb
from agent.api.types import FINAL_STATES, Job, JobState
from tui import arrays, inonego, plain, printed, safe, words
from tui.verbs.call import Call, each
from tui.verbs.listing import Wanted, states

Ask = Callable[[Call, argparse.Namespace, JobRef], Job]

_PLAIN: dict[str, tuple[Ask, str]] = {
    "hold": (lambda call, args, ref: call.client.hold(ref), "not held"),
    "release": (lambda call, args, ref: call.client.release(ref), "not released"),
    "top": (lambda call, args, ref: call.client.top(ref), "not put first"),
    "requeue": (lambda call, args, ref: call.client.requeue(ref, hold=args.hold), "not requeued"),
    "nice": (lambda call, args, ref: call.client.update(ref, {"Nice": str(args.value)}), "not changed"),
    "signal": (
        lambda call, args, ref: call.client.signal(ref, args.signal, batch_only=args.batch),
        "not sent the signal",
    ),
}
_EXAMPLES = {
    "hold": ("stoker hold 17 18", "stoker hold 17_[4-9]   tasks of an array"),
    "release": ("stoker release 17",),
    "top": ("stoker top 17     before your own other jobs; an admin's puts it before everybody's",),
    "requeue": ("stoker requeue 17          stop it and let it wait again, or run an ended one once more",
                "stoker requeue --hold 17   … and wait for stoker release"),
    "nice": ("stoker nice 100 17    later than your others", "stoker nice -100 17   sooner; for admins"),
    "signal": ("stoker signal USR1 17           to all processes of the job; it does not end it",
               "stoker signal --batch USR1 17   to its script alone"),
    "update": ("stoker update 17 TimeLimit=2:00:00 Comment='second try'",
               "stoker update 17 TimeLimit+=30    half an hour more; -= takes off",
               "stoker update 17 Dependency=      it waits for nothing any more",
               "keys are scontrol's: TimeLimit Nice Priority Partition QOS Account StartTime Deadline Dependency",
               "  Comment JobName Requeue ReservationName ArrayTaskThrottle"),
    "cancel": ("stoker cancel 17 18             stoker cancel 17_[1-5]    tasks of an array",
               "stoker cancel --user me --state PENDING      all that wait; asks first on a terminal",
               "stoker cancel --name sweep-old --yes         without asking"),
}  # fmt: skip


def options(parser: Parser, name: str) -> None:
    """What each takes."""
    work: Callable[[Call, argparse.Namespace], int] = _plain(name) if name in _PLAIN else _update
    if name == "cancel":
        work = _cancel
        _filters(parser)
        parser.set_defaults(check=lambda args: _named_or_filtered(parser, args))
    elif name == "requeue":
        parser.add_argument("--hold", action="store_true", help="and keep it waiting until it is released")
    elif name == "nice":
        parser.add_argument(
            "value", type=_whole, metavar="VALUE", help="taken off the priority; less than it has is for admins"
        )
    elif name == "signal":
        parser.add_argument("--batch", action="store_true", help="to the batch script alone")
        parser.add_argument("signal", type=words.said, metavar="SIG", help="USR1, SIGUSR1 or 10")
    if name == "update":
        parser.add_argument("job_refs", type=words.jobs, metavar="JOB", help="17, 17_3, 17_[1-5], n1:17")
        parser.add_argument("changes", type=_change, metavar="Key=Value", nargs="+")
        parser.set_defaults(check=lambda args: _each_once(parser, args))
    else:
        words.jobs_argument(parser, nargs="*" if name == "cancel" else "+")
    parser.set_defaults(work=work)
    words.examples(parser, *_EXAMPLES[name])


def cancel(call: Call, refs: Sequence[JobRef]) -> int:
    """Ask jobs to end."""
    ask, line = call.client.cancel, _ended
    return each(call, refs, ask, not_done="not cancelled", line=line, together=_together(call, "cancel"))


def _ended(job: Job) -> str:
    return job.state.value


def _together(call: Call, name: str, *, hold: bool = False) -> Callable[[inonego.Tasks], TasksReply | None] | None:
    """How tasks of an array are asked with one call, where the server takes the verb for many."""
    if name not in list(TaskVerb):
        return None
    return lambda tasks: inonego.ask(call.client, TaskVerb(name), tasks, hold=hold)


def state_line(job: Job) -> str:
    """`PENDING, held, priority 0`: how a job is after it was changed."""
    waits, reason = job.state is JobState.PENDING, safe.text(job.reason or "")
    parts = [job.state.value]
    parts += ["held"] if job.held and waits else []
    # The reason is of the queue's last look, which may have been before the change.
    parts += [reason] if reason and waits and not job.held and not reason.startswith("JobHeld") else []
    parts += [f"priority {job.priority}"] if job.priority is not None and job.state is JobState.PENDING else []
    parts += [f"nice {job.nice}"] if job.nice else []
    return ", ".join(parts)


def _plain(name: str) -> Callable[[Call, argparse.Namespace], int]:
    ask, not_done = _PLAIN[name]

    def work(call: Call, args: argparse.Namespace) -> int:
        refs = [ref for named in args.job_refs for ref in named]
        together = _together(call, name, hold=getattr(args, "hold", False))
        return each(call, refs, lambda ref: ask(call, args, ref), not_done=not_done, line=state_line, together=together)

    return work


def _update(call: Call, args: argparse.Namespace) -> int:
    changes, ask = dict(args.changes), call.client.update
    return each(call, args.job_refs, lambda ref: ask(ref, changes), not_done="not changed", line=state_line)


def _each_once(parser: Parser, args: argparse.Namespace) -> None:
    keys = [key.lower() for key, _ in args.changes]
    if twice := [key for key, _ in args.changes if keys.count(key.lower()) > 1]:
        parser.error(f"{twice[0]} is given twice; which of the two values is meant?")


# --- cancel by what jobs are ------------------------------------------------------------------------------------------


def _filters(parser: Parser) -> None:
    parser.add_argument("-u", "--user", type=words.said, help="all jobs of this user that have not ended; me is you")
    parser.add_argument("-t", "--state", type=_active_states, metavar="STATES", help="all that are PENDING, RUNNING, …")
    parser.add_argument("-n", "--name", type=words.said, help="all of this name")
    parser.add_argument("-p", "--partition", type=words.said, help="all of this partition")
    parser.add_argument("-A", "--account", type=words.said, help="all of this account")
    parser.add_argument("-y", "--yes", action="store_true", help="without asking")


def _cancel(call: Call, args: argparse.Namespace) -> int:
    refs = [ref for named in args.job_refs for ref in named]
    if not _is_filtered(args):
        return cancel(call, refs)
    found = _matching(call, args, refs)
    if not found:
        plain.complain("no job that has not ended is so; nothing is cancelled")
        if call.json:
            plain.as_json([], call.out)
        return 0
    if not args.yes and not _agreed(call, found):
        plain.complain("nothing is cancelled")
        return 1
    return cancel(call, [arrays.ref(job) for job in found])


def _named_or_filtered(parser: Parser, args: argparse.Namespace) -> None:
    if not args.job_refs and not _is_filtered(args):
        parser.error("no job is named; write: stoker cancel 17, or stoker cancel --user me --state PENDING")


def _is_filtered(args: argparse.Namespace) -> bool:
    return any((args.user, args.state, args.name, args.partition, args.account))


def _matching(call: Call, args: argparse.Namespace, refs: Sequence[JobRef]) -> list[Job]:
    """Jobs that have not ended and are all that was asked for; of those named, where any are."""
    wanted = Wanted(name=args.name, partition=args.partition, account=args.account)
    active = ",".join(sorted(set(JobState) - FINAL_STATES))
    user = getpass.getuser() if args.user == "me" else args.user
    found = call.jobs(state=args.state or active, user=user, **wanted.filters)
    return [job for job in found if not job.state.is_final and (not refs or any(_names(ref, job) for ref in refs))]


def _names(ref: JobRef, job: Job) -> bool:
    """Whether a word of the command line means this job."""
    if ref.node not in (None, job.node):
        return False
    if ref.task is not None:
        return (ref.id, ref.task) == (job.array_job_id, job.array_task_id)
    return ref.id in (job.id, job.array_job_id)


def _agreed(call: Call, found: Sequence[Job]) -> bool:
    """Ask on a terminal about more than one job, or another's; without one the filter's word is enough."""
    own = len(found) == 1 and found[0].user == getpass.getuser()
    if own or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return True
    for line in arrays.collapse(safe.clean(list(found))):
        plain.note(f"  {line.label}  {line.first.user}  {line.first.state.value}  {line.first.name}")
    print(f"Cancel {printed.counted(found)}? Type yes: ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _active_states(text: str) -> str:
    try:
        return states(text)
    except StokerError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _whole(text: str) -> int:
    digits = text.lstrip("+-")
    if not (digits.isascii() and digits.isdecimal()) or len(digits) > 10 or len(text) - len(digits) > 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number; write 100 or -100")
    return int(text)


def _change(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if key.lower() in ("timelimit+", "timelimit-"):
        key, value = key[:-1], key[-1] + value
    if not equals or not key.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r} is not Key=Value; write TimeLimit=2:00:00")
    return key, value
