"""The node's own history: what each GPU and the host did, a second at a time for an hour, coarser for a year.

    event loop ── note() ──► deque (bounded) ──► thread `telemetry-history` ──► history/GPU-….ring, history/host.ring
               ── look_back() ──► a thread for the call ── pread ──────────────┘

Rules kept here: nothing waits for this disk, neither the loop nor the jobs' store; what the thread cannot keep up with
is dropped and counted, never queued without bound; a disk that refuses costs the history and says so once; of GPUs that
are gone the newest `FILES_KEPT` files stay.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import math
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVarTuple

from agent.telemetry.bucket import Spread
from agent.telemetry.lookback import Lookback, look_back
from agent.telemetry.ringfile import TIERS, RingFile, RingFileError, Tier

FILES_KEPT = 64
"""GPUs that one node is remembered to have had."""

SYNC_S = 10.0
"""What a power cut may take; a file is never lost to one."""

_WAITING_MOST = 4096
"""Samples between loop and thread: four minutes of sixteen GPUs on a disk that hangs."""

_AGAIN_S = 60.0
"""Between two tries to open a file that the disk refused."""

_THERE_S = 60.0
"""A GPU of which nothing was noted for so long is not there now."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,100}")

_Ts = TypeVarTuple("_Ts")

logger = logging.getLogger(__name__)


class Sample(NamedTuple):
    """What was measured of one series in the `seconds` that end at `at`."""

    series: str
    """A GPU's UUID, or `host`."""
    metrics: tuple[str, ...]
    """Their names, always the same for a series."""
    at: float
    """Unix seconds."""
    spreads: Sequence[Spread | None]
    """Of each metric, `None` where it was not measured."""
    seconds: float = 1.0


class History:
    """See above."""

    def __init__(self, folder: Path, boot_id: str, tiers: Sequence[Tier] = TIERS) -> None:
        self._folder = folder
        self._boot_id = boot_id
        self._tiers = tuple(tiers)
        self._waiting: deque[Sample] = deque(maxlen=_WAITING_MOST)
        self._some = threading.Condition()
        self._ending = False
        self._thread: threading.Thread | None = None
        self._rings: dict[str, RingFile] = {}
        self._refused: dict[str, float] = {}
        """Series whose file the disk refused, and when to try again (monotonic)."""
        self._noted_at: dict[str, float] = {}
        """Series and when something was noted of it last (monotonic)."""
        self._synced_at = 0.0
        self.dropped = 0
        """Samples that the disk was too slow for."""
        self.problem: str | None = None
        """What the disk said last; `None` while all is well."""

    def start(self) -> None:
        """Begin to keep what is noted."""
        self._thread = threading.Thread(target=self._serve, name="telemetry-history", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        """Keep what was noted so far, close the files; a disk that hangs is not waited for longer than 2 s."""
        if self._thread is None:
            return
        with self._some:
            self._ending = True
            self._some.notify()
        await asyncio.to_thread(self._thread.join, 2.0)
        self._thread = None

    def note(self, samples: Sequence[Sample]) -> None:
        """Take in what was measured. Never blocks; the thread is woken once for all of them."""
        with self._some:
            self.dropped += max(0, len(self._waiting) + len(samples) - _WAITING_MOST)
            self._waiting.extend(samples)
            self._some.notify()

    def series(self) -> tuple[str, ...]:
        """What there is a history of now."""
        return tuple(sorted(self._rings))

    async def look_back(
        self, series: str, metric: str, *, since: int, until: int, points: int, now: int
    ) -> Lookback | None:
        """See `lookback.look_back`; `None` where there is no such series or metric.

        Raises:
            OSError: the disk refuses.
        """
        while True:
            ring = self._rings.get(series)
            if ring is None or metric not in ring.metrics:
                return None
            try:
                return await asyncio.to_thread(
                    look_back, ring, metric, since=since, until=until, points=points, now=now
                )
            except OSError as error:
                if error.errno != errno.EBADF or self._rings.get(series) is ring:
                    raise  # else it was closed meanwhile: another has taken its place, or none

    # --- on the thread ------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        self._open_all()
        while samples := self._next():
            for sample in samples:
                self._keep(sample)
            self._sync_when_due()
        while self._rings:
            _, ring = self._rings.popitem()
            self._try("close", ring.path, ring.close)

    def _next(self) -> list[Sample]:
        """All that wait; nothing at the end."""
        with self._some:
            while not self._waiting and not self._ending:
                self._some.wait()
            samples = list(self._waiting)
            self._waiting.clear()
            return samples

    def _keep(self, sample: Sample) -> None:
        ring = self._ring(sample)
        if ring is not None:
            self._noted_at[sample.series] = time.monotonic()
            self._try("write", ring.path, ring.add, sample.at, sample.spreads, sample.seconds)

    def _ring(self, sample: Sample) -> RingFile | None:
        ring = self._rings.get(sample.series)
        if ring is not None and ring.metrics == sample.metrics:
            return ring
        if _NAME.fullmatch(sample.series) is None:
            return None  # no file name: the driver told something strange, which the reading itself shows
        if time.monotonic() < self._refused.get(sample.series, 0.0):
            return None
        return self._open(sample.series, sample.metrics)

    def _open(self, series: str, metrics: tuple[str, ...]) -> RingFile | None:
        path = self._folder / f"{series}.ring"
        try:
            self._folder.mkdir(mode=0o755, parents=True, exist_ok=True)
            ring = RingFile.open(path, metrics, self._boot_id, self._tiers)
        except (OSError, RingFileError) as error:
            self._say(f"no history of {series}: {error}")
            self._refused[series] = time.monotonic() + _AGAIN_S
            return None
        old = self._rings.get(series)
        self._rings[series] = ring
        if old is not None:
            self._try("close", old.path, old.close)
        self._make_room(series)
        return ring

    def _make_room(self, newest: str) -> None:
        """The files beyond the bound go, the oldest first; never one of a GPU that is there now."""
        now = time.monotonic()
        gone = [
            (ring.path, series)
            for series, ring in self._rings.items()
            if series not in (newest, "host") and self._noted_at.get(series, -math.inf) < now - _THERE_S
        ]
        spare = len(self._rings) - FILES_KEPT
        if spare <= 0 or not gone:
            return
        for path, series in sorted(gone, key=lambda each: _changed_at(each[0]))[:spare]:
            ring = self._rings.pop(series)
            self._noted_at.pop(series, None)
            self._try("close", path, ring.close)
            self._try("remove", path, path.unlink)

    def _open_all(self) -> None:
        """What earlier runs left can be looked at before the first sample; the oldest beyond the bound go."""
        try:
            found = sorted(self._folder.glob("*.ring"), key=lambda path: -path.lstat().st_mtime)
        except OSError as error:
            self._say(f"the history in {self._folder} cannot be listed: {error.strerror}")
            return
        for path in found[FILES_KEPT:]:
            self._try("remove", path, path.unlink)
        for path in found[:FILES_KEPT]:
            self._try("read", path, lambda path=path: self._take_up(path))  # type: ignore[misc]

    def _take_up(self, path: Path) -> None:
        """What one earlier run left; one file that cannot be read costs its own past alone."""
        metrics = RingFile.metrics_of(path)
        if metrics:
            self._open(path.stem, metrics)

    def _sync_when_due(self) -> None:
        if time.monotonic() < self._synced_at + SYNC_S:
            return
        self._synced_at = time.monotonic()
        for ring in self._rings.values():
            self._try("sync", ring.path, ring.sync)

    def _try(self, doing: str, path: Path, act: Callable[[*_Ts], object], *args: *_Ts) -> None:
        try:
            act(*args)
        except OSError as error:
            self._say(f"cannot {doing} the history {path}: {error.strerror}; see its disk")
        else:
            self.problem = None

    def _say(self, problem: str) -> None:
        """Once for each new problem."""
        if problem != self.problem:
            logger.warning("%s", problem)
        self.problem = problem


def _changed_at(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except OSError:
        return 0.0
