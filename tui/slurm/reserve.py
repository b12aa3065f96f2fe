"""`scontrol create | update | delete reservation`.

Rules kept here: the sentences and exit codes are those that scontrol 22.05 printed for the same words; a word of
Slurm's that nothing here can honour is refused by name; a reservation of several nodes has one name on all of them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

import msgspec

from agent.api import program
from agent.api.errors import ApiError, StokerError
from agent.api.hostlist import HostListError, expand
from agent.api.queue import ReservationRequest, ReservationUpdate
from tui import safe
from tui.slurm import ask
from tui.slurm.argv import ToolError
from tui.slurm.change import ENTITIES, denied

_NOT_MADE = "No reservation created."
_FLAGS = {"MAINT", "IGNORE_JOBS", "SPEC_NODES", "ALL_NODES"}
_OTHER_FLAGS = {"ANY_NODES", "DAILY", "FLEX", "FIRST_CORES", "HOURLY", "LICENSE_ONLY", "MAGNETIC", "NO_HOLD_JOBS_AFTER",
                "OVERLAP", "PART_NODES", "PURGE_COMP", "REPLACE", "REPLACE_DOWN", "STATIC_ALLOC", "TIME_FLOAT",
                "WEEKDAY", "WEEKEND", "WEEKLY"}  # fmt: skip
_NOT_CHANGED = "No reservation update."


def create(texts: Sequence[str], environ: Mapping[str, str]) -> int:
    """`scontrol create reservation`.

    Raises:
        ToolError: it is nothing that can be made, or the words do not say enough.
    """
    if not texts:
        raise ToolError("too few arguments for create keyword", bare=True)
    kind, equals, name = texts[0].partition("=")
    entity = ENTITIES.get(kind.lower())
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
    if "start" not in given:
        raise ToolError(f"A start time must be given.  {_NOT_MADE}")
    flags = _flags(given.get("flags", ""), _NOT_MADE)
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
        gpus=_gpus(given.get("tres", ""), _NOT_MADE),
        maintenance="MAINT" in flags,
        comment=given.get("comment"),
    )


def _flags(text: str, not_done: str) -> set[str]:
    flags = {word.strip().upper() for word in text.split(",") if word.strip()}
    for flag in sorted(flags - _FLAGS):
        if flag in _OTHER_FLAGS:
            raise ToolError(f"flags={flag} is not offered here; MAINT is.  {not_done}")
        raise ToolError(f"Error parsing flags {program.printable(flag)}.  {not_done}")
    return flags


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
    """Make it on each node; where one refuses, nowhere. Its name.

    The others are asked for the first one's name and times: `now+1day` is another second on each.
    """
    made: list[tuple[str, str | None]] = []
    for node in nodes:
        try:
            one = queue.client.reserve(request, node)
            made.append((safe.clean(one).name, node))
            start, end = f"uts{one.start_at}", f"uts{one.end_at}"
            request = msgspec.structs.replace(request, name=one.name, start=start, end=end, duration=None)
        except ApiError as error:
            for name, where in made:
                with contextlib.suppress(StokerError):
                    queue.client.unreserve(name, where)
            raise _not_made(error, given) from None
    return made[0][0]


def _not_made(error: ApiError, given: Mapping[str, str]) -> ToolError:
    wrong = _wrong_value(error, given, _NOT_MADE)
    if wrong is not None:
        return wrong
    why = f"Duplicate reservation name: {error.message}" if error.code == "exists" else denied(error)
    return ToolError(f"Error creating the reservation: {why}", bare=True)


def _wrong_value(error: ApiError, given: Mapping[str, str], not_done: str) -> ToolError | None:
    word = {"$.start": ("start time", "starttime", "start"), "$.end": ("end time", "endtime", "end"),
            "$.duration": ("duration", "duration", "duration")}.get(error.field or "")  # fmt: skip
    if word is None or error.code != "bad_field" or not given.get(word[2]):
        return None
    value = program.printable(given[word[2]])
    return ToolError(f"Invalid {word[0]} {word[1]}={value}: {error.message}.  {not_done}")


def _gpus(tres: str, not_done: str) -> str | None:
    """`gres/gpu=2`, `gres/gpu:h100=2`: how many GPUs; nothing is the whole node."""
    counts = [part.partition("=")[2] for part in tres.split(",") if part.lower().startswith("gres/gpu")]
    other = [part for part in tres.split(",") if part and not part.lower().startswith("gres/gpu")]
    if other:
        raise ToolError(f"TRES={program.printable(other[0])} is not offered here; write TRES=gres/gpu=N.  {not_done}")
    return counts[0] if counts else None


def _listed(given: Mapping[str, str], name: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in given.get(name, "").split(",") if word.strip())


def update(queue: ask.Queue, name: str, changes: Sequence[tuple[str, str]]) -> int:
    """`scontrol update ReservationName=NAME …`.

    Raises:
        ToolError: there is none, or a word makes no sense.
    """
    if not name:
        raise ToolError(f"Reservation must be given.  {_NOT_CHANGED}")
    given: dict[str, str] = {}
    for key, value in changes:
        meant = _meant(key)
        if meant is None or meant == "name":
            raise ToolError(f"Unknown parameter {program.printable(key)}={program.printable(value)}.  {_NOT_CHANGED}")
        given[meant] = value
    asked = _asked(given)
    names = [each.name for each in queue.nodes()]
    done: list[str] = []
    for node in names:
        try:
            queue.client.update_reservation(name, asked, node if len(names) > 1 else None)
            done.append(node)
        except ApiError as error:
            if error.code != "no_such_reservation":
                raise _not_changed(error, given, done) from None
    if not done:
        raise ToolError("Error updating the reservation: Requested reservation is invalid", bare=True)
    print("Reservation updated.")
    return 0


def _asked(given: Mapping[str, str]) -> ReservationUpdate:
    for key in ("nodes", "nodecnt", "partition"):
        if key in given:
            sentence = f"{key}={program.printable(given[key])} is not changed: scontrol delete it, and create it anew"
            raise ToolError(f"{sentence}.  {_NOT_CHANGED}")
    maintenance: bool | None = None
    if "flags" in given:
        sign = given["flags"][:1] if given["flags"][:1] in ("+", "-") else ""
        flags = _flags(given["flags"].removeprefix(sign), _NOT_CHANGED)
        maintenance = (sign != "-") if "MAINT" in flags else (None if sign else False)
    return ReservationUpdate(
        start=given.get("start"),
        duration=None if "end" in given else given.get("duration"),
        end=given.get("end"),
        users=_several(given, "users"),
        accounts=_several(given, "accounts"),
        gpus=_gpus(given.get("tres", ""), _NOT_CHANGED),
        maintenance=maintenance,
        comment=given.get("comment"),
    )


def _several(given: Mapping[str, str], name: str) -> tuple[str, ...] | None:
    """`users=a,b`, `users+=a,b`: the sign of the whole is that of each."""
    if name not in given:
        return None
    text = given[name]
    sign = text[:1] if text[:1] in ("+", "-") else ""
    words = [word.strip() for word in text.removeprefix(sign).split(",") if word.strip()]
    return tuple(word if word[:1] in ("+", "-") else f"{sign}{word}" for word in words)


def _not_changed(error: ApiError, given: Mapping[str, str], done: Sequence[str]) -> ToolError:
    wrong = _wrong_value(error, given, _NOT_CHANGED)
    if wrong is not None:
        return wrong
    why = f"Invalid time specified: {error.message}" if error.code == "bad_time" else denied(error)
    also = f"; it was changed already on {', '.join(done)}" if done else ""
    return ToolError(f"Error updating the reservation: {why}{also}", bare=True)


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
    entity = ENTITIES.get(kind.lower())
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
