"""The node's usage ledger: who had which GPU from when to when, in rows that are chained and never change.

Rules kept here: a run on a GPU is an open line that heartbeats extend, and becomes a row when it ends and at each
midnight UTC; all is done in the transaction that changes the job, so no crash counts a second twice or loses more than
the time since the last heartbeat; that time is lost in the user's favour where nobody can tell how a run ended.
Durations are uptime, which nobody sets: a clock that is moved changes what a row is dated, never how long it is.
A row holds no name and no path; names stay beside it in this file, which stays on the site.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import sqlite3
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import msgspec

from agent.api.usage import DAY_S, SHARE_WHOLE, UsageBy, UsageHead, UsageRows, UsageSum
from agent.jobs.database import Database

AHEAD_S = 48 * 3600
"""Further ahead than this a row's date came from a clock that was wrong, and does not push the next one's."""

_PHASE_S = 1
"""By how much two clocks that tell whole seconds may differ over a time and both be right."""
_NAMED = {UsageBy.USER: "user", UsageBy.ACCOUNT: "account", UsageBy.MODEL: "sku"}
_OPEN = "job_id, gpu, sku, share, job, user, account, start, until, least, wall, uptime, boot"
_EXTEND = "UPDATE meter_open SET start = ?, until = ?, least = ?, wall = ?, uptime = ? WHERE job_id = ? AND gpu = ?"
_ADD = (
    "INSERT INTO meter (chain, seq, line, head, job_id, user, account, sku, began, ended, gpu_ms)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """A moment on both clocks. Whole seconds."""

    wall: int
    uptime: int
    """CLOCK_BOOTTIME, see clock_gettime(2)."""
    boot: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Metered:
    """A GPU as it is counted."""

    gpu: str
    """UUID of the physical one."""
    sku: str
    share: int = SHARE_WHOLE
    """Thousandths of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Open:
    job_id: int
    gpu: str
    sku: str
    share: int
    job: str
    user: str
    account: str
    start: int
    """As it will be dated."""
    until: int
    """As far as it is counted; that much after `start` by uptime."""
    least: int
    """As far as it was counted a heartbeat earlier: an end between the two is believed, and no row goes further."""
    wall: int
    uptime: int
    """What the clocks said at `until`."""
    boot: str


class Meter(Database):
    """The ledger's tables in `agent.db`."""

    # --- what happens to a job ----------------------------------------------------------------------------------------

    def meter_claim(self, job_ids: Sequence[int], tick: Tick) -> None:
        """Jobs are given their GPUs now: they begin no earlier, whatever the clock says when that is heard.

        Raises:
            StoreError: not stored.
        """
        claims = [(job_id, tick.uptime, tick.boot) for job_id in job_ids]
        self._execute_many("INSERT OR REPLACE INTO meter_claims (job_id, uptime, boot) VALUES (?, ?, ?)", claims)

    def meter_open(
        self, job_id: int, gpus: Sequence[Metered], started_at: int, tick: Tick, *, user: str, account: str
    ) -> None:
        """A job began to run on GPUs at `started_at` (Unix seconds), which is heard of now.

        Raises:
            StoreError: not stored.
        """
        shares: dict[tuple[str, str], int] = {}
        for each in gpus:
            shares[each.gpu, each.sku] = shares.get((each.gpu, each.sku), 0) + each.share
        with self.whole():
            ago, name = self._heard_late(job_id, started_at, tick), self._job_name(job_id)
            for (gpu, sku), share in sorted(shares.items()):
                start = max(tick.wall - ago, self._ended(gpu, tick.wall))
                times = (start, start, start, tick.wall - ago, tick.uptime - ago, tick.boot)
                self._execute(
                    f"INSERT OR IGNORE INTO meter_open ({_OPEN}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608 - own words
                    (job_id, gpu, sku, min(share, SHARE_WHOLE), name, user, account, *times),
                )

    def meter_close(self, job_id: int, ended_at: int | None, tick: Tick) -> None:
        """Its run is over since `ended_at` (Unix seconds); `None`: nobody knows, and the last heartbeat counts.

        Raises:
            StoreError: not stored.
        """
        with self.whole():
            for line in self._opened("WHERE job_id = ? ORDER BY gpu", job_id):
                until = line.until
                if ended_at is not None and line.boot == tick.boot:
                    since = min(ended_at - line.wall, tick.uptime - line.uptime + _PHASE_S)
                    until = max(line.least, line.until + since)
                rest = self._split(line, until)
                self._append(replace(rest, until=until))
            self._execute("DELETE FROM meter_open WHERE job_id = ?", (job_id,))

    def meter_beat(self, tick: Tick) -> int:
        """Count all that runs up to now; how many lines that were. Those of another boot run no more.

        Raises:
            StoreError: not stored.
        """
        with self.whole():
            lines = self._opened("WHERE boot = ? AND uptime <= ? ORDER BY job_id, gpu", tick.boot, tick.uptime)
            moved = []
            for line in lines:
                until = line.until + _elapsed(tick.wall - line.wall, tick.uptime - line.uptime)
                rest = self._split(line, line.until)  # no further: it may have ended since, which is yet to be heard
                moved.append((rest.start, until, line.until, tick.wall, tick.uptime, line.job_id, line.gpu))
            self._execute_many(_EXTEND, moved)
        return len(lines)

    def meter_adopt(self, node: str, running: Sequence[int], *, anew: bool, active: Collection[int] = ()) -> list[int]:
        """At the start: end the lines of jobs that run no more, and begin another chain where rows may have been lost.

        Args:
            node: this node's name.
            running: jobs that run on GPUs.
            anew: the store was lost, or is an older one.
            active: jobs that were claimed and have not ended.

        Returns:
            Those of `running` that have no line: they are to be opened.

        Raises:
            StoreError: not stored.
        """
        with self.whole():
            self._execute("UPDATE meter_state SET node = ? WHERE node != ?", (node, node))
            if anew:
                self.meter_new_chain()
            claimed = {row[0] for row in self._fetch("SELECT job_id FROM meter_claims")}
            self._execute_many("DELETE FROM meter_claims WHERE job_id = ?", [(each,) for each in claimed - set(active)])
            known = {row[0] for row in self._fetch("SELECT DISTINCT job_id FROM meter_open")}
            for job_id in sorted(known.difference(running)):
                self.meter_close(job_id, None, Tick(wall=0, uptime=0, boot=""))
        return [job_id for job_id in running if job_id not in known]

    def meter_new_chain(self) -> None:
        """Go on with another chain, from row 1."""
        chain = secrets.token_hex(16)
        self._execute("UPDATE meter_state SET chain = ?, seq = 0, head = ?, gpu_ms = 0", (chain, genesis(chain)))
        self._execute("INSERT INTO meter_chains (chain) VALUES (?)", (chain,))

    # --- for the hub --------------------------------------------------------------------------------------------------

    def meter_head(self) -> UsageHead:
        """How far the chain of today has come."""
        chain, seq, head, gpu_ms = self._execute("SELECT chain, seq, head, gpu_ms FROM meter_state").fetchone()
        running = self._execute("SELECT coalesce(sum(share * (until - start)), 0) FROM meter_open").fetchone()[0]
        return UsageHead(chain=chain, seq=seq, head=head, gpu_ms=gpu_ms, open_gpu_ms=running)

    def meter_heads(self) -> tuple[UsageHead, ...]:
        """Of all chains, the oldest first."""
        now, found = self.meter_head(), []
        sums = "SELECT max(seq), sum(gpu_ms) FROM meter WHERE chain = ?"
        for (chain,) in self._fetch("SELECT chain FROM meter_chains ORDER BY n"):
            if chain == now.chain:
                continue
            seq, gpu_ms = self._execute(sums, (chain,)).fetchone()
            if seq is not None:
                found.append(UsageHead(chain=chain, seq=seq, head=self._head_at(chain, seq), gpu_ms=gpu_ms))
        return (*found, now)

    def meter_rows(self, chain: str, after: int, limit: int) -> UsageRows:
        """Rows of a chain after a number, in order, at most `limit`."""
        sql = "SELECT seq, line FROM meter WHERE chain = ? AND seq > ? ORDER BY seq LIMIT ?"
        rows = self._fetch(sql, (chain, after, limit))
        first = rows[0]["seq"] if rows else 0
        return UsageRows(
            heads=self.meter_heads(),
            chain=chain,
            first=first,
            before=self._head_at(chain, first - 1 if rows else after),
            rows=tuple(row["line"] for row in rows),
        )

    def _head_at(self, chain: str, seq: int) -> str:
        if seq == 0:
            return genesis(chain)
        found = self._execute("SELECT head FROM meter WHERE chain = ? AND seq = ?", (chain, seq)).fetchone()
        return found[0] if found else ""

    # --- for people ---------------------------------------------------------------------------------------------------

    def meter_sums(self, begins: int, ends: int, by: UsageBy) -> list[UsageSum]:
        """GPU time of rows and of what runs, dated from `begins` up to `ends` (midnights UTC), the most first."""
        name = _NAMED[by]
        found: dict[str, tuple[int, set[int]]] = {}
        every = (
            f"SELECT {name} AS name, job_id, sum(gpu_ms) AS gpu_ms FROM (SELECT {name}, job_id, gpu_ms FROM meter"  # noqa: S608 - own words
            f" WHERE began >= ? AND began < ? UNION ALL SELECT {name}, job_id, share * (until - start) FROM meter_open"
            " WHERE start >= ? AND start < ?) GROUP BY name, job_id"
        )
        for row in self._fetch(every, (begins, ends, begins, ends)):
            gpu_ms, jobs = found.get(row["name"], (0, set()))
            found[row["name"]] = (gpu_ms + row["gpu_ms"], jobs | {row["job_id"]})
        sums = [UsageSum(name=each, gpu_ms=gpu_ms, jobs=len(jobs)) for each, (gpu_ms, jobs) in found.items()]
        return sorted(sums, key=lambda each: (-each.gpu_ms, each.name))

    # --- below --------------------------------------------------------------------------------------------------------

    def _heard_late(self, job_id: int, started_at: int, tick: Tick) -> int:
        """How long it has been running: by the wall clock, but no longer than since its claim by uptime."""
        claim = self._execute("SELECT uptime, boot FROM meter_claims WHERE job_id = ?", (job_id,)).fetchone()
        self._execute("DELETE FROM meter_claims WHERE job_id = ?", (job_id,))
        if claim is None or claim[1] != tick.boot:
            return 0
        return max(0, min(tick.wall - started_at, tick.uptime - int(claim[0]) + _PHASE_S))

    def _job_name(self, job_id: int) -> str:
        """What a job is called outside of the site: nobody who has not the salt can tell which it is."""
        salt = self._execute("SELECT salt FROM meter_state").fetchone()[0]
        return hmac.new(bytes.fromhex(salt), str(job_id).encode(), hashlib.sha256).hexdigest()[:32]

    def _ended(self, gpu: str, wall: int) -> int:
        """Where the last row of a GPU ends: the next does not begin before, whatever became of the clock."""
        found = self._execute("SELECT ended FROM meter_gpus WHERE gpu = ?", (gpu,)).fetchone()
        return found[0] if found and found[0] - wall <= AHEAD_S else 0

    def _opened(self, clause: str, *values: object) -> list[_Open]:
        rows = self._fetch(f"SELECT {_OPEN} FROM meter_open {clause}", values)  # noqa: S608 - own clauses
        return [_Open(**dict(row)) for row in rows]

    def _split(self, line: _Open, until: int) -> _Open:
        """Make rows of the days that are over; what is left of the line."""
        while (midnight := line.start - line.start % DAY_S + DAY_S) < until:
            self._append(replace(line, until=midnight))
            line = replace(line, start=midnight)
        return line

    def _append(self, line: _Open) -> None:
        chain, seq, head, node = self._execute("SELECT chain, seq + 1, head, node FROM meter_state").fetchone()
        text = encode_row(node, seq, line.job, line.gpu, line.sku, line.share, line.start, line.until)
        head, gpu_ms = link(head, text), line.share * (line.until - line.start)
        own = (line.job_id, line.user, line.account, line.sku, line.start, line.until, gpu_ms)
        self._execute(_ADD, (chain, seq, text, head, *own))
        self._execute("UPDATE meter_state SET seq = ?, head = ?, gpu_ms = gpu_ms + ?", (seq, head, gpu_ms))
        self._execute(
            "INSERT INTO meter_gpus (gpu, ended) VALUES (?, ?)"
            " ON CONFLICT DO UPDATE"
            " SET ended = iif(ended - excluded.ended > ?, excluded.ended, max(ended, excluded.ended))",
            (line.gpu, line.until, AHEAD_S),
        )


def _elapsed(wall_s: int, uptime_s: int) -> int:
    """By the wall clock where both agree, so that a row is as long as its job's times say; else by uptime."""
    return wall_s if abs(wall_s - uptime_s) <= _PHASE_S else uptime_s


def encode_row(node: str, seq: int, job: str, gpu: str, sku: str, share: int, start: int, end: int) -> str:
    """A row in its one spelling: what is hashed, sent and exported."""
    return msgspec.json.encode((node, seq, job, gpu, sku, share, start, end)).decode()


def genesis(chain: str) -> str:
    """The head before the first row of a chain."""
    return hashlib.sha256(f"stoker usage {chain}".encode()).hexdigest()


def link(head: str, text: str) -> str:
    """h_n = SHA-256(h_{n-1} ‖ row)."""
    return hashlib.sha256(bytes.fromhex(head) + text.encode()).hexdigest()


def create_tables(connection: sqlite3.Connection) -> None:
    """The ledger's tables, empty, with a salt that never leaves this file and a chain to begin with."""
    chain = secrets.token_hex(16)
    for sql in _TABLES:
        connection.execute(sql)
    state = "INSERT OR IGNORE INTO meter_state VALUES (1, '', ?, ?, 0, ?, 0)"
    connection.execute(state, (secrets.token_hex(32), chain, genesis(chain)))
    connection.execute("INSERT OR IGNORE INTO meter_chains (chain) SELECT chain FROM meter_state")


_TABLES = (
    "CREATE TABLE IF NOT EXISTS meter (n INTEGER PRIMARY KEY, chain TEXT NOT NULL, seq INTEGER NOT NULL,"
    " line TEXT NOT NULL, head TEXT NOT NULL, job_id INTEGER NOT NULL, user TEXT NOT NULL, account TEXT NOT NULL,"
    " sku TEXT NOT NULL, began INTEGER NOT NULL, ended INTEGER NOT NULL, gpu_ms INTEGER NOT NULL,"
    " UNIQUE (chain, seq)) STRICT",
    "CREATE INDEX IF NOT EXISTS meter_began ON meter (began)",
    "CREATE TABLE IF NOT EXISTS meter_open (job_id INTEGER NOT NULL, gpu TEXT NOT NULL, sku TEXT NOT NULL,"
    " share INTEGER NOT NULL, job TEXT NOT NULL, user TEXT NOT NULL, account TEXT NOT NULL, start INTEGER NOT NULL,"
    " until INTEGER NOT NULL, least INTEGER NOT NULL, wall INTEGER NOT NULL, uptime INTEGER NOT NULL,"
    " boot TEXT NOT NULL, PRIMARY KEY (job_id, gpu)) STRICT",
    "CREATE TABLE IF NOT EXISTS meter_gpus (gpu TEXT PRIMARY KEY, ended INTEGER NOT NULL) STRICT",
    "CREATE TABLE IF NOT EXISTS meter_chains (n INTEGER PRIMARY KEY, chain TEXT NOT NULL UNIQUE) STRICT",
    "CREATE TABLE IF NOT EXISTS meter_state (id INTEGER PRIMARY KEY CHECK (id = 1), node TEXT NOT NULL,"
    " salt TEXT NOT NULL, chain TEXT NOT NULL, seq INTEGER NOT NULL, head TEXT NOT NULL,"
    " gpu_ms INTEGER NOT NULL) STRICT",
    "CREATE TABLE IF NOT EXISTS meter_claims (job_id INTEGER PRIMARY KEY, uptime INTEGER NOT NULL,"
    " boot TEXT NOT NULL) STRICT",
)
