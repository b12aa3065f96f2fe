"""`stoker-agent selftest` as a buyer runs it: the CPU with a real torch, GPUs of the stand-in library, a real agent.

Where no GPU can compute, torch's side is a script that says what a GPU's would; all else is real.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from agent.api.queue import DrainRequest
from agent.config import load
from agent.selftest.compute import Torch
from agent.selftest.expected import Expected
from agent.selftest.machine import inspect
from agent.selftest.report import unused
from agent.selftest.session import Plan, Session
from tests.fakes.daemons import Box, wait_until
from tests.fakes.nvml import NvmlStandIn, uuid
from tests.fakes.selftest import DEADLINE_S, command, config_file, environment, pretender, selftest

ORDER = 'model = "H100 SXM"\ncount = 2\nmemory_gb = 80\nnvlink_count = 18\n'
VERSIONS = {"torch": "2.13.0+cu130", "cuda": "13.0", "nccl": "2.27.7", "python": "3.12.3"}
RATES = [
    VERSIONS,
    {"figure": "gemm bf16", "value": 788_000, "unit": "GFLOP/s"},
    {"figure": "gemm fp8", "value": None, "unit": "GFLOP/s", "why": "not here"},
    {"figure": "memory", "value": 3_000_000, "unit": "MB/s"},
    {"figure": "host to device", "value": 55_000, "unit": "MB/s"},
]
HEALTHY: dict[str, Any] = {
    "rates": RATES,
    "peers": [{"figure": "peer copy", "source": 0, "target": 1, "value": 380_000, "unit": "MB/s"}],
    "rank": [{"figure": "all-reduce", "value": 350_000, "unit": "MB/s", "ranks": 2, "backend": "nccl"}],
    "burn": [{"burn": 10, "value": 700_000, "unit": "GFLOP/s"}, {"done": True}],
}


@pytest.fixture
def nvml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NvmlStandIn:
    made = NvmlStandIn(tmp_path, monkeypatch)
    made.write("gpus 2", *(f"link gpu={gpu} link={link} to=switch" for gpu in (0, 1) for link in range(18)))
    return made


def with_gpus(tmp_path: Path, nvml: NvmlStandIn) -> Path:
    return config_file(tmp_path, f'[gpu]\nsource = "nvml"\nlibrary = "{nvml.library}"\nperiod_s = 0.2\n')


def report(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text()))


def verdicts(path: Path) -> dict[str, str]:
    return {f"{each['subject']}: {each['name']}": each["verdict"] for each in report(path)["checks"]}


# --- without a GPU --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def on_the_cpu(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """One real run on a machine without a GPU, where there is torch."""
    if importlib.util.find_spec("torch") is None:
        pytest.skip("the train extra is not installed")
    folder = tmp_path_factory.mktemp("cpu")
    config = config_file(folder, '[gpu]\nsource = "none"\n')
    return folder, selftest(config, "--quick", "--burn", "0.01", "--report", "report.json")


def test_the_cpu_path_says_that_no_gpu_was_tested(on_the_cpu: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, done = on_the_cpu
    assert done.returncode == 3, done
    assert "NO GPU WAS TESTED, only the CPU path: gpu.source is none" in done.stdout
    assert "no verdict: no GPU was tested" in done.stdout
    found = verdicts(folder / "report.json")
    assert found["CPU: GEMM fp32"] == found["CPU: memory copy"] == "no verdict"
    assert found["CPU: all-reduce, 2 ranks (gloo)"] == found["CPU: burn-in: results"] == "PASS"
    made = report(folder / "report.json")
    values = {each["name"]: each["value"] for each in made["checks"] if "value" in each}
    assert {"GEMM fp32", "GEMM bf16", "memory copy", "all-reduce, 2 ranks (gloo)"} <= set(values)
    assert all(value > 0 for name, value in values.items() if not name.startswith("burn-in")), values
    assert (made["node"]["name"], made["mode"], made["gpus"]) == ("n1", "quick", [])
    assert made["versions"]["torch"] and made["versions"]["stoker"]


def test_the_report_verifies_anywhere_and_shows_the_same(
    on_the_cpu: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    folder, done = on_the_cpu
    shutil.copy(folder / "report.json", tmp_path)
    elsewhere = config_file(tmp_path)
    key = report(folder / "report.json")["node"]["key"]
    seen = selftest(elsewhere, "--verify", "report.json", "--key", key)
    assert seen.returncode == 0 and "GENUINE: unchanged since" in seen.stdout and key in seen.stdout
    table = done.stdout.partition("WHAT")[2].partition("report: ")[0]
    assert table in seen.stdout
    other = selftest(elsewhere, "--verify", "report.json", "--key", "0" * 64)
    assert other.returncode == 1 and "not by the key you named" in other.stderr and "GENUINE" not in other.stdout


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"verdict": "no verdict"', '"verdict": "PASS"', "'verdict' was changed, 'checks' was changed"),
        ('"name": "n1"', '"name": "n2"', "'node' was changed"),
        ('"burn_s": 1', '"burn_s": 6000', "'burn_s' was changed"),
        ('"mode": "quick",', "", "'mode' was taken out"),
        ('"format": 1,', '"format": 1, "more": 2,', "'more' was added"),
        ('"signature": "v4.public.', '"signature": "v4.public.A', "refused|not base64url|does not hold"),
        ('"signature"', '"signed"', "no signature"),
    ],
)
def test_a_tampered_report_is_refused_with_what_is_wrong(
    on_the_cpu: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path, old: str, new: str, said: str
) -> None:
    text = (on_the_cpu[0] / "report.json").read_text()
    assert old in text
    (tmp_path / "bad.json").write_text(text.replace(old, new))
    done = selftest(config_file(tmp_path), "--verify", "bad.json")
    assert (done.returncode, done.stdout) == (1, "")
    assert "REFUSED bad.json" in done.stderr and any(each in done.stderr for each in said.split("|")), done.stderr


def test_without_torch_and_gpus_nothing_is_tested_and_the_remedy_is_said(tmp_path: Path) -> None:
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {shutil.which("python3")} -S "$@"\n')
    bare.chmod(0o755)
    done = selftest(config_file(tmp_path, '[gpu]\nsource = "none"\n'), "--python", str(bare), "--json")
    assert done.returncode == 3, done
    notes = json.loads(done.stdout)["notes"]
    assert any("torch is not here" in note and "--python" in note for note in notes)
    assert list(tmp_path.glob("selftest-n1-*.json")), "a report is written without being asked for"


def test_full_without_a_gpu_does_not_burn_the_cpu_unasked(tmp_path: Path) -> None:
    python = pretender(tmp_path, {"rates": [VERSIONS], "burn": "open('burned', 'w').close()"})
    words = ("--full", "--python", str(python), "--report", "r.json")
    assert selftest(config_file(tmp_path, '[gpu]\nsource = "none"\n'), *words).returncode == 3
    assert not (tmp_path / "burned").exists() and report(tmp_path / "r.json")["burn_s"] == 0


# --- what is refused before anything runs ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--order", "none.toml"), 65, "cannot read the order none.toml"),
        (("--report", "nowhere/r.json"), 73, "nowhere is no folder"),
        (("--report", "."), 73, "it is a folder"),
        (("--report", "pipe"), 73, "it is a pipe, a socket or a device; name a file, and see it with --json"),
        (("--report", "/dev/null"), 73, "it is a pipe, a socket or a device"),
        (("--python", "nope"), 64, "cannot run nope: it is no program; name an interpreter that has torch"),
        (("--python", "."), 64, "cannot run .: it is no program; name an interpreter that has torch"),
        (("--gpus", "0"), 64, "there is no GPU '0' here; there are: none"),
        (("--burn", "-1"), 64, "invalid number of minutes"),
        (("--burn", "inf"), 64, "invalid number of minutes"),
        (("--quick", "--full"), 64, "not allowed with"),
        (("--key", "ab"), 64, "--key goes with --verify"),
        (("--verify", "none.json"), 1, "cannot read the report none.json"),
        (("--fast",), 64, "'--fast' is not an option"),
    ],
)
def test_mistakes_are_told_in_one_line(tmp_path: Path, words: tuple[str, ...], code: int, said: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    done = selftest(config_file(tmp_path, '[gpu]\nsource = "none"\n'), *words)
    assert (done.returncode, done.stdout) == (code, ""), done
    assert said in done.stderr and done.stderr.count("\n") == 1
    assert (tmp_path / "pipe").is_fifo()


def test_a_node_key_that_cannot_be_used_stops_it_before_the_test(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "node.key").write_text("garbage")
    done = selftest(config_file(tmp_path, '[gpu]\nsource = "none"\n'))
    assert done.returncode == 3 and "node.key is not an Ed25519 private key" in done.stderr
    assert (tmp_path / "state" / "node.key").read_text() == "garbage", "the agent's to mend, not ours"


# --- GPUs -----------------------------------------------------------------------------------------------------------


def test_healthy_gpus_pass_and_the_report_names_each(tmp_path: Path, nvml: NvmlStandIn) -> None:
    config, order = with_gpus(tmp_path, nvml), tmp_path / "order.toml"
    order.write_text(ORDER)
    words = ("--force", "--python", str(pretender(tmp_path, HEALTHY)), "--burn", "0.01", "--order", "order.toml")
    done = selftest(config, *words, "--report", "r.json")
    assert done.returncode == 0, done
    made = report(tmp_path / "r.json")
    assert made["verdict"] == "PASS" and "GPU 0, 1: " in made["summary"]
    assert [(gpu["uuid"], gpu["tested"], gpu["nvlinks"]) for gpu in made["gpus"]] == [
        (uuid(0), True, 18),
        (uuid(1), True, 18),
    ]
    assert made["node"]["driver_version"] == "550.54.15" and made["versions"]["nccl"] == "2.27.7"
    assert made["order"]["count"] == 2 and [each["uuid"] for each in made["burn"]] == [uuid(0), uuid(1)]
    found = verdicts(tmp_path / "r.json")
    for name in ("GPU 0: GEMM bf16", "GPU 1: memory copy", "GPU 0 > 1: peer copy", "node: all-reduce, 2 ranks (nccl)",
                 "GPU 1: burn-in: results", "GPU 0: model", "GPU 1: NVLinks up"):  # fmt: skip
        assert found[name] == "PASS", name
    assert found["GPU 0: GEMM fp8"] == "no verdict" and found["GPU 0: burn-in: throttling"] == "PASS"
    assert selftest(config, "--verify", "r.json").returncode == 0


@pytest.mark.parametrize(
    ("changes", "failed"),
    [
        ({"rates": [VERSIONS, {"figure": "gemm bf16", "value": 300_000, "unit": "GFLOP/s"}]}, "GPU 0: GEMM bf16"),
        ({"rates": [VERSIONS, {"error": "CUDA error: system not yet initialized"}]}, "GPU 1: computes"),
        ({"rates": "print(json.dumps({'torch': '2', 'cuda': '13'}), flush=True); os.abort()"}, "GPU 0: computes"),
        (
            {"rank": [{"figure": "all-reduce", "value": 350_000, "unit": "MB/s", "ranks": 2, "wrong": 4}]},
            "node: all-reduce",
        ),
        ({"burn": [{"burn": 5, "value": 700_000, "wrong": 2}, {"done": True}]}, "GPU 0: burn-in: results"),
        ({"burn": "os.kill(os.getpid(), 9)"}, "GPU 1: burn-in: ran"),
    ],
)
def test_a_fault_of_a_gpu_fails_it(tmp_path: Path, nvml: NvmlStandIn, changes: dict[str, Any], failed: str) -> None:
    python = pretender(tmp_path, HEALTHY | changes)
    words = ("--force", "--python", str(python), "--burn", "0.001", "--report", "r.json")
    done = selftest(with_gpus(tmp_path, nvml), *words)
    assert done.returncode == 1 and "FAIL: " in done.stdout, done
    assert any(name.startswith(failed) and each == "FAIL" for name, each in verdicts(tmp_path / "r.json").items())


def test_another_order_fails_and_says_where(tmp_path: Path, nvml: NvmlStandIn) -> None:
    (tmp_path / "order.toml").write_text('model = "H200 SXM"\ncount = 8\nmemory_gb = 141\n')
    python = pretender(tmp_path, HEALTHY)
    words = ("--force", "--python", str(python), "--gpus", "1", "--order", "order.toml", "--report", "r.json")
    assert selftest(with_gpus(tmp_path, nvml), *words).returncode == 1
    bad = [name for name, verdict in verdicts(tmp_path / "r.json").items() if verdict == "FAIL"]
    assert bad == ["node: GPUs", "GPU 0: model", "GPU 0: memory", "GPU 1: model", "GPU 1: memory"]
    assert [gpu["tested"] for gpu in report(tmp_path / "r.json")["gpus"]] == [False, True]


def test_a_torch_without_cuda_and_an_unknown_model_give_no_verdict(tmp_path: Path, nvml: NvmlStandIn) -> None:
    config = with_gpus(tmp_path, nvml)
    plain = pretender(tmp_path, {"rates": [{"torch": "2.13.0+cpu", "python": "3.12"}, {"error": "no CUDA"}]})
    done = selftest(config, "--force", "--python", str(plain))
    assert done.returncode == 3 and "is a build without CUDA" in done.stdout
    nvml.write("gpus 1", "name gpu=0 NVIDIA \x1b[2JBX-1")
    done = selftest(config, "--force", "--python", str(pretender(tmp_path, HEALTHY)))
    assert done.returncode == 3, done
    assert "no range is known" in done.stdout and "\x1b" not in done.stdout


def test_a_driver_that_does_not_answer_is_named(tmp_path: Path, nvml: NvmlStandIn) -> None:
    nvml.write("fail nvmlInitWithFlags gpu=* code=9")
    done = selftest(with_gpus(tmp_path, nvml), "--python", str(pretender(tmp_path, {})))
    assert done.returncode == 3 and "the NVIDIA kernel module is not loaded" in done.stdout


def test_ctrl_c_ends_the_children_and_writes_no_report(tmp_path: Path, nvml: NvmlStandIn) -> None:
    waiting = {"rates": "open('here', 'w').close(); time.sleep(600)"}
    words = ("--force", "--python", str(pretender(tmp_path, waiting)), "--report", "r.json")
    child = subprocess.Popen(
        command(with_gpus(tmp_path, nvml), *words),
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        wait_until((tmp_path / "here").exists, "torch's side runs", DEADLINE_S)
        inner = psutil.Process(child.pid).children(recursive=True)
        assert inner
        child.send_signal(signal.SIGINT)
        assert child.wait(timeout=30) == 130
        assert child.stderr is not None and b"there is no report" in child.stderr.read()
        wait_until(lambda: not any(each.is_running() for each in inner), "its children are gone")
        assert not (tmp_path / "r.json").exists()
    finally:
        child.kill()
        child.communicate()


# --- only drained GPUs ----------------------------------------------------------------------------------------------


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Box]:
    """An agent alone: not started yet, so that a test can say what GPUs it has."""
    made = Box(tmp_path / "box", gpus=2)
    try:
        yield made
    finally:
        made.close()


def test_a_running_agent_is_asked_and_only_drained_gpus_are_tested(
    agent: Box, nvml: NvmlStandIn, tmp_path: Path
) -> None:
    text = agent.config.read_text().replace('source = "simulated"', f'source = "nvml"\nlibrary = "{nvml.library}"')
    agent.config.write_text(text.replace("simulated_count = 2\n", ""))
    agent.agent.start()
    python = ("--python", str(pretender(tmp_path, HEALTHY)), "--report", str(tmp_path / "r.json"))
    with agent.agent.client() as client:
        wait_until(lambda: len(client.node().gpus) == 2, "the agent sees both GPUs")
        done = selftest(agent.config, *python)
        assert done.returncode == 3 and "stoker drain n1 --reason selftest" in done.stderr, done
        client.drain(DrainRequest(gpu="0", reason="selftest"))
        done = selftest(agent.config, *python)
        assert done.returncode == 3 and "drain first: stoker drain n1:1 --reason selftest" in done.stderr, done
        forced = selftest(agent.config, *python, "--force")
        assert forced.returncode == 3 and "--force is for machines whose agent does not run" in forced.stderr
        assert not (tmp_path / "r.json").exists(), "nothing was tested"
        assert selftest(agent.config, *python, "--gpus", "0").returncode == 0
        key = client.node().key
    assert report(tmp_path / "r.json")["node"]["key"] == key, "signed with the key that the agent shows"
    assert selftest(agent.config, "--verify", str(tmp_path / "r.json"), "--key", key).returncode == 0
    written = (tmp_path / "r.json").read_bytes()
    again = selftest(agent.config, *python, "--gpus", "0")
    assert again.returncode == 73 and "r.json exists and is not overwritten" in again.stderr
    assert (tmp_path / "r.json").read_bytes() == written, "an acceptance report is evidence"
    (tmp_path / "r.json").unlink()
    agent.agent.stop()
    done = selftest(agent.config, *python)
    assert done.returncode == 3 and "no agent runs here" in done.stderr


def test_simulated_gpus_cannot_be_tested_and_it_says_so(agent: Box, tmp_path: Path) -> None:
    agent.agent.start()
    python = ("--python", str(pretender(tmp_path, {"rates": [VERSIONS], "rank": []})))
    done = selftest(agent.config, *python, cwd=tmp_path)
    assert done.returncode == 3, done
    assert "the GPUs of this node's agent are simulated, and simulated GPUs cannot be tested" in done.stdout


def test_an_agent_that_does_not_answer_is_not_taken_for_none(tmp_path: Path) -> None:
    import socket

    folder = Path(tempfile.mkdtemp(prefix="stk-", dir="/tmp"))
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(folder / "agent.sock"))
            listener.listen(1)
            listener.setblocking(False)
            blockers = []
            while True:  # fill the backlog: a service that lives and does not accept
                blocker = socket.socket(socket.AF_UNIX)
                blocker.setblocking(False)
                blockers.append(blocker)
                if blocker.connect_ex(str(folder / "agent.sock")) != 0:
                    break
            done = selftest(config_file(tmp_path, run_dir=folder), "--force")
            for each in blockers:
                each.close()
        assert done.returncode == 3 and "the agent did not say which GPUs are free" in done.stderr, done
    finally:
        shutil.rmtree(folder)


def test_an_xid_of_the_kernels_log_during_the_test_fails_that_gpu(tmp_path: Path, nvml: NvmlStandIn) -> None:
    log = tmp_path / "kmsg"
    os.mkfifo(log)
    kernel = os.open(log, os.O_RDWR | os.O_NONBLOCK)
    config = load(with_gpus(tmp_path, nvml))
    pci = next(each.reading.pci for each in inspect(config.gpu.library).gpus if each.reading.index == 1)
    line = f"3,1,5000000,-;NVRM: Xid (PCI:{pci}): 48, pid=1, name=x, Double Bit ECC Error\n"
    burn = f"open({str(log)!r}, 'w').write({line!r}); print(json.dumps({{'done': True}}))"
    torch = Torch(python=pretender(tmp_path, HEALTHY | {"burn": burn}))
    plan = Plan(burn_s=0.05, force=True, gpus="1")
    made = Session(config, plan, Expected(), torch, lambda _: None, kernel_log=log).run(1, "00")
    os.close(kernel)
    (told,) = (each for each in made.checks if each.name == "XIDs during the test")
    assert (told.subject, told.found, told.verdict) == ("GPU 1", "48 (1 times)", "FAIL")
    assert made.verdict == "FAIL"


def test_a_report_without_a_name_takes_nobodys_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run.json").touch()
    Path("run-2.json").symlink_to("nowhere")
    assert (unused("run"), unused("walk")) == (Path("run-3.json"), Path("walk.json"))
