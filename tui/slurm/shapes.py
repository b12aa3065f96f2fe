"""`--json` in the shape of Slurm's data_parser v0.0.40: what programs that read Slurm look for, under Slurm's names.

Rules kept here: ASCII only, so nothing in it acts on a terminal; a number that may be absent is `{set, infinite,
number}` as there; states are lists.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from agent import __version__
from tui.slurm import job as jobs_as
from tui.slurm import steps, times
from tui.slurm.job import View
from tui.slurm.nodes import Host
from tui.slurm.sinfo_fields import Row


def print_json(value: object) -> None:
    """On stdout, indented as Slurm does it."""
    print(json.dumps(value, ensure_ascii=True, indent=2).replace("\x7f", "\\u007f"))


def meta(argv: Sequence[str], cluster: str) -> dict[str, Any]:
    """Who answers, in which shape."""
    major, _, rest = __version__.partition(".")
    minor, _, micro = rest.partition(".")
    return {
        "plugin": {"type": "", "name": "", "data_parser": "data_parser/v0.0.40", "accounting_storage": ""},
        "command": list(argv[1:]),
        "slurm": {
            "version": {"major": major, "micro": micro, "minor": minor},
            "release": f"stoker {__version__}",
            "cluster": cluster,
        },
    }


def jobs(views: Sequence[View], tool: str, argv: Sequence[str], cluster: str) -> dict[str, Any]:
    """What `squeue --json` and `sacct --json` print."""
    shape = _accounted if tool == "sacct" else _queued
    listed = [shape(replace(view, jobs=(each,))) for view in views for each in view.jobs]
    return {"jobs": listed, "meta": meta(argv, cluster), "errors": [], "warnings": []}


def number(value: float | None, *, infinite: bool = False) -> dict[str, Any]:
    """A number that may be absent."""
    return {"set": value is not None, "infinite": infinite, "number": 0 if value is None else int(value)}


def _queued(view: View) -> dict[str, Any]:
    job = view.job
    limit = times.whole_minutes(job.time_limit_s)
    group, gid = jobs_as.group(job.user)
    return {
        "account": job.account or "",
        "accrue_time": number(0 if view.waits_to_count else job.submitted_at),
        "admin_comment": "",
        "allocating_node": job.node,
        "array_job_id": number(job.array_job_id or 0),
        "array_task_id": number(job.array_task_id),
        "array_max_tasks": number(int(view.throttle) if view.throttle.isdigit() else 0),
        "array_task_string": job.array_text or "",
        "batch_flag": True,
        "batch_host": view.nodes,
        "cluster": view.cluster(),
        "command": view.command,
        "comment": job.comment or "",
        "contiguous": False,
        "cpus": number(view.cpus),
        "cpus_per_task": number(job.cpus_per_task),
        "current_working_directory": job.work_dir,
        "deadline": number(job.deadline_at or 0),
        "dependency": "" if view.dependency == "(null)" else view.dependency,
        "derived_exit_code": _exit(view),
        "eligible_time": number(view.eligible_at or 0),
        "end_time": number(view.end_at or 0),
        "excluded_nodes": "",
        "exit_code": _exit(view),
        "features": jobs_as.constraint(job),
        "flags": [],
        "gres_detail": [view.gpu_detail] if view.gpu_detail else [],
        "group_id": gid,
        "group_name": group,
        "hold": job.held,
        "job_id": job.id,
        "job_resources": {"nodes": view.nodes, "allocated_cores": view.cpus} if view.nodes else {},
        "job_state": [view.state],
        "kill_on_invalid_dep": job.kill_on_invalid_dep,
        "last_sched_evaluation": number(0),
        "licenses": ",".join(f"{name}:{count}" for name, count in job.licenses.items()),
        "mail_type": list(job.mail_types),
        "mail_user": job.mail_user or "",
        "max_cpus": number(view.asked_cpus),
        "max_nodes": number(1),
        "memory_per_cpu": number(None if job.memory_per_cpu_bytes is None else job.memory_per_cpu_bytes // 2**20),
        "memory_per_node": number(None if job.memory_bytes is None else job.memory_bytes // 2**20),
        "minimum_cpus_per_node": number(job.cpus_per_task),
        "name": job.name,
        "nice": job.nice,
        "node_count": number(1),
        "nodes": view.nodes,
        "partition": view.partition_name,
        "priority": number(job.priority or 0),
        "qos": job.qos or "normal",
        "reboot": False,
        "requeue": job.requeue,
        "required_nodes": "",
        "restart_cnt": max(0, job.attempt - 1),
        "resv_name": job.reservation or "",
        "standard_error": view.stderr,
        "shared": ["none" if job.exclusive else ""],
        "standard_input": job.input_path or "/dev/null",
        "standard_output": view.stdout,
        "start_time": number(view.start_at or 0),
        "state_description": job.detail or "",
        "state_reason": view.reason,
        "submit_time": number(job.submitted_at),
        "suspend_time": number(0),
        "tasks": number(job.tasks),
        "tasks_per_node": number(job.ntasks_per_node or 0),
        "time_limit": number(limit, infinite=limit is None) | {"set": True},
        "tres_alloc_str": view.tres if view.nodes else "",
        "tres_per_node": "" if view.gres == "N/A" else view.gres,
        "tres_req_str": ",".join(f"{name}={part}" for name, part in view.tres_parts(asked=True).items()),
        "user_id": jobs_as.uid(job.user),
        "user_name": job.user,
        "wckey": job.wckey or "",
    }


def _accounted(view: View) -> dict[str, Any]:
    job = view.job
    limit = times.whole_minutes(job.time_limit_s)
    held = [_tres(name, value) for name, value in view.tres_parts().items()] if view.nodes else []
    asked = [_tres(name, value) for name, value in view.tres_parts(asked=True).items()]
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
        "cluster": view.cluster(),
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
            "CPUs": view.asked_cpus,
            "memory_per_node": number(None if job.memory_bytes is None else job.memory_bytes // 2**20),
            "memory_per_cpu": number(None),
        },
        "restart_cnt": max(0, job.attempt - 1),
        "state": {"current": [view.state], "reason": view.reason},
        "steps": [_step(step) for step in steps.of(view)],
        "constraints": jobs_as.constraint(job),
        "licenses": ",".join(f"{name}:{count}" for name, count in job.licenses.items()),
        "kill_request_user": "",
        "flags": [],
        "wckey": {"wckey": job.wckey or "", "flags": []},
        "time": {
            "elapsed": view.elapsed_s,
            "eligible": job.begin_at or job.submitted_at,
            "end": job.ended_at or 0,
            "start": job.started_at or 0,
            "submission": job.submitted_at,
            "suspended": 0,
            "limit": number(limit, infinite=limit is None) | {"set": True},
        },
        "tres": {"allocated": held, "requested": asked},
        "user": job.user,
        "working_directory": job.work_dir,
        "stdout": view.stdout,
        "stderr": view.stderr,
        "submit_line": " ".join([job.command or "", *job.args]),
    }


def _step(step: steps.Step) -> dict[str, Any]:
    code, signal = step.code
    told = step.told
    word = "PENDING" if step.ended_at is None else "SIGNALED" if signal else "ERROR" if code else "SUCCESS"
    most = [] if told is None or told.max_rss_bytes is None else [
        {"type": "mem", "name": "", "id": 2, "count": told.max_rss_bytes, "task": 0, "node": step.view.nodes}
    ]  # fmt: skip
    return {
        "time": {
            "elapsed": step.elapsed_s,
            "end": number(step.ended_at or 0),
            "start": number(step.started_at or 0),
            "suspended": 0,
        },
        "exit_code": {
            "status": [word],
            "return_code": number(code),
            "signal": {"id": number(signal or None), "name": ""},
        },
        "nodes": {"count": 1, "range": step.view.nodes, "list": [step.view.nodes]},
        "tasks": {"count": step.tasks},
        "state": [step.state],
        "step": {"id": {"job_id": step.job.id, "step_id": step.number}, "name": step.name},
        "CPU": {"requested_frequency": {"min": number(0), "max": number(0)}, "governor": "0"},
        "tres": {"requested": {"max": most, "min": [], "average": [], "total": []}, "allocated": []},
    }


def nodes(rows: Sequence[Row], argv: Sequence[str], cluster: str) -> dict[str, Any]:
    """What `sinfo --json` prints."""
    return {"sinfo": [_row(row, cluster) for row in rows], "meta": meta(argv, cluster), "errors": [], "warnings": []}


def _row(row: Row, cluster: str) -> dict[str, Any]:
    host, hosts = row.host, row.hosts
    known = [each.node for each in hosts if each.node is not None]
    names = [each.name for each in hosts]
    idle = sum(int(each.cpu_states.split("/")[1]) for each in hosts)
    used, total = sum(each.cpus_used for each in hosts), sum(each.cpus for each in hosts)
    limit = times.whole_minutes(row.partition.max_time_s)
    free = [each.memory_available_bytes // 2**20 for each in known]
    sizes = [each.memory_total_bytes // 2**20 for each in known]
    features = "" if host is None or host.features == "(null)" else host.features
    busy, rest = row.count("alloc", "mix", "drng"), row.count("idle", "resv")
    return {
        "port": 0,
        "node": {"state": [] if host is None else states(host)},
        "nodes": {
            "allocated": busy,
            "idle": rest,
            "other": len(hosts) - busy - rest,
            "total": len(hosts),
            "hostnames": names,
            "addresses": names,
            "nodes": names,
        },
        "cpus": {"allocated": used, "idle": idle, "other": max(0, total - used - idle), "total": total,
                 "minimum": min((each.cpus for each in hosts), default=0),
                 "maximum": max((each.cpus for each in hosts), default=0)},
        "sockets": _least(known, "cpu_count"),
        "cores": {"minimum": 1, "maximum": 1},
        "threads": {"minimum": 1, "maximum": 1},
        "disk": {"minimum": 0, "maximum": 0},
        "memory": {
            "minimum": min(sizes, default=0),
            "maximum": max(sizes, default=0),
            "free": {"minimum": number(min(free, default=0)), "maximum": number(max(free, default=0))},
            "allocated": sum(each.memory_used_bytes for each in hosts) // 2**20,
        },
        "weight": {"minimum": 1, "maximum": 1},
        "features": {"total": features, "active": features},
        "gres": {"total": host.gres if host else "", "used": f"gpu:{sum(each.gpus_used for each in hosts)}"},
        "cluster": cluster,
        "comment": "",
        "extra": "",
        "reason": {"time": number(row.reason.at if row.reason else 0),
                   "description": row.reason.reason if row.reason else "", "user": row.reason.by if row.reason else ""},
        "reservation": "",
        "partition": {
            "name": row.partition.name,
            "nodes": {"configured": ",".join(names), "total": len(hosts)},
            "cpus": {"total": total},
            "maximums": {"nodes": number(1), "time": number(limit, infinite=limit is None) | {"set": True}},
            "defaults": {"time": number(times.whole_minutes(row.partition.default_time_s))},
            "priority": {"job_factor": 1, "tier": row.partition.priority_tier},
            "partition": {"state": [row.partition.state]},
        },
    }  # fmt: skip


def _least(known: Sequence[Any], name: str) -> dict[str, int]:
    values = [getattr(each, name) for each in known]
    return {"minimum": min(values, default=0), "maximum": max(values, default=0)}


def states(host: Host) -> list[str]:
    """`MIXED`, `IDLE` and `DRAIN`, `DOWN`: base and flags apart."""
    word = host.long_state.rstrip("*").upper()
    apart = {
        "DRAINING": ["MIXED", "DRAIN"], "DRAINED": ["IDLE", "DRAIN"], "MAINT": ["IDLE", "MAINTENANCE"],
        "RESERVED": ["IDLE", "RESERVED"],
    }.get(word, [word])  # fmt: skip
    return apart if host.responds else [*apart, "NOT_RESPONDING"]


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
