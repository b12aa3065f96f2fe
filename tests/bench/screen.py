"""The screen on a terminal: CPU of one core, per screen, before a server that tells of every GPU once a second.

`python -m tests.bench.screen SOCKET NODES` is that server: `/v1/watch` as a hub sends it, with eight simulated GPUs a
node, all of them busy, so that every value changes with every reading.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import psutil
from aiohttp import web

from agent.api.types import (
    API_VERSION,
    Gpu,
    GpuSource,
    Heartbeat,
    Hello,
    Job,
    JobState,
    JobUpdate,
    LinkState,
    Node,
    NodeStatus,
    NodeUpdate,
)
from agent.gpu.simulated import SimulatedReader
from agent.server.stream import STREAMS, NdjsonStream, Streams
from tests.bench.table import Row, row_of

GPUS, WATCH_S, REPEATS = 8, 5.0, 3
SIZE = (45, 160)
SETTLE_S = 3.0
SCREENS = {
    "overview": ("1",),
    "nodes": ("2",),
    "jobs": ("3",),
    "incidents": ("4",),
    "processes": ("5",),
    "a node": ("2", "\r"),
    "a GPU": ("2", "\r", "\t", "\r"),
}
"""Which keys lead there; a tab goes from the node's jobs to its GPUs."""


def rows() -> list[Row]:
    """Eight GPUs on one node, and 64 on eight."""
    return [row for nodes in (1, 8) for row in _measured(nodes)]


def _measured(nodes: int) -> Iterator[Row]:
    with _server(nodes) as socket, _Terminal(socket) as terminal:
        for name, keys in SCREENS.items():
            terminal.press(*keys)
            shares = [terminal.busy_percent() for _ in range(REPEATS)]
            yield row_of(f"{nodes * GPUS} GPUs on {nodes} nodes: {name}", shares, "% of a core", "≤ 3")
        yield Row(name=f"{nodes * GPUS} GPUs on {nodes} nodes: RSS", value=terminal.rss_mb, unit="MB")


class _Terminal:
    """`stoker` on a pty of `SIZE`, read as fast as it writes."""

    def __init__(self, socket: Path) -> None:
        self._fd, self._inner = pty.openpty()
        fcntl.ioctl(self._inner, termios.TIOCSWINSZ, struct.pack("HHHH", *SIZE, 0, 0))
        words = [sys.executable, "-m", "tui", "--socket", str(socket)]
        env, end = {**os.environ, "TERM": "xterm-256color"}, self._inner
        self._child = subprocess.Popen(words, stdin=end, stdout=end, stderr=end, env=env, start_new_session=True)
        self._process = psutil.Process(self._child.pid)
        self._read(SETTLE_S)

    def __enter__(self) -> _Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.kill()
        self._child.wait()
        os.close(self._fd)
        os.close(self._inner)

    def press(self, *keys: str) -> None:
        for key in keys:
            os.write(self._fd, key.encode())
            self._read(0.5)
        self._read(SETTLE_S)

    def busy_percent(self) -> float:
        before, began = self._cpu_s, time.monotonic()
        self._read(WATCH_S)
        return 100 * (self._cpu_s - before) / (time.monotonic() - began)

    @property
    def rss_mb(self) -> float:
        return float(self._process.memory_info().rss) / 1e6

    @property
    def _cpu_s(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)

    def _read(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if select.select([self._fd], [], [], left)[0]:
                os.read(self._fd, 65536)


@contextmanager
def _server(nodes: int) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="stoker-bench-") as folder:
        socket = Path(folder) / "hub.sock"
        argv = [sys.executable, "-m", "tests.bench.screen", str(socket), str(nodes)]
        child = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        try:
            assert child.stdout is not None and child.stdout.readline() == "ready\n"
            yield socket
        finally:
            child.kill()
            child.communicate()


# --- the server -------------------------------------------------------------------------------------------------------


class _Cluster:
    """Nodes whose GPUs are all held, each by a job of its own."""

    def __init__(self, nodes: int) -> None:
        self._readers: dict[str, SimulatedReader] = {}
        for number in range(nodes):
            name = f"n{number + 1}"
            reader = SimulatedReader(GPUS, node_name=name, state_dir=Path("/nonexistent"))
            reader.open()
            self._readers[name] = reader

    async def watch(self, request: web.Request) -> web.StreamResponse:
        stream = await NdjsonStream.open(request)
        jobs = [_job(name, index) for name in self._readers for index in range(GPUS)]
        await stream.send(Hello(api=API_VERSION, version="0", server="hub", cluster="bench"))
        await stream.send(*(JobUpdate(job=job) for job in jobs))
        while True:
            for name in self._readers:  # each at its own moment of the second, as nodes are
                await stream.send(NodeUpdate(status=self._status(name)))
                await asyncio.sleep(1 / len(self._readers) / 1.05)
            await stream.send(Heartbeat(time=time.time()))

    def _status(self, name: str) -> NodeStatus:
        reader, now = self._readers[name], time.time()
        readings = [reader.read(index, now, time.monotonic()) for index in range(GPUS)]
        reader.hold(frozenset(each.uuid for each in readings))
        gpus = tuple(
            Gpu(**msgspec.structs.asdict(each), age_s=0.2, job_id=index + 1, job_ids=(index + 1,), seated=True)
            for index, each in enumerate(readings)
        )
        described = Node(
            name=name, version="0", time=now, boot_id="b", mode="system", key="00" * 32, gpus=gpus,
            gpu_source=GpuSource.SIMULATED, cpu_count=64, cpu_percent=now % 60, load_1m=now % 9,
            memory_total_bytes=2**39, memory_available_bytes=2**38, jobs_running=GPUS,
        )  # fmt: skip
        return NodeStatus(name=name, link=LinkState.UP, age_s=0.2, node=described)


def _job(node: str, index: int) -> Job:
    now = int(time.time())
    return Job(
        id=index + 1, node=node, name="train.sh", user="alice", state=JobState.RUNNING, gpus=1, gpu_indexes=(index,),
        submitted_at=now - 60, started_at=now, work_dir="/w",
    )  # fmt: skip


async def _serve(path: str, nodes: int) -> None:
    app = web.Application()
    app[STREAMS] = Streams()
    app.router.add_get("/v1/watch", _Cluster(nodes).watch)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.UnixSite(runner, path).start()
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1], int(sys.argv[2])))
