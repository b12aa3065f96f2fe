"""`stoker logs` and `stoker wait`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from agent.api.commandline import Parser
from agent.api.refs import JobRef
from agent.api.types import Job
from tui import arrays, follow, jobrows, plain, safe, words
from tui.grep import Choice, Matching, PatternError
from tui.running import batch_code
from tui.verbs.call import Call


def options(parser: Parser, name: str) -> None:
    """What they take."""
    if name == "wait":
        words.jobs_argument(parser)
        parser.set_defaults(work=lambda call, args: wait_for(call, [ref for refs in args.job_refs for ref in refs]))
        words.examples(parser, "stoker wait 17 && echo trained", "stoker wait 17_[0-3]   the highest of their codes")
        return
    parser.add_argument("-f", "--follow", action="store_true", help="go on until the job ends")
    parser.add_argument("--since", type=words.moment, metavar="WHEN", help="only from then on: 10m, 14:30, yesterday")
    parser.add_argument("--grep", type=words.said, metavar="PATTERN", help="only lines that match: Python's re")
    parser.add_argument("-F", "--fixed-strings", action="store_true", help="PATTERN is plain text")
    parser.add_argument("job_ref", type=words.job, metavar="JOB")
    parser.set_defaults(work=_logs, check=lambda args: _choose(parser, args))
    words.examples(
        parser,
        "stoker logs -f 17                 follow; n1:17 where two nodes have a 17",
        "stoker logs 17                    all tasks, if 17 is an array, each line as  17_3: text",
        "stoker logs --since 10m 17_3      what a task wrote in the last ten minutes",
        "stoker logs -f --grep 'loss=0\\.0|nan' 17     only those lines; -F --grep '[rank0]' for plain text",
    )


def wait_for(call: Call, refs: Sequence[JobRef]) -> int:
    """Wait for jobs to end, of an array for all of its tasks; the highest of their exit codes."""
    ended = []
    for ref in (task for asked in refs for task in _tasks(call, asked)):
        job = follow.wait_end(call.client, ref)
        ended.append(job)
        if not call.json:
            why = jobrows.job_why(safe.clean(job))
            print(f"job {ref}: {job.state.value}{f' ({why})' if why else ''}", file=call.out)
    if call.json:
        plain.as_json(ended if len(ended) > 1 else ended[0], call.out)
    return max(batch_code(job) for job in ended)


def _tasks(call: Call, ref: JobRef) -> list[JobRef]:
    """The job, or the tasks of the array that it names."""
    if ref.task is not None:
        return [ref]
    job = follow.find(call.client, ref, f"waiting for job {ref}")
    if job.array_job_id != ref.id:
        return [ref]
    found = [each for each in call.jobs(array=ref.id) if each.node == job.node]
    return [arrays.ref(each) for each in sorted(found, key=lambda each: each.array_task_id or 0)]


def logs(call: Call, ref: JobRef, *, follow_on: bool, since: int | None = None, grep: Choice | None = None) -> int:
    """Print what a job has written, and with `follow_on` what it goes on to write, until it ends; of an array all."""
    wanted = follow.Wanted(since=since, grep=grep)
    first = _array(call, ref, follow_on=follow_on)
    if first is not None:
        from tui.arraylogs import TaskLogs

        tasks = TaskLogs(call.client, first, call.out, wanted, json=call.json)
        return tasks.follow() if follow_on else tasks.copy()
    write = follow.writer(call.out, json=call.json, gaps=since is None and grep is None)
    write = write if grep is None else Matching(write, grep)
    (follow.follow_log if follow_on else follow.copy_log)(call.client, ref, write, wanted)
    return 0


def _array(call: Call, ref: JobRef, *, follow_on: bool) -> Job | None:
    """The array's first task, where the reference means an array of several."""
    if ref.task is not None:
        return None
    job = follow.find(call.client, ref, f"following job {ref}") if follow_on else call.client.job(ref)
    several = job.array_job_id == ref.id and job.array_text not in (None, str(job.array_task_id))
    return job if several else None


def _choose(parser: Parser, args: argparse.Namespace) -> None:
    """Read the pattern, which must be one, before anything is asked."""
    if args.grep is None:
        if args.fixed_strings:
            parser.error("--fixed-strings says how --grep PATTERN is meant, and there is none")
        return
    try:
        args.grep = Choice(args.grep, fixed=args.fixed_strings)
    except PatternError as error:
        parser.error(f"argument --grep: {error}")


def _logs(call: Call, args: argparse.Namespace) -> int:
    return logs(call, args.job_ref, follow_on=args.follow, since=args.since, grep=args.grep)
