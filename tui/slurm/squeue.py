"""`squeue`: the queue. squeue(1)."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from agent.api import program
from agent.api.types import Job, JobState
from tui.slurm import ask, columns, job, steps, times
from tui.slurm.argv import Options, ToolError, Words
from tui.slurm.job import View
from tui.slurm.squeue_fields import ALL, LETTERS, NAMED, STEP_FORMAT, STEP_LETTERS

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
    "account:A= array:r all:a array-unique clusters:M= federation! Format:O= format:o= help hide iterate:i= jobs:j= "
    "json? licenses:L= local long:l me name:n= noconvert noheader:h nodelist:w= notme! only-job-state partition:p= "
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
    queue.check_clusters(words, header=not {"noheader", "json"} & words.said.keys())
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

        shapes.print_json(shapes.jobs(views, "squeue", sys.argv, queue.cluster()))
        return 0
    if "steps" in words:
        return _steps(views, words)
    if {"long", "iterate"} & words.said.keys() and "noheader" not in words:
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
    with_steps = "steps" in words
    if "nodelist" in words:
        _check_nodes(queue, words)
    if ids:
        found = queue.named_all(words.said["jobs"], "Invalid job id:", steps=with_steps)
        if not found and len(ids) == 1:
            raise ToolError("slurm_load_jobs error: Invalid job id specified", bare=True)
    else:
        names = _users(words)
        told = {"steps": 1} if with_steps else {}
        whose: list[str | None] = [*names] or [None]
        found = [each for name in whose for each in queue.jobs(states, name, **told)]
        for name in ask.strangers(names, {each.user for each in found}):
            program.say(f"squeue: error: Invalid user: {program.printable(name)}")
    if "start" in words:
        states = [JobState.PENDING]
    default = queue.default_partition()
    kept = [each for each in found if each.state in states and _fits(each, words, default)]
    views = job.views(kept, now, default, one_each="array" in words, cluster=queue.cluster)
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
    if "licenses" in words and not set(words.listed("licenses")) & each.licenses.keys():
        return False
    return job.all_listed(words, facts) and (not named or each.user in named)


def _check_nodes(queue: ask.Queue, words: Words) -> None:
    """Write out `n[1-3]`.

    Raises:
        ToolError: a node is none of ours.
    """
    known = {each.name for each in queue.nodes()}
    for name in ask.spread_nodes(words):
        if name not in known:
            raise ToolError(f"Invalid node name {program.printable(name)}")


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


def _steps(views: Sequence[View], words: Words) -> int:
    """`--steps`: the batch step of each running job, and each `srun` in it that runs."""
    wanted = {text for value in words.said["steps"] for text in value.split(",") if text}
    for text in wanted:
        if "." not in text.strip("."):
            raise ToolError(f"Invalid job_step id: {program.printable(text)}.??")
    found = [step for view in views for step in steps.running(view) if not wanted or step.id in wanted]
    found.sort(key=lambda step: (step.view.array_id, step.view.job.array_task_id or 0, step.number == "batch"))
    shape = columns.by_letters("squeue", words.last("format") or STEP_FORMAT, STEP_LETTERS)
    for line in columns.lines(shape, found, header="noheader" not in words):
        print(line)
    return 0


def _letters(words: Words) -> list[columns.Column[View]]:
    plain = START if "start" in words else LONG if "long" in words else DEFAULT
    text = (words.last("format") or plain).replace("%all", "|".join(f"%{letter}" for letter in ALL))
    return columns.by_letters("squeue", text, LETTERS)


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

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
