"""What jobs and users have used: the account of each job, and the GPU-seconds that the fair share is made of.

A charge is kept undecayed, one line for each account, user and hour, with the mean of its times: decay is worked out
when it is asked for, so another half-life changes the past as well, and an hour's charges decay within a thousandth as
if they were kept one by one. What has decayed to nothing is dropped with `forget_charges`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec

from agent.api.decode import decode, decoder
from agent.api.queue import JobUsage, UsagePoint
from agent.jobs.database import Database, in_groups, marks

_BUCKET_S = 3600
_HALF_LIVES_KEPT = 20
"""A millionth is left of a charge by then."""

_curve = decoder(tuple[UsagePoint, ...])


class Usage(Database):
    """Accounts of jobs, and charges to users."""

    # --- jobs ---------------------------------------------------------------------------------------------------------

    def put_usage(self, job_id: int, usage: JobUsage, curve: Sequence[UsagePoint] = ()) -> None:
        """Keep what a job has used up to now, in place of what was kept before.

        Raises:
            StoreError: not stored.
        """
        values = (job_id, msgspec.json.encode(usage).decode(), msgspec.json.encode(curve).decode())
        with self.whole():
            self._execute("INSERT OR REPLACE INTO usage (job_id, usage, curve) VALUES (?, ?, ?)", values)

    def usage_of(self, job_id: int) -> tuple[JobUsage, tuple[UsagePoint, ...]] | None:
        """What a job has used, and the curve of it; `None` where nothing was kept."""
        row = self._execute("SELECT usage, curve FROM usage WHERE job_id = ?", (job_id,)).fetchone()
        return (decode(row["usage"], JobUsage), _curve.decode(row["curve"])) if row else None

    def usages_of(self, job_ids: Collection[int]) -> dict[int, JobUsage]:
        """What some jobs have used, for a page of them; a job of which nothing was kept is left out."""
        found = {}
        for group in in_groups(list(job_ids)):
            rows = self._execute(f"SELECT job_id, usage FROM usage WHERE job_id IN ({marks(group)})", group)  # noqa: S608
            found.update({row["job_id"]: decode(row["usage"], JobUsage) for row in rows})
        return found

    # --- users --------------------------------------------------------------------------------------------------------

    def charge(self, account: str, user: str, gpu_seconds: float, at: int) -> None:
        """Charge a user of an account with GPU-seconds that were used up to `at` (Unix seconds).

        Raises:
            StoreError: not stored.
        """
        with self.whole():
            self._execute(
                "INSERT INTO charges (account, user, hour, gpu_s, at) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
                " at = (gpu_s * at + excluded.gpu_s * excluded.at) / max(gpu_s + excluded.gpu_s, 1e-9),"
                " gpu_s = gpu_s + excluded.gpu_s",
                (account, user, at // _BUCKET_S, float(gpu_seconds), float(at)),
            )

    def usage_as_of(self, now: int, half_life_s: float) -> dict[tuple[str, str], float]:
        """(account, user) → GPU-seconds charged so far, halved for every half-life since; a charge of the future whole.

        Reads every charge that still counts: some ten thousand lines on a busy node, some ten milliseconds. Slurm asks
        every five minutes.
        """
        found: dict[tuple[str, str], float] = {}
        since = (now - half_life_s * _HALF_LIVES_KEPT) / _BUCKET_S
        rows = self._execute("SELECT account, user, gpu_s, at FROM charges WHERE hour >= ?", (int(since),))
        for account, user, gpu_s, at in rows:
            left: float = gpu_s * 2.0 ** (min(at - now, 0.0) / half_life_s)
            found[account, user] = found.get((account, user), 0.0) + left
        return found

    def forget_charges(self, now: int, half_life_s: float) -> int:
        """Drop what counts no more; how many lines that were.

        Raises:
            StoreError: not stored.
        """
        before = int((now - half_life_s * _HALF_LIVES_KEPT) / _BUCKET_S)
        with self.whole():
            return self._execute("DELETE FROM charges WHERE hour < ?", (before,)).rowcount
