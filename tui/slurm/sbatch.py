"""`sbatch`: hand in a job script. sbatch(1); the script and its options are read by the server."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from agent.api.errors import ApiError, StokerError
from agent.api.options import Flag, OptionError, scan
from agent.api.types import SubmitReply, SubmitRequest
from tui import arrays, handin, safe, submit
from tui.slurm import ask
from tui.slurm.argv import ToolError, refused

HELP = """\
Usage: sbatch [OPTIONS...] SCRIPT [ARGS...]

Hands in a job script; SCRIPT may be - or missing for standard input. All options: stoker submit --help, sbatch(1).

      --wrap=COMMANDS     the commands instead of a script
      --parsable          print the job's number alone
  -W, --wait              wait until it has ended; the exit code is the job's
      --test-only         tell when it would start; nothing is handed in
  -Q, --quiet
"""
_OURS = {"wrap", "parsable", "wait", "test-only", "quiet", "verbose", "usage", "help", "version"}
"""Options that are of the command and not of the job."""


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """The command; its exit code."""
    try:
        flags, used = scan(argv)
    except OptionError as error:
        raise refused(error) from None
    ours = {flag.option.long: flag.value for flag in flags if flag.option.long in _OURS}
    queue = ask.Queue.open(environ)
    request = _request(argv, flags, used, ours, environ)
    if "test-only" in ours:
        return tell_plan(queue, request, tool="sbatch", quiet="quiet" in ours)
    reply = _hand_in(queue, request)
    job = safe.clean(reply.job)
    number = job.id if job.array_job_id is None else job.array_job_id
    if "parsable" in ours or "SBATCH_PARSABLE" in environ:
        print(number, flush=True)
    elif "quiet" not in ours:
        print(f"Submitted batch job {number}", flush=True)
    return _wait(queue, reply) if "wait" in ours or "SBATCH_WAIT" in environ else 0


def _request(
    argv: Sequence[str], flags: Sequence[Flag], used: int, ours: Mapping[str, str | None], environ: Mapping[str, str]
) -> SubmitRequest:
    """What is handed in.

    Raises:
        ToolError: there is no script, or both a script and `--wrap`.
    """
    theirs = [word for flag in flags if flag.option.long not in _OURS for word in _words(flag)]
    rest = list(argv[used:])
    wrap = ours.get("wrap")
    if wrap is not None and rest:
        raise ToolError("Script arguments not permitted with --wrap option")
    if wrap is None and not rest:
        if sys.stdin.isatty():
            raise ToolError("Batch script is empty! Name one, or give it on standard input")
        rest = ["-"]
    from_stdin = wrap is None and rest[0] == "-"
    sent = {name: value for name, value in environ.items() if name not in ("SBATCH_PARSABLE", "SBATCH_WAIT")}
    try:
        made = submit.request(
            theirs if wrap is not None else [*theirs, "--", *rest],
            environ=sent,
            work_dir=submit.here(),
            umask=submit.current_umask(),
            wrap=wrap,
        )
    except StokerError as error:
        raise ToolError(_in_slurms_words(str(error), rest)) from error
    return replace(made, script_name="sbatch") if from_stdin else made


def _in_slurms_words(sentence: str, rest: Sequence[str]) -> str:
    """Tools look for sbatch's own sentence; ours follows it."""
    if sentence.startswith("there is no job script ") and rest:
        return f"Unable to open file {rest[0]}: {sentence}"
    if " is empty; " in sentence:
        return f"Batch script is empty! {sentence}"
    return sentence


def _words(flag: Flag) -> list[str]:
    return [str(flag.option) if flag.value is None else f"{flag.option}={flag.value}"]


def _hand_in(queue: ask.Queue, request: SubmitRequest) -> SubmitReply:
    try:
        return handin.hand_in(queue.client, request, os.urandom(16).hex())
    except ApiError as error:
        raise ToolError(f"Batch job submission failed: {error.message}") from error


def tell_plan(queue: ask.Queue, request: SubmitRequest, *, tool: str, quiet: bool) -> int:
    """`--test-only`: when it would start.

    Raises:
        ToolError: it would not.
    """
    try:
        plan = safe.clean(queue.client.plan(request))
    except ApiError as error:
        raise ToolError(f"allocation failure: {error.message}", bare=True) from error
    if plan.starts_at is None:
        raise ToolError(f"allocation failure: {plan.sentence}", bare=True)
    if quiet:
        return 0
    at = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(plan.starts_at))
    cpus = plan.job.tasks * plan.job.cpus_per_task
    where = f"nodes {plan.job.node} in partition {plan.job.partition or queue.default_partition()}"
    print(
        f"{tool}: Job {plan.next_id or plan.job.id} to start at {at} using {cpus} processors on {where}",
        file=sys.stderr,
    )
    return 0


def _wait(queue: ask.Queue, reply: SubmitReply) -> int:
    """Until all of it has ended; the highest of the exit codes."""
    from tui.follow import wait_end
    from tui.running import batch_code

    ref = arrays.ref(reply.job)
    if reply.job.array_job_id is None:
        return batch_code(wait_end(queue.client, ref))
    tasks = queue.jobs(array=reply.job.array_job_id)
    return max(batch_code(wait_end(queue.client, arrays.ref(each))) for each in tasks)
