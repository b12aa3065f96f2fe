"""What `squeue -o` and `-O` can show of a job, and `-s` of a step: letter or name → title and text.

Titles as recorded in tests/data/slurm/squeue_o.txt and squeue_names.txt; what nothing here can have stands as Slurm
shows it when it is unset.
"""

from __future__ import annotations

from collections.abc import Callable

from tui.slurm import columns, job, times
from tui.slurm.job import View
from tui.slurm.steps import Step


def _null(text: object) -> str:
    return "(null)" if text in (None, "") else str(text)


LETTERS: columns.Fields[View] = {
    "a": ("ACCOUNT", lambda view: _null(view.job.account)),
    "A": ("JOBID", lambda view: str(view.job.id)),
    "b": ("TRES_PER_NODE", lambda view: view.gres),
    "B": ("EXEC_HOST", lambda view: view.nodes or "n/a"),
    "c": ("MIN_CPUS", lambda view: str(view.job.cpus_per_task)),
    "C": ("CPUS", lambda view: str(view.cpus)),
    "d": ("MIN_TMP_DISK", lambda view: "0"),
    "D": ("NODES", lambda view: "1"),
    "e": ("END_TIME", lambda view: times.stamp(view.end_at, "N/A" if view.pending else "NONE")),
    "E": ("DEPENDENCY", lambda view: view.dependency),
    "f": ("FEATURES", lambda view: view.features),
    "F": ("ARRAY_JOB_ID", lambda view: str(view.array_id)),
    "g": ("GROUP", lambda view: job.group(view.job.user)[0]),
    "G": ("GROUP", lambda view: str(job.group(view.job.user)[1])),
    "h": ("OVER_SUBSCRIBE", lambda view: "NO" if view.job.exclusive else "OK"),
    "H": ("SOCKETS_PER_NODE", lambda view: "*"),
    "i": ("JOBID", lambda view: view.id),
    "I": ("CORES_PER_SOCKET", lambda view: "*"),
    "j": ("NAME", lambda view: view.job.name),
    "J": ("THREADS_PER_CORE", lambda view: "*"),
    "k": ("COMMENT", lambda view: _null(view.job.comment)),
    "K": ("ARRAY_TASK_ID", lambda view: view.task),
    "l": ("TIME_LIMIT", lambda view: times.short(view.job.time_limit_s, "UNLIMITED")),
    "L": ("TIME_LEFT", lambda view: times.short(view.left_s, "UNLIMITED")),
    "m": ("MIN_MEMORY", lambda view: times.size(view.job.memory_bytes)),
    "M": ("TIME", lambda view: times.short(view.elapsed_s)),
    "n": ("REQ_NODES", lambda view: ""),
    "N": ("NODELIST", lambda view: view.nodes),
    "o": ("COMMAND", lambda view: _null(view.command)),
    "O": ("CONTIGUOUS", lambda view: "0"),
    "p": ("PRIORITY", lambda view: f"{(view.job.priority or 0) / 2**32:.14f}"),
    "P": ("PARTITION", lambda view: view.partition_name),
    "q": ("QOS", lambda view: view.job.qos or "normal"),
    "Q": ("PRIORITY", lambda view: str(view.job.priority or 0)),
    "r": ("REASON", lambda view: view.reason),
    "R": ("NODELIST(REASON)", lambda view: view.where),
    "s": ("", lambda view: ""),
    "S": ("START_TIME", lambda view: times.stamp(view.start_at, "N/A")),
    "t": ("ST", lambda view: view.code),
    "T": ("STATE", lambda view: view.state),
    "u": ("USER", lambda view: view.job.user),
    "U": ("UID", lambda view: str(job.uid(view.job.user))),
    "v": ("RESERVATION", lambda view: _null(view.job.reservation)),
    "V": ("SUBMIT_TIME", lambda view: times.stamp(view.job.submitted_at)),
    "w": ("WCKEY", lambda view: _null(view.job.wckey)),
    "W": ("LICENSES", lambda view: view.licenses),
    "x": ("EXC_NODES", lambda view: ""),
    "X": ("CORE_SPEC", lambda view: "N/A"),
    "y": ("NICE", lambda view: str(view.job.nice)),
    "Y": ("SCHEDNODES", lambda view: view.job.node if view.job.expected_start_at and view.pending else "(null)"),
    "z": ("S:C:T", lambda view: "*:*:*"),
    "Z": ("WORK_DIR", lambda view: view.job.work_dir),
}
"""squeue(1), `-o`: titles as recorded in tests/data/slurm/squeue_o.txt."""

NAMED: dict[str, tuple[str, Callable[[View], str]]] = {
    "account": LETTERS["a"],
    "allocnodes": ("ALLOC_NODES", lambda view: view.job.node),
    "derivedec": ("DERIVED_EC", lambda view: str(view.job.exit_code or 0)),
    "ntpernode": ("NTASKS_PER_NODE", lambda view: str(view.job.ntasks_per_node or 0)),
    "pendingtime": ("PENDING_TIME", lambda view: str(view.waited_s)),
    "accruetime": ("ACCRUE_TIME", lambda view: times.stamp(_accrues_at(view), "N/A")),
    "arrayjobid": LETTERS["F"],
    "arraytaskid": LETTERS["K"],
    "batchflag": ("BATCH_FLAG", lambda view: "1"),
    "batchhost": ("EXEC_HOST", lambda view: view.nodes or "n/a"),
    "cluster": ("CLUSTER", lambda view: view.cluster()),
    "command": LETTERS["o"],
    "comment": LETTERS["k"],
    "contiguous": LETTERS["O"],
    "cpuspertask": ("CPUS_PER_TASK", lambda view: str(view.job.cpus_per_task)),
    "deadline": ("DEADLINE", lambda view: times.stamp(view.job.deadline_at, "N/A")),
    "dependency": LETTERS["E"],
    "eligibletime": ("ELIGIBLE_TIME", lambda view: times.stamp(view.eligible_at, "N/A")),
    "endtime": LETTERS["e"],
    "exitcode": ("EXIT_CODE", lambda view: str(view.job.exit_code or 0)),
    "feature": LETTERS["f"],
    "gres": LETTERS["b"],
    "groupid": LETTERS["G"],
    "groupname": LETTERS["g"],
    "jobarrayid": ("JOBID", lambda view: view.id),
    "jobid": LETTERS["A"],
    "licenses": LETTERS["W"],
    "maxcpus": ("MAX_CPUS", lambda view: str(view.asked_cpus)),
    "maxnodes": ("MAX_NODES", lambda view: "1"),
    "mincpus": LETTERS["c"],
    "minmemory": LETTERS["m"],
    "name": LETTERS["j"],
    "nice": LETTERS["y"],
    "nodelist": LETTERS["N"],
    "nodes": LETTERS["D"],
    "numcpus": LETTERS["C"],
    "numnodes": LETTERS["D"],
    "numtasks": ("TASKS", lambda view: str(view.job.tasks)),
    "oversubscribe": LETTERS["h"],
    "partition": LETTERS["P"],
    "priority": LETTERS["p"],
    "prioritylong": LETTERS["Q"],
    "qos": LETTERS["q"],
    "reason": LETTERS["r"],
    "reasonlist": LETTERS["R"],
    "requeue": ("REQUEUE", lambda view: str(int(view.job.requeue))),
    "reservation": LETTERS["v"],
    "restartcnt": ("RESTART_COUNT", lambda view: str(max(0, view.job.attempt - 1))),
    "schednodes": LETTERS["Y"],
    "starttime": LETTERS["S"],
    "state": LETTERS["T"],
    "statecompact": LETTERS["t"],
    "stderr": ("STDERR", lambda view: view.stderr),
    "stdin": ("STDIN", lambda view: view.job.input_path or "/dev/null"),
    "stdout": ("STDOUT", lambda view: view.stdout),
    "submittime": LETTERS["V"],
    "timeleft": LETTERS["L"],
    "timelimit": LETTERS["l"],
    "timeused": LETTERS["M"],
    "tres": ("TRES_ALLOC", lambda view: view.tres),
    "tresalloc": ("TRES_ALLOC", lambda view: view.tres),
    "trespernode": LETTERS["b"],
    "userid": LETTERS["U"],
    "username": LETTERS["u"],
    "wckey": LETTERS["w"],
    "workdir": LETTERS["Z"],
}
"""squeue(1), `-O`, without dashes and underscores; the rest is below."""

_UNSET = {
    "admincomment": ("ADMIN_COMMENT", "(null)"), "associd": ("ASSOC_ID", "0"), "allocsid": ("ALLOC_SID", "0"),
    "boardspernode": ("BOARDS_PER_NODE", "0"), "burstbuffer": ("BURST_BUFFER", "(null)"),
    "burstbufferstate": ("BURST_BUFFER_STATE", "(null)"), "clusterfeature": ("CLUSTER_FEATURES", "(null)"),
    "container": ("CONTAINER", "(null)"), "cores": ("CORES_PER_SOCKET", "*"), "corespec": ("CORE_SPEC", "N/A"),
    "cpuspertres": ("CPUS_PER_TRES", "N/A"), "delayboot": ("DELAY_BOOT", "0:00"), "hetjobid": ("HET_JOB_ID", "N/A"),
    "hetjobidset": ("HET_JOB_ID_SET", "N/A"), "hetjoboffset": ("HET_JOB_OFFSET", "N/A"),
    "lastschedeval": ("LAST_SCHED_EVAL", "N/A"), "mcslabel": ("MCSLABEL", "(null)"),
    "mempertres": ("MEM_PER_TRES", "N/A"), "mintime": ("TIME_MIN", "0:00"), "mintmpdisk": ("MIN_TMP_DISK", "0"),
    "network": ("NETWORK", "(null)"), "ntperboard": ("NTASKS_PER_BOARD", "0"), "ntpercore": ("NTASKS_PER_CORE", "N/A"),
    "ntpersocket": ("NTASKS_PER_SOCKET", "N/A"), "origin": ("ORIGIN", "NA"), "originraw": ("ORIGIN_RAW", "NA"),
    "preempttime": ("PREEMPT_TIME", "N/A"), "prefer": ("PREFER", "(null)"), "profile": ("PROFILE", "NotSet"),
    "reboot": ("REBOOT", "0"), "reqswitch": ("REQ_SWITCH", "0"), "resizetime": ("RESIZE_TIME", "N/A"),
    "sct": ("S:C:T", "*:*:*"), "siblingsactive": ("ACTIVE_SIBLINGS", "NA"),
    "siblingsactiveraw": ("ACTIVE_SIBLINGS_RAW", "NA"), "siblingsviable": ("VIABLE_SIBLINGS", "NA"),
    "siblingsviableraw": ("VIALBLE_SIBLINGS_RAW", "NA"), "sockets": ("SOCKETS_PER_NODE", "*"),
    "sperboard": ("SOCKETS_PER_BOARD", "0"), "systemcomment": ("SYSTEM_COMMENT", "(null)"),
    "threads": ("THREADS_PER_CORE", "*"), "tresbind": ("TRES_BIND", "N/A"), "tresfreq": ("TRES_FREQ", "N/A"),
    "tresperjob": ("TRES_PER_JOB", "N/A"), "trespersocket": ("TRES_PER_SOCKET", "N/A"),
    "trespertask": ("TRES_PER_TASK", "N/A"), "wait4switch": ("WAIT4SWITCH", "0:00"), "reqnodes": ("REQ_NODES", ""),
}  # fmt: skip


def _always(text: str) -> Callable[[View], str]:
    return lambda view: text


NAMED |= {name: (title, _always(text)) for name, (title, text) in _UNSET.items()}

ALL = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""`%all`: every letter, in squeue's order."""

STEP_FORMAT = "%.15i %.8j %.9P %.8u %.9M %N"
STEP_LETTERS: columns.Fields[Step] = {
    "A": ("TASKS", lambda step: str(step.tasks)),
    "b": ("TRES_PER_JOB", lambda step: "(null)"),
    "i": ("STEPID", lambda step: step.id),
    "j": ("NAME", lambda step: step.name),
    "l": ("TIME_LIMIT", lambda step: "UNLIMITED"),
    "M": ("TIME", lambda step: times.short(step.elapsed_s)),
    "N": ("NODELIST", lambda step: step.view.nodes),
    "P": ("PARTITION", lambda step: step.view.partition_name),
    "S": ("START_TIME", lambda step: times.stamp(step.started_at)),
    "u": ("USER", lambda step: step.job.user),
    "U": ("UID", lambda step: str(job.uid(step.job.user))),
}
"""squeue(1), `-s -o`."""


def _accrues_at(view: View) -> int | None:
    return None if view.waits_to_count else view.job.submitted_at
