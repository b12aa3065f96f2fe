"""A warm shim that forks shims: what a bare interpreter costs at every start is paid once. `shim.py --serve`.

    agent ──socketpair: ATTEMPT_DIR──► fork server ──fork──► child ──fork──► shim (nobody's child, its own session)
          ◄──status, sentence─────────            ◄─waitpid─┘ holds the lock when it ends

The server knows nothing and keeps nothing: it ends when the agent's end of the socket closes, and the shims it made do
not notice. A launch is the same as `shim.py --detach` in every other way: same lock, same records, same exit status.
Cheap imports only (see `lean`).
"""

from __future__ import annotations

import os

from agent.engine.lean import signal
from agent.engine.supervise import main

ATTEMPT_MAX_BYTES = 4096
_SAID_BYTES = 4000


def serve(fd: int) -> None:
    """Serve requests until the other end closes; does not return."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while path := os.read(fd, ATTEMPT_MAX_BYTES):
        status, said = _hand_off(fd, path)
        try:
            os.write(fd, b"%d %s" % (status, said))
        except BrokenPipeError:
            break
    os._exit(0)


def _hand_off(server: int, path: bytes) -> tuple[int, bytes]:
    """Start one shim; its parent's exit status and what it said."""
    said, saying = os.pipe()
    try:
        pid = os.fork()
    except OSError as error:
        os.close(said)
        os.close(saying)
        return 75, f"cannot start a process: {error.strerror}; see the node's limits and load".encode()
    if pid == 0:
        _become_shim(server, saying, path)
    os.close(saying)
    _, ended = os.waitpid(pid, 0)
    os.set_blocking(said, False)  # the shim lets go of its stderr a moment after its parent has ended
    try:
        sentence = os.read(said, _SAID_BYTES)
    except BlockingIOError:
        sentence = b""
    os.close(said)
    return os.waitstatus_to_exitcode(ended), sentence


def _become_shim(server: int, saying: int, path: bytes) -> None:
    """In the child; does not return."""
    try:
        os.setsid()
        os.close(server)
        os.dup2(saying, 2)
        os.close(saying)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        main(["--detach", os.fsdecode(path)])
    except BaseException as error:  # noqa: BLE001  (the rim: nobody below must ever come back into the server's loop)
        os.write(2, repr(error).encode("utf-8", "backslashreplace"))
    finally:
        os._exit(70)
