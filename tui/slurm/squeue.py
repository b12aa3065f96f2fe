"""`squeue`: the queue. squeue(1)."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from agent.api import program
from agent.api.types import Job, JobState
from tui.slurm import ask, columns, job, times
from tui.slurm.argv import Options, ToolError, Words
from tui.slurm.job import View

HELP = """\
Usage: squeue [OPTIONS]
  -j, --jobs=IDS          these: 17, 17_3, 17_[1-5]
  -u, --user=NAMES        of these users; --me, of you
  -t, --states=STATES     PD,R,CG (the default) or any other; all
  -p, --partition  -A, --account  -n, --name  -q, --qos  -w, --nodelist  -R, --reservation
  -o, --format=FORMAT     "%.18i %.9P %.8j %.8u %.2t %.10M %.6D %R"
  -O, --Format=FIELDS     "jobid:10,name,state"
  -S, --sort=FIELDS       letters of --format joined by commas, - before one turns it round
  -l, --long  -h, --noheader  -r, --array  --start  -s, --steps  -i, --iterate=SECONDS  --json
"""
OPTIONS = Options(
    "account:A= array:r all:a array-unique clusters:M=! federation! Format:O= format:o= help hide iterate:i= jobs:j= "
    "json? licenses:L=! local long:l me name:n= noconvert noheader:h nodelist:w= notme only-job-state partition:p= "
    "priority:P qos:q= reservation:R= sib sibling sort:S= start states:t= steps:s? usage user:u= users= verbose:v "
    "version:V yaml!"
)
DEFAULT = "%.18i %.9P %.8j %.8u %.2t %.10M %.6D %R"
LONG = "%.18i %.9P %.8j %.8u %.8T %.10M %.9l %.6D %R"
START = "%.18i %.9P %.8j %.8u %.2t %.19S %.6D %20Y %R"
_SHOWN = (JobState.PENDING, JobState.CONFIGURING, JobState.RUNNING, JobState.COMPLETING)
_ALL_STATES = [*(state.value for state in job.CODES), *job.NEVER]


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """The command; its exit code."""
    words = OPTIONS.read(argv)
    if words.rest:
        raise ToolError(f"Unrecognized option: {program.printable(words.rest[0])}")
    _take_variables(words, environ)
    pause_s = _seconds(words.last("iterate"))
    queue = ask.Queue.open(environ)
    while True:
        code = _list(queue, words)
        if pause_s is None:
            return code
        print(flush=True)
        time.sleep(pause_s)


def _list(queue: ask.Queue, words: Words) -> int:
    now = time.time()
    views = chosen(queue, words, now)
    if "json" in words:
        from tui.slurm import shapes

        shapes.print_json(shapes.jobs(views, "squeue", sys.argv))
        return 0
    if "steps" in words:
        return _steps(views, header="noheader" not in words)
    if "long" in words and "noheader" not in words:
        print(times.headline(now))
    found = columns.by_names("squeue", words.last("Format") or "", NAMED) if "Format" in words else _letters(words)
    for line in columns.lines(found, views, header="noheader" not in words):
        print(line)
    return 0


def chosen(queue: ask.Queue, words: Words, now: float) -> list[View]:
    """The lines that the options ask for, in their order.

    Raises:
        ToolError: an option's value is none.
    """
    states = list(_SHOWN)
    if "states" in words:
        states = _states(words.listed("states")) or list(job.CODES)
    ids = words.listed("jobs")
    if ids:
        found = queue.named_all(words.said["jobs"], "Invalid job id:")
        if not found and len(ids) == 1:
            raise ToolError("slurm_load_jobs error: Invalid job id specified", bare=True)
    else:
        names = _users(words)
        found = [each for name in names for each in queue.jobs(states, name)] if names else queue.jobs(states)
    if "start" in words:
        states = [JobState.PENDING]
    default = queue.default_partition()
    kept = [each for each in found if each.state in states and _fits(each, words, default)]
    views = job.views(kept, now, default, one_each="array" in words)
    return _sorted(views, words.last("sort") or ("S" if "start" in words else "P,t,-p"))


def _fits(each: Job, words: Words, default: str) -> bool:
    facts = {
        "account": each.account or "",
        "name": each.name,
        "nodelist": "" if each.state is JobState.PENDING else each.node,
        "partition": each.partition or default,
        "qos": each.qos or "normal",
        "reservation": each.reservation or "",
    }
    named = set(_users(words))
    return job.all_listed(words, facts) and (not named or each.user in named)


def _users(words: Words) -> list[str]:
    if "me" in words:
        return [ask.me()]
    return list(dict.fromkeys(ask.users(words.listed("user", "users"))))


def _states(texts: Sequence[str]) -> list[JobState] | None:
    try:
        return ask.states(texts)
    except KeyError as error:
        raise ToolError(
            f"TOOL: error: Invalid job state specified: {program.printable(error.args[0])}\n"
            f"TOOL: error: Valid job states include: {','.join(_ALL_STATES)}",
            bare=True,
        ) from None


def _sorted(views: list[View], keys: str) -> list[View]:
    """Sort by the letters of `--format`; the last key first, each sort keeps the order of equals."""
    ordered = sorted(views, key=lambda view: (view.array_id, view.job.array_task_id or 0))
    for key in reversed([each.strip() for each in keys.split(",") if each.strip()]):
        letter = key.lstrip("+-")
        if letter not in _SORTS and letter not in LETTERS:
            raise ToolError(f"Invalid sort specification: {program.printable(key)}")
        value: Callable[[View], object] = _SORTS.get(letter) or LETTERS[letter][1]
        ordered.sort(key=value, reverse=key.startswith("-"))  # type: ignore[arg-type]
    return ordered


def _steps(views: Sequence[View], *, header: bool) -> int:
    """`--steps`: the batch step of each running job; the ranks of an `srun` are not kept count of."""
    fields: columns.Fields[View] = {
        "i": ("STEPID", lambda view: f"{view.id}.batch"),
        "j": ("NAME", lambda view: "batch"),
        "P": LETTERS["P"],
        "u": LETTERS["u"],
        "M": LETTERS["M"],
        "N": LETTERS["N"],
    }
    found = columns.by_letters("squeue", "%.15i %.8j %.9P %.8u %.9M %N", fields)
    for line in columns.lines(found, [view for view in views if view.nodes], header=header):
        print(line)
    return 0


def _letters(words: Words) -> list[columns.Column[View]]:
    plain = START if "start" in words else LONG if "long" in words else DEFAULT
    return columns.by_letters("squeue", words.last("format") or plain, LETTERS)


def _take_variables(words: Words, environ: Mapping[str, str]) -> None:
    """squeue(1), ENVIRONMENT VARIABLES: what was not said is taken from them."""
    for name, variable in (
        ("account", "SQUEUE_ACCOUNT"), ("partition", "SQUEUE_PARTITION"), ("qos", "SQUEUE_QOS"),
        ("sort", "SQUEUE_SORT"), ("states", "SQUEUE_STATES"), ("user", "SQUEUE_USERS"), ("name", "SQUEUE_NAMES"),
    ):  # fmt: skip
        if environ.get(variable) and name not in words:
            words.said[name] = [environ[variable]]
    if "format" not in words and "Format" not in words and "long" not in words and "start" not in words:
        for name, variable in (("Format", "SQUEUE_FORMAT2"), ("format", "SQUEUE_FORMAT")):
            if environ.get(variable):
                words.said[name] = [environ[variable]]


def _seconds(text: str | None) -> float | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 10**6):
        raise ToolError(f"--iterate={program.printable(text)} is not a number of seconds; write 1 or more")
    return float(text)


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
    "f": ("FEATURES", lambda view: "(null)"),
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
    "o": ("COMMAND", lambda view: _null(view.job.command)),
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
    "w": ("WCKEY", lambda view: "(null)"),
    "W": ("LICENSES", lambda view: "(null)"),
    "x": ("EXC_NODES", lambda view: ""),
    "X": ("CORE_SPEC", lambda view: "N/A"),
    "y": ("NICE", lambda view: str(view.job.nice)),
    "Y": ("SCHEDNODES", lambda view: view.job.node if view.job.expected_start_at and view.pending else "(null)"),
    "z": ("S:C:T", lambda view: "*:*:*"),
    "Z": ("WORK_DIR", lambda view: view.job.work_dir),
}
"""squeue(1), `-o`: titles as recorded in tests/data/slurm/squeue_o.txt."""

_SORTS: Mapping[str, Callable[[View], object]] = {
    "i": lambda view: (view.array_id, view.job.array_task_id or 0),
    "A": lambda view: view.job.id,
    "p": lambda view: view.job.priority or 0,
    "Q": lambda view: view.job.priority or 0,
    "M": lambda view: view.elapsed_s,
    "l": lambda view: view.job.time_limit_s or float("inf"),
    "L": lambda view: view.left_s or float("inf"),
    "S": lambda view: view.start_at or float("inf"),
    "e": lambda view: view.end_at or float("inf"),
    "V": lambda view: view.job.submitted_at,
    "C": lambda view: view.cpus,
    "t": lambda view: list(job.CODES).index(view.job.state) if view.job.state in job.CODES else len(job.CODES),
    "T": lambda view: list(job.CODES).index(view.job.state) if view.job.state in job.CODES else len(job.CODES),
    "y": lambda view: view.job.nice,
}

NAMED: columns.Fields[View] = {
    "account": LETTERS["a"],
    "accruetime": ("ACCRUE_TIME", lambda view: times.stamp(view.job.submitted_at)),
    "arrayjobid": LETTERS["F"],
    "arraytaskid": LETTERS["K"],
    "batchflag": ("BATCH_FLAG", lambda view: "1"),
    "batchhost": ("EXEC_HOST", lambda view: view.nodes or "n/a"),
    "cluster": ("CLUSTER", lambda view: view.job.node),
    "command": LETTERS["o"],
    "comment": LETTERS["k"],
    "contiguous": LETTERS["O"],
    "cpuspertask": ("CPUS_PER_TASK", lambda view: str(view.job.cpus_per_task)),
    "deadline": ("DEADLINE", lambda view: times.stamp(view.job.deadline_at, "N/A")),
    "dependency": LETTERS["E"],
    "eligibletime": ("ELIGIBLE_TIME", lambda view: times.stamp(view.job.begin_at or view.job.submitted_at)),
    "endtime": LETTERS["e"],
    "exitcode": ("EXIT_CODE", lambda view: str(view.job.exit_code or 0)),
    "feature": LETTERS["f"],
    "gres": LETTERS["b"],
    "groupid": LETTERS["G"],
    "groupname": LETTERS["g"],
    "jobarrayid": ("JOBID", lambda view: view.id),
    "jobid": LETTERS["A"],
    "licenses": LETTERS["W"],
    "maxcpus": ("MAX_CPUS", lambda view: "0"),
    "maxnodes": ("MAX_NODES", lambda view: "0"),
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
    "restartcnt": ("RESTARTCOUNT", lambda view: str(max(0, view.job.attempt - 1))),
    "schednodes": LETTERS["Y"],
    "starttime": LETTERS["S"],
    "state": LETTERS["T"],
    "statecompact": LETTERS["t"],
    "stderr": ("STDERR", lambda view: view.stderr),
    "stdin": ("STDIN", lambda view: "/dev/null"),
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
"""squeue(1), `-O`, without dashes and underscores."""

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
