"""The queue's side of the fake agent: what is asked of jobs, and what stands around them, kept in memory.

It changes what it is asked to change and judges nothing, but for the user `root-only`, whose jobs it refuses to touch.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web

from agent.api.queue import (
    Cron,
    DeadLetter,
    Drain,
    DrainChange,
    DrainRequest,
    JobEvent,
    JobUsage,
    Partition,
    Qos,
    QueueRules,
    RequeueRequest,
    Reservation,
    ReservationRequest,
    Share,
    SignalRequest,
    UpdateRequest,
    UsagePoint,
    Verdict,
)
from agent.api.tasks import TaskGroup, TasksReply, TasksRequest
from agent.api.types import CronRequest, ErrorBody, Job, JobReport, JobState, Plan, SubmitRequest, TaskResult
from agent.jobs import arrays

if TYPE_CHECKING:
    from tests.fakes.agent import FakeAgent

NOT_YOURS = "root-only"
_KEYS = {"nice": "nice", "priority": "priority", "comment": "comment", "jobname": "name", "partition": "partition"}


def _held(verb: str) -> dict[str, Any]:
    held = verb == "hold"
    return {"held": held, "reason": "JobHeldUser" if held else "Priority", "priority": 0 if held else 7}


def answer(value: object, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), status=status, content_type="application/json")


def refuse(status: int, code: str, message: str) -> web.Response:
    return answer(ErrorBody(code=code, message=message), status)


class FakeQueue:
    def __init__(self, agent: FakeAgent) -> None:
        self.agent = agent
        self.reservations: dict[str, Reservation] = {}
        self.crons: dict[int, Cron] = {}
        self.letters = [DeadLetter(id=1, at=5, job_id=1, event="END", to="a@b", tries=9, error="no \x1b[2Jroute")]
        self.letters.append(msgspec.structs.replace(self.letters[0], id=2, tries=1, next_at=1))
        self.asked: list[dict[str, Any]] = []

    def add_routes(self, add: Callable[..., object]) -> None:
        for root in ("/v1", f"/v1/nodes/{self.agent.name}"):
            for verb in ("hold", "release", "requeue", "top", "signal", "update"):
                add("POST", root + r"/jobs/{id:\d+(?:_\d+)?}/" + verb, self.change)
            for verb in ("hold", "release"):
                add("POST", root + r"/jobs/{id:\d+}/tasks/" + verb, self.change_tasks)
            add("GET", root + r"/jobs/{id:\d+(?:_\d+)?}/report", self.report)
            add("GET", root + r"/jobs/{id:\d+(?:_\d+)?}/results", self.results)
            add("POST", root + "/jobs/plan", self.plan)
            add("GET", root + "/partitions", self.rules)
            add("GET", root + "/shares", self.shares)
            add("GET", root + "/reservations", self.get_reservations)
            add("POST", root + "/reservations", self.reserve)
            add("DELETE", root + "/reservations/{name}", self.unreserve)
            add("POST", root + "/drain", self.drain)
            add("POST", root + "/resume", self.drain)
            add("GET", root + "/cron", self.get_crons)
            add("POST", root + "/cron", self.add_cron)
            add("DELETE", root + r"/cron/{id:\d+}", self.remove_cron)
            add("GET", root + "/notices", self.notices)
            add("POST", root + "/notices/retry", self.retry)
        add("GET", "/v1/asked", self.get_asked)

    async def get_asked(self, _: web.Request) -> web.Response:
        return answer(self.asked)

    def find(self, text: str) -> Job | None:
        """By number, or by array and task."""
        number, _, task = text.partition("_")
        for job in self.agent.jobs.values():
            if task and (job.array_job_id, job.array_task_id) == (int(number), int(task)):
                return job
        return None if task else self.agent.jobs.get(int(number))

    def matching(self, query: dict[str, str]) -> list[Job]:
        """Newest first, as `GET jobs` lists them."""
        wanted = query.get("state", "").split(",") if query.get("state") else None
        fields = {"user": "user", "name": "name", "account": "account", "partition": "partition", "qos": "qos"}
        ids = set(query.get("id", "").split(",")) - {""}
        found = []
        for job in sorted(self.agent.jobs.values(), key=lambda each: -each.id):
            if wanted and job.state.value not in wanted:
                continue
            if ids and str(job.id) not in ids:
                continue
            if any(query.get(asked) not in (None, getattr(job, field)) for asked, field in fields.items()):
                continue
            if query.get("array") not in (None, str(job.array_job_id)) or job.id >= int(query.get("before", 10**12)):
                continue
            if (job.ended_at or 10**12) < int(query.get("since", 0)):
                continue
            if job.submitted_at <= int(query.get("until", 10**12)):
                found.append(job)
        return found[: int(query.get("limit", 1000))]

    async def change(self, request: web.Request) -> web.Response:
        job = self.find(request.match_info["id"])
        if job is None:
            return refuse(404, "no_such_job", f"there is no such job {request.match_info['id']}; see stoker jobs")
        if job.user == NOT_YOURS:
            return refuse(403, "forbidden", f"job {job.id} is {job.user}'s; only its user or an admin may")
        verb, raw = request.path.rsplit("/", 1)[1], await request.read()
        changed: dict[str, Any] = {}
        body: Any = None
        if verb in ("hold", "release"):
            changed = _held(verb)
        elif verb == "requeue":
            body = msgspec.json.decode(raw or b"{}", type=RequeueRequest)
            changed = {"state": JobState.PENDING, "held": body.hold}
        elif verb == "top":
            changed = {"priority": 9999}
        elif verb == "signal":
            body = msgspec.json.decode(raw, type=SignalRequest)
        else:
            body = msgspec.json.decode(raw, type=UpdateRequest)
            if unknown := [key for key in body.changes if key.lower() not in _KEYS]:
                return refuse(400, "bad_option", f"{unknown[0]} is not a key; the fake agent knows {', '.join(_KEYS)}")
            changed = {_KEYS[key.lower()]: _typed(key.lower(), value) for key, value in body.changes.items()}
        self.asked.append({"verb": verb, "job": request.match_info["id"], "body": msgspec.to_builtins(body)})
        return answer(self._change(job, changed))

    async def change_tasks(self, request: web.Request) -> web.Response:
        asked = msgspec.json.decode(await request.read(), type=TasksRequest)
        verb, array = request.path.rsplit("/", 1)[1], request.match_info["id"]
        found = [self.find(f"{array}_{number}") for number in arrays.array(asked.tasks).tasks]
        done = [self._change(job, _held(verb)) for job in found if job is not None]
        self.asked.append({"verb": verb, "job": array, "body": msgspec.to_builtins(asked)})
        return answer(TasksReply(done=(TaskGroup(tasks=asked.tasks, job=done[0]),)))

    def _change(self, job: Job, changed: dict[str, Any]) -> Job:
        self.agent.jobs[job.id] = msgspec.structs.replace(job, revision=job.revision + 1, **changed)
        return self.agent.jobs[job.id]

    async def report(self, request: web.Request) -> web.Response:
        job = self.find(request.match_info["id"])
        if job is None:
            return refuse(404, "no_such_job", "no such job; see stoker jobs")
        usage = JobUsage(
            measured_s=90.0,
            gpu_seconds=180.0,
            gpu_busy_seconds=90.0,
            utilization_percent=50.0,
            memory_peak_bytes=2**34,
            energy_kwh=0.25,
            verdict=Verdict.DATA_STARVED,
            sentence="the GPUs wait for \x1b]0;data\x07 input",
        )
        return answer(
            JobReport(
                job=msgspec.structs.replace(job, usage=usage),
                wait_s=5.0,
                run_s=90.0,
                events=(
                    JobEvent(at=1, event="submitted", state="PENDING"),
                    JobEvent(at=6, event="started", state="RUNNING", detail="attempt 1\x1b[31m"),
                ),
                curve=tuple(UsagePoint(at=at, utilization_percent=at * 10.0) for at in range(10)),
                script="#!/bin/sh\n",
            )
        )

    async def results(self, request: web.Request) -> web.Response:
        number = int(request.match_info["id"].partition("_")[0])
        tasks = [job for job in self.agent.jobs.values() if job.array_job_id == number]
        return answer(
            [
                TaskResult(
                    job=job,
                    metrics={} if index == 1 else {"loss": 2.0 - index / 10, "note\x1b[0m": "ok"},
                    progress=index / max(1, len(tasks)),
                )
                for index, job in enumerate(sorted(tasks, key=lambda job: job.array_task_id or 0))
            ]
        )

    async def plan(self, request: web.Request) -> web.Response:
        body = msgspec.json.decode(await request.read(), type=SubmitRequest)
        self.asked.append({"verb": "plan", "body": msgspec.to_builtins(body)})
        if told := re.search(r"fake: refuse (\d+)", body.script):
            return refuse(int(told[1]), "refused", "the fake agent was told to refuse")
        would = Job(id=0, node=self.agent.name, name=body.script_name, user="alice", state=JobState.PENDING, gpus=2,
                    submitted_at=5, work_dir=body.work_dir, priority=12)  # fmt: skip
        tasks = 1
        for values in body.sweep.values():
            tasks *= len(values)
        indexes = (0, 1)
        sentence = "It would start at once on GPUs 0 and 1."
        return answer(Plan(job=would, tasks=tasks, starts_at=5, gpu_indexes=indexes, sentence=sentence))

    async def rules(self, _: web.Request) -> web.Response:
        return answer(
            QueueRules(
                partitions=(
                    Partition(name="main", default=True, default_time_s=3600),
                    Partition(name="short\x1b[2J", max_time_s=600, gpu_indexes=(0, 1, 2), state="DRAIN"),
                ),
                qos=(Qos(name="urgent", priority=500, preempts=("normal",), max_gpus_per_user=4),),
                accounts=("lab",),
            )
        )

    async def shares(self, _: web.Request) -> web.Response:
        share = Share(
            account="lab",
            user="alice\x1b[2J",
            shares=2,
            shares_norm=0.5,
            usage_gpu_s=7200.0,
            usage_norm=0.25,
            fairshare=0.707,
        )
        return answer([share])

    async def get_reservations(self, _: web.Request) -> web.Response:
        return answer(list(self.reservations.values()))

    async def reserve(self, request: web.Request) -> web.Response:
        body = msgspec.json.decode(await request.read(), type=ReservationRequest)
        name = body.name or "alice_1"
        self.asked.append({"verb": "reserve", "body": msgspec.to_builtins(body)})
        self.reservations[name] = Reservation(
            name=name,
            start_at=100,
            end_at=7300,
            users=body.users,
            accounts=body.accounts,
            gpu_uuids=(f"GPU-{self.agent.name}-0",) if body.gpus else (),
            maintenance=body.maintenance,
            by="root",
            comment=body.comment,
        )
        return answer(self.reservations[name])

    async def unreserve(self, request: web.Request) -> web.Response:
        if self.reservations.pop(request.match_info["name"], None) is None:
            return refuse(404, "no_such_reservation", f"there is no reservation {request.match_info['name']}")
        return answer(list(self.reservations.values()))

    async def drain(self, request: web.Request) -> web.Response:
        body = msgspec.json.decode(await request.read(), type=DrainRequest)
        off = request.path.endswith("/drain")
        node = self.agent.node
        drain = Drain(reason=body.reason or "", by="root", at=7) if off else None
        if body.gpu is None:
            self.agent.node = msgspec.structs.replace(node, drain=drain)
        else:
            gpus = [
                msgspec.structs.replace(gpu, drain=drain and msgspec.structs.replace(drain, gpu_uuid=gpu.uuid))
                if body.gpu in (gpu.uuid, str(gpu.index))
                else gpu
                for gpu in node.gpus
            ]
            self.agent.node = msgspec.structs.replace(node, gpus=tuple(gpus))
        held = tuple(each for each in (self.agent.node.drain, *(gpu.drain for gpu in self.agent.node.gpus)) if each)
        before, after = (
            each.drain
            if body.gpu is None
            else next((gpu.drain for gpu in each.gpus if body.gpu in (gpu.uuid, str(gpu.index))), None)
            for each in (node, self.agent.node)
        )
        return answer(DrainChange(before=before, after=after, drains=held) if body.tell else list(held))

    async def get_crons(self, _: web.Request) -> web.Response:
        return answer(list(self.crons.values()))

    async def add_cron(self, request: web.Request) -> web.Response:
        body = msgspec.json.decode(await request.read(), type=CronRequest)
        if len(body.schedule.split()) != 5:
            return refuse(400, "bad_schedule", f"{body.schedule!r} is not five fields of crontab(5)")
        number = len(self.crons) + 1
        self.crons[number] = Cron(
            id=number,
            schedule=body.schedule,
            name=body.request.script_name,
            user="alice",
            node=self.agent.name,
            missed=body.missed,
            overlap=body.overlap,
            next_at=3600,
        )
        return answer(self.crons[number], 201)

    async def remove_cron(self, request: web.Request) -> web.Response:
        del self.crons[int(request.match_info["id"])]
        return answer(list(self.crons.values()))

    async def notices(self, _: web.Request) -> web.Response:
        return answer(self.letters)

    async def retry(self, _: web.Request) -> web.Response:
        tried = [msgspec.structs.replace(each, next_at=0) for each in self.letters]
        self.letters = []
        return answer(tried)


def _typed(key: str, value: str) -> int | str:
    return int(value) if key in ("nice", "priority") else value
