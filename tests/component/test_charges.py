"""What a job's GPU time costs its user: charged while it runs and when it ends, and no second twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.config import Config
from agent.engine import charges
from agent.jobs.machine import Claimed, Ended, Lost, Started, outcome_of
from agent.jobs.spec import JobSpec
from agent.jobs.store import JobStore
from tests.fakes.engines import make_config
from tests.fakes.stores import path as path
from tests.fakes.stores import reopened

SPEC = JobSpec(name="n", script_name="s", submit_dir="/", work_dir="/", gpus=2)
BEGUN_AT, ENDED_AT = 100, 200
END = Ended(outcome=outcome_of(code=0, signal=None, why=None, ended_at=ENDED_AT))


@pytest.mark.parametrize("charged_at", [(), (150,), (150, 150), (120, 150, 180)])
@pytest.mark.parametrize("restarted", [False, True])
def test_what_was_charged_before_the_end_is_not_charged_again(
    tmp_path: Path, path: Path, charged_at: tuple[int, ...], restarted: bool
) -> None:
    config, store = make_config(tmp_path), JobStore.open(path, now=1)
    job_id = _running(store)
    for at in charged_at:
        charges.charge_running(store, config, at)
    if restarted:
        store = reopened(store, path)
    before = store.get(job_id)
    charges.settle(store, config, END, before, store.apply(job_id, END, 999), 999)
    charges.charge_running(store, config, 999)
    assert _used(store, config) == pytest.approx(2 * (ENDED_AT - BEGUN_AT), rel=0.01)
    store.close()


def test_of_a_run_that_nobody_saw_end_it_stays_at_the_last_charge(tmp_path: Path, path: Path) -> None:
    config, store = make_config(tmp_path), JobStore.open(path, now=1)
    job_id = _running(store)
    charges.charge_running(store, config, 130)
    before, lost = store.get(job_id), Lost()
    charges.settle(store, config, lost, before, store.apply(job_id, lost, 999), 999)
    assert _used(store, config) == pytest.approx(2 * 30, rel=0.01)
    store.close()


def _running(store: JobStore) -> int:
    row, _ = store.add(SPEC, user="ada", uid=1, key=None, digest="d", now=50)
    store.apply(row.id, Claimed(attempt=1, gpu_uuids=("GPU-0", "GPU-1")), 90)
    store.apply(row.id, Started(at=BEGUN_AT), BEGUN_AT)
    return row.id


def _used(store: JobStore, config: Config) -> float:
    return charges.usage(store, config, ENDED_AT)["", "ada"]
