"""What each plain command does: ask the client, print, and say by the exit code how it went.

Rules kept here: what is printed has passed `safe`, except a job's own output on its way into a file or a pipe, which is
passed on byte for byte; `--json` prints wire values; one refused job does not keep the others from being cancelled.
"""

from __future__ import annotations

import os
import secrets
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TextIO

import msgspec

from agent.api.errors import ApiError, StokerError
from agent.api.refs import JobRef
from agent.api.types import FINAL_STATES, Gpu, GpuSource, Job, JobState, LicenceStage, NodeStatus, NodeUpdate
from tui import follow, handin, plain, printed, rows, safe, submit
from tui.cluster import Cluster, NodeView, job_order
from tui.links import ClusterClient

ENDED_SHOWN = 20
"""Ended jobs that `stoker jobs` lists unless told otherwise."""
_ACTIVE = ",".join(state for state in JobState if state not in FINAL_STATES)
_ENDED = ",".join(sorted(FINAL_STATES))


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What a command works with."""

    client: ClusterClient
    json: bool = False
    out: TextIO = field(default_factory=lambda: sys.stdout)


class GpuLine(Gpu, frozen=True, kw_only=True):
    """`stoker gpus --json`: a GPU with the node it is in."""

    node: str
    link: str
    """The node's `LinkState`."""
    gpu_source: GpuSource


def overview(call: Call) -> int:
    """Print what the screen opens with, for a terminal that cannot show the screen."""
    nodes(call)
    print(file=call.out)
    jobs(call, state=None, user=None, limit=ENDED_SHOWN)
    print(file=call.out)
    return licence(call)


def nodes(call: Call) -> int:
    """Print the nodes."""
    found = call.client.nodes()
    if call.json:
        plain.as_json(found, call.out)
        return 0
    plain.table(printed.NODE_TITLES, [printed.node_line(view) for view in _views(found)], call.out)
    return 0


def gpus(call: Call) -> int:
    """Print the GPUs of all nodes."""
    found = call.client.nodes()
    if call.json:
        plain.as_json([line for each in found for line in _gpu_values(each)], call.out)
        return 0
    held = {(job.node, job.id): job for job in safe.clean(call.client.jobs(state=_ACTIVE))}
    lines = [printed.gpu_line(view, gpu, held) for view in _views(found) for gpu in view.gpus]
    plain.table(printed.GPU_TITLES, lines, call.out)
    return 0


def jobs(call: Call, *, state: str | None, user: str | None, limit: int) -> int:
    """Print the queue: what runs and waits, and the last `limit` that ended."""
    if state is not None:
        found = call.client.jobs(state=state.upper(), user=user, limit=limit or None)
    else:
        found = call.client.jobs(state=_ACTIVE, user=user)
        found += call.client.jobs(state=_ENDED, user=user, limit=limit) if limit else []
    if call.json:
        plain.as_json(found, call.out)
        return 0
    lines = [printed.job_line(job, time.time()) for job in sorted(safe.clean(found), key=job_order)]
    plain.table(printed.JOB_TITLES, lines, call.out)
    return 0


def show(call: Call, ref: JobRef) -> int:
    """Print everything about one job."""
    job = call.client.job(ref)
    if call.json:
        plain.as_json(job, call.out)
    else:
        plain.facts(printed.job_facts(safe.clean(job)), call.out)
    return 0


def submit_job(call: Call, words: Sequence[str], *, node: str | None, key: str | None, wait: bool) -> int:
    """Hand in a job script; with `wait`, the exit code is the job's."""
    request = submit.request(words, environ=os.environ, work_dir=submit.here(), umask=submit.current_umask(), node=node)
    reply = handin.hand_in(call.client, request, key or secrets.token_hex(16))
    job = safe.clean(reply.job)
    if held := _licence_hold(call.client, job):
        plain.complain(f"job {job.id} waits for the licence: {held}")
    if wait:
        return wait_for(call, [JobRef(id=job.id, node=job.node)])
    if call.json:
        plain.as_json(reply.job, call.out)
        return 0
    known = "" if reply.created else ", submitted before with this key"
    print(f"Submitted job {job.id} on {job.node}{known}", file=call.out)
    return 0


def cancel(call: Call, refs: Sequence[JobRef]) -> int:
    """Ask jobs to end."""
    asked, failed = [], 0
    for ref in refs:
        try:
            job = call.client.cancel(ref)
        except ApiError as error:
            plain.refuse(error, json=call.json, about=f"job {ref} is not cancelled: ")
            failed += 1
            continue
        asked.append(job)
        if not call.json:
            print(f"job {ref}: {job.state.value}", file=call.out)
    if call.json:
        plain.as_json(asked, call.out)
    return 1 if failed else 0


def wait_for(call: Call, refs: Sequence[JobRef]) -> int:
    """Wait for jobs to end; the highest of their exit codes."""
    ended = []
    for ref in refs:
        job = follow.wait_end(call.client, ref)
        ended.append(job)
        if not call.json:
            why = rows.job_why(safe.clean(job))
            print(f"job {ref}: {job.state.value}{f' ({why})' if why else ''}", file=call.out)
    if call.json:
        plain.as_json(ended if len(ended) > 1 else ended[0], call.out)
    return max(exit_code(job) for job in ended)


def exit_code(job: Job) -> int:
    """What sbatch(1) `--wait` exits with: the job's own code, and 1 when a signal or something else ended it."""
    if job.exit_code is None or job.state not in (JobState.COMPLETED, JobState.FAILED):
        return job.exit_code or 1
    return job.exit_code


def logs(call: Call, ref: JobRef, *, follow_on: bool) -> int:
    """Print what a job has written, and with `follow_on` what it goes on to write, until it ends."""
    write = follow.writer(call.out, json=call.json)
    (follow.follow_log if follow_on else follow.copy_log)(call.client, ref, write)
    return 0


def licence(call: Call) -> int:
    """Print the licence in a line."""
    held = call.client.licence()
    if call.json:
        plain.as_json(held, call.out)
    else:
        print(printed.licence_line(safe.clean(held), time.time()), file=call.out)
    return 0


def _licence_hold(client: ClusterClient, job: Job) -> str | None:
    """Why the licence keeps a job that was just submitted from starting, if it does.

    The answer to a submit often comes before the queue has looked at the job, so the licence itself is asked.
    """
    if job.state is not JobState.PENDING:
        return None
    if job.reason == "License":
        return job.detail or "see: stoker license"
    try:
        held = safe.clean(client.licence())
    except StokerError:
        return None  # the job is accepted; that the licence cannot be read now is no news about it
    if held.stage is not LicenceStage.RESTRICTED:
        return None
    return ": ".join(part for part in (held.code, held.message) if part) + (f" Run: {held.fix}" if held.fix else "")


def _views(found: Sequence[NodeStatus]) -> list[NodeView]:
    """The nodes of one answer in order, with ages as they are now."""
    cluster = Cluster()
    for each in found:
        cluster.apply(NodeUpdate(status=safe.clean(each)), 0.0)
    return cluster.nodes(0.0)


def _gpu_values(found: NodeStatus) -> list[GpuLine]:
    if found.node is None:
        return []
    own = {"node": found.name, "link": found.link.value, "gpu_source": found.node.gpu_source}
    return [msgspec.convert(msgspec.to_builtins(gpu) | own, GpuLine) for gpu in found.node.gpus]
