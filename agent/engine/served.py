"""The fork server as the agent sees it: asked for a shim, answered with the status of its hand-off.

Rules kept here: answers come in the order of the requests; a server that dies or hangs costs nothing but time, since
the launch is then done without it, and launching an attempt twice is harmless.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import subprocess
import sys
from collections import deque
from pathlib import Path

from agent.engine.launch import SHIM, ForkLauncher, Launcher, LaunchError, SystemdLauncher, why_no_systemd

_ANSWER_BYTES = 8192
_ANSWER_DEADLINE_S = 10.0

logger = logging.getLogger(__name__)


class ServedForkLauncher(ForkLauncher):
    """A `ForkLauncher` whose shims come from a fork server, while there is one."""

    def __init__(self, python: str) -> None:
        super().__init__(python)
        self._server: _Server | None = None

    async def start(self) -> None:
        """Have a warm server before the first job comes."""
        self._server = _Server.spawn(self._python)

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


def choose_launcher(setting: str, python: str = sys.executable) -> Launcher:
    """The launcher for `jobs.launcher`: `auto` takes units where systemd is PID 1 and we are root.

    Raises:
        LaunchError: `systemd` was asked for where it cannot be had.
    """
    reason = why_no_systemd()
    if setting == "systemd" and reason is not None:
        raise LaunchError(f'jobs.launcher = "systemd" cannot be had: {reason}; use "auto" or "fork"')
    if setting == "fork" or reason is not None:
        return ServedForkLauncher(python)
    return SystemdLauncher(python)


class _Server:
    """The process and our end of its socket."""

    def __init__(self, process: subprocess.Popen[bytes], sock: socket.socket) -> None:
        self._process = process
        self._sock = sock
        self._asked: deque[asyncio.Future[tuple[int, str]]] = deque()
        asyncio.get_running_loop().add_reader(sock, self._hear)

    @classmethod
    def spawn(cls, python: str) -> _Server | None:
        """Start one; `None`, and a line in the log, where that cannot be."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        try:
            process = subprocess.Popen(
                [python, "-I", "-S", os.fspath(SHIM), "--serve", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={},
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

    async def close(self) -> None:
        """Close our end, at which the server ends, and reap it."""
        asyncio.get_running_loop().remove_reader(self._sock)
        self._sock.close()
        await asyncio.to_thread(self._reap)

    def _reap(self) -> None:
        try:
            self._process.wait(timeout=2.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

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
        asyncio.get_running_loop().remove_reader(self._sock)
        while self._asked:
            answer = self._asked.popleft()
            if not answer.done():
                answer.set_exception(EOFError("it has ended"))
