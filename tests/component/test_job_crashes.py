"""The real store and job folders, with the agent killed between any two durable writes, the node rebooted, the database
lost: whatever happens, what was answered holds. Rows 1 to 11, 25, 26, 28 of the fault matrix; see `tests.fakes.crashes`
for what a simulated power cut can take away and what not.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agent.api.types import FINAL_STATES, JobState
from agent.jobs.errors import ForgottenJobError, IllegalMoveError
from agent.jobs.machine import CancelAsked, Event, Expired, PreemptAsked, RequeueAsked
from agent.jobs.row import JobRow
from agent.jobs.spec import ArraySpec, JobSpec
from tests.fakes.crashes import Crash, World

FAST = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path(tempfile.gettempdir())
"""Nothing here depends on the disk: a power cut is simulated."""

RUNNING = (JobState.CONFIGURING, JobState.RUNNING, JobState.COMPLETING)

DEATHS = st.one_of(st.none(), st.none(), st.integers(0, 14))
"""After how many points the agent dies during a step; an array's submit has 12."""


def spec(gpus: int = 0, *, requeue: bool = False, tasks: int = 0) -> JobSpec:
    array = ArraySpec(tasks=tuple(range(0, 2 * tasks, 2)), text=f"0-{2 * tasks - 2}:2") if tasks else None
    return JobSpec(name="n", script_name="s", submit_dir="/", work_dir="/", gpus=gpus, requeue=requeue, array=array)


class Node(RuleBasedStateMachine):
    """What its users were told, beside what the node knows."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(dir=FAST)
        self.world = World(Path(self.folder.name))
        self.keys: dict[str, int] = {}
        self.accepted: set[int] = set()
        self.used: set[int] = set()
        """Every id ever answered with."""
        self.forgotten: set[int] = set()
        self.going: set[int] = set()
        """Their forgetting was cut short: the folder may be gone, and with a lost database all of them."""
        self.ended: dict[int, JobState] = {}
        self.cancelled: dict[int, int] = {}
        """Job → the attempt it had when its cancel was answered."""
        self.held: dict[int, int] = {}
        """Job → how often it had run when its hold was answered."""
        self.may_run: dict[int, int] = {}
        self.unsure: set[int] = set()
        """A requeue was asked for and not answered: it may happen, now or after a loss of the database."""

    # --- a step that may be cut short ---------------------------------------------------------------------------------

    def step(self, act: Callable[[], object], death: int | None, torn: float) -> bool:
        """Whether it was answered."""
        try:
            with self.world.dying(death):
                act()
            return True
        except Crash:
            self.world.crash(torn=torn)
            return False

    def chosen(self, data: st.DataObject, wanted: Callable[[JobRow], bool]) -> JobRow | None:
        rows = [row for row in self.world.store.find() if wanted(row)]
        return data.draw(st.sampled_from(rows)) if rows else None

    @initialize()
    def begin(self) -> None:
        self.world.now += 1

    # --- what users do ------------------------------------------------------------------------------------------------

    @rule(
        gpus=st.integers(0, 2),
        requeue=st.booleans(),
        tasks=st.sampled_from([0, 0, 1, 3]),
        death=DEATHS,
        torn=st.floats(0, 1),
    )
    def submit(self, gpus: int, requeue: bool, tasks: int, death: int | None, torn: float) -> None:
        key = f"key-{len(self.keys)}"
        asked = spec(gpus, requeue=requeue, tasks=tasks)
        self.step(lambda: self.world.submit(asked, key), death, torn)
        row = self.world.submit(asked, key)  # as a client does that got no answer, or its answer twice
        self.keys[key] = row.id
        ids = range(row.id, row.id + max(tasks, 1))
        assert self.used.isdisjoint(ids), "an id is never given out twice"
        self.used.update(ids)
        self.accepted.update(ids)
        self.may_run.update(dict.fromkeys(ids, 1))

    @rule(data=st.data(), whole_array=st.booleans(), death=DEATHS, torn=st.floats(0, 1))
    def cancel(self, data: st.DataObject, whole_array: bool, death: int | None, torn: float) -> None:
        row = self.chosen(data, lambda row: not row.status.state.is_final)
        if row is None:
            return
        rows = self.tasks_of(row) if whole_array else [row]
        ids = [each.id for each in rows if not each.status.state.is_final]
        if self.step(lambda: self.world.ask_all(ids, CancelAsked(by="ada")), death, torn):
            self.cancelled.update({each: self.world.store.get(each).status.attempt for each in ids})

    @rule(data=st.data(), death=DEATHS, torn=st.floats(0, 1))
    def requeue(self, data: st.DataObject, death: int | None, torn: float) -> None:
        row = self.chosen(data, lambda row: row.status.state is not JobState.PENDING and row.id not in self.forgotten)
        if row is None or (row.status.state is JobState.COMPLETING and row.status.wish == "cancel"):
            return
        self.may_run[row.id] += 1
        if self.ask(row, RequeueAsked(by="ada"), death, torn):
            if row.status.state.is_final:
                self.ended.pop(row.id, None)
                self.cancelled.pop(row.id, None)
        else:
            self.unsure.add(row.id)

    @rule(data=st.data(), release=st.booleans(), whole_array=st.booleans(), death=DEATHS, torn=st.floats(0, 1))
    def hold(self, data: st.DataObject, release: bool, whole_array: bool, death: int | None, torn: float) -> None:
        row = self.chosen(data, lambda row: row.status.state is JobState.PENDING)
        if row is None:
            return
        rows = [each for each in self.tasks_of(row) if each.status.state is JobState.PENDING] if whole_array else [row]
        ids = [each.id for each in rows]
        word = None if release else "user"

        def change(before: JobSpec) -> JobSpec:
            return msgspec.structs.replace(before, held=word)

        if release:
            for each in ids:
                self.held.pop(each, None)
        answered = self.step(lambda: self.world.amend(ids, change, "Released" if release else "Held"), death, torn)
        if answered and not release:
            self.held.update({each: len(self.world.runs.get(each, [])) for each in ids})

    # --- what the node does -------------------------------------------------------------------------------------------

    @rule(death=DEATHS, torn=st.floats(0, 1))
    def serve(self, death: int | None, torn: float) -> None:
        self.step(self.world.serve, death, torn)

    @rule(death=DEATHS, torn=st.floats(0, 1))
    def look(self, death: int | None, torn: float) -> None:
        self.world.now += 1
        self.step(self.world.look, death, torn)

    @rule(data=st.data(), expire=st.booleans(), death=DEATHS, torn=st.floats(0, 1))
    def decide(self, data: st.DataObject, expire: bool, death: int | None, torn: float) -> None:
        """The scheduler preempts, or finds that a deadline cannot be met."""
        row = self.chosen(data, lambda row: row.status.state in ([JobState.PENDING] if expire else RUNNING))
        if row is None:
            return
        if not expire and row.spec.requeue:
            self.may_run[row.id] += 1
        self.ask(row, Expired() if expire else PreemptAsked(for_job=99), death, torn)

    @precondition(lambda self: self.world.shims)
    @rule(data=st.data(), how=st.sampled_from(["starts", "starts", "ends", "dies"]), code=st.sampled_from([0, 3]))
    def shim(self, data: st.DataObject, how: str, code: int) -> None:
        key = data.draw(st.sampled_from(sorted(self.world.shims)))
        if not self.world.shims[key].started:
            self.world.shim_starts(key)
        elif how == "ends":
            self.world.shim_ends(key, code, heeds_stop=data.draw(st.booleans()))
        elif how == "dies":
            self.may_run[key[0]] += self.world.store.get(key[0]).spec.requeue
            self.world.shim_dies(key)

    @rule(death=DEATHS, torn=st.floats(0, 1))
    def forget(self, death: int | None, torn: float) -> None:
        due = [each for ids in self.world.store.expired(self.world.now + 1, 100).values() for each in ids]
        self.step(self.world.forget, death, torn)
        gone = set(due) - self.world.store.ids()
        self.forgotten |= gone
        self.accepted -= gone
        self.going = (self.going | set(due)) - gone

    # --- what befalls the node ----------------------------------------------------------------------------------------

    @rule(death=DEATHS)
    def killed(self, death: int | None) -> None:
        """Also while it comes up again."""
        with self.world.dying(death):
            self.world.crash()

    @rule()
    def rebooted(self) -> None:
        for job_id, _ in self.world.shims:
            self.may_run[job_id] += self.world.store.get(job_id).spec.requeue
        self.world.reboot()

    @rule()
    def backed_up(self) -> None:
        self.world.back_up()

    @rule(lose=st.sampled_from([("", "-wal"), ("-wal",)]), backup=st.booleans(), death=DEATHS)
    def database_lost(self, lose: Sequence[str], backup: bool, death: int | None) -> None:
        if not backup and "" in lose:
            lose = (*lose, ".backup")
        before = self.world.store.pending()
        with self.world.dying(death):
            self.world.crash(lose=lose)
        after = {row.id for row in self.world.store.find()}
        assert {row.id for row in before} <= after, "the queue is never silently empty"
        self.forgotten |= self.going - after
        self.accepted -= self.going - after
        self.ended = {each: state for each, state in self.ended.items() if each in self.accepted}
        for job_id, state in list(self.ended.items()):
            now = self.world.store.get(job_id).status.state
            if now.is_final:
                self.ended[job_id] = now  # NODE_FAIL may stand where only the row told of a preemption
            assert state.is_final

    # --- what must hold -----------------------------------------------------------------------------------------------

    @invariant()
    def no_accepted_job_is_lost(self) -> None:
        rows = {row.id: row for row in self.world.store.find()}
        assert self.accepted <= rows.keys()
        for job_id in self.forgotten & rows.keys():
            assert rows[job_id].status.state.is_final, "an older database may know it, but it never runs again"
        for key, job_id in self.keys.items():
            if job_id in self.accepted:
                assert self.world.store.seen(1001, key, "n") == rows[job_id]
        assert [row.id for row in self.world.store.pending()] == sorted(
            row.id for row in rows.values() if row.status.state is JobState.PENDING
        )

    @invariant()
    def outcomes_stand(self) -> None:
        for row in self.world.store.find():
            assert row.status.state in FINAL_STATES or row.status.state in (JobState.PENDING, *RUNNING)
            assert self.world.store.history(row.id)[-1].state is row.status.state
            if row.id in self.unsure or row.id in self.forgotten:
                continue
            if row.id in self.ended:
                assert row.status.state is self.ended[row.id], "only a requeue leaves a final state"
            elif row.status.state.is_final:
                self.ended[row.id] = row.status.state

    @invariant()
    def cancelled_stays_cancelled(self) -> None:
        for job_id in self.cancelled.keys() - self.unsure - self.forgotten:
            status = self.world.store.get(job_id).status
            assert status.state.is_final or (status.state, status.wish) == (JobState.COMPLETING, "cancel")
            assert max(self.world.runs.get(job_id, [0])) <= self.cancelled[job_id], "no run is begun after it"

    @invariant()
    def nothing_runs_twice(self) -> None:
        for job_id, attempts in self.world.runs.items():
            assert len(attempts) == len(set(attempts)), "an attempt is run once"
            assert len(attempts) <= self.may_run[job_id], "a job runs again only if that was wanted"
        for job_id, runs in self.held.items():
            if job_id in self.accepted and self.world.store.get(job_id).status.state is JobState.PENDING:
                assert self.world.store.get(job_id).spec.held == "user"
                assert len(self.world.runs.get(job_id, [])) == runs

    @invariant()
    def no_gpu_is_held_twice(self) -> None:
        held = [uuid for row in self.world.store.active() for uuid in row.status.gpu_uuids]
        assert len(held) == len(set(held))
        running = []
        for shim in self.world.shims.values():
            claim = shim.attempt.read_claim()
            assert claim is not None
            running += [uuid for uuid in claim.env["CUDA_VISIBLE_DEVICES"].split(",") if uuid]
        assert len(running) == len(set(running)), "not by two processes either, whatever the store says"

    # --- below --------------------------------------------------------------------------------------------------------

    def ask(self, row: JobRow, event: Event, death: int | None, torn: float) -> bool:
        try:
            return self.step(lambda: self.world.ask(row.id, event), death, torn)
        except IllegalMoveError:
            return False
        except ForgottenJobError:
            assert row.id in self.going, "what is kept can be requeued"
            return False

    def tasks_of(self, row: JobRow) -> Sequence[JobRow]:
        return [row] if row.array_job_id is None else self.world.store.tasks_of(row.array_job_id)

    def teardown(self) -> None:
        self.world.stop()
        self.folder.cleanup()
        shutil.rmtree(self.folder.name, ignore_errors=True)


@pytest.fixture(autouse=True, scope="module")
def quiet() -> Iterator[None]:
    """Thousands of losses are told loudly; nobody listens here. Other files' tests do, in the same process."""
    logger = logging.getLogger("agent")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(before)


TestNode = Node.TestCase
TestNode.settings = settings(max_examples=40, stateful_step_count=40, suppress_health_check=list(HealthCheck))
