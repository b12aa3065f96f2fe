"""Two nodes, a hub, and a laptop that has only ssh: every wire of the product, over a real sshd on loopback.

laptop (third home) ── ssh ──► hub on n1 ── unix ──► agent n1
                                  └─────── ssh ──► agent n2      each ssh key has a forced command
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agent.api.queue import DrainRequest
from agent.api.refs import JobRef
from agent.api.types import JobState, LinkState
from tests.fakes.daemons import Box, activate_evaluation, wait_final, wait_until
from tests.fakes.sshd import USER, Sshd, sshd

_STOKER = "import sys; from tui.__main__ import main; sys.exit(main())"


@dataclass
class Lab:
    """The cluster, and the laptop's home."""

    n1: Box
    n2: Box
    door: Sshd
    """The sshd of n1, which the laptop uses."""
    backdoor: Sshd
    """The sshd of n2, which the hub uses."""
    home: Path

    def stoker(self, *words: str, check: bool = True, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """The plain command on the laptop."""
        env = {"HOME": str(self.home), "PATH": os.environ["PATH"], "LANG": "C.UTF-8"}
        done = subprocess.run(
            [sys.executable, "-c", _STOKER, *words],
            env=env,
            cwd=self.n1.work_dir,
            check=False,
            capture_output=True,
            text=True,
            timeout=90,
            input=stdin,
        )
        assert not check or done.returncode == 0, (words, done.stdout, done.stderr)
        return done

    def json(self, *words: str) -> Any:
        """What a command with `--json` prints."""
        return json.loads(self.stoker("-H", "lab", words[0], "--json", *words[1:]).stdout)


def dial(program: str, box: Box) -> str:
    """The forced command of a key: the bridge, and nothing else."""
    script = box.root / f"dial-{program}"
    entry = f"import sys; from agent.__main__ import {program}_main as m; sys.exit(m())"
    script.write_text(
        f"#!/bin/sh\ncd {Path.cwd()}\nexec {sys.executable} -c '{entry}' --config {box.config} dial-stdio\n"
    )
    script.chmod(0o755)
    return str(script)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    n2 = Box(tmp_path / "n2", "n2", gpus=4)
    with sshd(tmp_path / "sshd-n2", forced=dial("agent", n2)) as backdoor:
        nodes = (
            f'[[hub.nodes]]\nname = "n1"\nsocket = "{{run}}/agent.sock"\n'
            f'[[hub.nodes]]\nname = "n2"\nssh = "{backdoor.target}"\nhost_key = "{backdoor.host_key}"\n'
            f'identity_file = "{backdoor.identity}"\n'
        )
        n1 = Box(tmp_path / "n1", "n1", gpus=2)
        n1.config.write_text(n1.config.read_text() + nodes.replace("{run}", str(n1.run_dir)))
        with sshd(tmp_path / "sshd-n1", forced=dial("hub", n1)) as door:
            made = Lab(n1=n1, n2=n2, door=door, backdoor=backdoor, home=laptop(tmp_path / "home", door))
            n2.agent.env["TZ"] = "UTC-5:30"  # a node in another zone than the one beside it
            try:
                for daemon in (n1.agent, n2.agent, n1.hub):
                    daemon.start()
                activate_evaluation(n1)
                yield made
            finally:
                n1.close()
                n2.close()


def laptop(home: Path, door: Sshd) -> Path:
    """A home that knows the host `lab` by its ssh configuration and its key."""
    (home / ".ssh").mkdir(parents=True, mode=0o700)
    (home / ".ssh" / "known_hosts").write_text(door.known_hosts_line)
    (home / ".ssh" / "config").write_text(
        f"Host lab\n  HostName 127.0.0.1\n  Port {door.port}\n  User {USER}\n  IdentityFile {door.identity}\n"
    )
    return home


def test_who_changes_a_node_finds_it_changed(lab: Lab) -> None:
    """`scontrol update nodename=n1 state=drain; sinfo`: each list of nodes is asked for at once."""
    client = lab.n1.hub.client()
    wait_until(lambda: all(each.link is LinkState.UP for each in client.nodes()), "both nodes are up")
    for reason in ("fans", "", "dust", "", "cables", ""):
        for name in ("n1", "n2"):
            request = DrainRequest(reason=reason or None)
            (client.drain if reason else client.resume)(request, node=name)
            node = next(each.node for each in client.nodes() if each.name == name)
            assert node is not None
            assert (node.drain.reason if node.drain else "") == reason


def all_up(made: Lab) -> bool:
    with made.n1.hub.client() as hub:
        return all(status.link is LinkState.UP for status in hub.nodes())


def seated(made: Lab) -> bool:
    with made.n1.hub.client() as hub:
        nodes = [status.node for status in hub.nodes()]
    return all(node is not None and node.gpus and all(gpu.seated for gpu in node.gpus) for node in nodes)


def write_script(made: Lab, text: str, name: str = "train.sh") -> Path:
    path = made.n1.work_dir / name
    path.write_text(text)
    return path


def test_the_laptop_sees_submits_follows_and_cancels(lab: Lab) -> None:
    wait_until(lambda: seated(lab), "both nodes have their seats")
    nodes = {status["name"]: status for status in lab.json("nodes")}
    assert {name: (status["link"], len(status["node"]["gpus"])) for name, status in nodes.items()} == {
        "n1": ("up", 2),
        "n2": ("up", 4),
    }
    script = write_script(lab, "#!/bin/sh\n#SBATCH --gpus=3\necho on $SLURMD_NODENAME\nexit 4\n")
    job = lab.json("submit", str(script))
    assert job["node"] == "n2", "only n2 has three GPUs"
    followed = lab.stoker("-H", "lab", "logs", "-f", f"n2:{job['id']}")
    assert followed.stdout == "on n2\n"
    assert lab.stoker("-H", "lab", "wait", f"n2:{job['id']}", check=False).returncode == 4

    endless = write_script(lab, "#!/bin/sh\n#SBATCH --gpus=1\necho up\nexec sleep 600\n", "endless.sh")
    job = lab.json("submit", "--node", "n1", str(endless))
    ref = f"n1:{job['id']}"
    wait_until(lambda: "up" in lab.stoker("-H", "lab", "logs", ref).stdout, "the job runs")
    lab.stoker("-H", "lab", "cancel", ref)
    with lab.n1.agent.client() as client:
        assert wait_final(client, job["id"]).state is JobState.CANCELLED


def test_scontrol_and_sacct_reach_every_node_by_way_of_the_hub(lab: Lab) -> None:
    env = {"HOME": str(lab.home), "PATH": "/usr/bin:/bin", "STOKER_SOCKET": str(lab.n1.hub.socket)}

    def slurm(*words: str) -> str:
        call = [sys.executable, "-I", "-m", "tui.slurm", *words]
        done = subprocess.run(call, env=env, cwd=lab.n1.work_dir, capture_output=True, text=True, timeout=90)
        assert done.returncode == 0, done.stderr
        return done.stdout

    job = lab.json("submit", "--node", "n2", "-n", "2", "-o", "/dev/null", "--wrap", "srun -n2 true")
    wait_until(lambda: "COMPLETED" in slurm("sacct", "-n", "-X", "-j", f"n2:{job['id']}", "-o", "State"), "it has run")
    told = slurm("sacct", "-n", "-P", "-j", f"n2:{job['id']}", "-o", "JobName,NTasks,State").splitlines()
    assert told[1:] == ["batch|1|COMPLETED", "true|2|COMPLETED"]
    assert slurm("scontrol", "reconfigure") == ""
    line = "create reservation=course user=root starttime=tomorrow duration=60 nodes=n[1-2]"
    change = "update reservation=course starttime=12/24 duration=+30"
    try:
        assert slurm("scontrol", *line.split()) == "Reservation created: course\n"
        for done in ("", "Reservation updated.\n"):
            assert not done or slurm("scontrol", *change.split()) == done
            shown = slurm("scontrol", "show", "reservation")
            assert shown.count("ReservationName=course") == 1
            assert f"Duration={'01:30:00' if done else '01:00:00'}\n" in shown
            assert "Nodes=n[1-2] NodeCnt=2 " in shown
    finally:
        slurm("scontrol", "delete", "reservation=course")
    assert slurm("sinfo", "-T") == "No reservations in the system\n"
    assert {line.split()[0] for line in slurm("sinfo", "-N", "-h").splitlines()} == {"n1", "n2"}


def test_agent_hub_and_ssh_connection_die_in_the_middle_of_a_job(lab: Lab) -> None:
    wait_until(lambda: seated(lab), "both nodes have their seats")
    gate = lab.n2.root / "go"
    os.mkfifo(gate)
    script = write_script(
        lab, f"#!/bin/sh\n#SBATCH --gpus=4\necho first line\nread word < {gate}\necho last $word\nexit 9\n"
    )
    job = lab.json("submit", str(script))
    ref = JobRef(id=job["id"])
    with lab.n2.agent.client() as client:
        wait_until(lambda: b"first" in client.log(ref, 0, None).data, "the job runs")
    lab.backdoor.cut()
    lab.door.cut()
    lab.n1.hub.kill()
    lab.n2.agent.kill()
    gate.write_text("word\n")
    lab.n2.agent.start()
    lab.n1.hub.start()
    with lab.n2.agent.client() as client:
        ended = wait_final(client, job["id"])
    assert (ended.state, ended.exit_code) == (JobState.FAILED, 9)
    wait_until(lambda: all_up(lab), "the hub has both nodes again", 60)
    assert lab.stoker("-H", "lab", "logs", f"n2:{job['id']}").stdout == "first line\nlast word\n"


def test_a_retried_submit_is_one_job_on_one_node(lab: Lab) -> None:
    wait_until(lambda: seated(lab), "both nodes have their seats")
    script = write_script(lab, "#!/bin/sh\ntrue\n")
    first = lab.json("submit", "--key", "once", str(script))
    lab.n1.hub.kill()
    lab.n1.hub.start()
    wait_until(lambda: all_up(lab), "the hub has both nodes again", 60)
    second = lab.json("submit", "--key", "once", str(script))
    assert (first["node"], first["id"]) == (second["node"], second["id"])
    assert len(lab.json("jobs")) == 1


def test_an_unknown_host_is_not_trusted_and_a_changed_one_is_refused(lab: Lab) -> None:
    known = lab.home / ".ssh" / "known_hosts"
    known.write_text("")
    unknown = lab.stoker("-H", "lab", "nodes", check=False)
    assert unknown.returncode == 1
    assert "SHA256:" in unknown.stderr
    known.write_text(f"[127.0.0.1]:{lab.door.port} {lab.backdoor.host_key}\n")
    changed = lab.stoker("-H", "lab", "nodes", check=False)
    assert changed.returncode == 1
    assert changed.stderr.count("SHA256:") == 2
    assert "known_hosts:1" in changed.stderr


def test_a_frozen_node_is_stale_then_lost_and_the_others_stay_fresh(lab: Lab) -> None:
    wait_until(lambda: all_up(lab), "both are up", 60)
    with lab.n1.hub.client() as hub, lab.backdoor.frozen():

        def link(name: str) -> LinkState:
            return next(status.link for status in hub.nodes() if status.name == name)

        wait_until(lambda: link("n2") is not LinkState.UP, "n2 is stale within 20 s", 20)
        assert link("n1") is LinkState.UP
        wait_until(lambda: link("n2") is LinkState.LOST, "n2 is lost", 25)
        assert link("n1") is LinkState.UP
    wait_until(lambda: all_up(lab), "n2 comes back", 90)
