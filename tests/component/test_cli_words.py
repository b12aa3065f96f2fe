"""The command line itself: usage, errors, exit codes, and what is imported for it. In processes of their own."""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import pty
import signal
import socket
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.api import program
from tests.fakes.agent import fake_agent
from tests.fakes.rawserver import raw_server, read_request
from tui import cli, commands

ENTRY = "import sys; from tui.__main__ import main; sys.exit(main())"
DEADLINE_S = 60.0


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
def test_wrong_usage_ends_with_64_and_says_why(words: str, nowhere: dict[str, str]) -> None:
    done = stoker(*words.split(), env=nowhere)
    assert (done.returncode, done.stdout) == (64, "")
    assert done.stderr
    assert "Traceback" not in done.stderr


def test_without_a_terminal_and_a_command_it_names_one(nowhere: dict[str, str]) -> None:
    done = stoker(env=nowhere)
    assert done.returncode == 64
    assert "stoker jobs" in done.stderr


def test_without_a_server_it_says_what_was_tried_and_what_to_start(nowhere: dict[str, str]) -> None:
    done = stoker("nodes", env=nowhere)
    assert (done.returncode, done.stdout) == (1, "")
    home = Path(nowhere["HOME"])
    for place in ("/run/stoker", str(home / "run" / "stoker"), str(home / ".local/state/stoker/run")):
        assert f"{place}/hub.sock, {place}/agent.sock" in done.stderr or Path(place, "hub.sock").exists()
    assert "stoker-agent run" in done.stderr


def test_a_named_socket_that_is_not_there(tmp_path: Path) -> None:
    done = stoker("--socket", str(tmp_path / "no" / "none.sock"), "jobs")
    assert done.returncode == 1
    assert str(tmp_path / "no" / "none.sock") in done.stderr


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


def on_terminal(*words: str, env: dict[str, str]) -> tuple[int, str]:
    """Exit code and what was shown on a terminal of 80 columns."""
    outer, inner = pty.openpty()
    fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environ = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    try:
        argv = [sys.executable, "-c", ENTRY, *words]
        child = subprocess.Popen(argv, stdin=inner, stdout=inner, stderr=inner, env={**environ, **env})
        os.close(inner)
        shown = b""
        while True:
            try:
                piece = os.read(outer, 4096)
            except OSError:  # Linux says EIO when the last writer of a pty has gone
                break
            shown += piece
        return child.wait(timeout=DEADLINE_S), shown.decode()
    finally:
        os.close(outer)


def test_a_dumb_terminal_gets_a_plain_overview(agent: dict[str, str]) -> None:
    code, shown = on_terminal(env={**agent, "TERM": "dumb"})
    assert code == 1, "this agent has no licence to tell of"
    assert "\x1b" not in shown
    assert "8 simulated" in shown and "train.sh" in shown
    assert all(len(line) <= 80 for line in shown.split("\r\n")[:-2])
    code, shown = on_terminal("--job", "1", env={**agent, "TERM": "dumb"})
    assert code == 0 and "Submitted" in shown


def test_a_theme_that_does_not_exist_is_named(agent: dict[str, str]) -> None:
    code, shown = on_terminal(env={**agent, "TERM": "xterm", "STOKER_THEME": "solarized"})
    assert code == 64
    assert "STOKER_THEME is 'solarized', which is no theme; use dark or light" in shown
    assert stoker("jobs", env={**agent, "STOKER_THEME": "solarized"}).returncode == 0, "no matter to a plain command"


def test_a_log_on_a_terminal_is_safe(agent: dict[str, str]) -> None:
    code, text = on_terminal("logs", "1", env=agent)
    assert code == 0
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


@pytest.mark.parametrize("words", ["gpus", "jobs --json", "logs 1", "--help", "submit --help", "show 1"])
def test_output_that_cannot_be_written_is_one_line(words: str, agent: dict[str, str]) -> None:
    for redirection, why in ((">/dev/full", "No space left on device"), (">&-", "Bad file descriptor")):
        command = f'exec "$0" -c "$1" {words} {redirection}'
        argv = ["sh", "-c", command, sys.executable, ENTRY]
        done = subprocess.run(argv, stderr=subprocess.PIPE, text=True, timeout=DEADLINE_S, env={**os.environ, **agent})
        assert (done.returncode, done.stderr) == (1, f"stoker: cannot write the output: {why}\n")


def test_all_streams_closed_is_no_reason_to_fail_in_another_way(agent: dict[str, str], nowhere: dict[str, str]) -> None:
    for env, words, code in ((agent, "cancel 1", 1), (nowhere, "jobs", 1), (nowhere, "", 64), (nowhere, "nodse", 64)):
        argv = ["sh", "-c", f'exec "$0" -c "$1" {words} <&- >&- 2>&-', sys.executable, ENTRY]
        assert subprocess.run(argv, timeout=DEADLINE_S, env={**os.environ, **env}).returncode == code, words
    assert json.loads(stoker("show", "1", "--json", env=agent).stdout)["state"] == "CANCELLED"


def test_a_licence_command_whose_reader_has_gone_ends_quietly(tmp_path: Path) -> None:
    entry = "import sys; from agent.__main__ import license_main; sys.exit(license_main())"
    reading, writing = os.pipe()
    os.close(reading)
    argv = [sys.executable, "-c", entry, "vendor", "keys", "root", "--name", "x", "-o", str(tmp_path)]
    done = subprocess.run(argv, stdout=writing, stderr=subprocess.PIPE, timeout=DEADLINE_S)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


MEANT = {
    "nodse": "nodes",
    "cancle 1": "cancel",
    "jobs --jsn": "--json",
    "--jsn jobs": "--json",
    "--hots x jobs": "--host",
    "logs --folow 1": "--follow",
    "submit --jsn x": "--json",
}


@pytest.mark.parametrize("words", MEANT)
def test_what_was_probably_meant_is_named(words: str, nowhere: dict[str, str]) -> None:
    done = stoker(*words.split(), env=nowhere)
    assert (done.returncode, done.stderr.count("\n")) == (64, 1)
    assert f"did you mean {MEANT[words]}?" in done.stderr


@pytest.mark.parametrize("words", ["squeue", "sbatch --gpus=1 x.sh", "sinfo --help"])
def test_one_of_slurms_commands_is_told_where_it_is(words: str, nowhere: dict[str, str]) -> None:
    done = stoker(*words.split(), env=nowhere)
    name = words.split()[0]
    assert (done.returncode, done.stdout) == (64, "")
    assert done.stderr == f"stoker: {name} is one of Slurm's commands; write: stoker slurm {name}   (stoker --help)\n"


def test_the_daemons_words_are_suggested_too() -> None:
    entry = "import sys; from agent.__main__ import agent_main; sys.exit(agent_main())"
    for words, meant in ((["rnu"], "run"), (["--confg", "x", "run"], "--config"), (["config", "chek"], "check")):
        argv = [sys.executable, "-c", entry, *words]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=DEADLINE_S)
        assert done.returncode == 64
        assert f"did you mean {meant}?" in done.stderr


@pytest.mark.parametrize("words", [("-H", ""), ("--host=",), ("--socket", " ")])
def test_an_empty_host_is_not_this_machine(words: tuple[str, ...], agent: dict[str, str]) -> None:
    for line in ((*words, "jobs"), ("jobs", *words)):
        done = stoker(*line, env=agent)
        assert (done.returncode, done.stdout) == (64, "")
        assert "is a variable not set?" in done.stderr


def test_a_refusal_as_json_is_the_last_line_of_stderr(agent: dict[str, str], nowhere: dict[str, str]) -> None:
    done = stoker("show", "99", "--json", env=agent)
    assert (done.returncode, done.stdout) == (1, "")
    error = json.loads(done.stderr.splitlines()[-1])["error"]
    assert set(error) == {"code", "message", "field"} and "no such job" in error["message"]
    assert json.loads(stoker("jobs", "--json", env=nowhere).stderr)["error"]["code"] == "unreachable"


def test_submit_help_lists_what_is_honoured() -> None:
    from agent.api.options import OPTIONS

    said = stoker("submit", "--help").stdout
    listed = said.partition("are honoured")[2].partition("examples:")[0]
    for option in OPTIONS:
        assert (f"{option} " in listed.replace("\n", " ")) is option.honoured, option
    assert "refused by name" in listed


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


HEAVY = {
    *("textual", "paramiko", "rich", "cryptography", "aiohttp", "asyncio", "psutil", "sqlite3", "agent.config"),
    *("http.client", "email", "ssl", "logging", "subprocess", "shutil", "difflib", "tempfile", "concurrent.futures"),
}
"""What no plain command needs, each some milliseconds of every start."""


@pytest.mark.parametrize(
    ("words", "more"),
    [
        ("submit --hold --wrap true", {"argparse", "json", "tui.commands", "tui.rows", "tui.cluster"}),
        ("jobs", {"json", "agent.api.options"}),
        ("show 1", {"json", "agent.api.options"}),
        ("logs 1", {"json", "agent.api.options"}),
        ("cancel 1", {"json", "agent.api.options"}),
        ("slurm sbatch --wrap true", {"argparse", "json", "tui.rows", "tui.cluster"}),
        ("slurm squeue", {"argparse", "json", "tui.rows", "tui.cluster"}),
        ("slurm scancel 1", {"argparse", "json", "tui.rows", "tui.cluster"}),
        ("slurm sinfo", {"argparse", "json", "tui.rows"}),
    ],
)
def test_a_plain_command_loads_what_it_needs_and_no_more(words: str, more: set[str], agent: dict[str, str]) -> None:
    look = (
        "import sys; from tui.__main__ import main; code = main(); print(*sys.modules, file=sys.stderr); sys.exit(code)"
    )
    argv = [sys.executable, "-c", look, *words.split()]
    done = subprocess.run(argv, capture_output=True, timeout=DEADLINE_S, env={**os.environ, **agent})
    assert done.returncode == 0, done.stderr
    assert not set(done.stderr.decode().split()) & (HEAVY | more)


def test_a_command_read_alone_is_read_as_among_all_others() -> None:
    for each in commands.COMMANDS:
        if each.name in cli.VERBS:
            continue
        whole = commands.whole([each.name])
        among = next(action for action in whole._actions if isinstance(action, argparse._SubParsersAction))
        assert commands.alone(each).format_help() == among.choices[each.name].format_help()
    for words in (["licence"], ["show", "17", "--json"], ["jobs", "--socket", "/x", "-a"], ["nodes", "-H", "head"]):
        read, among_all = vars(commands.read(words)), vars(commands.whole(words).parse_args(words))
        assert read.pop("work").__qualname__ == among_all.pop("work").__qualname__
        assert read == among_all


def test_a_terminals_width_is_that_of_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", 30, 97, 0, 0))
    with open(slave, "w") as terminal, open(master, "rb"), open(os.devnull, "w") as nowhere:
        assert (program.columns(terminal), program.columns(nowhere)) == (97, 80)
        monkeypatch.setenv("COLUMNS", "55")
        assert program.columns(terminal) == 55


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


def test_a_submit_whose_answer_is_lost_makes_one_job(tmp_path: Path) -> None:
    submits: list[bytes] = []

    def talk(sock: socket.socket, _: int) -> None:
        while request := read_request(sock):
            with socket.socket(socket.AF_UNIX) as behind:
                behind.connect(str(tmp_path / "a.sock"))
                behind.sendall(request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1))
                answer = b"".join(iter(lambda: behind.recv(65536), b""))
            submits.append(request)
            if len(submits) <= 2:  # the client itself repeats none that was on a fresh connection
                return
            sock.sendall(answer)

    script = tmp_path / "t.sh"
    script.write_text("#!/bin/sh\n")
    with fake_agent(tmp_path / "a.sock"), raw_server(tmp_path / "lossy.sock", talk):
        done = stoker("--socket", str(tmp_path / "lossy.sock"), "submit", str(script))
        jobs = stoker("--socket", str(tmp_path / "a.sock"), "jobs", "--json").stdout
    assert done.returncode == 0
    assert done.stdout.startswith("Submitted job 2 on n1")
    assert "asking again with the same key" in done.stderr
    assert {job["id"] for job in json.loads(jobs)} == {1, 2}


@pytest.mark.parametrize("program", ["agent", "hub", "license"])
def test_wrong_words_end_with_64_as_those_of_stoker_do(program: str) -> None:
    entry = f"import sys; from agent.__main__ import {program}_main as main; sys.exit(main())"
    for words in (["colour"], ["--colour"], []):
        done = subprocess.run([sys.executable, "-c", entry, *words], capture_output=True, text=True, timeout=DEADLINE_S)
        assert (done.returncode, done.stdout) == (64, ""), (words, done.stderr)


@pytest.mark.parametrize("program", ["agent", "hub", "license"])
def test_ctrl_c_among_the_imports_is_no_traceback(program: str) -> None:
    entry = f"""
import sys
class Pressed:
    def find_spec(self, name, *_):
        if name in ("agent.cli", "licensing.cli"):
            raise KeyboardInterrupt
sys.meta_path.insert(0, Pressed())
from agent.__main__ import {program}_main
sys.exit({program}_main(["--version"]))
"""
    ended = subprocess.run([sys.executable, "-c", entry], capture_output=True, text=True, timeout=DEADLINE_S)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "")
