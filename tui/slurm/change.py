"""`scontrol update | create | delete | reconfigure`: what changes jobs, nodes, reservations and the rules.

Rules kept here: the sentences and exit codes are those that scontrol 22.05 printed for the same words; a name of
Slurm's that nothing here can honour is refused by name, with what to do instead.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence

from agent.api import program
from agent.api.errors import ApiError, StokerError
from agent.api.hostlist import HostListError, expand
from agent.api.queue import DrainRequest, ReservationRequest
from agent.api.refs import JobRef
from tui import arrays, safe
from tui.slurm import ask
from tui.slurm import job as jobs_as
from tui.slurm.argv import ToolError

NO_SUCH = "Invalid job id specified"
_ENTITIES = {
    "job": "jobid", "jobid": "jobid", "jobname": "jobname", "node": "nodename", "nodename": "nodename",
    "partition": "partitionname", "partitionname": "partitionname", "reservation": "reservation",
    "reservationname": "reservation", "step": "stepid", "stepid": "stepid",
}  # fmt: skip
_NOT_MADE = "No reservation created."
_FLAGS = {"MAINT", "IGNORE_JOBS", "SPEC_NODES", "ALL_NODES"}
_OTHER_FLAGS = {"ANY_NODES", "DAILY", "FLEX", "FIRST_CORES", "HOURLY", "LICENSE_ONLY", "MAGNETIC", "NO_HOLD_JOBS_AFTER",
                "OVERLAP", "PART_NODES", "PURGE_COMP", "REPLACE", "REPLACE_DOWN", "STATIC_ALLOC", "TIME_FLOAT",
                "WEEKDAY", "WEEKEND", "WEEKLY"}  # fmt: skip


def update(texts: Sequence[str], environ: Mapping[str, str]) -> int:
    """`scontrol update`: of jobs anything that may change, of nodes whether they take jobs.

    Raises:
        ToolError: a word is no `Key=Value`, or nothing that we can change is named.
    """
    if not texts:
        raise ToolError("too few arguments for update keyword", bare=True)
    pairs = _pairs(texts)
    kind, named = next(((_ENTITIES[key], value) for key, value in pairs if key in _ENTITIES), ("", ""))
    changes = [(key, value) for key, value in pairs if _ENTITIES.get(key) != kind]
    if kind == "jobid" or kind == "jobname":
        return _update_jobs(ask.Queue.open(environ), kind, named, changes)
    if kind == "nodename":
        return _update_nodes(ask.Queue.open(environ), named, dict(changes))
    if kind == "partitionname":
        known = [each.name for each in ask.Queue.open(environ).rules().partitions]
        if named not in known:
            raise ToolError("slurm_update error: Invalid partition name specified", bare=True)
        raise ToolError(
            f"partition {named} is in the configuration: change [[partitions]] there, then scontrol reconfigure"
        )
    if kind == "reservation":
        raise ToolError("a reservation is not changed: scontrol delete it, and create it anew")
    if kind == "stepid":
        raise ToolError("a step is not changed; end it with scancel JOB, or signal its srun")
    raise ToolError("No valid entity in update command\nInput line must include JobId or NodeName", bare=True)


def _pairs(texts: Iterable[str]) -> list[tuple[str, str]]:
    """Words `Key=Value`, and `job 17` for the first; `TimeLimit+=30` is what Slurm writes `TimeLimit=+30` too."""
    words, found = list(texts), []
    if len(words) > 1 and words[0].lower() in _ENTITIES:
        words[:2] = [f"{words[0]}={words[1]}"]
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name.strip("+-"):
            raise ToolError(f"Invalid input: {program.printable(word)}\nRequest aborted", bare=True)
        sign = name[-1] if name[-1] in "+-" else ""
        if sign and not "timelimit".startswith(name[:-1].lower()):
            raise ToolError(f"Invalid input: {program.printable(word)}\nRequest aborted", bare=True)
        bare = value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'" else value
        key = name.removesuffix(sign) if sign else name
        found.append((key if key.lower() not in _ENTITIES else key.lower(), sign + bare))
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
            program.say(safe.text(_refusal(error, ref)) if "\n" not in error.message else error.message)
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
        names = sorted(told) if named.upper() == "ALL" else expand(named)
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


# --- reservations -----------------------------------------------------------------------------------------------------


def create(texts: Sequence[str], environ: Mapping[str, str]) -> int:
    """`scontrol create reservation`.

    Raises:
        ToolError: it is nothing that can be made, or the words do not say enough.
    """
    if not texts:
        raise ToolError("too few arguments for create keyword", bare=True)
    kind, equals, name = texts[0].partition("=")
    entity = _ENTITIES.get(kind.lower())
    if entity == "partitionname":
        raise ToolError("partitions are in the configuration: add [[partitions]] there, then scontrol reconfigure")
    rest = texts[1:]
    if entity != "reservation":
        raise ToolError(f"Invalid creation entity: {program.printable(texts[0])}")
    given: dict[str, str] = {"name": name} if equals else {}
    for word in rest:
        key, equals, value = word.partition("=")
        meant = _meant(key)
        if not equals or meant is None:
            raise ToolError(f"Unknown parameter {program.printable(word)}.  {_NOT_MADE}")
        given[meant] = value.strip("\"'")
    queue = ask.Queue.open(environ)
    request = _request(given)
    print(f"Reservation created: {_make(queue, request, _nodes(queue, given), given)}")
    return 0


_KEYS = {"reservationname": "name", "starttime": "start", "endtime": "end", "duration": "duration", "users": "users",
         "accounts": "accounts", "nodes": "nodes", "nodecnt": "nodecnt", "flags": "flags", "tres": "tres",
         "comment": "comment", "partitionname": "partition"}  # fmt: skip


def _meant(key: str) -> str | None:
    """As scontrol reads it: the beginning of a name is enough."""
    word = key.lower()
    exact = [name for name in _KEYS if name == word] or [name for name in _KEYS if len(word) > 2 and word in name[:12]
                                                         and name.startswith(word)]  # fmt: skip
    return _KEYS[exact[0]] if exact else None


def _request(given: Mapping[str, str]) -> ReservationRequest:
    flags = {word.strip().upper() for word in given.get("flags", "").split(",") if word.strip()}
    if "start" not in given:
        raise ToolError(f"A start time must be given.  {_NOT_MADE}")
    for flag in sorted(flags - _FLAGS):
        if flag in _OTHER_FLAGS:
            raise ToolError(f"flags={flag} is not offered here; MAINT is.  {_NOT_MADE}")
        raise ToolError(f"Error parsing flags {program.printable(flag)}.  {_NOT_MADE}")
    users, accounts = _listed(given, "users"), _listed(given, "accounts")
    if not (users or accounts or "MAINT" in flags):
        raise ToolError(f"Either Users/Groups and/or Accounts must be specified.  {_NOT_MADE}")
    if "duration" not in given and "end" not in given:
        raise ToolError(f"An end time or duration must be given.  {_NOT_MADE}")
    return ReservationRequest(
        name=given.get("name") or None,
        start=given["start"],
        duration=None if "end" in given else given.get("duration"),
        end=given.get("end"),
        users=users,
        accounts=accounts,
        gpus=_gpus(given.get("tres", "")),
        maintenance="MAINT" in flags,
        comment=given.get("comment"),
    )


def _nodes(queue: ask.Queue, given: Mapping[str, str]) -> list[str | None]:
    """Where it is made: `None` is the only node there is."""
    names = sorted(each.name for each in queue.nodes())
    if "nodes" not in given and given.get("nodecnt", "1") != str(len(names)) and "tres" not in given:
        raise ToolError(f"CoreCnt, Nodes, NodeCnt, BurstBuffer, Licenses or Watts must be specified.  {_NOT_MADE}")
    if not ({"nodes", "nodecnt", "tres"} & given.keys()):
        raise ToolError(f"CoreCnt, Nodes, NodeCnt, BurstBuffer, Licenses or Watts must be specified.  {_NOT_MADE}")
    try:
        wanted = names if given.get("nodes", "ALL").upper() == "ALL" else expand(given["nodes"])
    except HostListError:
        wanted = [""]
    if any(name not in names for name in wanted):
        raise ToolError("Error creating the reservation: Invalid node name specified", bare=True)
    return [None] if len(names) == 1 else list(wanted)


def _make(queue: ask.Queue, request: ReservationRequest, nodes: Sequence[str | None], given: Mapping[str, str]) -> str:
    """Make it on each node; where one refuses, nowhere. Its name."""
    made: list[tuple[str, str | None]] = []
    for node in nodes:
        try:
            made.append((safe.clean(queue.client.reserve(request, node)).name, node))
        except ApiError as error:
            for name, where in made:
                with contextlib.suppress(StokerError):
                    queue.client.unreserve(name, where)
            raise _not_made(error, given) from None
    return made[0][0]


def _not_made(error: ApiError, given: Mapping[str, str]) -> ToolError:
    word = {"$.start": ("start time", "starttime", "start"), "$.end": ("end time", "endtime", "end"),
            "$.duration": ("duration", "duration", "duration")}.get(error.field or "")  # fmt: skip
    if word is not None and error.status == 400 and given.get(word[2]):
        value = program.printable(given[word[2]])
        return ToolError(f"Invalid {word[0]} {word[1]}={value}: {error.message}.  {_NOT_MADE}")
    why = f"Duplicate reservation name: {error.message}" if error.code == "exists" else denied(error)
    return ToolError(f"Error creating the reservation: {why}", bare=True)


def _gpus(tres: str) -> str | None:
    """`gres/gpu=2`, `gres/gpu:h100=2`: how many GPUs; nothing is the whole node."""
    counts = [part.partition("=")[2] for part in tres.split(",") if part.lower().startswith("gres/gpu")]
    other = [part for part in tres.split(",") if part and not part.lower().startswith("gres/gpu")]
    if other:
        raise ToolError(f"TRES={program.printable(other[0])} is not offered here; write TRES=gres/gpu=N.  {_NOT_MADE}")
    return counts[0] if counts else None


def _listed(given: Mapping[str, str], name: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in given.get(name, "").split(",") if word.strip())


def delete(texts: Sequence[str], environ: Mapping[str, str]) -> int:
    """`scontrol delete reservation=NAME`.

    Raises:
        ToolError: it is nothing that can be deleted, or there is none.
    """
    if not texts:
        raise ToolError("too few arguments for delete keyword", bare=True)
    kind, equals, name = texts[0].partition("=")
    if not equals and len(texts) > 1:
        name = texts[1]
    entity = _ENTITIES.get(kind.lower())
    if entity == "partitionname":
        raise ToolError("partitions are in the configuration: remove [[partitions]] there, then scontrol reconfigure")
    if entity != "reservation":
        raise ToolError(f"Invalid deletion entity: {program.printable(texts[0])}", bare=True)
    queue = ask.Queue.open(environ)
    names = [each.name for each in queue.nodes()]
    gone = 0
    for node in [None] if len(names) == 1 else names:
        try:
            queue.client.unreserve(name, node)
            gone += 1
        except ApiError as error:
            if error.status != 404:
                raise ToolError(f"delete_reservation {texts[0]}: {denied(error)}", bare=True) from error
    if not gone:
        sentence = f"delete_reservation {program.printable(texts[0])}: Requested reservation is invalid"
        raise ToolError(sentence, bare=True)
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
