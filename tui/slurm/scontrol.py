"""`scontrol`: look at one thing closely, and change it. scontrol(1), as far as there is something to control here."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from agent.api import program
from agent.api.errors import ApiError
from agent.api.hostlist import HostListError, compress, shown
from agent.api.refs import JobRef
from agent.api.tasks import TaskVerb
from agent.api.types import Job, JobState
from tui import inonego, safe
from tui.slurm import ask, change, nodes, reserve, show, steps, times
from tui.slurm import job as jobs_as
from tui.slurm.argv import Options, ToolError, Words
from tui.slurm.keywords import keyword

HELP = """\
Usage: scontrol [-o] [-d] COMMAND
  show job [ID] | step [ID] | node [NAME] | partition [NAME] | reservation [NAME] | hostnames [LIST]
       | hostlist LIST | licenses | config
  hold | release | requeue | requeuehold | top  JOB[,JOB...]      JOB: 17, 17_3, 17_[1-5]
  update JobId=JOB KEY=VALUE...         TimeLimit, Nice, Priority, Partition, QOS, Account, StartTime, Deadline,
                                        Dependency, Comment, JobName, Requeue, ReservationName,
                                        ArrayTaskThrottle; TimeLimit+=30 and -=10 of what it is
  update NodeName=NODE State=DRAIN Reason=TEXT | State=RESUME
  create reservation[=NAME] StartTime=TIME Duration=TIME Nodes=ALL Users=NAMES|Accounts=NAMES|Flags=MAINT
                                        TRES=gres/gpu=2 instead of the whole node
  delete reservation=NAME | reconfigure | ping | version
  update ReservationName=NAME KEY=VALUE...    StartTime, EndTime, Duration, Users, Accounts, Flags, TRES, Comment
  update PartitionName=NAME State=UP|DOWN|DRAIN|INACTIVE
  write batch_script JOB [FILE]         into slurm-JOB.sh; - is standard output
"""
OPTIONS = Options(
    "all:a cluster:M= clusters= details:d federation! future:F help:h hide json? local oneliner:o quiet:Q "
    "sibling uid:u= verbose:v version:V yaml!"
)


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """The command; its exit code."""
    words = OPTIONS.read(argv)
    if not words.rest:
        raise ToolError("no command is given; see: scontrol --help")
    typed, rest = words.rest[0], words.rest[1:]
    verb = keyword(typed)
    if verb == "show":
        return _show(words, rest, environ)
    if verb in ("update", "create", "delete"):
        if not rest:
            raise ToolError(f"too few arguments for {typed} keyword", bare=True)
        return {"update": change.update, "create": reserve.create, "delete": reserve.delete}[verb](rest, environ)
    if verb in ("version", "ping"):
        return _version() if verb == "version" else _ping(environ)
    if verb == "reconfigure":
        return change.reconfigure(environ)
    if verb == "help":
        print(HELP, end="")
        return 0
    if not rest:
        raise ToolError(f"too few arguments for keyword:{verb}", bare=True)
    queue = ask.Queue.open(environ)
    return _write(queue, rest) if verb == "write" else _each(queue, verb, rest)


def _write(queue: ask.Queue, rest: Sequence[str]) -> int:
    """`scontrol write batch_script JOB [FILE]`: into slurm-JOB.sh; `-` is standard output."""
    if not "batch_script".startswith(rest[0].lower()):
        raise ToolError(f"invalid write argument:{program.printable(rest[0])}", bare=True)
    if len(rest) not in (2, 3):
        raise ToolError("batch_script takes a job and at most a file", bare=True)
    try:
        ref = ask.refs(rest[1:2])[0]
        script = queue.client.report(ref).script
    except (ToolError, ApiError) as error:
        known = isinstance(error, ApiError) and error.status != 404
        why = change.denied(error) if known and isinstance(error, ApiError) else change.NO_SUCH
        raise ToolError(f"job script retrieval failed: {safe.text(why)}", bare=True) from None
    if script is None:
        raise ToolError(f"job script retrieval failed: the script of job {ref} is not kept any more", bare=True)
    if rest[2:] == ["-"]:
        shown = "\n".join(safe.text(line) for line in script.split("\n")) if sys.stdout.isatty() else script
        print(shown, end="")
        return 0
    path = Path(rest[2] if rest[2:] else f"slurm-{ref.local}.sh")
    try:
        path.write_text(script, encoding="utf-8")
    except OSError as error:
        raise ToolError(f"cannot write {safe.text(str(path))}: {error.strerror}") from error
    print(f"batch script for job {ref} written to {safe.text(str(path))}")
    return 0


# --- verbs on jobs ----------------------------------------------------------------------------------------------------


_VERBS: Mapping[str, Callable[[ask.Queue, JobRef], object]] = {
    "hold": lambda queue, ref: queue.client.hold(ref),
    "uhold": lambda queue, ref: queue.client.hold(ref),
    "release": lambda queue, ref: queue.client.release(ref),
    "requeue": lambda queue, ref: queue.client.requeue(ref),
    "requeuehold": lambda queue, ref: queue.client.requeue(ref, hold=True),
    "top": lambda queue, ref: queue.client.top(ref),
}
_TOGETHER = {
    "hold": TaskVerb.HOLD,
    "uhold": TaskVerb.HOLD,
    "release": TaskVerb.RELEASE,
    "requeue": TaskVerb.REQUEUE,
    "requeuehold": TaskVerb.REQUEUE,
}
"""What tasks of one array are asked with one call."""


def _each(queue: ask.Queue, verb: str, texts: Sequence[str]) -> int:
    """Do it to each job named; one refusal does not keep the others from it."""
    refs = ask.refs([text.removeprefix("JobId=").removeprefix("jobid=") for text in texts])
    parts, failed = (inonego.parts(refs) if verb in _TOGETHER else list(refs)), 0
    while parts:
        part = parts.pop(0)
        try:
            if isinstance(part, JobRef):
                _VERBS[verb](queue, part)
                continue
            reply = inonego.ask(queue.client, _TOGETHER[verb], part, hold=verb == "requeuehold")
        except ApiError as error:
            failed += 1
            _refused(str(part), error)
            continue
        if reply is None:
            parts[:0] = part.refs
            continue
        for each in reply.refused:
            failed += 1
            _refused(inonego.name(part.array, each.tasks), inonego.refusal(each))
    return 1 if failed else 0


def _refused(named: str, error: ApiError) -> None:
    why = change.NO_SUCH if error.status == 404 else change.denied(error)
    program.say(safe.text(why) if why.startswith(f"job {named} ") else f"{safe.text(why)} for job {named}")


# --- show -------------------------------------------------------------------------------------------------------------


def _show(words: Words, rest: Sequence[str], environ: Mapping[str, str]) -> int:
    if not rest:
        raise ToolError("too few arguments for keyword:show", bare=True)
    kinds = ("jobs", "nodes", "partitions", "reservations", "hostnames", "hostlistsorted", "hostlist", "config",
             "steps", "licenses", "assoc_mgr", "bbstat", "burstbuffer", "daemons", "dwstat", "federation", "frontend",
             "topology")  # fmt: skip
    asked = rest[0].partition("=")[0].lower()
    found = [kind for kind in kinds if kind in (asked, f"{asked}s")] or [
        kind for kind in kinds if kind.startswith(asked)
    ]
    if not found:
        raise ToolError(f"invalid entity:{program.printable(rest[0])} for keyword:show", bare=True)
    named = [rest[0].partition("=")[2]] if "=" in rest[0] else list(rest[1:])
    if len(named) > 1:
        raise ToolError("too many arguments for keyword:show", bare=True)
    if found[0] in ("hostnames", "hostlist", "hostlistsorted"):
        return _hosts(found[0], named[0] if named else environ.get("SLURM_JOB_NODELIST", ""))
    if kinds.index(found[0]) >= kinds.index("assoc_mgr"):
        raise ToolError(f"show {found[0]} is not offered here")
    queue = ask.Queue.open(environ)
    match found[0]:
        case "jobs":
            return _jobs(queue, words, named)
        case "steps":
            return _steps(queue, words, named)
        case "licenses":
            return _licenses(queue, words)
        case "nodes":
            return _nodes(queue, words, named)
        case "partitions":
            return _partitions(queue, words, named)
        case "reservations":
            return _reservations(queue, words, named)
        case _:
            return _config(queue)


def _hosts(what: str, text: str) -> int:
    try:
        print(shown(what, text))
    except HostListError as error:
        raise ToolError(f"{text} {error}".strip()) from None
    return 0


def _jobs(queue: ask.Queue, words: Words, named: Sequence[str]) -> int:
    found: list[Job] = []
    if named:
        try:
            found = queue.named_all(named, "")
        except ToolError:
            raise ToolError("scontrol_print_job error: Invalid job id specified", bare=True) from None
        if not found:
            raise ToolError("slurm_load_jobs error: Invalid job id specified", bare=True)
    else:
        found = queue.jobs(jobs_as.ACTIVE)
    views = jobs_as.views(found, time.time(), queue.default_partition(), cluster=queue.cluster)
    views.sort(key=lambda view: (view.array_id, not view.pending, -view.job.id if view.job.array_job_id else 0))
    if not views:
        print("No jobs in the system")
    if "json" in words:
        from tui.slurm import shapes

        shapes.print_json(shapes.jobs(views, "scontrol", ["scontrol", *words.rest], queue.cluster()))
        return 0
    for view in views:
        _print(show.job(view, detail="details" in words), words)
    return 0


def _steps(queue: ask.Queue, words: Words, named: Sequence[str]) -> int:
    """Steps that run, of all jobs or of those named: `17`, `17.0`, `17.batch`."""
    ids = ask.split_ids(named)
    active = (JobState.RUNNING, JobState.COMPLETING)
    try:
        found = queue.named_all(ids, "", steps=True) if ids else queue.jobs(active, steps=1)
    except ToolError:
        found = []
    if ids and not found:
        raise ToolError("slurm_get_job_steps error: Invalid job id specified", bare=True)
    views = jobs_as.views([each for each in found if each.state in active], time.time(), queue.default_partition())
    exact = {text for text in ids if "." in text}
    lines = [line for view in views for line in steps.running(view) if not exact or line.id in exact]
    for line in lines:
        _print(show.step(line), words)
    return 0


def _licenses(queue: ask.Queue, words: Words) -> int:
    """What `--licenses` may name, and how many are in use."""
    used: dict[str, int] = {}
    for each in queue.jobs(nodes.HOLDING):
        for name, count in each.licenses.items():
            used[name] = used.get(name, 0) + count
    known = queue.rules().licenses
    if not known:
        print("No licenses configured in Slurm.")
    for name, total in sorted(known.items()):
        held = used.get(name, 0)
        lines = [f"LicenseName={name}", f" Total={total} Used={held} Free={max(0, total - held)} Reserved=0 Remote=no"]
        print(show.text(lines, one_line="oneliner" in words).rstrip("\n"))
    return 0


def _nodes(queue: ask.Queue, words: Words, named: Sequence[str]) -> int:
    hosts = _all_hosts(queue)
    partitions = ",".join(each.name for each in queue.rules().partitions)
    for name in _expanded(named) or [host.name for host in hosts]:
        host = next((each for each in hosts if each.name == name), None)
        if host is None:
            raise ToolError(f"Node {program.printable(name)} not found", bare=True)
        _print(show.node(host, partitions), words)
    return 0


def _partitions(queue: ask.Queue, words: Words, named: Sequence[str]) -> int:
    partitions = {each.name: each for each in queue.rules().partitions}
    hosts = _all_hosts(queue)
    for name in named or list(partitions):
        if name not in partitions:
            raise ToolError(f"Partition {program.printable(name)} not found", bare=True)
        _print(show.partition(partitions[name], hosts, compress([host.name for host in hosts])), words)
    return 0


def _reservations(queue: ask.Queue, words: Words, named: Sequence[str]) -> int:
    found = nodes.reserved(_all_hosts(queue))
    wanted = [each for each in found if not named or each[0].name in named]
    if named and not wanted:
        raise ToolError(f"Reservation {program.printable(named[0])} not found", bare=True)
    if not wanted:
        print("No reservations in the system")
    for each, where in wanted:
        _print(show.reservation(each, time.time(), where), words)
    return 0


def _config(queue: ask.Queue) -> int:
    """What programs read of the configuration: whose cluster, which version, what is scheduled."""
    hello = safe.clean(queue.client.hello())
    facts = {
        "ClusterName": hello.cluster,
        "GresTypes": "gpu,shard",
        "KillOnBadExit": "0",
        "MpiDefault": "none",
        "PreemptMode": "REQUEUE",
        "PriorityType": "priority/multifactor",
        "SchedulerType": "sched/backfill",
        "SelectType": "select/cons_tres",
        "SLURM_VERSION": f"stoker {hello.version}",
        "SlurmctldHost[0]": next(iter(each.name for each in queue.nodes()), ""),
    }
    print(f"Configuration data as of {times.stamp(time.time())}")
    for name, value in facts.items():
        print(f"{name:<23} = {value}")
    return 0


def _all_hosts(queue: ask.Queue) -> list[nodes.Host]:
    statuses = queue.nodes()
    reservations = queue.reservations([each.name for each in statuses])
    return nodes.hosts(statuses, queue.jobs(nodes.HOLDING), time.time(), reservations)


def _expanded(named: Sequence[str]) -> list[str]:
    try:
        return [name for text in named for name in ask.expand_nodes(text)]
    except HostListError as error:
        raise ToolError(f"{program.printable(' '.join(named))} {error}") from None


def _print(lines: list[str], words: Words) -> None:
    print(show.text(lines, one_line="oneliner" in words))


def _ping(environ: Mapping[str, str]) -> int:
    """Whether the server answers."""
    from agent.api.errors import StokerError

    name = os.uname().nodename
    try:
        queue = ask.Queue.open(environ)
        queue.client.hello()
    except StokerError:
        print(f"Slurmctld(primary) at {name} is DOWN")
        return 1
    print(f"Slurmctld(primary) at {name} is UP")
    return 0


def _version() -> int:
    from agent import __version__

    print(f"stoker {__version__}")
    return 0
