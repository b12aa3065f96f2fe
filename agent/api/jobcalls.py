"""What the client asks about jobs: to submit and change them, and what they have written and told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from agent.api.answer import Answer
from agent.api.call import Caller, root, with_query
from agent.api.decode import decoder
from agent.api.queue import RequeueRequest, SignalRequest, StepRequest, UpdateRequest
from agent.api.refs import JobRef
from agent.api.stream import Stream
from agent.api.tasks import TasksReply, TasksRequest, TaskVerb
from agent.api.types import (
    KEY_HEADER,
    CancelRequest,
    Job,
    JobReport,
    LogMessage,
    Plan,
    SubmitReply,
    SubmitRequest,
    TaskResult,
)
from agent.api.wire import not_ours


class LogSlice(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of a job's log."""

    offset: int
    """Position of the first byte of `data`; later than asked for when the bytes before it were cut."""
    end: int
    """Bytes the job has written so far."""
    data: bytes


class JobCalls(Caller):
    """Verbs about jobs.

    For an array's id without a task a change is asked of all its tasks that have not ended, and the answer is the first
    of them.
    """

    def jobs(
        self,
        state: str | None = None,
        user: str | None = None,
        limit: int | None = None,
        *,
        node: str | None = None,
        **more: str | int | None,
    ) -> list[Job]:
        """Jobs, newest first; `state` is a Slurm state, or several joined by commas.

        Args:
            state: only these states.
            user: only this user's.
            limit: at most so many.
            node: of this node alone, as the hub asks it.
            more: `since`, `until` (Unix seconds: not ended before, not submitted after), `before` (ids below, for the
                next page), `array`, `cron`, `id`, `name`, `account`, `partition`, `qos`; `steps=1`: with their steps.
        """
        return self._get(with_query(f"{root(node)}/jobs", state=state, user=user, limit=limit, **more), list[Job])

    def job(self, ref: JobRef) -> Job:
        """One job."""
        return self._get(ref.path, Job)

    def report(self, ref: JobRef) -> JobReport:
        """One job's whole story: history, curve, account."""
        return self._get(f"{ref.path}/report", JobReport)

    def results(self, ref: JobRef) -> list[TaskResult]:
        """What each task of an array or a sweep has told of itself."""
        return self._get(f"{ref.path}/results", list[TaskResult])

    def submit(self, request: SubmitRequest, key: str) -> SubmitReply:
        """Store a job. The same `key` again gives the same job, so a submit without an answer may be repeated."""
        return self._ask("POST", "/v1/jobs", SubmitReply, request, {KEY_HEADER: key}, repeatable=True)

    def plan(self, request: SubmitRequest) -> Plan:
        """What a submit would do; nothing is stored."""
        return self._ask("POST", "/v1/jobs/plan", Plan, request, repeatable=True)

    def cancel(self, ref: JobRef, reason: str | None = None, *, revision: int | None = None) -> Job:
        """Ask a job to end; a job that has ended is left as it is."""
        asked = CancelRequest(reason=reason, revision=revision)
        return self._ask("POST", f"{ref.path}/cancel", Job, asked, repeatable=True)

    def ask_tasks(self, verb: TaskVerb, array: JobRef, tasks: str, *, hold: bool = False) -> TasksReply:
        """Ask the same of some of an array's tasks, `3,5-7`. An agent of a version before knows no such address (404).

        Args:
            verb: what to ask.
            array: without a task.
            tasks: as `--array` has them.
            hold: of `requeue`: and keep them waiting.
        """
        repeatable = verb is not TaskVerb.REQUEUE
        asked = TasksRequest(tasks=tasks, hold=hold)
        return self._ask("POST", f"{array.path}/tasks/{verb}", TasksReply, asked, repeatable=repeatable)

    def hold(self, ref: JobRef) -> Job:
        """Keep a waiting job from starting."""
        return self._ask("POST", f"{ref.path}/hold", Job, repeatable=True)

    def release(self, ref: JobRef) -> Job:
        """Let a held job start again when its turn comes."""
        return self._ask("POST", f"{ref.path}/release", Job, repeatable=True)

    def requeue(self, ref: JobRef, *, hold: bool = False, revision: int | None = None) -> Job:
        """Stop a running job and let it wait again, or let an ended one run once more."""
        return self._ask("POST", f"{ref.path}/requeue", Job, RequeueRequest(hold=hold, revision=revision))

    def top(self, ref: JobRef) -> Job:
        """Put a waiting job before all others; for admins, and among one's own jobs for everybody."""
        return self._ask("POST", f"{ref.path}/top", Job, repeatable=True)

    def signal(self, ref: JobRef, signal: str, *, batch_only: bool = False) -> Job:
        """Send a running job's processes a signal that does not end it."""
        return self._ask("POST", f"{ref.path}/signal", Job, SignalRequest(signal=signal, batch_only=batch_only))

    def signal_step(self, ref: JobRef, step: int, signal: str) -> Job:
        """Send the processes of one step a signal; `KILL` ends the step, as a job is ended."""
        return self._ask("POST", f"{ref.path}/steps/{step}/signal", Job, SignalRequest(signal=signal))

    def start_step(self, ref: JobRef, command: Sequence[str]) -> Job:
        """Start a process more in a running job of one's own."""
        return self._ask("POST", f"{ref.path}/steps", Job, StepRequest(command=tuple(command)))

    def update(self, ref: JobRef, changes: Mapping[str, str], *, revision: int | None = None) -> Job:
        """Change a job in `scontrol update`'s words: `{"TimeLimit": "2:00:00"}`."""
        return self._ask("POST", f"{ref.path}/update", Job, UpdateRequest(changes=dict(changes), revision=revision))

    def log(
        self,
        ref: JobRef,
        offset: int = 0,
        limit: int | None = None,
        *,
        since: int | None = None,
        grep: str | None = None,
    ) -> LogSlice:
        """A piece of a job's log, at most `limit` bytes.

        Args:
            ref: the job.
            offset: where the piece begins.
            limit: at most so many bytes.
            since: only what was written after this, Unix seconds; a piece then begins later than asked for.
            grep: only lines that hold this text.
        """
        wire, answer = self._send(
            "GET", with_query(f"{ref.path}/log", offset=offset, limit=limit, since=since, grep=grep)
        )
        data = self._finish(wire, answer)
        return LogSlice(
            offset=_number(answer, "Stoker-Log-Offset", self.where),
            end=_number(answer, "Stoker-Log-End", self.where),
            data=data,
        )

    def follow_log(
        self,
        ref: JobRef,
        offset: int = 0,
        *,
        heartbeats: bool = False,
        since: int | None = None,
        grep: str | None = None,
    ) -> Stream[LogMessage]:
        """A job's log as it grows; the last message is `LogEnd`. `since` and `grep` as for `log`."""
        query = with_query(f"{ref.path}/log", follow=1, offset=offset, since=since, grep=grep)
        return self._stream(query, decoder(LogMessage), heartbeats)


def _number(answer: Answer, header: str, where: str) -> int:
    text = answer.header(header) or ""
    if not text.isascii() or not text.isdecimal():
        raise not_ours(where, f"{header}: {text}")
    return int(text)
