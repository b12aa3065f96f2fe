"""The demo's one job: submitted, watched, summed up."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path

from agent.api.client import Client
from agent.api.decode import decode
from agent.api.errors import DeadlineError, StokerError
from agent.api.refs import JobRef
from agent.api.types import Job, LinkState, LogChunk, LogEnd, NodeStatus, NodeUpdate
from agent.api.unix import UnixTransport
from agent.demo import children
from agent.demo.place import Place
from agent.demo.told import say

_HOUSE = Path(__file__).parents[2]
_VOUCHER = "licensing/data/evaluation.voucher"
_SCRIPT = "agent/training/digits.sh"
_SEATS_DEADLINE_S = 30.0
_JOB_DEADLINE_S = 600.0
_CANCEL_DEADLINE_S = 30.0
_LOG_END_BYTES = 4096


def client(place: Place) -> Client:
    """Calls to the demo's hub."""
    return Client(UnixTransport(place.socket("hub")))


def activate(place: Place) -> None:
    """Install the built-in evaluation: 14 days from now.

    Raises:
        StokerError: the hub refused it.
    """
    print(f"$ stoker-license activate {_VOUCHER}")
    for line in children.command(place, "stoker-license", "activate", str(_HOUSE / _VOUCHER)).splitlines():
        say(line, indent=11)


def run(place: Place, hub: Client, plain: bool) -> Job:
    """Submit the job and stay with it; it has ended on return, and however this is left.

    Raises:
        StokerError: it could not be submitted, or did not end in time.
    """
    _await_seats(hub)
    job = _submit(place)
    try:
        if plain:
            return _follow(hub, job, _JOB_DEADLINE_S, echo=True)
        children.screen(place, ["stoker", "--job", str(_ref(job))])
    finally:
        job = _end(hub, job)
    return job


def print_summary(hub: Client, job: Job) -> None:
    """What came out of it, one fact a line."""
    licence = hub.licence()
    ran_s = (job.ended_at or 0) - (job.started_at or 0)
    facts = {
        "outcome": f"{job.state.value}{f': {job.detail}' if job.detail else ''}",
        "test accuracy": _accuracy(hub, job) or "none: the training did not get that far",
        "run time": f"{ran_s} s" if job.started_at and job.ended_at else "never started",
        "GPU": _gpus(hub.nodes(), job),
        "log": job.output_path or "none",
        "licence": f"{licence.stage.value}: {licence.message}",
    }
    print()
    for name, fact in facts.items():
        say(f"{name:<16}{fact}", indent=16)


def _await_seats(hub: Client) -> None:
    """Until the hub has its node and the node has its seats: a moment after the voucher is in."""
    give_up = time.monotonic() + _SEATS_DEADLINE_S
    for message in hub.watch(heartbeats=True):
        if isinstance(message, NodeUpdate) and _is_seated(message.status):
            return
        if time.monotonic() > give_up:
            break
    raise StokerError("the node got no seats; see hub.log")


def _is_seated(status: NodeStatus) -> bool:
    gpus = status.node.gpus if status.node is not None else ()
    return status.link is LinkState.UP and bool(gpus) and all(gpu.seated for gpu in gpus)


def _submit(place: Place) -> Job:
    print(f"$ stoker submit {_SCRIPT}")
    text = children.command(place, "stoker", "submit", "--json", str(_HOUSE / _SCRIPT))
    job = decode(text, Job)
    print(f"Submitted job {job.id} on {job.node}")
    return job


def _end(hub: Client, job: Job) -> Job:
    """The job as it ended; one that has not is cancelled, as it is when the screen is left early."""
    job = hub.job(_ref(job))
    if job.state.is_final:
        return job
    print(f"cancelling job {job.id}, which has not ended")
    hub.cancel(_ref(job))
    return _follow(hub, job, _CANCEL_DEADLINE_S, echo=False)


def _follow(hub: Client, job: Job, deadline_s: float, *, echo: bool) -> Job:
    """Wait for the end of the job, passing on what it prints."""
    give_up = time.monotonic() + deadline_s
    for message in hub.follow_log(_ref(job), heartbeats=True):
        if isinstance(message, LogChunk) and echo:
            sys.stdout.write(_printable(message.data))
        if isinstance(message, LogEnd):
            return message.job
        if time.monotonic() > give_up:
            break
    job = hub.job(_ref(job))
    raise DeadlineError(f"job {job.id} is still {job.state.value} after {deadline_s:.0f} s: {job.detail or job.reason}")


def _accuracy(hub: Client, job: Job) -> str | None:
    end = hub.log(_ref(job), offset=max(0, (job.log_bytes or 0) - _LOG_END_BYTES)).data
    found = re.findall(rb"^done: test accuracy ([01]\.\d+)", end, re.MULTILINE)
    return found[-1].decode() if found else None


def _gpus(nodes: list[NodeStatus], job: Job) -> str:
    names = {gpu.uuid: gpu.name for status in nodes if status.node for gpu in status.node.gpus}
    kind = "simulated " if job.simulated else ""
    held = zip(job.gpu_indexes, job.gpu_uuids, strict=False)
    return ", ".join(f"{kind}GPU {index} ({names.get(uuid, 'gone')}, {uuid})" for index, uuid in held) or "none"


def _ref(job: Job) -> JobRef:
    return JobRef(id=job.id, node=job.node)


def _printable(data: bytes) -> str:
    """The job's text without what could act on a terminal."""
    text = data.decode("utf-8", "replace")
    return "".join(each if each.isprintable() or each == "\n" else "\ufffd" for each in text)
