"""Submissions brought to the disk beside the job store: one named thread, many at a time.

Rules kept here: nobody who submits waits for it, because what it brings to the disk stands in the store until then
(`agent.jobs.promises`); it is behind by `_GATHER_S` and what the disk takes; a folder that the disk refuses stays
promised, and is written anew at the next start: it is not tried again, a second fsync would say that all is well.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue

from agent.jobs import folder

_GATHER_S = 0.05
"""How long submissions are gathered: a burst then flushes the folder above them once, and a single job that is started
at once has the disk for itself."""

_Written = tuple[Path, Callable[[], None]]

logger = logging.getLogger(__name__)


class FolderFlush:
    """Flushes folders on thread `job-folders`."""

    def __init__(self) -> None:
        self._waiting: SimpleQueue[_Written | None] = SimpleQueue()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="job-folders", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def put(self, written: Path, done: Callable[[], None]) -> None:
        """Bring a folder to the disk, and call `done` on the thread then."""
        self._waiting.put((written, done))

    def stop(self) -> None:
        """Bring all that waits to the disk, and end. Blocks."""
        self._stopping.set()
        self._waiting.put(None)
        self._thread.join()

    def _serve(self) -> None:
        while (first := self._waiting.get()) is not None:
            self._stopping.wait(_GATHER_S)
            try:
                _bring([first, *self._rest()])
            except Exception:  # the rim of a thread that must live, or promises would pile up in the store
                logger.exception("some submissions stay promised; they are looked at again at the next start")

    def _rest(self) -> list[_Written]:
        found: list[_Written] = []
        try:
            while (each := self._waiting.get_nowait()) is not None:
                found.append(each)
            self._waiting.put(None)  # the end is for `_serve` to hear
        except Empty:
            pass
        return found


def _bring(written: Sequence[_Written]) -> None:
    refused = folder.flush([path for path, _ in written])
    for path, done in written:
        if path in refused:
            logger.error("%s is not on the disk yet: %s; it is written again at the next start", path, refused[path])
        else:
            done()
