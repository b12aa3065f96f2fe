"""The queue's loop: read a snapshot, decide, act, say one sentence about it.

Rules kept here: a claim is stored before anything is launched, a wish to preempt before anything is signalled; a pass
is made when something changed, when the decision said so, and every few seconds (licences and GPUs change without an
event of ours); one that took long is not made again before twice as much time has passed, so that a queue of ten
thousand leaves the loop to others; one that fails is made again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from msgspec.structs import replace

from agent.api.types import JobState
from agent.engine import steps
from agent.engine.core import Core
from agent.engine.facts import Facts
from agent.engine.telling import Telling
from agent.jobs import machine, schedule
from agent.jobs.errors import IllegalMoveError, StaleJobError
from agent.jobs.row import JobRow
from agent.jobs.schedule import Decision

TICK_S = 5.0
"""The longest the queue waits for a look."""

_SHORTEST_S = 0.05
"""The shortest wait for a time that a decision named: clocks are whole seconds."""

_TELL_AGAIN_S = 0.2
"""When the rest of the queue's new words are told."""

_TELL_APART_S = 0.1
"""How long watchers are left alone with what waiting jobs were told last: in a burst each pass has fifty new times."""

_REST = 2
"""How many times as long as a pass took the loop is left to others after it."""

logger = logging.getLogger(__name__)


class Queue:
    """See above."""

    def __init__(
        self, core: Core, facts: Facts, *, see_through: Callable[[JobRow], None], carry_out: Callable[[JobRow], None]
    ) -> None:
        self._core = core
        self._facts = facts
        self._telling = Telling(core)
        self._see_through = see_through
        self._carry_out = carry_out
        self._cost_s = 0.0
        """How long the last pass kept the loop."""
        self._told_at = float("-inf")

    async def serve(self) -> None:
        """Make passes until cancelled."""
        while True:
            self._core.woken.clear()
            wait_s = TICK_S
            try:
                wait_s = await self.make_pass()
            except Exception:  # the rim of a loop that must live: the next pass sees the same facts again
                logger.exception("the queue could not be served; trying again in %s s", TICK_S)
            await asyncio.sleep(min(TICK_S, _REST * self._cost_s))
            try:
                async with asyncio.timeout(wait_s):
                    await self._core.woken.wait()
            except TimeoutError:
                continue

    async def make_pass(self) -> float:
        """One pass; how long the queue may rest unless something happens, in seconds."""
        if not self._core.jobs.counts()[1]:
            self._core.decision, self._cost_s = Decision(), 0.0  # whoever comes next does not wait for those before
            return TICK_S
        await self._facts.refresh()
        began, at = time.monotonic(), int(self._core.clock())
        decision = schedule.decide(self._facts.snapshot(at), at)
        self._core.decision = decision
        self._core.awaited, self._core.fulfilled = self._facts.awaited(), self._facts.fulfilled()
        left = began - self._told_at < _TELL_APART_S or self._tell(decision, began)
        self._cost_s = time.monotonic() - began
        if self._core.store.read_only is not None:
            return TICK_S  # told why, and no more: nothing could be stored
        started = await self._start(decision)
        preempted = await self._preempt(decision)
        expired = await self._expire(decision)
        never = await self._drop_never_satisfied()
        if started or preempted or expired or never:
            logger.info(
                "queue: %d waiting, %d started, %d asked to make way, %d expired, %d never to be satisfied",
                len(decision.reasons),
                started,
                preempted,
                expired,
                never,
            )
        if left:
            return _TELL_AGAIN_S
        return self._rest_s(decision)

    def _tell(self, decision: Decision, at: float) -> bool:
        self._told_at = at
        return self._telling.tell(decision)

    # --- acting -------------------------------------------------------------------------------------------------------

    async def _start(self, decision: Decision) -> int:
        rows = {start.job_id: self._core.jobs.get(start.job_id) for start in decision.starts}
        starts = [start for start in decision.starts if _waits(rows[start.job_id])]
        if not starts:
            return 0
        known = {job_id: row for job_id, row in rows.items() if row is not None}
        claimed = await self._core.store.call(steps.claim_all, starts, known, int(self._core.clock()))
        for row in claimed:
            self._core.keep(row)
            self._see_through(row)
        self._core.hold_gpus()
        return len(claimed)

    async def _preempt(self, decision: Decision) -> int:
        count = 0
        for each in decision.preempts:
            for victim in each.victims:
                if not await self._give_up_return(victim):
                    continue
                row = await self._wish(victim, machine.PreemptAsked(for_job=each.job_id))
                if row is not None and row.status.state is JobState.COMPLETING:
                    self._carry_out(row)
                    count += 1
        return count

    async def _give_up_return(self, victim: int) -> bool:
        """Where the site cancels victims, one that said --requeue does not come back either (PreemptMode=CANCEL).

        Returns:
            Whether that is settled; a job that changes at this moment is looked at again by the next pass.
        """
        row = self._core.jobs.get(victim)
        if row is None or not row.spec.requeue or self._core.config.scheduler.preempt_mode != "cancel":
            return True
        spec = replace(row.spec, requeue=False)
        try:
            await self._core.amend(victim, spec, event="RequeueTaken", by="stoker", revision=row.revision)
        except StaleJobError as error:
            logger.info("job=%d: %s", victim, error)
            return False
        return True

    async def _expire(self, decision: Decision) -> int:
        gone = [await self._wish(job_id, machine.Expired()) for job_id in decision.expired]
        return sum(row is not None for row in gone)

    async def _drop_never_satisfied(self) -> int:
        """Cancel those that asked for it with `--kill-on-invalid-dep=yes`; the others stay and say so."""
        asked = [job_id for job_id in self._facts.never_satisfied() if self._wants_end(job_id)]
        event = machine.CancelAsked(by="stoker", reason="its dependency can never be fulfilled")
        gone = [await self._wish(job_id, event) for job_id in asked]
        return sum(row is not None for row in gone)

    def _wants_end(self, job_id: int) -> bool:
        row = self._core.jobs.get(job_id)
        return row is not None and row.spec.kill_on_invalid_dep

    async def _wish(self, job_id: int, event: machine.Event) -> JobRow | None:
        """Store it; a job that changed meanwhile is left alone."""
        try:
            return await self._core.apply(job_id, event)
        except IllegalMoveError as error:
            logger.info("job=%d: %s", job_id, error)
            return None

    def _rest_s(self, decision: Decision) -> float:
        due = [each for each in (decision.look_again_at, self._facts.look_again_at()) if each is not None]
        return min([TICK_S, *(max(_SHORTEST_S, each - self._core.clock()) for each in due)])


def _waits(row: JobRow | None) -> bool:
    return row is not None and row.status.state is JobState.PENDING
