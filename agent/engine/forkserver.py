"""A warm shim that forks shims: what a bare interpreter costs at every start is paid once. `shim.py --serve FD`.

    agent ──socketpair: ATTEMPT_DIR──► fork server ──fork──► shim (its own session) ──fork──► job
          ◄──status, sentence─────────            ◄──pipe─── holds the lock when it says so

The server knows nothing and keeps nothing: it ends when the agent's end of the socket closes, and the shims it made do
not notice but for their parent, which is init from then on. A launch is the same as `shim.py --detach` in every other
way: same lock, same records, same status. Nobody waits for a shim, so the kernel reaps it (SIGCHLD ignored).
In a unit of its own the server has more to see to: `keeper`. Cheap imports only (see `lean`).
"""

from __future__ import annotations

import gc
import os
import sys

from agent.engine import oom, procs
from agent.engine.cgroup import Home, find
from agent.engine.entry import EXIT_CRASHED, run, take
from agent.engine.folder import Refused
from agent.engine.lean import load_all, signal

ATTEMPT_MAX_BYTES = 4096
_SAID_BYTES = 4000
_ENCODING = sys.getfilesystemencoding()


def serve(fd: int) -> None:
    """Serve requests until the other end closes; does not return."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    warm_up()
    home = find()
    while path := os.read(fd, ATTEMPT_MAX_BYTES):
        try:
            os.write(fd, hand_off(path, [fd], home)[1])
        except BrokenPipeError:
            break
    os._exit(0)


def warm_up() -> None:
    """Have what every shim needs before the first is made."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    load_all()
    procs.boot_id()
    oom.settle()
    gc.freeze()  # else a collection in a shim writes to, and so copies, every page that it shares with us


def hand_off(path: bytes, ours: list[int], home: Home | None) -> tuple[int | None, bytes]:
    """Start one shim: once it holds the lock, or has ended without.

    Args:
        path: the attempt's folder.
        ours: descriptors that it is not to have.
        home: see `Supervisor`.

    Returns:
        Its pid, `None` when there is none; its status and what it says.
    """
    said, saying = os.pipe()
    try:
        pid = os.fork()
    except OSError as error:
        os.close(said)
        os.close(saying)
        return None, f"75 cannot start a process: {error.strerror}; see the node's limits and load".encode()
    if pid == 0:
        _become_shim(ours, saying, path, home)
    os.close(saying)
    answer = os.read(said, _SAID_BYTES)
    os.close(said)
    return pid, answer or b"%d it ended without a word" % EXIT_CRASHED


def _become_shim(ours: list[int], saying: int, path: bytes, home: Home | None) -> None:
    """In the child; does not return."""
    try:
        os.setsid()
        for fd in ours:
            os.close(fd)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        try:
            attempt = take(path.decode(_ENCODING, "surrogateescape"))
        except Refused as refused:
            os.write(saying, f"{refused.status} {refused}".encode("utf-8", "backslashreplace"))
            os._exit(refused.status)
        os.write(saying, b"0 ")
        os.close(saying)
        run(*attempt, home)
    except BaseException as error:  # noqa: BLE001  (the rim: nobody below must ever come back into the server's loop)
        os.write(saying, f"{EXIT_CRASHED} {error!r}".encode("utf-8", "backslashreplace"))
    finally:
        os._exit(EXIT_CRASHED)
