"""What steps side by side have apart: CPUs of `--exact` and `--exclusive`, GPUs of whoever names a number of them.

    $JOB_DIR/.share        byte 0: the door, one step looks at a time; byte N: the job's Nth CPU is a step's
    $JOB_DIR/.gpu-UUID     this GPU is a step's

Rules kept here: a step takes all that it asks for or nothing, so none waits on what another waits with; what it holds
are locks of srun's process, so however that ends the share is free. Cheap imports only (see `words`).
"""

# ruff: noqa: PTH118

from __future__ import annotations

import fcntl
import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_BUSY_PAUSE_S = 0.2
_OPEN = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW


class Share:
    """One step's part of its job, held until the process ends."""

    def __init__(self, folder: str, *, cpus: int, of_cpus: int, gpus: int, of_gpus: list[str]) -> None:
        """`cpus` of the job's `of_cpus`, `gpus` of its `of_gpus`; 0 asks for none, and holds none.

        Raises:
            OSError: the folder takes no file.
        """
        self._folder = folder
        self._cpus, self._of_cpus = cpus, of_cpus
        self._gpus, self._of_gpus = gpus, of_gpus
        self._file = os.open(os.path.join(folder, ".share"), _OPEN, 0o600)
        self._locks: dict[str, int] = {}

    def wait(self, busy: Callable[[], None]) -> list[str]:
        """The GPUs, once all is free; `busy` is called before the first pause.

        Raises:
            OSError: the folder takes no lock.
        """
        told = False
        while not self._take():
            if not told:
                busy()
            told = True
            time.sleep(_BUSY_PAUSE_S)
        return list(self._locks)

    def _take(self) -> bool:
        fcntl.lockf(self._file, fcntl.LOCK_EX, 1, 0)
        try:
            return self._take_cpus() and self._take_gpus()
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, 0)

    def _take_cpus(self) -> bool:
        """Locks of the process (fcntl(2)), which no child inherits: ranks and guard hold nothing."""
        taken = 0
        for cpu in range(1, self._of_cpus + 1):
            if taken == self._cpus:
                return True
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, cpu)
                taken += 1
            except (BlockingIOError, PermissionError):
                continue
        return taken == self._cpus or self._give_back()

    def _take_gpus(self) -> bool:
        for gpu in self._of_gpus:
            if len(self._locks) == self._gpus:
                return True
            if (fd := self._try_gpu(gpu)) is not None:
                self._locks[gpu] = fd
        return len(self._locks) == self._gpus or self._give_back()

    def _try_gpu(self, gpu: str) -> int | None:
        name = "".join(char for char in gpu if char.isalnum() or char == "-")
        fd = os.open(os.path.join(self._folder, f".gpu-{name}"), _OPEN, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            return None
        return fd

    def _give_back(self) -> bool:
        """All but the door; `False`, as there was not enough."""
        fcntl.lockf(self._file, fcntl.LOCK_UN, self._of_cpus, 1)
        for fd in self._locks.values():
            os.close(fd)
        self._locks.clear()
        return False
