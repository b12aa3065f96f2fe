"""The appliance from nothing to nothing: install, use, install again, remove, under a systemd of its own.

The box has no network, so the locked packages are fetched beforehand and pip is pointed at them: what a site with a
mirror does.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.daemons import wait_until
from tests.fakes.sysd_ns import Systemd, why_not

pytestmark = [pytest.mark.xdist_group("appliance"), pytest.mark.timeout(300)]

SOURCE = Path(__file__).parents[2]
PYTHON = "/usr/bin/python3"
UNITS = ("stoker-agent.socket", "stoker-hub.socket", "stoker-agent.service", "stoker-hub.service")
SCRIPT = "#!/bin/bash\n#SBATCH --gres=gpu:2\n#SBATCH --output=out-%j\nid -un; id -gn; pwd; echo $CUDA_VISIBLE_DEVICES\n"
PLACES = ("/etc", "/opt/stoker", "/usr/local/bin", "/run/stoker", "/home")


class Machine:
    """The box, and the checkout and packages it is given."""

    def __init__(self, box: Systemd, checkout: Path, wheels: Path) -> None:
        self.box, self.checkout, self.wheels = box, checkout, wheels

    def install(self, *words: str, umask: str = "022", check: bool = True) -> subprocess.CompletedProcess[str]:
        env = [f"PIP_FIND_LINKS={self.wheels}", "PIP_NO_INDEX=1", f"PYTHON={PYTHON}"]
        line = f'umask {umask} && exec "$@"'
        command = ["env", *env, "sh", "-c", line, "sh", f"{self.checkout}/install.sh", *words]
        return self.box.run(*command, timeout_s=280, check=check)

    def tree(self) -> dict[str, str]:
        """Every file that installing could touch: owner, mode, kind, size, time, target. Of the state only its folders,
        since the services write there at any time."""
        files = self.box.run("find", *PLACES, "-printf", "%p %U %G %m %y %s %T@ %l\\n", check=False)
        folders = self.box.run("find", "/var/lib/stoker", "-type", "d", "-printf", "%p %U %G %m\\n", check=False)
        return dict(line.split(" ", 1) for line in (files.stdout + folders.stdout).splitlines())

    def invocations(self) -> list[str]:
        """Changes with every start of a unit."""
        return [self.box.run("systemctl", "show", "-P", "InvocationID", unit).stdout.strip() for unit in UNITS]

    def as_alice(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.box.run("runuser", "-l", "alice", "-c", " ".join(command), check=check)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    reason = why_not() or _no_debian_python()
    if reason:
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("appliance")
    checkout, wheels = folder / "checkout", folder / "wheels"
    left_out = shutil.ignore_patterns(".venv", ".git", ".*_cache", "__pycache__", ".hypothesis")
    shutil.copytree(SOURCE, checkout, ignore=left_out)
    _fetch_packages(wheels)
    with Systemd(share=[checkout, wheels]) as box:
        yield Machine(box, checkout, wheels)


def _no_debian_python() -> str | None:
    done = subprocess.run([PYTHON, "-c", "import venv, ensurepip, tomllib"], capture_output=True, timeout=20)
    return f"{PYTHON} has no venv module" if done.returncode else None


def _fetch_packages(wheels: Path) -> None:
    version = subprocess.run(
        [PYTHON, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], capture_output=True, text=True
    )
    options = ["--quiet", "--only-binary", ":all:", "--python-version", version.stdout.strip(), "--require-hashes"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "download", *options, "-r", "requirements.lock", "-d", str(wheels)],
        cwd=SOURCE,
        capture_output=True,
        text=True,
        timeout=250,
    )
    if done.returncode:
        pytest.skip(f"no packages to install from: {done.stderr.strip()[-300:]}")


@pytest.fixture(scope="module")
def installed(machine: Machine) -> Machine:
    """The appliance, installed under the strictest umask; its dry run came first."""
    before = machine.tree()
    dry = machine.install("--dry-run")
    assert machine.tree() == before, "a dry run touches nothing"
    promised = [line.removeprefix("would ") for line in dry.stdout.splitlines()]
    done = machine.install(umask="077")
    assert [line for line in promised if f"  {line}" not in done.stdout.splitlines()] == []
    return machine


@pytest.fixture(scope="module")
def working(installed: Machine) -> Machine:
    """With simulated GPUs, as an admin would set them, with the evaluation's seats, and with a user."""
    installed.box.run("sed", "-i", 's/^# source = "auto".*/source = "simulated"/', "/etc/stoker/stoker.toml")
    installed.box.run("systemctl", "restart", "stoker-agent.service", "stoker-hub.service")
    installed.box.run("stoker-license", "activate", "/opt/stoker/current/evaluation.voucher")
    installed.box.run("useradd", "--create-home", "--groups", "stoker", "alice")
    return installed


def test_the_services_run_and_listen_on_their_sockets_alone(installed: Machine) -> None:
    for unit in UNITS:
        assert installed.box.run("systemctl", "is-active", unit).stdout.strip() == "active"
        assert installed.box.run("systemctl", "is-enabled", unit).stdout.strip() == "enabled"
    for name in ("agent", "hub"):
        about = installed.box.run("stat", "-c", "%F %a %U %G", f"/run/stoker/{name}.sock").stdout.strip()
        assert about == "socket 660 root stoker"
    sockets = installed.box.run("cat", "/proc/net/tcp", "/proc/net/tcp6").stdout
    assert " 0A " not in sockets, "0A is LISTEN in proc_net_tcp(5)"


def test_accounts_and_folders_are_as_promised(installed: Machine) -> None:
    assert installed.box.run("id", "-nG", "stoker-hub").stdout.split() == ["stoker"]
    assert installed.box.run("getent", "group", "stoker-admin").returncode == 0
    paths = ("/var/lib/stoker", "/var/lib/stoker/hub", "/etc/stoker/stoker.toml")
    assert installed.box.run("stat", "-c", "%n %a %U %G", *paths).stdout.splitlines() == [
        "/var/lib/stoker 711 root stoker",
        "/var/lib/stoker/hub 700 stoker-hub stoker",
        "/etc/stoker/stoker.toml 644 root root",
    ]


@pytest.mark.parametrize("unit", ["stoker-agent.service", "stoker-hub.service"])
def test_the_units_are_confined(installed: Machine, unit: str) -> None:
    said = installed.box.run("systemd-analyze", "security", "--no-pager", unit).stdout.splitlines()[-1]
    exposure = re.search(r": ([0-9.]+) ", said)
    assert exposure is not None and float(exposure[1]) <= 2.0, said


def test_the_agent_has_no_network(installed: Machine) -> None:
    pid = installed.box.run("systemctl", "show", "-P", "MainPID", "stoker-agent.service").stdout.strip()
    devices = installed.box.run("cat", f"/proc/{pid}/net/dev").stdout.splitlines()[2:]
    assert [line.split(":")[0].strip() for line in devices] == ["lo"]


def test_who_is_not_in_the_group_may_not_connect(installed: Machine) -> None:
    refused = installed.box.run("runuser", "-u", "nobody", "stoker", "nodes", check=False)
    assert refused.returncode != 0
    assert "you may not connect to /run/stoker/" in refused.stderr


def test_a_job_runs_as_the_user_who_submitted_it(working: Machine) -> None:
    (working.box.root / "home/alice/train.sh").write_text(SCRIPT)
    job = json.loads(working.as_alice("stoker", "submit", "--json", "train.sh").stdout)
    working.as_alice("stoker", "wait", str(job["id"]))
    wrote = (working.box.root / f"home/alice/out-{job['id']}").read_text().splitlines()
    assert wrote[:3] == ["alice", "alice", "/home/alice"]
    assert len(wrote[3].split(",")) == 2
    assert working.box.run("stat", "-c", "%U", f"/home/alice/out-{job['id']}").stdout.strip() == "alice"


def test_a_job_outlives_a_restart_of_both_services(working: Machine) -> None:
    script = "#!/bin/bash\n#SBATCH --output=long\nread < go; echo survived\n"
    (working.box.root / "home/alice/long.sh").write_text(script)
    working.as_alice("mkfifo", "go")
    job = json.loads(working.as_alice("stoker", "submit", "--json", "long.sh").stdout)
    unit = f"stoker-job-{job['id']}-1.service"
    wait_until(lambda: working.box.run("systemctl", "is-active", unit, check=False).returncode == 0, "the job runs")
    before = working.box.run("systemctl", "show", "-P", "MainPID", unit).stdout
    working.box.run("systemctl", "restart", "stoker-agent.service", "stoker-hub.service")
    assert working.box.run("systemctl", "show", "-P", "MainPID", unit).stdout == before
    working.as_alice("echo", ">", "go")
    working.as_alice("stoker", "wait", str(job["id"]))
    assert (working.box.root / "home/alice/long").read_text() == "survived\n"


def test_an_edited_configuration_is_kept_with_the_new_one_beside_it(working: Machine) -> None:
    file = working.box.root / "etc/stoker/stoker.toml"
    edited = file.read_text()
    assert edited != (SOURCE / "agent/units/stoker.toml").read_text()
    working.install()
    assert file.read_text() == edited
    assert file.with_name("stoker.toml.new").read_text() == (SOURCE / "agent/units/stoker.toml").read_text()


def test_a_second_run_changes_nothing(working: Machine) -> None:
    working.install()
    before, started = working.tree(), working.invocations()
    again = working.install(umask="027")
    assert "nothing to do" in again.stdout
    assert working.tree() == before
    assert working.invocations() == started


def test_a_changed_source_is_installed_and_the_services_restarted(working: Machine) -> None:
    started = working.invocations()
    (working.checkout / "agent" / "added.txt").write_text("a change")
    assert "build the release" in working.install().stdout
    assert [new != old for new, old in zip(working.invocations(), started, strict=True)] == [False, False, True, True]
    assert sorted(each.name for each in (working.box.root / "opt/stoker").iterdir()) == [
        "0.1.0",
        "current",
        "install.log",
    ]
    assert working.as_alice("stoker", "nodes").returncode == 0


def test_removing_it_keeps_the_state_and_what_was_edited(working: Machine) -> None:
    done = working.install("--uninstall")
    assert "Kept: /var/lib/stoker" in done.stdout
    kept_folders = ("/var/lib/stoker", "/home")
    left = [path for path in working.tree() if "stoker" in path and not path.startswith(kept_folders)]
    assert sorted(left) == ["/etc/stoker", "/etc/stoker/stoker.toml", "/etc/stoker/stoker.toml.new"]
    assert (working.box.root / "var/lib/stoker/agent.db").exists()
    assert "nothing to do" in working.install("--uninstall").stdout
