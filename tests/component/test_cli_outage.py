"""Commands while the agent restarts: they wait for it, say so once, and there is one job in the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.api.client import Client
from agent.api.errors import ApiError, AwayError, ConnectError
from agent.api.patience import Patience
from agent.api.types import SubmitRequest
from agent.api.unix import UnixTransport
from agent.api.wire import BrokenError
from tests.component.test_cli_jobs import Desk
from tests.fakes.agent import fake_agent
from tests.fakes.daemons import Box, wait_until

REQUEST = SubmitRequest(script="#!/bin/sh\n", script_name="a.sh", work_dir="/")


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """A desk whose agent does not run yet."""
    made = Box(tmp_path, gpus=2)
    try:
        user = Desk(made)
        user.socket = made.agent.socket
        yield user
    finally:
        made.close()


def waits(started: subprocess.Popen[str]) -> list[str]:
    """What it says on stderr until it says that it waits."""
    assert started.stderr is not None
    said = []
    for line in started.stderr:
        said.append(line)
        if "may be restarting" in line:
            return said
    raise AssertionError(f"it ended without a wait: {said}")


@pytest.mark.parametrize("stale", [False, True], ids=["no socket", "nobody listens on it"])
def test_a_submit_waits_for_an_agent_that_restarts(desk: Desk, stale: bool) -> None:
    if stale:
        desk.box.agent.start()
        desk.box.agent.kill()  # the socket stays
    started = desk.start("submit", "--wrap", "true", "--hold", "--key", "k")
    said = waits(started)
    desk.box.agent.start()
    out, err = started.communicate(timeout=60)
    assert (started.returncode, out) == (0, "Submitted job 1 on n1\n")
    assert len(said) == 2 and "restarting" not in err, "said once"
    again = desk.run("submit", "--wrap", "true", "--hold", "--key", "k")
    assert again.stdout == "Submitted job 1 on n1, submitted before with this key\n"


def test_other_verbs_and_slurms_names_wait_too(desk: Desk) -> None:
    desk.box.agent.start()
    desk.run("submit", "--wrap", "true", "--hold")
    desk.box.agent.stop()
    verbs = [desk.start("release", "1"), desk.start("jobs"), desk.start("partitions")]
    for each in verbs:
        waits(each)
    desk.box.agent.start()
    for each in verbs:
        each.communicate(timeout=60)
        assert each.returncode == 0


def test_an_interrupt_ends_the_wait_at_once(desk: Desk) -> None:
    started = desk.start("submit", "--wrap", "true")
    waits(started)
    started.send_signal(signal.SIGINT)
    _, err = started.communicate(timeout=30)
    assert (started.returncode, err) == (130, ""), "at once, and nothing was sent: there is no key to speak of"


def test_where_no_stoker_can_be_nothing_is_waited_for(tmp_path: Path) -> None:
    with pytest.raises(ConnectError) as caught:
        UnixTransport(tmp_path / "no" / "folder" / "a.sock").open(1)
    assert not isinstance(caught.value, AwayError)
    env = {**os.environ, "STOKER_SOCKET": str(tmp_path / "no" / "a.sock")}
    for words in (["jobs"], ["gpus", "--follow", "--csv"]):
        code = f"import sys; from tui.__main__ import main; sys.exit(main({words!r}))"
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr


@pytest.mark.parametrize("left", ["socket", "folder"])
def test_where_nobody_has_listened_for_a_minute_nothing_is_waited_for(desk: Desk, left: str) -> None:
    """A socket or folder that a daemon left long ago: nobody is just restarting."""
    desk.box.agent.start()
    desk.box.agent.kill() if left == "socket" else desk.box.agent.stop()
    long_ago = time.time() - 3600
    for path in (desk.socket, desk.socket.parent):
        if path.exists():
            os.utime(path, (long_ago, long_ago))
    done = desk.run("jobs")
    assert (done.returncode, "may be restarting" in done.stderr) == (1, False)
    assert "start stoker-agent (systemctl start stoker-agent, or as an ordinary user: stoker-agent run)" in done.stderr


def test_a_daemon_that_runs_marks_its_socket(desk: Desk) -> None:
    """So that callers wait for one that is killed after days and started again at once."""
    desk.box.agent.prelude = "from agent.api import unix; unix.MARK_S = 0.05; "
    desk.box.agent.start()
    os.utime(desk.socket, (1, 1))
    wait_until(lambda: desk.socket.stat().st_mtime > 1, "it is marked")


# --- what is asked again ----------------------------------------------------------------------------------------------


class Bearing(Patience):
    """A short one, which keeps what it says."""

    def __init__(self, for_s: float = 0.5) -> None:
        self.said: list[str] = []
        super().__init__(self.said.append, for_s=for_s)


def failing(*errors: Exception) -> Callable[[], int]:
    """Fails so, one after the other, and then succeeds with the number of tries."""
    left = list(errors)

    def work() -> int:
        if left:
            raise left.pop(0)
        return len(errors) + 1

    return work


def test_a_call_is_made_again_only_if_it_may_be() -> None:
    sent, unsent = BrokenError("cut", sent=True), BrokenError("cut", sent=False)
    lost, dead = ApiError(503, "node_lost", "n1 is away"), ApiError(502, "node_unreachable", "n1 is away")
    assert Bearing().over(failing(AwayError("restarting"), unsent), repeatable=False) == 3
    assert Bearing().over(failing(sent), repeatable=True) == 2
    assert Bearing().over(failing(lost), repeatable=False, changes=True) == 2, "nothing was sent to the node"
    assert Bearing().over(failing(dead), repeatable=True, changes=True) == 2
    for error, repeatable, changes in (
        (sent, False, True),
        (dead, False, True),
        (lost, True, False),
        (ConnectError("no permission"), True, True),
        (ApiError(503, "not_stored", "the disk is full"), True, True),
        (ApiError(403, "forbidden", "no"), True, True),
    ):
        patience = Bearing()
        with pytest.raises(type(error)):
            patience.over(failing(error), repeatable=repeatable, changes=changes)
        assert patience.said == []


def test_patience_ends_with_the_reason() -> None:
    patience = Bearing(for_s=0.0)
    with pytest.raises(AwayError, match="still away"):
        patience.over(failing(AwayError("still away")), repeatable=True)
    assert len(patience.said) == 1


def test_a_client_without_patience_is_told_at_once(tmp_path: Path) -> None:
    with Client(UnixTransport(tmp_path / "a.sock")) as client, pytest.raises(AwayError, match="there is no socket"):
        client.hello()


@contextmanager
def soon(path: Path) -> Iterator[threading.Event]:
    """A fake agent that comes once the event is set."""
    come, gone = threading.Event(), threading.Event()

    def serve() -> None:
        come.wait(30)
        with fake_agent(path):
            gone.wait(30)

    thread = threading.Thread(target=serve, name="late agent")
    thread.start()
    try:
        yield come
    finally:
        come.set()
        gone.set()
        thread.join()


def test_the_wait_is_told_when_it_begins(tmp_path: Path) -> None:
    with soon(tmp_path / "a.sock") as come:
        patience = Patience(lambda _: come.set(), for_s=30)
        with Client(UnixTransport(tmp_path / "a.sock"), patience=patience) as client:
            assert client.submit(REQUEST, "k").created
            assert not client.submit(REQUEST, "k").created
