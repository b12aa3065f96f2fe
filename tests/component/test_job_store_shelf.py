"""What stands beside the jobs: the shelf, the account of each job, the charges of the fair share."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from agent.api.queue import Drain, GpuUsage, JobUsage, Reservation, UsagePoint, Verdict
from agent.jobs.store import JobStore
from tests.fakes.stores import path as path
from tests.fakes.stores import store as store

HOUR = 3600
DAY = 24 * HOUR


def test_the_shelf_keeps_things_by_kind_and_key(tmp_path: Path, store: JobStore) -> None:
    night = Reservation(name="night", start_at=1, end_at=2, users=("ada",))
    store.put("reservation", "night", night)
    store.put("reservation", "'; DROP TABLE shelf; --", Reservation(name="x", start_at=3, end_at=4))
    store.put("drain", 7, Drain(reason="hot", by="ada", at=5))
    moved = Reservation(name="night", start_at=9, end_at=10)
    store.put("reservation", "night", moved)
    store.close()
    again = JobStore.open(tmp_path / "agent.db", now=2)
    assert list(again.all("reservation", Reservation)) == ["night", "'; DROP TABLE shelf; --"]
    assert again.all("reservation", Reservation)["night"] == moved
    assert again.all("drain", Drain)["7"].reason == "hot"
    assert again.all("nothing", Drain) == {}
    assert (again.drop("drain", 7), again.drop("drain", 7)) == (True, False)
    assert again.all("drain", Drain) == {}
    again.close()


def test_what_this_version_cannot_read_is_left_out_loudly_and_stays(
    store: JobStore, caplog: pytest.LogCaptureFixture
) -> None:
    store.put("drain", "a", Drain(reason="hot", by="ada", at=5))
    with store.transaction():
        store._execute("INSERT INTO shelf (kind, key, body) VALUES ('drain', 'b', '{\"of a later\": 1}')")
        store._execute("INSERT INTO shelf (kind, key, body) VALUES ('drain', 'c', '{torn')")
    caplog.set_level(logging.ERROR)
    assert list(store.all("drain", Drain)) == ["a"]
    assert len(caplog.messages) == 2
    assert "the stored drain 'b' cannot be read and is left out" in caplog.messages[0]
    assert store._execute("SELECT count(*) FROM shelf").fetchone()[0] == 3


def test_numbers_of_things_are_not_given_out_again(store: JobStore) -> None:
    assert [store.next_number("cron") for _ in range(3)] == [1, 2, 3]
    assert store.next_number("letter") == 1
    with pytest.raises(RuntimeError), store.transaction():
        store.next_number("cron")
        raise RuntimeError
    assert store.next_number("cron") == 4


def test_the_account_of_a_job(store: JobStore) -> None:
    usage = JobUsage(samples=3, gpu_seconds=12.5, verdict=Verdict.IDLE, gpus=(GpuUsage(uuid="GPU-a", energy_j=3.0),))
    curve = [UsagePoint(at=5, utilization_percent=40.0), UsagePoint(at=6)]
    assert store.usage_of(1) is None
    store.put_usage(1, JobUsage())
    store.put_usage(1, usage, curve)
    store.put_usage(2, JobUsage(samples=1))
    assert store.usage_of(1) == (usage, tuple(curve))
    assert store.usages_of([1, 2, 3]) == {1: usage, 2: JobUsage(samples=1)}
    assert store.usages_of(range(2000)).keys() == {1, 2}


def test_charges_are_halved_every_half_life(tmp_path: Path, store: JobStore) -> None:
    store.charge("vision", "ada", 100.0, 10 * DAY)
    store.charge("vision", "ada", 60.0, 11 * DAY)
    store.charge("speech", "ada", 8.0, 11 * DAY)
    store.charge("vision", "bob", 0.0, 11 * DAY)
    store.close()
    again = JobStore.open(tmp_path / "agent.db", now=2)
    used = again.usage_as_of(11 * DAY, DAY)
    assert used == {("vision", "ada"): pytest.approx(110.0), ("speech", "ada"): 8.0, ("vision", "bob"): 0.0}
    assert again.usage_as_of(13 * DAY, DAY)["vision", "ada"] == pytest.approx(27.5)
    assert again.usage_as_of(11 * DAY, 2 * DAY)["vision", "ada"] == pytest.approx(60 + 100 * 2**-0.5), (
        "as configured now"
    )
    assert again.usage_as_of(5 * DAY, DAY)["vision", "ada"] == 160.0, "a clock that went back makes nothing of it"
    again.close()


def test_an_hour_of_charges_decays_as_if_each_were_kept(store: JobStore) -> None:
    charges = [(second, 1.0 + second % 7) for second in range(0, HOUR, 37)]
    for second, gpu_s in charges:
        store.charge("a", "u", gpu_s, 100 * HOUR + second)
    now, half_life = 130 * HOUR, DAY
    exact = sum(gpu_s * 2 ** ((100 * HOUR + second - now) / half_life) for second, gpu_s in charges)
    assert store.usage_as_of(now, half_life)["a", "u"] == pytest.approx(exact, rel=1e-3)
    assert store._execute("SELECT count(*) FROM charges").fetchone()[0] == 1


def test_what_has_decayed_to_nothing_is_dropped(store: JobStore) -> None:
    store.charge("a", "old", 1e9, 0)
    store.charge("a", "new", 1.0, 50 * DAY)
    assert store.usage_as_of(50 * DAY, DAY) == {("a", "new"): 1.0}
    assert store.forget_charges(50 * DAY, DAY) == 1
    assert store.forget_charges(50 * DAY, DAY) == 0
