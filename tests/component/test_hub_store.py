"""Placements on a real SQLite file."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from agent.api.errors import StokerError
from agent.hub.store import KEPT_S, PlacementStore

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
    with pytest.raises(StokerError, match="is another hub running"):
        PlacementStore.open(tmp_path / "hub.db", NOW)
    store.close()


def test_a_damaged_file_is_moved_aside_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "hub.db"
    path.write_bytes(b"not a database, but somebody's bytes" * 100)
    store = PlacementStore.open(path, NOW)
    assert store.add(1, "k", "n1", NOW) == "n1"
    store.close()
    assert (tmp_path / f"hub.db.damaged-{NOW}").read_bytes().startswith(b"not a database")


def test_a_file_of_a_newer_version_is_refused_untouched(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "hub.db") as newer:
        newer.execute("PRAGMA user_version = 99")
    newer.close()
    with pytest.raises(StokerError, match=r"newer Stoker .schema 99"):
        PlacementStore.open(tmp_path / "hub.db", NOW)


def test_the_file_is_for_its_owner_only(tmp_path: Path) -> None:
    PlacementStore.open(tmp_path / "hub.db", NOW).close()
    assert (tmp_path / "hub.db").stat().st_mode & 0o777 == 0o600
