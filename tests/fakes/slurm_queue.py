"""A server that answers Slurm's commands from a list of jobs: the wire is real, the queue behind it is a list.

It listens on a unix socket in a thread of the test, keeps what was asked of it, and answers the filters of
`GET /v1/jobs`.
"""

from __future__ import annotations

import re
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec

from agent.api.queue import Drain, Partition, QueueRules, Reloaded, Reservation, ReservationRequest, Share
from agent.api.tasks import TasksReply
from agent.api.types import API_VERSION, ErrorBody, Hello, Job, JobState, NodeStatus, Plan, SubmitReply, SubmitRequest


class FakeQueue:
    """What the server knows and was asked."""

    def __init__(self, jobs: list[Job], nodes: list[NodeStatus]) -> None:
        self.jobs = jobs
        self.nodes = nodes
        self.rules = QueueRules(
            partitions=(
                Partition(name="main", default=True),
                Partition(name="short", max_time_s=1800, default_time_s=600),
            )
        )
        self.reservations: list[Reservation] = []
        self.shares: list[Share] = []
        self.plan: Plan | None = None
        self.reloaded = Reloaded()
        self.refuse: ErrorBody | None = None
        self.cluster = "lab"
        """What the next thing asked of a job or a submit is answered with."""
        self.status = 409
        self.seen: list[tuple[str, str, Any]] = []
        self.tasks = TasksReply()
        """Method, path and body of everything that was not a question."""
        self.submitted: list[SubmitRequest] = []

    def find(self, text: str) -> list[Job]:
        number, _, task = text.partition("_")
        if task:
            return [j for j in self.jobs if j.array_job_id == int(number) and j.array_task_id == int(task)]
        of_array = [j for j in self.jobs if j.array_job_id == int(number)]
        return of_array or [j for j in self.jobs if j.id == int(number)]

    def listed(self, query: dict[str, list[str]]) -> list[Job]:
        asked = {name: values[-1] for name, values in query.items()}
        found = sorted(self.jobs, key=lambda j: -j.id)
        if "state" in asked:
            found = [j for j in found if j.state.value in asked["state"].split(",")]
        if "array" in asked:
            found = [j for j in found if j.array_job_id == int(asked["array"])]
        if "before" in asked:
            found = [j for j in found if j.id < int(asked["before"])]
        if "since" in asked:
            found = [j for j in found if j.ended_at is None or j.ended_at >= int(asked["since"])]
        for name in ("user", "name", "account", "partition"):
            if name in asked:
                found = [j for j in found if getattr(j, name) == asked[name]]
        return found[: int(asked.get("limit", "1000"))]

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, object]:
        parts = urlsplit(path)
        where = re.sub(r"^/v1/nodes/[^/]+/(?!$)", "/v1/", parts.path)
        if method == "GET":
            return self._get(where, parse_qs(parts.query))
        self.seen.append((method, where, msgspec.json.decode(body) if body else None))
        if self.refuse is not None:
            refusal, self.refuse = self.refuse, None
            return self.status, refusal
        if where == "/v1/jobs/plan":
            return 200, self.plan
        if where == "/v1/jobs":
            self.submitted.append(msgspec.json.decode(body, type=SubmitRequest))
            return 201, SubmitReply(job=self.jobs[0], created=True)
        if where == "/v1/reload":
            return 200, self.reloaded
        if where == "/v1/reservations":
            return 201, self._reserve(msgspec.json.decode(body, type=ReservationRequest))
        if method == "DELETE":
            name = unquote(where.rpartition("/")[2])
            left = [each for each in self.reservations if each.name != name]
            known = len(left) < len(self.reservations)
            self.reservations[:] = left
            return (200, left) if known else (404, ErrorBody(code="no_such_reservation", message="there is none"))
        if where in ("/v1/drain", "/v1/resume"):
            return 200, [Drain(reason="r", by="root", at=1)]
        changed = re.fullmatch(r"/v1/reservations/(.+)", where)
        if changed:
            named = next((each for each in self.reservations if each.name == unquote(changed[1])), None)
            return (404, ErrorBody(code="no_such_reservation", message="no")) if named is None else (200, named)
        if re.fullmatch(r"/v1/jobs/[0-9]+/tasks/\w+", where):
            return 200, self.tasks
        verb = re.fullmatch(r"/v1/jobs/([0-9_]+)/\w+", where)
        found = self.find(verb[1]) if verb else []
        return (200, found[0]) if found else _not_found()

    def _reserve(self, asked: ReservationRequest) -> Reservation:
        made = Reservation(
            name=asked.name or f"{(*asked.users, *asked.accounts, 'maint')[0]}_1",
            start_at=1_795_325_100,
            end_at=1_795_328_700,
            users=asked.users,
            accounts=asked.accounts,
            maintenance=asked.maintenance,
            gpu_uuids=tuple(f"GPU-{number}" for number in range(int(asked.gpus or 0))),
        )
        self.reservations.append(made)
        return made

    def _get(self, where: str, query: dict[str, list[str]]) -> tuple[int, object]:
        plain: dict[str, object] = {
            "/v1/hello": Hello(api=API_VERSION, version="0", server="agent", cluster=self.cluster),
            "/v1/nodes": self.nodes,
            "/v1/partitions": self.rules,
            "/v1/reservations": self.reservations,
            "/v1/shares": self.shares,
        }
        if where in plain:
            return 200, plain[where]
        if where == "/v1/jobs":
            return 200, self.listed(query)
        found = self.find(where.rpartition("/")[2])
        return (200, found[0]) if found else _not_found()


def _not_found() -> tuple[int, ErrorBody]:
    return 404, ErrorBody(code="no_such_job", message="there is no such job; see: stoker jobs --all")


@contextmanager
def serving(queue: FakeQueue, path: Path) -> Iterator[Path]:
    """The queue on a socket at `path`, for as long as the block runs."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            status, value = queue.answer(self.command, self.path, self._body())
            data = msgspec.json.encode(value)
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_POST = do_DELETE = do_GET  # noqa: N815

        def _body(self) -> bytes:
            return self.rfile.read(int(self.headers.get("Content-Length", "0")))

        def address_string(self) -> str:
            return "local"

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: the tests read what was seen."""

    class Server(socketserver.ThreadingUnixStreamServer):
        daemon_threads = True

    with Server(str(path), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), name="fake-queue", daemon=True)
        thread.start()
        try:
            yield path
        finally:
            server.shutdown()
            thread.join(60)


def job(number: int, state: JobState = JobState.PENDING, **more: Any) -> Job:
    """A job of alice's as the recorded ones are."""
    values: dict[str, Any] = {
        "name": "wrap",
        "user": "alice",
        "node": "n1",
        "submitted_at": 1_795_325_090,
        "work_dir": "/home/alice",
        "memory_bytes": 100 * 2**20,
        "partition": "main",
        "requeue": True,
    }
    return Job(id=number, state=state, **(values | more))
