"""The metrics page as a file for node_exporter's textfile collector.

Rules kept here: a reader sees the whole old page or the whole new one; what cannot be written is told once in the
log, with what to do, and counted, and disturbs nothing else; an orderly end removes the file, so that no dead series
lives on in it. What a sudden end leaves tells its age by `stoker_page_timestamp_seconds`. Nothing is synced to the
disk: after a power cut the page is made anew.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from agent.api.givenfile import NotPlainError

_log = logging.getLogger(__name__)

_MODE = 0o644
"""node_exporter runs as an account of its own."""

_END_S = 2.0
"""A disk that hangs holds up the end of the agent no longer."""


class Textfile:
    """Writes the page again and again."""

    def __init__(self, path: Path, interval_s: float, page: Callable[[], Awaitable[str]], setting: str) -> None:
        """`page` makes the text; `setting` is the key of the configuration that a sentence can name."""
        self.path = path
        self.written_at = 0.0
        """Unix seconds; 0: never."""
        self.errors = 0
        self._interval_s = interval_s
        self._page = page
        self._setting = setting
        self._wrong: str | None = None
        self._writing = threading.Lock()
        self._ended = False

    async def serve(self) -> None:
        """Write until cancelled, then take the file away."""
        await asyncio.to_thread(self._sweep)
        try:
            while True:
                await self.write_once()
                await asyncio.sleep(self._interval_s)
        finally:
            with suppress(TimeoutError):
                async with asyncio.timeout(_END_S):
                    await asyncio.to_thread(self._end)

    async def write_once(self) -> None:
        """Write the page now; failing is logged when it begins and when it ends."""
        try:
            text = await self._page()
            await asyncio.to_thread(self._put, text)
        except OSError as error:
            self._failed(_explain(self.path, error, self._setting))
        except Exception as error:  # noqa: BLE001 - the rim of a loop that must live
            self._failed(f"cannot make the page of metrics for {self.path}: {error!r}")
        else:
            if self._wrong is not None:
                _log.info("the metrics are written to %s again", self.path)
            self._wrong, self.written_at = None, time.time()

    def _put(self, text: str) -> None:
        with self._writing:
            if not self._ended:
                replace(self.path, text)

    def _end(self) -> None:
        """Take the file away for good: a thread that a cancelled write left behind does not bring it back."""
        with self._writing:
            self._ended = True
            with suppress(OSError):
                if self.path.is_file():
                    self.path.unlink()

    def _failed(self, sentence: str) -> None:
        self.errors += 1
        if sentence != self._wrong:
            _log.error("%s", sentence)
        self._wrong = sentence

    def _sweep(self) -> None:
        """Remove what a sudden end left half written."""
        with suppress(OSError):
            for each in self.path.parent.glob(f".{self.path.name}.*.tmp"):
                each.unlink(missing_ok=True)


def replace(path: Path, text: str) -> None:
    """Put `text` in the place of the file, at once and readable for all.

    Raises:
        OSError: the old file is still there.
    """
    if path.exists() and not path.is_file() and not path.is_dir():  # the page would take its place
        raise NotPlainError
    # A name nobody can foresee: the folder may belong to another account than ours.
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(text.encode("utf-8", "replace"))
            os.fchmod(descriptor, _MODE)
        Path(name).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise


def _explain(path: Path, error: OSError, setting: str) -> str:
    folder = path.parent
    what = {
        errno.ENOENT: f"there is no folder {folder}: make it, or change {setting}",
        errno.ENOTDIR: f"{folder} is no folder: change {setting}",
        errno.EINVAL: f"{error.strerror}: {setting} has to name a file, such as {folder / 'stoker.prom'}",
        errno.EISDIR: f"it is a folder: {setting} has to name a file in it, such as {path / 'stoker.prom'}",
        errno.ENOSPC: "its disk is full: make room; it is tried again",
        errno.EDQUOT: "the quota of its disk is used up: make room; it is tried again",
        errno.EROFS: f"the service may not write there: run systemctl edit on its unit and put ReadWritePaths={folder} "
        "under [Service], unless the disk itself is read-only",
        errno.EACCES: f"the service's account may not write in {folder}: give it the right, or change {setting}",
        errno.EPERM: f"the service's account may not write in {folder}: give it the right, or change {setting}",
    }.get(error.errno or 0, error.strerror or str(error))
    return f"cannot write the metrics to {path}: {what}"
