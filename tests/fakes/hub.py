"""The real hub in a thread of the test: its fleet, its seats and its handlers behind a real Unix socket."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from agent.api.client import Client
from agent.api.unix import UnixTransport
from agent.config import Config, GpuTable, HubNode, JobsTable, Mode
from agent.gate import HardwareReader, HubLicence
from agent.hub.fleet import Fleet
from agent.hub.seats import Seats
from agent.server import base
from agent.server.feed import Feed
from agent.server.hub_routes import HubService
from agent.server.peer import Access
from agent.server.stream import WRITE_DEADLINE_S
from licensing.roots import Roots


def hub_config(folder: Path, nodes: tuple[HubNode, ...]) -> Config:
    """A user-mode hub that keeps everything in `folder`."""
    return Config(
        path=folder / "stoker.toml",
        name="head",
        mode=Mode.USER,
        state_dir=folder / "state",
        run_dir=folder,
        allow_root_jobs=True,
        act_for=(),
        gpu=GpuTable(),
        jobs=JobsTable(),
        cluster="test",
        hub_nodes=nodes,
    )


@contextmanager
def running_hub(
    config: Config,
    roots: Roots | None = None,
    *,
    write_deadline_s: float = WRITE_DEADLINE_S,
    machine: Path | None = None,
) -> Iterator[Client]:
    """Run a hub until the end of the block; yields a client of it. `machine` is the root of what it runs on."""
    loop = asyncio.new_event_loop()
    started, stop = threading.Event(), asyncio.Event()
    failed: list[BaseException] = []

    async def live() -> None:
        feed = Feed()
        fleet = Fleet(config)
        fleet.listen(feed.publish)
        read = HardwareReader(config.run_dir, machine).read if machine is not None else None
        seats = Seats(HubLicence(config.hub_state_dir, config.cluster, roots), fleet, feed.publish, read)
        service = HubService(config, fleet=fleet, seats=seats, feed=feed, write_deadline_s=write_deadline_s)
        app = base.make_app(Access(config))
        service.add_routes(app)
        for part in (service, seats, fleet):
            await part.start()
        runner = await base.serve(app, config.hub_socket)
        started.set()
        await stop.wait()
        await runner.cleanup()
        for part in (fleet, seats, service):
            await part.stop()

    def run() -> None:
        try:
            loop.run_until_complete(live())
        except BaseException as error:  # noqa: BLE001 — shown in the test that started it
            failed.append(error)
        finally:
            started.set()
            loop.close()

    config.hub_state_dir.mkdir(parents=True, exist_ok=True)
    thread = threading.Thread(target=run, name="hub", daemon=True)
    thread.start()
    assert started.wait(60)
    try:
        if not failed:
            with Client(UnixTransport(config.hub_socket), timeout_s=60) as client:
                yield client
    finally:
        if not failed:
            loop.call_soon_threadsafe(stop.set)
        thread.join(60)
    assert not thread.is_alive()
    if failed:
        raise failed[0]


def nodes_of(sockets: Mapping[str, Path]) -> tuple[HubNode, ...]:
    """Nodes reached by their sockets."""
    return tuple(HubNode(name=name, socket=path) for name, path in sockets.items())
