"""The accounts of all jobs that hold GPUs: fed with each round of readings, told at any moment, kept over a restart.

    engine ── observe(readings, held_by, …) once a round ──► JobUsageKeeper ──► snapshot(job): JobUsage, curve
           ── observe_host(job, HostUse) every 5 s ────────►                ──► activity(job) ─► reaper.judge
           ◄─ save(job) every 60 s; restore(job, saved) ───                ──► take(job) at the end

Pure but for the sums it keeps: no clock, no disk. The engine stores what `save` and `take` give.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from agent.api.decode import decode
from agent.api.queue import JobUsage, UsagePoint
from agent.api.types import GpuReading, GpuState
from agent.telemetry.account import JobAccount
from agent.telemetry.activity import Activity
from agent.telemetry.gpuaccount import GAP_S, Sample
from agent.telemetry.hostuse import HostUse
from agent.telemetry.sharing import memory_of, parts
from agent.telemetry.verdict import IDLE_PERCENT

_WINDOW_S = 1800.0
"""Of the sliding window, where no reaper is set up."""
_NO_PIDS: Mapping[int, int] = {}


class JobUsageKeeper:
    """Accounts by job id. Not for several threads at a time."""

    def __init__(
        self, *, window_s: float | None = None, idle_percent: float = IDLE_PERCENT, period_s: float = 1.0
    ) -> None:
        """`window_s` and `idle_percent` are the reaper's `idle_s` and `below_percent`; `period_s` is the sampler's."""
        self._gap_s = max(GAP_S, 3 * period_s)
        self._window_s = window_s or _WINDOW_S
        self._idle_percent = idle_percent
        self._accounts: dict[int, JobAccount] = {}
        self._holding: set[tuple[int, str]] = set()

    def follow(self, *, window_s: float | None, idle_percent: float) -> None:
        """Let other rules of the reaper hold from now on: its `idle_s` and `below_percent`."""
        self._idle_percent = idle_percent
        if self._window_s != (window_s or _WINDOW_S):
            self._window_s = window_s or _WINDOW_S
            for account in self._accounts.values():
                account.activity.window_s = self._window_s

    def observe(
        self,
        readings: Iterable[GpuReading],
        held_by: Mapping[str, Sequence[int]],
        *,
        now: float,
        monotonic: float,
        pids: Mapping[int, int] = _NO_PIDS,
    ) -> None:
        """Count a round of readings; the same ones again count nothing.

        Args:
            readings: the GPUs as the sampler has them; one that is not `ok` counts nothing.
            held_by: UUID → the jobs that hold it, from the claim to the proof that they left.
            now: Unix seconds.
            monotonic: of the same moment.
            pids: process id → job, where GPUs are shared; needed for no other.
        """
        self._part_with(held_by)
        samples: dict[int, list[Sample]] = {}
        for reading in readings:
            holders = held_by.get(reading.uuid)
            if holders and reading.state is GpuState.OK:
                for job_id, sample in _samples(reading, holders, pids):
                    samples.setdefault(job_id, []).append(sample)
        for job_id, its in samples.items():
            self._account(job_id).add(
                its, now=now, monotonic=monotonic, idle_percent=self._idle_percent, gap_s=self._gap_s
            )

    def observe_host(self, job_id: int, use: HostUse) -> None:
        """Count what a job uses of the host; of one without GPUs too."""
        self._account(job_id).add_host(use)

    def snapshot(self, job_id: int) -> tuple[JobUsage, tuple[UsagePoint, ...]] | None:
        """The account and the curve up to now; `None` of a job nothing was measured of."""
        account = self._accounts.get(job_id)
        return None if account is None else (account.usage(), account.points())

    def usage(self, job_id: int) -> JobUsage | None:
        """The account alone: for lists of jobs."""
        account = self._accounts.get(job_id)
        return None if account is None else account.usage()

    def activity(self, job_id: int) -> Activity | None:
        """The sliding window, for the reaper."""
        account = self._accounts.get(job_id)
        return None if account is None else account.activity

    def save(self, job_id: int) -> bytes | None:
        """The account as bytes, for `restore`; at most some 20 KiB."""
        account = self._accounts.get(job_id)
        return None if account is None else msgspec.json.encode(account)

    def restore(self, job_id: int, saved: bytes, *, goes_on: bool) -> None:
        """Go on from what was saved; a job that is known already keeps its account.

        Args:
            job_id: the job.
            saved: from `save` or `take`.
            goes_on: the same attempt still runs, as after a restart of the agent: it held its GPUs all along, and the
                energy used since counts. Else it is a new attempt.

        Raises:
            msgspec.MsgspecError: `saved` is damaged; the account then begins anew.
        """
        if job_id in self._accounts:
            return
        account = decode(saved, JobAccount)
        account.activity.window_s = self._window_s
        account.break_off(goes_on=goes_on)
        self._accounts[job_id] = account

    def pause(self, job_id: int) -> None:
        """The attempt has ended and the job waits to run again: its account stays, and does not go on meanwhile."""
        account = self._accounts.get(job_id)
        if account is not None:
            account.break_off(goes_on=False)

    def take(self, job_id: int) -> tuple[JobUsage, tuple[UsagePoint, ...], bytes] | None:
        """The final account, its curve, and what `restore` needs should the job run again; then forget the job."""
        account = self._accounts.pop(job_id, None)
        if account is None:
            return None
        self._holding = {each for each in self._holding if each[0] != job_id}
        account.break_off(goes_on=False)
        return account.usage(), account.points(), msgspec.json.encode(account)

    def jobs(self) -> tuple[int, ...]:
        """The jobs with an account."""
        return tuple(self._accounts)

    def _account(self, job_id: int) -> JobAccount:
        if job_id not in self._accounts:
            self._accounts[job_id] = JobAccount(activity=Activity(window_s=self._window_s))
        return self._accounts[job_id]

    def _part_with(self, held_by: Mapping[str, Sequence[int]]) -> None:
        """A GPU that a job no longer holds is another's from here on."""
        holding = {(job_id, uuid) for uuid, jobs in held_by.items() for job_id in jobs}
        for job_id, uuid in self._holding - holding:
            account = self._accounts.get(job_id)
            if account is not None and uuid in account.gpus:
                account.gpus[uuid].break_off(goes_on=False)
        self._holding = holding


def _samples(reading: GpuReading, holders: Sequence[int], pids: Mapping[int, int]) -> Iterable[tuple[int, Sample]]:
    divided, split = parts(reading, holders, pids)
    memory = memory_of(reading, pids) if len(holders) > 1 else None
    for job_id, part in divided.items():
        own = memory.get(job_id, 0) if memory is not None else None
        yield job_id, Sample(reading=reading, part=part, holders=len(holders), split=split, memory_bytes=own)
