"""Placements on a real SQLite file."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from agent.hub.store import KEPT_S, PlacementStore
from agent.jobs.errors import NewerSchemaError, StoreError, StoreLockedError

NOW = 1_800_000_000


def test_the_first_node_of_a_key_holds_for_ever_after(tmp_path: Path) -> None:
    store = PlacementStore.open(tmp_path / "hub.db", NOW)
    assert store.find(1000, "k") is None
    assert store.add(1000, "k", "n1", NOW) == "n1"
    assert store.add(1000, "k", "n2", NOW) == "n1"
    assert store.add(1001, "k", "n2", NOW) == "n2"  # another user's key is another key
    store.close()
    again = PlacementStore.open(tmp_path / "hub.db", NOW)
    assert (again.find(1000, "k"), again.find(1001, "k")) == ("n1", "n2")
    again.close()


def test_a_placement_is_forgotten_once_every_submit_under_it_was_refused(tmp_path: Path) -> None:
    store = PlacementStore.open(tmp_path / "hub.db", NOW)
    store.add(1, "k", "n1", NOW)
    store.add(1, "k", "n1", NOW)
    store.add(2, "k", "n1", NOW)
    store.take_back(1, "k")
    assert store.find(1, "k") == "n1", "the other one may have been stored"
    store.take_back(1, "k")
    assert store.find(1, "k") is None
    store.take_back(1, "k")
    assert store.add(1, "k", "n2", NOW) == "n2"
    assert store.find(2, "k") == "n1"
    store.close()


def test_a_placement_survives_kill_9_from_the_moment_add_returns(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from agent.hub.store import PlacementStore\n"
        f"PlacementStore.open(Path(sys.argv[1]), {NOW}).add(1, 'k', 'n1', {NOW}); os.kill(os.getpid(), signal.SIGKILL)"
    )
    root = Path(__file__).parents[2]
    died = subprocess.run([sys.executable, "-c", code, tmp_path / "hub.db"], cwd=root, timeout=60, check=False)
    assert died.returncode == -9
    store = PlacementStore.open(tmp_path / "hub.db", NOW)
    assert store.find(1, "k") == "n1"
    store.close()


def test_old_placements_are_forgotten_at_open(tmp_path: Path) -> None:
    store = PlacementStore.open(tmp_path / "hub.db", NOW)
    store.add(1, "old", "n1", NOW - KEPT_S - 1)
    store.add(1, "new", "n1", NOW - KEPT_S + 1)
    store.close()
    store = PlacementStore.open(tmp_path / "hub.db", NOW)
    assert (store.find(1, "old"), store.find(1, "new")) == (None, "n1")
    store.close()


def test_a_second_hub_on_the_same_file_is_refused(tmp_path: Path) -> None:
    store = PlacementStore.open(tmp_path / "hub.db", NOW)
    with pytest.raises(StoreLockedError, match=r"hub\.db is in use by"):
        PlacementStore.open(tmp_path / "hub.db", NOW)
    store.close()


FILL = """
import json, resource, signal, sys
from pathlib import Path
from agent.hub.store import KEPT_S, PlacementStore
from agent.jobs.errors import StoreError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path = Path(sys.argv[1])
store = PlacementStore.open(path, 1)
store.add(1, "before", "n1", 1)
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
full = path.with_name(path.name + "-wal").stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (full, hard))
refused = []
for write in (lambda: store.add(1, "full", "n1", 1), lambda: store.take_back(1, "before")):
    try:
        write()
    except StoreError as error:
        refused.append(str(error))
reads = [store.find(1, "before"), store.find(1, "full")]
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
after = store.add(1, "full", "n2", 1)
store.close()
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
late = PlacementStore.open(path, 1 + 2 * KEPT_S)  # forgetting the old ones is a write
print(json.dumps({"refused": refused, "reads": reads, "after": after, "late": late.find(1, "before")}))
"""


def test_a_full_disk_refuses_and_recovers_by_itself(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    argv = [sys.executable, "-c", FILL, str(tmp_path / "hub.db")]
    told = json.loads(subprocess.run(argv, cwd=root, capture_output=True, timeout=60, check=True).stdout)
    assert len(told["refused"]) == 2
    assert all("hub.db refused" in each and "disk is full" in each for each in told["refused"])
    assert told["reads"] == ["n1", None], "reads work, and nothing half-noted is seen"
    assert told["after"] == "n2"
    assert told["late"] == "n1", "a hub comes up although there is no room to forget in"


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "hub").write_text("a file")
    with pytest.raises(StoreError, match=r"cannot make .*/hub"):
        PlacementStore.open(tmp_path / "hub" / "hub.db", NOW)


def test_a_damaged_file_is_moved_aside_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "hub.db"
    path.write_bytes(b"not a database, but somebody's bytes" * 100)
    store = PlacementStore.open(path, NOW)
    assert store.add(1, "k", "n1", NOW) == "n1"
    store.close()
    assert (tmp_path / f"hub.db.damaged-{NOW}").read_bytes().startswith(b"not a database")


def test_a_file_of_a_newer_version_is_refused_untouched(tmp_path: Path) -> None:
    PlacementStore.open(tmp_path / "hub.db", NOW).close()
    with sqlite3.connect(tmp_path / "hub.db") as newer:
        newer.execute("PRAGMA user_version = 99")
    newer.close()
    with pytest.raises(NewerSchemaError, match=r"has schema 99, and this version of Stoker knows up to 1"):
        PlacementStore.open(tmp_path / "hub.db", NOW)
    assert list(tmp_path.iterdir()) == [tmp_path / "hub.db"]


def test_the_file_is_for_its_owner_only(tmp_path: Path) -> None:
    PlacementStore.open(tmp_path / "hub.db", NOW).close()
    assert (tmp_path / "hub.db").stat().st_mode & 0o777 == 0o600
