"""The two daemons: which parts they have, in which order these start and stop, and what signals do.

Threads and processes of the agent: the event loop (API, timers, scheduling), thread `job-store` (owns the SQLite file),
thread `job-folders` (flushes submissions), thread `telemetry-history` (owns the history's files), the sampler child
(owns NVML), and where jobs are no units the fork server (starts shims). Of the hub: the event loop, thread `hub-store`,
thread `seats` (owns the licence), one thread a node link, a few workers for blocking calls, and while the machine is
looked at one a group of its marks.

SIGTERM and SIGINT stop a daemon in order within 5 s. Running jobs are not ours to stop: their shims go on. SIGHUP reads
the configuration again: the rules of the queue hold from then on, a file that is wrong changes nothing.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import TextIO

from agent.api import unix
from agent.api.errors import StokerError
from agent.config import Config, ConfigError, Mode, load, merged

_log = logging.getLogger(__name__)

_Reload = Callable[[Config], None]
ReadAgain = Callable[[], list[str]]
_Start = Callable[[Config, AsyncExitStack, ReadAgain], Awaitable[_Reload]]
"""Starts the parts, which may ask for the configuration to be read again; gives what takes another one in."""

FIRST_SAMPLE_S = 3.0
"""How long the start waits for the GPUs to be known; a driver that hangs must not keep the agent from answering."""

_SYSTEMD_FIRST_FD = 3
"""sd_listen_fds(3)."""


def run_agent(config: Config) -> int:
    """Run the agent until a signal ends it; the exit status."""
    return _run(config, config.state_dir, config.agent_socket, "agent", _start_agent)


def run_hub(config: Config) -> int:
    """Run the hub until a signal ends it; the exit status."""
    return _run(config, config.hub_state_dir, config.hub_socket, "hub", _start_hub)


async def _start_agent(config: Config, stack: AsyncExitStack, read_again: ReadAgain) -> _Reload:
    from agent.api.types import GpuSource
    from agent.engine.embedded import EmbeddedEngine
    from agent.engine.served import choose_launcher
    from agent.gate import NodeGate
    from agent.gpu.sampler import Sampler
    from agent.jobs import apart
    from agent.server import base
    from agent.server.admins import Admins, count_admins
    from agent.server.agent_routes import AgentService, Routes
    from agent.server.clerk_routes import ClerkRoutes
    from agent.server.health_routes import HealthRoutes
    from agent.server.history_routes import HistoryRoutes
    from agent.server.hubcontact import HubContact
    from agent.server.peer import Access
    from agent.server.reload_routes import ReloadRoutes
    from agent.server.resources import NodeResources
    from agent.server.usage_routes import UsageRoutes
    from agent.telemetry.history import History
    from agent.telemetry.host import HostReader, read_boot_id
    from agent.telemetry.kernellog import KernelLog
    from agent.telemetry.recorder import Recorder
    from agent.telemetry.ringfile import SPANS

    if config.mode is Mode.SYSTEM and os.geteuid() != 0:
        raise StokerError("node.mode is system, which needs root to become the jobs' users; start it as root")
    gate = NodeGate(config.state_dir)
    sampler = Sampler(config.gpu, node_name=config.name, state_dir=config.state_dir)
    await sampler.start()
    stack.push_async_callback(sampler.stop)
    await asyncio.to_thread(apart.make, config.state_dir / "agent.db")
    await sampler.wait_change(FIRST_SAMPLE_S)
    host = HostReader()
    stack.callback(host.close)
    history = None
    if config.telemetry.history != "off":
        history = History(config.state_dir / "history", read_boot_id(), SPANS[config.telemetry.history])
        history.start()
        stack.push_async_callback(history.stop)
        recorder = Recorder(sampler, history, host, period_s=config.gpu.period_s)
        stack.callback(asyncio.create_task(recorder.serve(), name="recorder").cancel)
    stop_s = config.jobs.grace_s + 2 * config.hooks.timeout_s
    launcher = choose_launcher(config.jobs.launcher, run_dir=config.run_dir, stop_s=stop_s)
    node = NodeResources(sampler, gate, cpus=config.cpus)
    engine = EmbeddedEngine(config, view=node, launcher=launcher, boot_id=read_boot_id(), gpus=node)
    await engine.start()
    stack.push_async_callback(engine.stop)
    sampler.listen(engine.incidents.take)
    log = KernelLog(engine.incidents.take)
    if config.gpu.source != GpuSource.SIMULATED:
        log.start()
        stack.callback(log.stop)
    clerks = ClerkRoutes(config.name, cron=engine.clerks.cron, courier=engine.clerks.courier)
    past, health = HistoryRoutes(config.name, history=history, sampler=sampler), HealthRoutes(engine.incidents)
    contact, admins = HubContact(), Admins()
    usage = UsageRoutes(config.name, engine.metering, contact, admins)
    more: list[Routes] = [clerks, past, health, usage, ReloadRoutes(read_again)]
    service = AgentService(
        config,
        engine=engine,
        sampler=sampler,
        gate=gate,
        host=host,
        more=more,
        usage=engine.metering.head,
        contact=contact,
    )
    await service.start()
    stack.push_async_callback(service.stop)
    app = base.make_app(Access(config))
    count_admins(app, admins.note)
    service.add_routes(app)
    runner = await base.serve(app, config.agent_socket, _inherited_socket())
    stack.push_async_callback(runner.cleanup)
    told = config.name, config.mode, config.agent_socket, sampler.child_pid
    _log.info("agent node=%s mode=%s listens on %s, sampler pid=%s", *told)
    return engine.reload


async def _start_hub(config: Config, stack: AsyncExitStack, _: ReadAgain) -> _Reload:
    from agent.gate import HardwareReader, HubLicence
    from agent.hub.fleet import Fleet
    from agent.hub.metering import Metering
    from agent.hub.owngpus import nvml_uuids
    from agent.hub.seats import Seats
    from agent.server import base
    from agent.server.feed import Feed
    from agent.server.hub_routes import HubService
    from agent.server.hub_usage import HubUsage
    from agent.server.peer import Access

    fleet, feed = Fleet(config), Feed()
    await fleet.start()
    stack.push_async_callback(fleet.stop)
    reader = HardwareReader(config.run_dir, nvml=lambda: nvml_uuids(config.agent_socket))
    seats = Seats(HubLicence(config.hub_state_dir, config.cluster), fleet, feed.publish, reader.read)
    await seats.start()
    stack.push_async_callback(seats.stop)
    metering = Metering(fleet, seats, kept_s=config.hub_usage_days * 86_400)
    metering.start()
    stack.push_async_callback(metering.stop)
    service = HubService(config, fleet=fleet, seats=seats, feed=feed)
    await service.start()
    stack.push_async_callback(service.stop)
    app = base.make_app(Access(config))
    service.add_routes(app)
    HubUsage(fleet, seats, metering).add_routes(app)
    runner = await base.serve(app, config.hub_socket, _inherited_socket())
    stack.push_async_callback(runner.cleanup)
    _log.info("hub cluster=%s nodes=%d listens on %s", config.cluster, len(config.hub_nodes), config.hub_socket)
    return lambda config: None  # nothing of the hub's may change while it runs


def _run(config: Config, state_dir: Path, listens_on: Path, what: str, start: _Start) -> int:
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname).1s %(name)s: %(message)s"
    )
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False  # our lines do not show them
    os.umask(0o077)
    _import_web()
    try:
        with _only_one(config, state_dir, what):
            asyncio.run(_live(config, listens_on, start))
    except StokerError as error:
        _log.error("%s", error)
        return 1
    except OSError as error:
        _log.error("the %s cannot run on %s: %s; see that folder's disk and rights", what, state_dir, error)
        return 1
    return 0


def _import_web() -> None:
    """Import aiohttp without what it brings along and no daemon needs: all certificates of the machine, read for TLS
    (`courier` reads them when it meets an https URL), and a C library for a list. 3 MB of memory.
    """
    without = {"SSL_CERT_FILE": os.devnull, "SSL_CERT_DIR": os.devnull, "FROZENLIST_NO_EXTENSIONS": "1"}
    before = {name: os.environ.get(name) for name in without}
    os.environ.update(without)
    try:
        import_module("aiohttp.web")
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


async def _live(config: Config, listens_on: Path, start: _Start) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, _log.info, "SIGHUP before the start is over; nothing is read again")
    async with AsyncExitStack() as stack:
        rules = _Rules(config)
        rules.take = await start(config, stack, rules.read_again)
        loop.add_signal_handler(signal.SIGHUP, rules.hang_up)
        stack.callback(asyncio.create_task(_mark(listens_on), name="mark").cancel)
        _collect_less()
        _tell_ready()
        await _wait_and_pat_the_watchdog(stop)
        _notify_systemd("STOPPING=1")
        _log.info("stopping; running jobs go on")


async def _mark(listens_on: Path) -> None:
    """For callers that find nobody: whether somebody listened just now."""
    while True:
        await asyncio.sleep(unix.MARK_S)
        await asyncio.to_thread(unix.mark, listens_on)


class _Rules:
    """The configuration that holds, and what becomes of another one."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self.take: _Reload | None = None
        """What takes another configuration in, once the start is over."""

    def hang_up(self) -> None:
        """SIGHUP: a file that is wrong is logged, and the rules stay as they are."""
        try:
            self.read_again()
        except StokerError as error:
            _log.error("%s", error)

    def read_again(self) -> list[str]:
        """Let the file hold as it is now; the settings that differ and need a restart.

        Raises:
            StokerError: it is wrong, or the start is not over; the old rules hold.
        """
        if self.take is None:
            raise StokerError("the service is still starting; try again")
        try:
            changed = load(self._config.path)
        except ConfigError as error:
            raise StokerError(f"the configuration is not taken, the old one holds: {error}") from error
        self._config, differ = merged(self._config, changed)
        self.take(self._config)
        _log.info("the configuration was read again%s", f"; {', '.join(differ)} need a restart" if differ else "")
        return list(differ)


async def _wait_and_pat_the_watchdog(stop: asyncio.Event) -> None:
    """Until `stop`; meanwhile tell systemd twice a watchdog period that the loop turns. sd_watchdog_enabled(3)."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    period_s = int(microseconds) / 2e6 if microseconds.isdecimal() else None
    while not stop.is_set():
        try:
            async with asyncio.timeout(period_s):
                await stop.wait()
        except TimeoutError:
            _notify_systemd("WATCHDOG=1")


@contextmanager
def _only_one(config: Config, state_dir: Path, what: str) -> Iterator[None]:
    """Hold the state folder's lock while the daemon lives.

    Raises:
        StokerError: another one holds it (named by its pid), or the folder cannot be made.
    """
    path = state_dir / f"{what}.lock"
    try:
        # In system mode a job's account must be able to reach its own script below it; what is ours is 0600 or 0700.
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if config.mode is Mode.SYSTEM and state_dir == config.state_dir and os.geteuid() == 0:
            _open_to_pass(state_dir)
        lock = _open_lock(path)
    except OSError as error:
        raise StokerError(f"cannot use the state folder {state_dir}: {error}; check node.state_dir") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            pid = lock.read().strip() or "unknown"
            raise StokerError(
                f"another {what} (pid {pid}) runs on {state_dir}; stop it, or give this one its own node.state_dir"
            ) from error
        with suppress(OSError):  # a disk that is full or read-only costs the next one our pid, and not us the start
            os.ftruncate(lock.fileno(), 0)
            os.write(lock.fileno(), str(os.getpid()).encode())
        yield


def _open_to_pass(folder: Path) -> None:
    if folder.stat().st_mode & 0o7777 != 0o711:  # on a disk that is read-only even what changes nothing is refused
        folder.chmod(0o711)


def _open_lock(path: Path) -> TextIO:
    """The lock's file; on a disk that takes no writes the one that an earlier daemon made."""
    try:
        return path.open("a+", encoding="ascii")
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.ENOSPC) or not path.exists():
            raise
        return path.open(encoding="ascii")


def _inherited_socket() -> int | None:
    """The descriptor of the socket that systemd made for us; sd_listen_fds(3)."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or os.environ.get("LISTEN_FDS") != "1":
        return None
    return _SYSTEMD_FIRST_FD


def _collect_less() -> None:
    """Leave what the start made out of garbage collections, and make them rarer: they took 4 % of a busy agent."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


def _tell_ready() -> None:
    """Tell whoever started us that we listen: systemd by sd_notify(3), a parent by one byte on `STOKER_READY_FD`."""
    _notify_systemd("READY=1")
    ready_fd = os.environ.pop("STOKER_READY_FD", "")
    if ready_fd.isdecimal():
        os.write(int(ready_fd), b"\n")
        os.close(int(ready_fd))


def _notify_systemd(state: str) -> None:
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify:
        notify.connect("\0" + address[1:] if address.startswith("@") else address)
        notify.send(state.encode())
