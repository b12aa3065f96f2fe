"""`stoker submit` and `stoker run`: a script on its way into the queue, now, at set times, or only thought through."""

from __future__ import annotations

import errno
import os
import signal
import time

from agent.api.errors import StokerError
from agent.api.options import scan
from agent.api.refs import JobRef
from agent.api.types import Job, JobState, LicenceStage, SubmitRequest
from tui import arrays, handin, plain, safe, submit, sweep, units
from tui.endings import EndedError, Endings
from tui.submitargs import SubmitWords
from tui.verbs.call import Call


def submit_job(call: Call, words: SubmitWords) -> int:
    """Hand in a job script; with `--wait`, the exit code is the job's."""
    request = _request(words)
    if words.dry_run:
        return _plan(call, request)
    key = words.key or os.urandom(16).hex()
    if words.cron is not None:
        return _recurring(call, request, words, key)
    reply = handin.hand_in(call.client, request, key)
    job = safe.clean(reply.job)
    if held := _licence_hold(call, job):
        plain.complain(f"job {arrays.label(job)} waits for the licence: {held}")
    if words.wait:
        from tui.verbs.watching import wait_for

        return wait_for(call, [JobRef(id=job.id, node=job.node)])
    if call.json:
        plain.as_json(reply.job, call.out)
        return 0
    known = "" if reply.created else ", submitted before with this key"
    if words.parsable:
        print(job.id, file=call.out)
    elif not words.quiet:
        print(f"Submitted {_named(job)} on {job.node}{known}", file=call.out)
    return 0


def run(call: Call, words: SubmitWords) -> int:
    """Hand in a job, pass its output on as it comes, and end with its exit code."""
    if _is_ours(words):
        words.rest.insert(0, "--output=/dev/null")  # its output is shown; a file of it too is for who asks
    request = _request(words)
    with Endings() as endings:
        with endings.later():
            reply = handin.hand_in(call.client, request, words.key or os.urandom(16).hex())
        try:
            endings.check()
            return _watch(call, reply.job)
        except EndedError as ended:
            return _take_along(call, reply.job, ended)
        except OSError as error:
            if error.errno != errno.EIO or not endings.hears(signal.SIGHUP):
                raise
            return _take_along(
                call, reply.job, EndedError(signal.SIGHUP)
            )  # the terminal is gone, its signal on the way


def _take_along(call: Call, job: Job, ended: EndedError) -> int:
    """Cancel the job of a command that is ended from outside; the command's exit code."""
    name = arrays.label(job)
    try:
        call.client.cancel(arrays.ref(job))
    except StokerError as error:
        plain.complain(f"{ended}: job {name} could not be cancelled: {error}; it may still run: stoker cancel {name}")
    else:
        plain.complain(f"{ended}: job {name} is cancelled")
    return ended.code


def _watch(call: Call, stored: Job) -> int:
    from tui import follow, running

    job = safe.clean(stored)
    if job.array_job_id is not None:
        raise StokerError(
            f"{_named(job)} is stored, and an array cannot be watched as one: stoker jobs --array {job.id}, "
            f"stoker logs -f {arrays.label(job)}"
        )
    plain.complain(f"{_named(job)} on {job.node}, {units.count(job.gpus, 'GPU')}")
    if held := _licence_hold(call, job):
        plain.complain(f"{_named(job)} waits for the licence: {held}")
    watched = running.Running(call.client, stored, follow.writer(call.out, json=call.json))
    code = watched.to_end()
    if watched.job.state is not JobState.COMPLETED and watched.job.state.is_final:
        from tui import jobrows

        why = jobrows.job_why(safe.clean(watched.job))
        plain.complain(f"job {job.id} {watched.job.state.value}{f': {why}' if why else ''}")
    return code


def _is_ours(words: SubmitWords) -> bool:
    """Whether nobody said where the output is to go: a script may have said so, a command cannot."""
    named = (words.wrap is None and words.command is None) or any(
        flag.option.long == "output" for flag in scan(words.rest)[0]
    )
    return not named and "SBATCH_OUTPUT" not in os.environ


def _request(words: SubmitWords) -> SubmitRequest:
    return submit.request(
        words.rest,
        environ=os.environ,
        work_dir=submit.here(),
        umask=submit.current_umask(),
        node=words.node,
        wrap=words.wrap,
        command=words.command,
        sweep=sweep.read(words.sweep),
    )


def _plan(call: Call, request: SubmitRequest) -> int:
    """Print what a submit would do."""
    plan = call.client.plan(request)
    if plan.job.reason == "License":
        plain.complain(f"it would wait for the licence: {safe.text(plan.job.detail or 'see: stoker license')}")
    if call.json:
        plain.as_json(plan, call.out)
        return 0
    from tui import printed

    plain.facts(printed.plan_facts(safe.clean(plan), time.time()), call.out)
    return 0


def _recurring(call: Call, request: SubmitRequest, words: SubmitWords, key: str) -> int:
    """Store a recurring job."""
    from agent.api.queue import Missed
    from agent.api.types import CronRequest

    assert words.cron is not None
    asked = CronRequest(schedule=words.cron, request=request, missed=Missed(words.missed), overlap=words.overlap)
    cron = safe.clean(call.client.add_cron(asked, key))
    if locked := _locked(call, "recurring"):
        plain.complain(f"recurring job {cron.id} is stored, and the jobs that it makes wait for the licence: {locked}")
    if call.json:
        plain.as_json(cron, call.out)
        return 0
    when = units.moment(cron.next_at)
    print(f"Recurring job {cron.id} on {cron.node}, next {when or 'never'}; stoker cron lists them", file=call.out)
    return 0


def _named(job: Job) -> str:
    """`job 17`, `array 17 (0-9%2)`."""
    if job.array_job_id is None:
        return f"job {job.id}"
    return f"array {job.array_job_id} ({job.array_text})" if job.array_text else f"array {job.array_job_id}"


def _locked(call: Call, feature: str) -> str | None:
    """Which edition has a feature that the licence does not open; `None` where it does, or nobody can tell now."""
    try:
        licence = safe.clean(call.client.licence())
    except StokerError:
        return None
    found = next((each for each in licence.locked if each.feature == feature), None)
    if found is None:
        return None
    having = found.sold_with or f"edition {found.edition}"  # an older hub has no words for it
    return f"{feature} is not part of it; {having} has it. Run: stoker-license activate FILE"


def _licence_hold(call: Call, job: Job) -> str | None:
    """Why the licence keeps a job that was just submitted from starting, if it does.

    The answer to a submit often comes before the queue has looked at the job, so the licence itself is asked.
    """
    if job.state is not JobState.PENDING:
        return None
    if job.reason == "License":
        return job.detail or "see: stoker license"
    try:
        held = safe.clean(call.client.licence())
    except StokerError:
        return None  # the job is accepted; that the licence cannot be read now is no news about it
    if held.stage not in (LicenceStage.PERPETUAL, LicenceStage.RESTRICTED):
        return None
    return ": ".join(part for part in (held.code, held.message) if part) + (f" Run: {held.fix}" if held.fix else "")
