"""The command line itself: usage, errors, exit codes, and what is imported for it. In processes of their own."""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.agent import fake_agent

ENTRY = "import sys; from tui.__main__ import main; sys.exit(main())"
DEADLINE_S = 40.0


def stoker(*words: str, env: dict[str, str] | None = None, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", ENTRY, *words],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        env={**os.environ, **(env or {})},
    )


@pytest.fixture
def nowhere(tmp_path: Path) -> dict[str, str]:
    """A machine on which nothing runs, as far as the environment tells."""
    return {"HOME": str(tmp_path), "STOKER_SOCKET": "", "XDG_RUNTIME_DIR": str(tmp_path / "run"), "XDG_STATE_HOME": ""}


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An agent of one node, with job 1, that keeps everything in memory."""
    with fake_agent(tmp_path / "a.sock"):
        yield {"STOKER_SOCKET": str(tmp_path / "a.sock")}


def test_help_has_examples_and_every_command() -> None:
    said = stoker("--help").stdout
    for word in ("nodes", "gpus", "jobs", "show", "submit", "logs", "cancel", "wait", "license", "examples:", "-H"):
        assert word in said
    assert "--gres=gpu:2" in stoker("submit", "--help").stdout
    assert "--follow" in stoker("logs", "--help").stdout


def test_version() -> None:
    from agent import __version__

    assert stoker("--version").stdout == f"stoker {__version__}\n"


WRONG = (
    "nonsense",
    "show",
    "show x",
    "cancel",
    "wait n1:",
    "logs 1 2",
    "jobs --limit -1",
    "submit",
    "submit --bogus x",
    "submit -G",
)


@pytest.mark.parametrize("words", WRONG)
def test_wrong_usage_ends_with_2_and_says_why(words: str, nowhere: dict[str, str]) -> None:
    done = stoker(*words.split(), env=nowhere)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr
    assert "Traceback" not in done.stderr


def test_without_a_terminal_and_a_command_it_names_one(nowhere: dict[str, str]) -> None:
    done = stoker(env=nowhere)
    assert done.returncode == 2
    assert "stoker jobs" in done.stderr


def test_without_a_server_it_says_what_was_tried_and_what_to_start(nowhere: dict[str, str]) -> None:
    done = stoker("nodes", env=nowhere)
    assert (done.returncode, done.stdout) == (1, "")
    home = Path(nowhere["HOME"])
    for place in ("/run/stoker", str(home / "run" / "stoker"), str(home / ".local/state/stoker/run")):
        assert f"{place}/hub.sock, {place}/agent.sock" in done.stderr or Path(place, "hub.sock").exists()
    assert "stoker-agent run" in done.stderr


def test_a_named_socket_that_is_not_there(tmp_path: Path) -> None:
    done = stoker("--socket", str(tmp_path / "none.sock"), "jobs")
    assert done.returncode == 1
    assert str(tmp_path / "none.sock") in done.stderr


def test_the_sockets_are_found_hub_first(tmp_path: Path) -> None:
    folder = tmp_path / "stoker"
    folder.mkdir()
    env = {"HOME": str(tmp_path), "STOKER_SOCKET": "", "XDG_RUNTIME_DIR": str(tmp_path)}
    if Path("/run/stoker").exists():
        pytest.skip("a Stoker is installed on this machine, and its sockets come first")
    with fake_agent(folder / "agent.sock", name="the-agent"):
        assert "the-agent" in stoker("nodes", env=env).stdout
        with fake_agent(folder / "hub.sock", name="the-hub"):
            assert "the-hub" in stoker("nodes", env=env).stdout


def test_options_of_all_commands_stand_before_or_after_them(agent: dict[str, str]) -> None:
    socket_path = agent["STOKER_SOCKET"]
    for words in (("--socket", socket_path, "--json", "jobs"), ("jobs", "--json", "--socket", socket_path)):
        assert json.loads(stoker(*words, env={"STOKER_SOCKET": "/nowhere"}).stdout)[0]["id"] == 1


def test_lists_are_aligned_and_labelled(agent: dict[str, str]) -> None:
    nodes, gpus, jobs = (stoker(verb, env=agent).stdout.splitlines() for verb in ("nodes", "gpus", "jobs"))
    assert nodes[0].split()[:2] == ["NODE", "STATE"]
    assert "8 simulated" in nodes[1]
    assert len(gpus) == 9
    assert all("simulated" in line for line in gpus[1:])
    at = jobs[0].index("STATE")
    assert jobs[1][at:].startswith("RUNNING")
    assert "\x1b" not in "".join(nodes + gpus + jobs)


def test_json_is_one_line_of_ascii_in_the_wires_shape(agent: dict[str, str]) -> None:
    shapes = {"nodes": {"name", "link", "node"}, "gpus": {"uuid", "node", "gpu_source"}, "jobs": {"id", "state"}}
    for verb, keys in shapes.items():
        done = stoker(verb, "--json", env=agent)
        assert done.stdout.count("\n") == 1 and done.stdout.isascii()
        assert keys <= set(json.loads(done.stdout)[0])
    assert json.loads(stoker("show", "1", "--json", env=agent).stdout)["name"] == "train.sh"


def test_a_job_that_is_not_there_ends_with_1(agent: dict[str, str]) -> None:
    for words in (("show", "99"), ("logs", "-f", "99"), ("wait", "99")):
        done = stoker(*words, env=agent)
        assert (done.returncode, done.stdout) == (1, ""), words
        assert "no such job" in done.stderr


def test_a_log_in_a_pipe_is_byte_for_byte(agent: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ENTRY, "logs", "1"], capture_output=True, timeout=DEADLINE_S, env={**os.environ, **agent}
    )
    assert done.stdout == bytes(range(256)) * 4


def test_a_log_on_a_terminal_is_safe(agent: dict[str, str]) -> None:
    outer, inner = pty.openpty()
    try:
        child = subprocess.Popen([sys.executable, "-c", ENTRY, "logs", "1"], stdout=inner, env={**os.environ, **agent})
        os.close(inner)
        shown = b""
        while True:
            try:
                piece = os.read(outer, 4096)
            except OSError:  # Linux says EIO when the last writer of a pty has gone
                break
            shown += piece
        assert child.wait(timeout=DEADLINE_S) == 0
    finally:
        os.close(outer)
    text = shown.decode()
    assert not [char for char in text if char not in "\r\n" and not char.isprintable()]
    assert "ABCDEFG" in text


@pytest.mark.parametrize("words", ["jobs", "gpus --json", "logs 1", "logs -f 1"])
def test_a_reader_that_has_gone_is_no_error(words: str, agent: dict[str, str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    argv = [sys.executable, "-c", ENTRY, *words.split()]
    done = subprocess.run(argv, stdout=writing, stderr=subprocess.PIPE, timeout=DEADLINE_S, env={**os.environ, **agent})
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


def test_interrupted_while_it_waits_it_ends_with_130_and_no_traceback(agent: dict[str, str]) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", ENTRY, "logs", "-f", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **agent},
    )
    assert child.stdout is not None
    child.stdout.read(10)
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=DEADLINE_S)
    assert (child.returncode, said) == (130, b"")


def test_a_server_that_says_nothing_is_given_up(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(tmp_path / "deaf.sock"))
        deaf.listen()
        done = stoker("--socket", str(tmp_path / "deaf.sock"), "jobs")
    assert done.returncode == 1
    assert "has not answered within" in done.stderr


def test_a_plain_command_loads_neither_the_screen_nor_ssh(agent: dict[str, str]) -> None:
    look = "import sys; from tui.__main__ import main; main(); print(*sys.modules, file=sys.stderr)"
    argv = [sys.executable, "-c", look, "jobs"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=DEADLINE_S, env={**os.environ, **agent})
    assert done.returncode == 0
    loaded = set(done.stderr.split())
    assert not loaded & {"textual", "paramiko", "rich", "cryptography", "aiohttp", "asyncio", "psutil", "agent.config"}


def test_a_script_with_a_hostile_name_is_refused_in_safe_words(tmp_path: Path, nowhere: dict[str, str]) -> None:
    with fake_agent(tmp_path / "a.sock"):
        done = stoker("--socket", str(tmp_path / "a.sock"), "submit", "\x1b[2Jno\nsuch.sh", env=nowhere)
    assert done.returncode == 1
    assert "\x1b" not in done.stderr and done.stderr.count("\n") == 1


def test_the_same_key_is_the_same_job(tmp_path: Path, agent: dict[str, str]) -> None:
    script = tmp_path / "t.sh"
    script.write_text("#!/bin/sh\n")
    first, second, third = (
        stoker("submit", "--json", *key, str(script), env=agent) for key in (("--key", "k"), ("--key=k",), ())
    )
    numbers = [json.loads(done.stdout)["id"] for done in (first, second, third)]
    assert numbers == [2, 2, 3]
    assert "submitted before" in stoker("submit", "--key", "k", str(script), env=agent).stdout
