"""What a node remembers beside its lease, in `gate.json`: the highest time, its first start, vouchers seen.

Rules kept here: looking at the time changes memory only, so it never waits for a disk; `remember` and `tick` write. A
damaged file is moved aside and begun anew. Safe to use from several threads.
"""

from __future__ import annotations

import logging
import threading
from contextlib import suppress
from pathlib import Path

import msgspec

from licensing import clock, files
from licensing.clock import HighWater, Moment
from licensing.document import Lease, Licence

log = logging.getLogger(__name__)

RETRY_S = 60


class _State(msgspec.Struct, frozen=True, kw_only=True):
    clock: HighWater | None = None
    """The highest time, from the first lease on: before it there is nothing to guard with it."""
    first_start: Moment | None = None
    vouchers: dict[str, Moment] = {}
    """When this node first saw each voucher: its days count from then, whatever a new hub says."""
    epoch: int = 0
    """The highest of the hubs that leased to this node."""
    resets: int = 0
    """How often the hub's time was set right, as the last lease told."""
    doubted: dict[str, Moment] = {}
    """Vouchers that were first seen while the clock stood before a moment that had certainly come; that moment."""


_decoder = msgspec.json.Decoder(_State)  # noqa: TID251 - made at import, by one thread: see `agent.api.decode`


class Memory:
    """The file `path` and what is newer than it."""

    def __init__(self, path: Path, uptime: clock.UptimeReader, built_at: int) -> None:
        self._path = path
        self._built_at = built_at
        self._uptime = uptime
        self._written = self._state = self._load()
        self._guard = threading.Lock()
        """Around each change of `_state`; never held during a write."""
        self._disk = threading.Lock()
        """Around each write, so that an older state never lands on a newer one."""
        self._behind = False
        """Whether the wall clock was behind at the last look; that it is so is said once."""
        self._problem: str | None = None
        self._failed_at = 0
        """Uptime of the last failed write, while there is a problem."""

    @property
    def epoch(self) -> int:
        """The highest of the hubs that leased to this node: an older one is heard no more."""
        return self._state.epoch

    @property
    def resets(self) -> int:
        """How often the hub's time was set right, as the last lease told."""
        return self._state.resets

    @property
    def first_start(self) -> int | None:
        """When this node first looked at the time."""
        return self._state.first_start

    def voucher_seen(self, licence: str, at: int) -> int | None:
        """When a lease of this voucher first came; `at` is what `look` gave.

        Where the clock was wrong then, and is not yet certain now, what it jumped by is not counted.
        """
        state = self._state
        seen = state.vouchers.get(licence)
        if seen is None or licence not in state.doubted or state.clock is None:
            return seen
        return seen + at - state.clock.time

    @property
    def confirmed(self) -> int | None:
        """The time without what the clock says beyond it, as `look` saw it last."""
        mark = self._state.clock
        return mark.time if mark is not None else None

    def look(self, now: int) -> int:
        """The time to decide by, where the wall clock says `now`; touches no disk."""
        with self._guard:
            before = self._state
            if before.clock is None:
                self._state = _replace(before, first_start=before.first_start or now)
                return now
            uptime = self._uptime()
            mark = clock.advance(before.clock, now, uptime)
            self._state = _replace(_settled(before, mark, uptime, now), clock=mark)
        if mark.ahead_since is not None and before.clock.ahead_since is None:
            log.warning("%s", clock.doubt(mark, now))
        before_behind, self._behind = self._behind, clock.is_behind(mark, now)
        if self._behind and not before_behind:
            log.warning("%s", clock.lag(mark, now))
        return clock.believed(mark, now)

    def remember(self, licence: Licence, lease: Lease, now: int) -> None:
        """Note what a lease tells of the time; on disk when this returns.

        The vendor's time is certain. The hub's counts within `SKEW_S` of this node's: a wrong clock there stays there.
        Once it was set right, by hand or by the vendor, it is this node's too, however far back.

        Raises:
            OSError: it cannot be written; nothing was noted.
        """
        with self._disk:
            uptime = self._uptime()
            mark = clock.advance(self._state.clock, now, uptime)
            if lease.resets > self._state.resets:
                mark = clock.put_back(mark, max(lease.iat, licence.iat))
            mark = clock.trust(mark, licence.iat, now)
            state = _settled(self._state, mark, uptime, now)
            if licence.site is None and licence.id not in state.vouchers:
                state = _replace(state, vouchers={**state.vouchers, licence.id: lease.iat})
                certain = max(licence.iat, self._built_at)
                if clock.is_doubtful(certain, now):
                    state = _replace(state, doubted={**state.doubted, licence.id: certain})
            state = _replace(state, clock=clock.lift(mark, lease.iat), resets=max(state.resets, lease.resets))
            state = _replace(state, epoch=max(state.epoch, lease.epoch))
            self._write(state)
            with self._guard:
                self._state = state

    def tick(self, now: int) -> None:
        """Write what is worth it; call it about once a minute, from a thread that may wait for the disk."""
        self.look(now)
        with self._disk:
            uptime = self._uptime().seconds
            waiting = self._problem is not None and 0 <= uptime - self._failed_at < RETRY_S
            if waiting or not self._is_news():
                return
            try:
                self._write(self._state)
            except OSError as error:
                self._complain(error.strerror or str(error), uptime)

    def _is_news(self) -> bool:
        now, then = self._state, self._written
        same = (now.first_start, now.vouchers, now.doubted) == (then.first_start, then.vouchers, then.doubted)
        return not same or clock.is_news(self._state.clock, self._written.clock)

    def _write(self, state: _State) -> None:
        files.replace(self._path, msgspec.json.encode(state))
        self._written = state
        if self._problem is not None:
            log.info("%s can be written again", self._path)
        self._problem = None

    def _complain(self, problem: str, uptime: int) -> None:
        """Once for each new reason, not once for each try."""
        if problem != self._problem:
            log.warning("cannot note the time in %s: %s; tried again each minute", self._path, problem)
        self._problem, self._failed_at = problem, uptime

    def _load(self) -> _State:
        try:
            return _decoder.decode(self._path.read_bytes())
        except FileNotFoundError:
            return _State()
        except (OSError, msgspec.DecodeError, UnicodeError, RecursionError) as error:
            log.error("%s cannot be read and is begun anew: %s", self._path, error)
            with suppress(OSError):
                log.error("the damaged file is kept as %s", files.set_aside(self._path))
            return _State()


def _settled(state: _State, mark: HighWater, uptime: clock.Uptime, wall: int) -> _State:
    """What was first seen while the clock was wrong is younger by as much as the clock jumped since."""
    if not state.doubted or state.clock is None:
        return state
    shift = clock.jump(state.clock, mark, uptime)
    vouchers = {each: seen + shift * (each in state.doubted) for each, seen in state.vouchers.items()}
    left = {each: certain for each, certain in state.doubted.items() if not clock.is_right(certain, mark, wall)}
    return _replace(state, vouchers=vouchers, doubted=left)


def _replace(state: _State, **fields: object) -> _State:
    return msgspec.structs.replace(state, **fields)
