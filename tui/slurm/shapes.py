"""`--json` in the shape of Slurm's data_parser v0.0.40: what programs that read Slurm look for, under Slurm's names.

Rules kept here: ASCII only, so nothing in it acts on a terminal; a number that may be absent is `{set, infinite,
number}` as there; states are lists.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from agent import __version__
from tui.slurm import job as jobs_as
from tui.slurm import times
from tui.slurm.job import View


def print_json(value: object) -> None:
    """On stdout, indented as Slurm does it."""
    print(json.dumps(value, ensure_ascii=True, indent=2).replace("\x7f", "\\u007f"))


def meta(argv: Sequence[str]) -> dict[str, Any]:
    """Who answers, in which shape."""
    major, _, rest = __version__.partition(".")
    minor, _, micro = rest.partition(".")
    return {
        "plugin": {"type": "", "name": "", "data_parser": "data_parser/v0.0.40", "accounting_storage": ""},
        "command": list(argv[1:]),
        "slurm": {
            "version": {"major": major, "micro": micro, "minor": minor},
            "release": f"stoker {__version__}",
            "cluster": "",
        },
    }


def jobs(views: Sequence[View], tool: str, argv: Sequence[str]) -> dict[str, Any]:
    """What `squeue --json` and `sacct --json` print."""
    shape = _accounted if tool == "sacct" else _queued
    listed = [shape(View(jobs=(each,), now=view.now, partition=view.partition)) for view in views for each in view.jobs]
    return {"jobs": listed, "meta": meta(argv), "errors": [], "warnings": []}


def number(value: float | None, *, infinite: bool = False) -> dict[str, Any]:
    """A number that may be absent."""
    return {"set": value is not None, "infinite": infinite, "number": 0 if value is None else int(value)}


def _queued(view: View) -> dict[str, Any]:
    return dict(sorted({**_whose(view), **_size(view), **_course(view)}.items()))


def _whose(view: View) -> dict[str, Any]:
    """Who handed in what, and where it reads and writes."""
    job = view.job
    group, gid = jobs_as.group(job.user)
    return {
        "account": job.account or "",
        "batch_flag": True,
        "batch_host": view.nodes,
        "cluster": job.node,
        "command": job.command or "",
        "comment": job.comment or "",
        "current_working_directory": job.work_dir,
        "group_id": gid,
        "group_name": group,
        "name": job.name,
        "partition": view.partition_name,
        "qos": job.qos or "normal",
        "resv_name": job.reservation or "",
        "standard_error": view.stderr,
        "standard_input": "/dev/null",
        "standard_output": view.stdout,
        "user_id": jobs_as.uid(job.user),
        "user_name": job.user,
    }


def _size(view: View) -> dict[str, Any]:
    """Which job it is, what it asks for and what it has."""
    job = view.job
    return {
        "array_job_id": number(job.array_job_id or 0),
        "array_task_id": number(job.array_task_id),
        "array_max_tasks": number(int(view.throttle) if view.throttle.isdigit() else 0),
        "array_task_string": job.array_text or "",
        "cpus": number(view.cpus),
        "cpus_per_task": number(job.cpus_per_task),
        "gres_detail": [f"gpu:{job.gpus}(IDX:{','.join(map(str, job.gpu_indexes))})"] if job.gpu_indexes else [],
        "job_id": job.id,
        "job_resources": {"nodes": view.nodes, "allocated_cores": view.cpus} if view.nodes else {},
        "memory_per_node": number(None if job.memory_bytes is None else job.memory_bytes // 2**20),
        "node_count": number(1),
        "nodes": view.nodes,
        "tasks": number(job.tasks),
        "tres_alloc_str": view.tres if view.nodes else "",
        "tres_per_node": "" if view.gres == "N/A" else view.gres,
        "tres_req_str": view.tres,
    }


def _course(view: View) -> dict[str, Any]:
    """How it stands, since when, and how it ended."""
    job = view.job
    limit = times.whole_minutes(job.time_limit_s)
    return {
        "deadline": number(job.deadline_at or 0),
        "dependency": "" if view.dependency == "(null)" else view.dependency,
        "derived_exit_code": _exit(view),
        "eligible_time": number(job.begin_at or job.submitted_at),
        "end_time": number(view.end_at or 0),
        "exit_code": _exit(view),
        "hold": job.held,
        "job_state": [view.state],
        "nice": job.nice,
        "priority": number(job.priority or 0),
        "requeue": job.requeue,
        "restart_cnt": max(0, job.attempt - 1),
        "start_time": number(view.start_at or 0),
        "state_description": job.detail or "",
        "state_reason": view.reason,
        "submit_time": number(job.submitted_at),
        "time_limit": number(limit, infinite=limit is None) | {"set": True},
    }


def _accounted(view: View) -> dict[str, Any]:
    job = view.job
    tres = [_tres(name, value) for name, value in view.tres_parts().items()]
    return {
        "account": job.account or "",
        "comment": {"administrator": "", "job": job.comment or "", "system": ""},
        "allocation_nodes": 1 if view.nodes else 0,
        "array": {
            "job_id": job.array_job_id or 0,
            "limits": {"max": {"running": {"tasks": int(view.throttle) if view.throttle.isdigit() else 0}}},
            "task_id": number(job.array_task_id),
            "task": job.array_text or "",
        },
        "cluster": job.node,
        "derived_exit_code": _exit(view),
        "exit_code": _exit(view),
        "group": jobs_as.group(job.user)[0],
        "job_id": job.id,
        "name": job.name,
        "nodes": view.nodes or "None assigned",
        "partition": view.partition_name,
        "priority": number(job.priority),
        "qos": job.qos or "normal",
        "required": {
            "CPUs": view.cpus,
            "memory_per_node": number(None if job.memory_bytes is None else job.memory_bytes // 2**20),
            "memory_per_cpu": number(None),
        },
        "restart_cnt": max(0, job.attempt - 1),
        "state": {"current": [view.state], "reason": view.reason},
        "steps": [],
        "time": _spans(view),
        "tres": {"allocated": tres if view.nodes else [], "requested": tres},
        "user": job.user,
        "working_directory": job.work_dir,
        "stdout": view.stdout,
        "stderr": view.stderr,
        "submit_line": job.command or "",
    }


def _spans(view: View) -> dict[str, Any]:
    job = view.job
    limit = times.whole_minutes(job.time_limit_s)
    return {
        "elapsed": view.elapsed_s,
        "eligible": job.begin_at or job.submitted_at,
        "end": job.ended_at or 0,
        "start": job.started_at or 0,
        "submission": job.submitted_at,
        "suspended": 0,
        "limit": number(limit, infinite=limit is None) | {"set": True},
    }


def _tres(name: str, value: str) -> dict[str, Any]:
    kind, _, of = name.partition("/")
    units = {"M": 1, "G": 1024, "T": 1024**2}
    count = int(value) if value.isdigit() else int(value[:-1]) * units[value[-1]]
    return {"type": kind, "name": of, "id": 0, "count": count}


def _exit(view: View) -> dict[str, Any]:
    job = view.job
    word = "SIGNALED" if job.signal else "ERROR" if job.exit_code else "SUCCESS"
    if job.ended_at is None:
        word = "PENDING"
    signal = {"id": number(job.signal), "name": ""}
    return {"status": [word], "return_code": number(job.exit_code), "signal": signal}
