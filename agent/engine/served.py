"""The fork server as the agent sees it: asked for a shim, answered with the status of its hand-off.

    fork      ServedForkLauncher     its server is our child
    systemd   ServedSystemdLauncher  its server is the main process of a unit of its own (`keeper`)

Rules kept here: answers come in the order of the requests; a server that dies or hangs costs nothing but time, since
the launch is then done without it, and launching an attempt twice is harmless.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import socket
import struct
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

from agent.engine.cgroup import CONTROLLERS
from agent.engine.folder import EXIT_TAKEN
from agent.engine.launch import (
    SHIM,
    SWEEP_S,
    ForkLauncher,
    Launcher,
    LaunchError,
    SystemdLauncher,
    claim_of,
    naming,
    start_unit,
    why_no_systemd,
)
from agent.engine.records import AttemptDir

_ANSWER_BYTES = 8192
_ANSWER_DEADLINE_S = 10.0

_COMES_WITHIN_S = 10.0
"""From a keeper's unit to its keeper: an interpreter's start, some 30 ms."""

_AGAIN_S = 30.0
"""How long a keeper that could not be had is done without."""

_SERVER_ENV = {"LD_BIND_NOW": "1"}
"""All of a server's environment: the linker looks all functions up once, and not each shim those that it comes to."""

logger = logging.getLogger(__name__)


class ServedForkLauncher(ForkLauncher):
    """A `ForkLauncher` whose shims come from a fork server, while there is one."""

    def __init__(self, python: str) -> None:
        super().__init__(python)
        self._server: _Server | None = None

    async def start(self) -> None:
        """Have a warm server before the first job comes."""
        self._server = _Child.spawn(self._python)

    async def stop(self) -> None:
        """Let the server go; running shims stay."""
        if self._server is not None:
            server, self._server = self._server, None
            await server.close()

    async def hand_off(self, attempt: Path) -> tuple[int, str]:
        """Start the attempt's shim; the exit status of its parent and what it said."""
        server = self._server
        if server is not None:
            try:
                return await server.ask(os.fsencode(attempt))
            except (OSError, TimeoutError, EOFError) as error:
                if self._server is server:  # of all that waited for it, the first to hear renews it
                    logger.warning("the fork server is gone (%s); a new one is started", error or type(error).__name__)
                    await self.stop()
                    await self.start()
        return await super().hand_off(attempt)


class ServedSystemdLauncher(SystemdLauncher):
    """Shims from a keeper: a fork server that PID 1 runs in a unit of its own, in which each job has its own cgroup.

    What a unit a job gives is kept (limits, an end for all of a job, nothing that an agent's end could touch) and costs
    neither PID 1 nor an interpreter anything a job. A keeper is for one agent: the next has its own, and this one goes
    with its last job. A job whose limits it cannot keep to, because cgroup v2 lacks the controllers here, and every job
    while there is no keeper, gets a unit of its own.
    """

    def __init__(self, python: str, run_dir: Path, stop_s: float = 60.0) -> None:
        """`stop_s`: how long the stop of a job may take, by its grace and the site's hooks."""
        super().__init__(python)
        self._run_dir = run_dir
        self._stop_s = stop_s
        self._server: _Keeper | None = None
        self._none_until = 0.0
        self._one_at_a_time = asyncio.Lock()

    async def start(self) -> None:
        """Have a keeper before the first job comes."""
        await self._keeper()

    async def stop(self) -> None:
        """Let the keeper go, which sees its jobs through."""
        self._none_until = float("inf")
        self._drop()

    async def launch(self, job_id: int, attempt: AttemptDir) -> None:
        """See `Launcher`."""
        server = await self._keeper()
        if server is None or not self._keeps(server, job_id, attempt):
            await super().launch(job_id, attempt)
            return
        with naming(job_id, f"its record {attempt.path}, and `systemctl status {server.unit}`"):
            try:
                status, said = await server.ask(os.fsencode(attempt.path))
            except (OSError, TimeoutError, EOFError) as error:
                why = error or type(error).__name__
                logger.warning("%s is gone (%s); its jobs run on, and a new one is started", server.unit, why)
                if self._server is server:
                    self._drop()
            else:
                if status not in (0, EXIT_TAKEN):
                    raise LaunchError(said or f"its shim ended with status {status}")
                return
        await super().launch(job_id, attempt)

    def _keeps(self, server: _Keeper, job_id: int, attempt: AttemptDir) -> bool:
        """Whether the job's limits are kept to there."""
        if server.controllers.issuperset(CONTROLLERS):
            return True
        claim = claim_of(job_id, attempt)
        asked = {"memory": claim.memory_bytes, "cpu": claim.cpus}
        return server.controllers.issuperset(name for name, limit in asked.items() if limit is not None)

    async def _keeper(self) -> _Keeper | None:
        """The keeper, or a new one; `None` for the next while when it cannot be had."""
        async with self._one_at_a_time:
            if self._server is not None and self._server.ended:
                logger.warning("%s is gone; its jobs run on, and a new one is started", self._server.unit)
                self._drop()
            if self._server is None and time.monotonic() >= self._none_until:
                try:
                    self._server = await _Keeper.start(self._python, self._run_dir, self._stop_s)
                except (LaunchError, OSError, TimeoutError) as error:
                    self._none_until = time.monotonic() + _AGAIN_S
                    why = error or type(error).__name__
                    logger.error("no keeper for jobs: %s; each gets a unit of its own, which is slower", why)
            return self._server

    def _drop(self) -> None:
        if self._server is not None:
            self._server.let_go()
            self._server = None


def choose_launcher(setting: str, *, run_dir: Path, stop_s: float = 60.0, python: str = sys.executable) -> Launcher:
    """The launcher for `jobs.launcher`: `auto` takes units where systemd is PID 1 and we are root.

    Args:
        setting: `auto`, `systemd` or `fork`.
        run_dir: a folder for sockets, that PID 1's services see as well.
        stop_s: how long the stop of a job may take, by its grace and the site's hooks.
        python: runs the shims.

    Raises:
        LaunchError: `systemd` was asked for where it cannot be had.
    """
    reason = why_no_systemd()
    if setting == "systemd" and reason is not None:
        raise LaunchError(f'jobs.launcher = "systemd" cannot be had: {reason}; use "auto" or "fork"')
    if setting == "fork" or reason is not None:
        return ServedForkLauncher(python)
    return ServedSystemdLauncher(python, run_dir, stop_s)


class _Server:
    """Our end of a fork server's socket."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._asked: deque[asyncio.Future[tuple[int, str]]] = deque()
        self.ended = False
        """It went, or we let it go."""
        asyncio.get_running_loop().add_reader(sock, self._hear)

    async def ask(self, path: bytes) -> tuple[int, str]:
        """Have a shim started.

        Raises:
            OSError, EOFError, TimeoutError: the server is not there, or does not answer.
        """
        answer: asyncio.Future[tuple[int, str]] = asyncio.get_running_loop().create_future()
        self._sock.send(path)
        self._asked.append(answer)
        async with asyncio.timeout(_ANSWER_DEADLINE_S):
            return await answer

    def let_go(self) -> None:
        """Close our end, at which the server makes no more shims."""
        self._give_up()
        self._sock.close()

    async def close(self) -> None:
        """The same, and wait for what has to be waited for."""
        self.let_go()

    def _hear(self) -> None:
        try:
            data = self._sock.recv(_ANSWER_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._give_up()
            return
        status, _, said = data.partition(b" ")
        answer = self._asked.popleft()
        if not answer.done():
            answer.set_result((int(status), said.decode(errors="replace").strip()))

    def _give_up(self) -> None:
        if not self.ended:
            self.ended = True
            asyncio.get_running_loop().remove_reader(self._sock)
        while self._asked:
            answer = self._asked.popleft()
            if not answer.done():
                answer.set_exception(EOFError("it has ended"))


class _Child(_Server):
    """A fork server that is our child."""

    def __init__(self, process: subprocess.Popen[bytes], sock: socket.socket) -> None:
        super().__init__(sock)
        self._process = process

    @classmethod
    def spawn(cls, python: str) -> _Child | None:
        """Start one; `None`, and a line in the log, where that cannot be."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            process = subprocess.Popen(
                [python, "-I", "-S", os.fspath(SHIM), "--serve", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=_SERVER_ENV,
                cwd="/",
                umask=0o077,
                start_new_session=True,
            )
        except OSError as error:
            logger.warning("no fork server: cannot run %s: %s; every shim is started by itself", python, error.strerror)
            ours.close()
            return None
        finally:
            theirs.close()
        return cls(process, ours)

    async def close(self) -> None:
        """Close our end, at which the server ends, and reap it."""
        self.let_go()
        await asyncio.to_thread(self._reap)

    def _reap(self) -> None:
        try:
            self._process.wait(timeout=2.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class _Keeper(_Server):
    """A fork server in a unit: `keeper`."""

    def __init__(self, unit: str, sock: socket.socket, controllers: frozenset[str]) -> None:
        super().__init__(sock)
        self.unit = unit
        self.controllers = controllers
        """Of cgroup v2: whose limits hold there."""

    @classmethod
    async def start(cls, python: str, run_dir: Path, stop_s: float) -> _Keeper:
        """Have PID 1 start one.

        Raises:
            LaunchError, OSError, TimeoutError: it did not come.
        """
        name = f"stoker-jobs-{secrets.token_hex(4)}"
        place = run_dir / f"{name}.sock"
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(os.fspath(place))
            try:
                listener.listen(1)
                listener.setblocking(False)
                command = [python, "-I", "-S", os.fspath(SHIM), "--keep", os.fspath(place)]
                await start_unit(f"{name}.service", _keeper_unit(stop_s), command)
                return await cls._accept(f"{name}.service", listener)
            finally:
                with contextlib.suppress(OSError):
                    place.unlink()

    @classmethod
    async def _accept(cls, unit: str, listener: socket.socket) -> _Keeper:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_COMES_WITHIN_S):
                link, _ = await loop.sock_accept(listener)
                try:
                    said = await loop.sock_recv(link, _ANSWER_BYTES)
                    _, uid, _ = struct.unpack("3i", link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
                    if not said or uid != os.geteuid():
                        raise LaunchError(f"{unit} was not answered for by its own keeper (uid {uid})")
                    return cls(unit, link, frozenset(said.decode().split()))
                except BaseException:
                    link.close()
                    raise
        except TimeoutError as error:
            raise LaunchError(
                f"{unit} did not come within {_COMES_WITHIN_S:.0f} s; see `journalctl -u {unit}`"
            ) from error


def _keeper_unit(stop_s: float) -> dict[str, str]:
    return {
        "Description": "Jobs of Stoker",
        "Delegate": " ".join(CONTROLLERS),
        "Environment": " ".join(f"{name}={value}" for name, value in _SERVER_ENV.items()),
        "KillMode": "process",  # neither the keeper's death nor a stop makes PID 1 reach for the jobs themselves
        "TasksMax": "infinity",  # each job has its own limit
        "TimeoutStopSec": f"{stop_s + SWEEP_S:.0f}",
    }
