"""`scontrol update | reconfigure`: what changes jobs, nodes, partitions and the rules; reservations are in `reserve`.

Rules kept here: the sentences and exit codes are those that scontrol 22.05 printed for the same words; a name of
Slurm's that nothing here can honour is refused by name, with what to do instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from agent.api import program
from agent.api.errors import ApiError
from agent.api.hostlist import HostListError
from agent.api.queue import DrainRequest
from agent.api.refs import JobRef
from tui import arrays, safe
from tui.slurm import ask
from tui.slurm import job as jobs_as
from tui.slurm.argv import ToolError

NO_SUCH = "Invalid job id specified"
ENTITIES = {
    "job": "jobid", "jobid": "jobid", "jobname": "jobname", "node": "nodename", "nodename": "nodename",
    "partition": "partitionname", "partitionname": "partitionname", "reservation": "reservation",
    "reservationname": "reservation", "step": "stepid", "stepid": "stepid",
}  # fmt: skip
_GROW = ("timelimit", "duration", "users", "accounts", "flags")
"""What takes `+=` and `-=`."""
_STATES = ("UP", "DOWN", "DRAIN", "INACTIVE")
_CONFIGURED = {"allocnodes", "allowaccounts", "allowgroups", "allowqos", "alternate", "cpubind", "default",
               "defaulttime", "defmempercpu", "defmempernode", "denyaccounts", "denyqos", "disablerootjobs",
               "exclusiveuser", "gracetime", "hidden", "jobdefaults", "lln", "maxcpuspernode", "maxmempercpu",
               "maxmempernode", "maxnodes", "maxtime", "minnodes", "nodes", "overtimelimit", "oversubscribe",
               "preemptmode", "priority", "priorityjobfactor", "prioritytier", "qos", "reqresv", "rootonly",
               "shared"}  # fmt: skip
"""What scontrol(1) changes of a partition and we read from the configuration."""


def update(texts: Sequence[str], environ: Mapping[str, str]) -> int:
    """`scontrol update`: of jobs anything that may change, of nodes whether they take jobs.

    Raises:
        ToolError: a word is no `Key=Value`, or nothing that we can change is named.
    """
    if not texts:
        raise ToolError("too few arguments for update keyword", bare=True)
    pairs = _pairs(texts)
    kind, named = next(((ENTITIES[key], value) for key, value in pairs if key in ENTITIES), ("", ""))
    changes = [(key, value) for key, value in pairs if ENTITIES.get(key) != kind]
    if kind == "jobid" or kind == "jobname":
        return _update_jobs(ask.Queue.open(environ), kind, named, changes)
    if kind == "nodename":
        return _update_nodes(ask.Queue.open(environ), named, dict(changes))
    if kind == "partitionname":
        return _update_partition(ask.Queue.open(environ), named, changes)
    if kind == "reservation":
        from tui.slurm import reserve

        return reserve.update(ask.Queue.open(environ), named, changes)
    if kind == "stepid":
        raise ToolError("a step is not changed; scancel JOB.STEP ends it, scancel -s SIGNAL JOB.STEP signals it")
    known = 'Input line must include "NodeName", "PartitionName", "Reservation" or "JobId"'
    raise ToolError(f"No valid entity in update command\n{known}", bare=True)


def _pairs(texts: Iterable[str]) -> list[tuple[str, str]]:
    """Words `Key=Value`, and `job 17` for the first; `TimeLimit+=30` is what Slurm writes `TimeLimit=+30` too."""
    words, found = list(texts), []
    if len(words) > 1 and words[0].lower() in ENTITIES:
        words[:2] = [f"{words[0]}={words[1]}"]
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name.strip("+-"):
            raise ToolError(f"Invalid input: {program.printable(word)}\nRequest aborted", bare=True)
        sign = name[-1] if name[-1] in "+-" else ""
        if sign and not any(each.startswith(name[:-1].lower()) for each in _GROW):
            raise ToolError(f"Invalid input: {program.printable(word)}\nRequest aborted", bare=True)
        bare = value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'" else value
        key = name.removesuffix(sign) if sign else name
        found.append((key if key.lower() not in ENTITIES else key.lower(), sign + bare))
    return found


def _update_jobs(queue: ask.Queue, kind: str, named: str, changes: Sequence[tuple[str, str]]) -> int:
    refs = _by_name(queue, named) if kind == "jobname" else _refs(named)
    if not changes:
        raise ToolError("No changes specified", bare=True)
    failed = 0
    for ref in refs:
        try:
            queue.client.update(ref, dict(changes))
        except ApiError as error:
            failed += 1
            told = error.message if "\n" in error.message else _refusal(error, ref)
            program.say("\n".join(safe.text(line) for line in told.split("\n")))
            if error.field and " cannot be changed; " in error.message:
                program.say("Request aborted")
                break
    return 1 if failed else 0


def _refs(named: str) -> list[JobRef]:
    try:
        return ask.refs([named])
    except ToolError:
        raise ToolError(f"{NO_SUCH} for job {program.printable(named)}", bare=True) from None


def _by_name(queue: ask.Queue, name: str) -> list[JobRef]:
    """Jobs of that name that have not ended: one's own, for root everybody's."""
    user = None if ask.me() == "root" else ask.me()
    found = queue.jobs(jobs_as.ACTIVE, user, name=name)
    if not found:
        raise ToolError(f"No job named {program.printable(name)} has not ended; see: squeue --name={name}")
    return [arrays.ref(each) for each in found]


def _refusal(error: ApiError, ref: JobRef) -> str:
    if error.status == 404:
        return f"{NO_SUCH} for job {ref}"
    if error.status == 409 and "only be changed while it waits" in error.message:
        return f"Job is no longer pending execution for job {ref}: {error.message}"
    if " cannot be changed; " in error.message and error.field:
        return f"Update of this parameter is not supported: {error.message}"
    return f"scontrol: error: {denied(error)}"


def denied(error: ApiError) -> str:
    """A refusal, in Slurm's word where it is one of rights."""
    return f"Access/permission denied: {error.message}" if error.status == 403 else error.message


def _update_nodes(queue: ask.Queue, named: str, given: Mapping[str, str]) -> int:
    changes = {name.lower(): value for name, value in given.items()}
    state = changes.get("state", "").upper()
    told = {each.name for each in queue.nodes()}
    try:
        names = sorted(told) if named.upper() == "ALL" else ask.expand_nodes(named)
    except HostListError:
        names = [named]
    if not names or any(name not in told for name in names):
        raise ToolError("slurm_update error: Invalid node name specified", bare=True)
    if not changes:
        raise ToolError("No changes specified", bare=True)
    unknown = next((name for name in given if name.lower() not in ("state", "reason")), None)
    if unknown is not None:
        what = f"{program.printable(unknown)}={program.printable(given[unknown])}"
        raise ToolError(f"Update of this parameter is not supported: {what}\nRequest aborted", bare=True)
    for name in names:
        _change_node(queue, name if len(told) > 1 else None, state, changes.get("reason", ""))
    return 0


def _change_node(queue: ask.Queue, node: str | None, state: str, reason: str) -> None:
    if state in ("DRAIN", "DRAINED", "DRAINING", "DOWN", "FAIL") or (not state and reason):
        if state in ("DOWN", "FAIL"):
            raise ToolError(
                f"State={state} is not offered here: State=DRAIN keeps new jobs off, scancel -w ends others"
            )
        if not reason:
            sentence = "You must specify a reason when DOWNING or DRAINING a node. Request denied"
            raise ToolError(sentence, bare=True)
        queue.client.drain(DrainRequest(reason=reason), node)
    elif state in ("RESUME", "UNDRAIN", "IDLE"):
        queue.client.resume(DrainRequest(), node)
    else:
        lines = (
            f"Invalid input: state={program.printable(state.lower())}", "Request aborted",
            "Valid states are: DRAIN RESUME UNDRAIN", "Not all states are valid given a node's prior state",
        )  # fmt: skip
        raise ToolError("\n".join(lines), bare=True)


def _update_partition(queue: ask.Queue, named: str, changes: Sequence[tuple[str, str]]) -> int:
    if named not in [each.name for each in queue.rules().partitions]:
        raise ToolError("slurm_update error: Invalid partition name specified", bare=True)
    if not changes:
        raise ToolError("No changes specified")
    for name, value in changes:
        word = f"{program.printable(name)}={program.printable(value)}"
        if name.lower() in _CONFIGURED:
            raise ToolError(
                f"{word} is not changed here: it is in the configuration, change [[partitions]] {named} there, "
                "then scontrol reconfigure"
            )
        if name.lower() != "state":
            sentence = f"TOOL: error: Update of this parameter is not supported: {word}\nTOOL: error: Request aborted"
            raise ToolError(sentence, bare=True)
        if value.upper() not in _STATES:
            known = "Acceptable State values are UP, DOWN, DRAIN and INACTIVE"
            raise ToolError(f"TOOL: error: Invalid input: {word}\nTOOL: error: {known}", bare=True)
    nodes = [each.name for each in queue.nodes()]
    found = 0
    for node in [None] if len(nodes) == 1 else nodes:
        try:
            queue.client.update_partition(named, changes[-1][1].upper(), node)
            found += 1
        except ApiError as error:
            if error.code != "no_such_partition":
                old = "; it is of an older version" if error.status in (404, 405) else ""
                raise ToolError(f"slurm_update error: {denied(error)}{old}", bare=True) from error
    if not found:
        raise ToolError("slurm_update error: Invalid partition name specified", bare=True)
    return 0


# --- the configuration ------------------------------------------------------------------------------------------------


def reconfigure(environ: Mapping[str, str]) -> int:
    """`scontrol reconfigure`: every node reads its configuration again.

    Raises:
        ToolError: a node did not; the others did.
    """
    queue = ask.Queue.open(environ)
    names = [each.name for each in queue.nodes()]
    wrong: list[str] = []
    for name in names:
        try:
            reply = safe.clean(queue.client.reload(name if len(names) > 1 else None))
        except ApiError as error:
            old = error.status in (404, 405, 501)
            told = "this service is too old to be asked; run: systemctl reload stoker-agent" if old else denied(error)
            wrong.append(f"{name}: {told}")
            continue
        if reply.need_restart:
            listed = ", ".join(reply.need_restart)
            program.say(f"{name}: read again; {listed} will hold after: systemctl restart stoker-agent")
    if wrong:
        raise ToolError(f"slurm_reconfigure error: {'; '.join(wrong)}", bare=True)
    return 0
