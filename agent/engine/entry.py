"""How a process becomes an attempt's shim and how it ends: it takes the attempt, supervises it, and tells a crash.

Cheap imports only (see `lean`).
"""

from __future__ import annotations

import os
import time

from agent.engine import cgroup, procs
from agent.engine.folder import Folder, Refused
from agent.engine.lean import signal
from agent.engine.order import Order, read_order
from agent.engine.supervise import Supervisor

EXIT_CRASHED = 70

_KILL_S = 1.0
"""For how long a shim that crashed kills what is left of its job."""


def main(arguments: list[str]) -> None:
    """Run a shim; does not return."""
    detach, path = arguments[:-1] == ["--detach"], arguments[-1]
    try:
        folder, order = take(path)
    except Refused as refused:
        os.write(2, f"{refused}\n".encode("utf-8", "backslashreplace"))
        os._exit(refused.status)
    if detach:
        _detach()
    run(folder, order, cgroup.find())


def take(path: str) -> tuple[Folder, Order]:
    """Take the attempt's lock and read what it asks for.

    Raises:
        Refused: nothing was done.
    """
    folder = Folder(path)
    return folder, read_order(folder)


def run(folder: Folder, order: Order, home: cgroup.Home | None) -> None:
    """Run an attempt that was taken; does not return. `home`: see `Supervisor`."""
    try:
        Supervisor(folder, order, home).run()
    except BaseException as error:  # noqa: BLE001  (the rim: a crash of ours must be told, and must not look like an end)
        _tell_crash(folder, error)
        os._exit(EXIT_CRASHED)
    os._exit(0)


def _detach() -> None:
    """Leave the launcher: the parent ends with 0, we go on as a child of init and let go of its stderr."""
    if os.fork():
        os._exit(0)
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)


def _tell_crash(folder: Folder, error: BaseException) -> None:
    """Leave a traceback and nobody of the job. There will be no `exit`: the run counts as lost."""
    import traceback

    give_up_at = time.monotonic() + _KILL_S
    while (left := procs.descendants(os.getpid())) and time.monotonic() < give_up_at:
        for each in left:
            procs.signal_exact(*each, signal.SIGKILL)
    fd = os.open("shim.err", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600, dir_fd=folder.fd)
    os.write(fd, "".join(traceback.format_exception(error)).encode("utf-8", "backslashreplace"))
