"""A node whose agent can be killed between any two durable writes: the real store and folders, fake shims, no clock.

world = World(folder)
with world.dying(7, torn=0.5):      # the eighth point is the last: before or after an fsync, before or after a COMMIT
    world.submit(...)               # raises Crash; world.restart() is then what a new agent does

A point lies before and after each `os.fsync` and each COMMIT of the agent. At a crash the database file and its WAL are
kept as they are on disk at that moment, and the WAL may be cut anywhere within what the last COMMIT wrote (a power cut
that tore it); job folders keep every call that was made (what the page cache alone knew is not taken away). Shims are
processes of their own: they live on, hold the real `run.lock`, and write real records.
"""

from __future__ import annotations

import fcntl
import gc
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from agent.api.types import JobState
from agent.engine.claims import attempt_dir
from agent.engine.ends import end_event
from agent.engine.found import Alive, Ended, Lost, NeverRan, Rebooted, recover
from agent.engine.reconcile import reconcile
from agent.engine.records import AttemptDir, Claim, Exit, Started, Stop
from agent.jobs import ledger, machine
from agent.jobs.errors import GpuHeldError
from agent.jobs.machine import Event
from agent.jobs.row import JobRow
from agent.jobs.spec import JobSpec
from agent.jobs.store import JobStore
from tests.fakes.stores import forget_old

GPUS = ("GPU-a", "GPU-b")
_NO_PROCESS = 2**22 - 1
"""A pid that nobody has: the fakes are no processes that could be signalled."""


class Crash(BaseException):
    """The agent is dead. Not an Exception: nobody may catch it on the way."""


class Points:
    """Counts the moments at which an agent can be killed."""

    def __init__(self) -> None:
        self.left: int | None = None
        self.passed = 0
        self.dead = False

    def pass_by(self) -> None:
        if self.dead:
            raise Crash
        if threading.current_thread() is not threading.main_thread():
            return
        self.passed += 1
        if self.left is None:
            return
        if self.left == 0:
            self.left, self.dead = None, True
            raise Crash
        self.left -= 1


class Connection:
    """The store's connection, with points around each COMMIT; dead after a crash."""

    def __init__(self, real: Any, points: Points, wal: Path) -> None:
        self.real = real
        self._points = points
        self._wal = wal
        self.wal_before = 0
        self.died_in_commit = False

    @property
    def in_transaction(self) -> bool:
        return not self._points.dead and self.real.in_transaction

    def execute(self, sql: str, values: Any = ()) -> Any:
        if self._points.dead:
            raise Crash
        if sql != "COMMIT":
            return self.real.execute(sql, values)
        self._points.pass_by()
        self.wal_before = self._wal.stat().st_size if self._wal.exists() else 0
        done = self.real.execute(sql)
        self.died_in_commit = True
        self._points.pass_by()
        self.died_in_commit = False
        return done

    def executemany(self, sql: str, rows: Any) -> Any:
        if self._points.dead:
            raise Crash
        return self.real.executemany(sql, rows)

    def backup(self, *args: Any, **named: Any) -> None:
        self.real.backup(*args, **named)

    def close(self) -> None:
        self.real.close()


class Shim:
    """One supervisor: takes the lock when it is launched, refuses what was run before."""

    def __init__(self, attempt: AttemptDir, boot_id: str) -> None:
        self.attempt = attempt
        self.boot_id = boot_id
        self.started = False
        self.stopped_before = attempt.read_stop() is not None
        self.fd = os.open(attempt.path / "run.lock", os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def start(self, now: int) -> None:
        record = Started(
            shim_pid=_NO_PROCESS, shim_start=1, job_pid=_NO_PROCESS, job_start=1, boot_id=self.boot_id, at=now
        )
        self._write("started", record)
        self.started = True

    def end(self, code: int, now: int, *, heeds_stop: bool = True) -> None:
        stop = self.attempt.read_stop() if heeds_stop else None
        record = Exit(
            code=code,
            signal=None,
            why=stop.why if stop else None,
            detail=None,
            ended_at=now,
            run_s=1.0,
            oom=False,
            swept=0,
            log_bytes=0,
        )
        self._write("exit", record)
        self.die()

    def die(self) -> None:
        os.close(self.fd)

    def _write(self, name: str, record: msgspec.Struct) -> None:
        temporary = self.attempt.path / f"{name}.tmp"
        temporary.write_bytes(msgspec.json.encode(record))
        temporary.rename(self.attempt.path / name)


class World:
    """A node: its disk, its agent, its shims."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        self.path = state_dir / "agent.db"
        self.points = Points()
        self.boot = 1
        self.now = 1000
        self.shims: dict[tuple[int, int], Shim] = {}
        self.runs: dict[int, list[int]] = {}
        """Job → the attempts whose first instruction was run."""
        self.store: JobStore
        self._real_fsync = os.fsync
        os.fsync = self._fsync
        self.connection: Connection
        self._start()

    @property
    def boot_id(self) -> str:
        return f"boot-{self.boot}"

    # --- dying and coming back ----------------------------------------------------------------------------------------

    @contextmanager
    def dying(self, after: int | None) -> Iterator[None]:
        """Whatever happens inside may be cut short after so many points; a new agent then takes over."""
        self.points.left = after
        try:
            yield
        finally:
            self.points.left = None

    def crash(self, *, torn: float = 1.0, lose: Sequence[str] = ()) -> None:
        """What `kill -9` leaves, or a power cut: what the WAL got in the last COMMIT is cut at `torn` of it.

        Args:
            torn: 1 keeps all.
            lose: suffixes of files that are gone besides: `""` is the database itself.
        """
        connection = self.connection
        wal = self.path.with_name(f"{self.path.name}-wal")
        left = {each: each.read_bytes() for each in (self.path, wal) if each.exists()}
        if connection.died_in_commit and wal in left:
            size = len(left[wal])
            left[wal] = left[wal][: size - int((size - min(connection.wal_before, size)) * (1 - torn))]
        self.points.dead = False
        connection.real.rollback()
        connection.real.close()
        for each in (self.path, wal):
            each.unlink(missing_ok=True)
        for each, data in left.items():
            each.write_bytes(data)
        for suffix in lose:
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
        self.restart()

    def restart(self) -> None:
        """A new agent; one that is killed while it comes up is followed by another."""
        while True:
            try:
                self._start()
                return
            except Crash:
                self.points.dead = False
                with suppress(AttributeError):
                    self.connection.real.close()
            gc.collect()  # a connection that was just being opened: its process is gone

    def stop(self) -> None:
        """A stop in good order."""
        self.store.close()
        for shim in self.shims.values():
            shim.die()
        os.fsync = self._real_fsync

    def reboot(self) -> None:
        """The node goes down under everything."""
        for shim in self.shims.values():
            shim.die()
        self.shims.clear()
        self.boot += 1
        self.crash()

    def _start(self) -> None:
        self.store = JobStore.open(self.path, now=self.now)
        wal = self.path.with_name(f"{self.path.name}-wal")
        self.connection = Connection(self.store._connection, self.points, wal)
        self.store._connection = self.connection  # type: ignore[assignment]
        suspect = self.store.suspect
        reconcile(self.store, self.state_dir, damaged=suspect, now=self.now, boot_id=self.boot_id)
        for row in self.store.active():
            if row.status.state is JobState.COMPLETING:
                self._stop(row)
        self.look()

    def _fsync(self, fd: Any) -> None:
        self.points.pass_by()
        self._real_fsync(fd)
        self.points.pass_by()

    # --- what the agent does ------------------------------------------------------------------------------------------

    def submit(self, spec: JobSpec, key: str) -> JobRow:
        row, _ = ledger.take_in(
            self.store,
            self.state_dir,
            spec,
            user="ada",
            uid=1001,
            key=key,
            digest=spec.name,
            now=self.now,
            env={"A": "b"},
            script="#!/bin/sh\n",
        )
        return row

    def ask(self, job_id: int, event: Event) -> JobRow:
        """A wish is stored, then the job is told."""
        row = ledger.apply(self.store, self.state_dir, job_id, event, self.now)
        if row.status.state is JobState.COMPLETING:
            self._stop(row)
        return row

    def ask_all(self, job_ids: Sequence[int], event: Event) -> None:
        for row in ledger.apply_each(self.store, self.state_dir, job_ids, event, self.now):
            if row.status.state is JobState.COMPLETING:
                self._stop(row)

    def amend(self, job_ids: Sequence[int], change: Callable[[JobSpec], JobSpec], event: str) -> None:
        ledger.amend_each(self.store, self.state_dir, job_ids, change, self.now, event=event, by="ada")

    def serve(self) -> None:
        """A pass of the queue: whoever is first and fits."""
        claimed = []
        with self.store.transaction():
            for row in self.store.pending():
                held = {uuid for each in self.store.active() for uuid in each.status.gpu_uuids}
                free = [uuid for uuid in GPUS if uuid not in held]
                if row.spec.held is None and row.spec.gpus <= len(free):
                    attempt = row.status.attempt + 1
                    uuids = free[: row.spec.gpus]
                    with suppress(GpuHeldError):
                        claimed.append(self.store.claim(row.id, attempt=attempt, gpu_uuids=uuids, now=self.now))
        for row in claimed:
            self._launch(row)

    def look(self) -> None:
        """See what has become of the runs, as after a start of the agent."""
        for row in self.store.active():
            self._look_at(row)

    def forget(self) -> list[int]:
        return forget_old(self.store, self.state_dir, before=self.now + 1)

    def back_up(self) -> None:
        thread = threading.Thread(target=self.store.back_up)
        thread.start()
        thread.join(timeout=60)

    def _look_at(self, row: JobRow) -> None:
        attempt = self._attempt(row)
        found = recover(attempt, self.boot_id)
        started = found.started if isinstance(found, Alive | Lost | Rebooted) else attempt.read_started()
        if started is not None and row.status.started_at is None:
            row = self._apply(row, machine.Started(at=started.at))
        match found:
            case Ended(exit=end):
                self._apply(row, end_event(end, started, self.boot_id))
            case NeverRan():
                if row.status.state is JobState.CONFIGURING:
                    self._launch(row)
                else:
                    self._apply(row, machine.NeverRan())
            case Rebooted():
                self._apply(row, machine.Rebooted())
            case Lost():
                self._apply(row, machine.Lost())

    def _apply(self, row: JobRow, event: Event) -> JobRow:
        return ledger.apply(self.store, self.state_dir, row.id, event, self.now)

    def _launch(self, row: JobRow) -> None:
        attempt = self._attempt(row)
        if attempt.read_claim() is None:
            env = {"CUDA_VISIBLE_DEVICES": ",".join(row.status.gpu_uuids)}
            attempt.create(Claim(argv=("/bin/true",), env=env, work_dir="/"))
        if not attempt.locked() and attempt.read_started() is None and attempt.read_exit() is None:
            self.shims[row.id, attempt.attempt] = Shim(attempt, self.boot_id)

    def _stop(self, row: JobRow) -> None:
        attempt = self._attempt(row)
        attempt.make()
        attempt.write_stop(
            Stop(why="cancel" if row.status.wish == "cancel" else "preempt", by=row.status.cancelled_by or "stoker")
        )

    def _attempt(self, row: JobRow) -> AttemptDir:
        return attempt_dir(self.state_dir, row.id, row.status.attempt)

    # --- what the shims do --------------------------------------------------------------------------------------------

    def shim_starts(self, key: tuple[int, int]) -> None:
        """The gate opens, unless it was told to stop before: then it ends without having run anything."""
        shim = self.shims[key]
        if shim.attempt.read_stop() is not None:
            shim.end(0, self.now)
            del self.shims[key]
            return
        shim.start(self.now)
        self.runs.setdefault(key[0], []).append(key[1])

    def shim_ends(self, key: tuple[int, int], code: int, *, heeds_stop: bool) -> None:
        self.shims.pop(key).end(code, self.now, heeds_stop=heeds_stop)

    def shim_dies(self, key: tuple[int, int]) -> None:
        self.shims.pop(key).die()
