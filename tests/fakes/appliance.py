"""A box with a systemd and an sshd of its own, to install the appliance in.

It has no network, so the locked packages are fetched beforehand and pip is pointed at them: what a site with a mirror
does.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import rawcall
from tests.fakes.sysd_ns import Systemd, why_not

SOURCE = Path(__file__).parents[2]
PYTHON = "/usr/bin/python3"
UNITS = ("stoker-agent.socket", "stoker-hub.socket", "stoker-agent.service", "stoker-hub.service")
HUB_KEY = "/var/lib/stoker/hub/ssh_key"
RAW_CALL = Path(rawcall.__file__).read_text().partition("from __future__ import annotations\n")[2]
PLACES = ("/etc", "/opt/stoker", "/usr/local/bin", "/run/stoker", "/home")


class Machine:
    """The box, and the checkout and packages it is given."""

    def __init__(self, box: Systemd, checkout: Path, wheels: Path) -> None:
        self.box, self.checkout, self.wheels = box, checkout, wheels
        self.first_words = ""
        """What the installation said."""

    def install(self, *words: str, umask: str = "022", check: bool = True) -> subprocess.CompletedProcess[str]:
        env = [f"PIP_FIND_LINKS={self.wheels}", "PIP_NO_INDEX=1", f"PYTHON={PYTHON}"]
        line = f'umask {umask} && exec "$@"'
        command = ["env", *env, "sh", "-c", line, "sh", f"{self.checkout}/install.sh", *words]
        return self.box.run(*command, timeout_s=280, check=check)

    def call(self, user: str, named: str, method: str, address: str, body: Any = None) -> tuple[int, Any]:
        """A request to the agent by one account in another's name."""
        headers = {"Stoker-User": named, "Idempotency-Key": f"{user} for {named}"}
        sent = None if body is None else json.dumps(body).encode()
        words = (Path("/run/stoker/agent.sock"), method, address, sent, headers)
        program = f"from pathlib import PosixPath\n{RAW_CALL}\nprint(json.dumps(call(*{words!r})))"
        status, answer = json.loads(self.box.run("runuser", "-u", user, "--", PYTHON, "-c", program).stdout)
        return status, answer

    def ssh(self, *words: str) -> subprocess.CompletedProcess[str]:
        """The ssh client with the hub's key, to the box itself."""
        options = ("BatchMode=yes", "IdentitiesOnly=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null")
        named = [word for option in options for word in ("-o", option)]
        command = ["ssh", "-n", "-i", HUB_KEY, *named, *words]
        return self.box.run("runuser", "-u", "stoker-hub", "--", *command, check=False)

    def tree(self) -> dict[str, str]:
        """Every file that installing could touch: owner, mode, kind, size, time, target. Of the state only its folders,
        since the services write there at any time; of a socket no time, since who listens marks it."""
        told = ("(", "-type", "s", "-printf", "%p %U %G %m %y\\n", ")", "-o", "-printf", "%p %U %G %m %y %s %T@ %l\\n")
        files = self.box.run("find", *PLACES, *told, check=False)
        folders = self.box.run("find", "/var/lib/stoker", "-type", "d", "-printf", "%p %U %G %m\\n", check=False)
        return dict(line.split(" ", 1) for line in (files.stdout + folders.stdout).splitlines())

    def invocations(self) -> list[str]:
        """Changes with every start of a unit."""
        return [self.box.run("systemctl", "show", "-P", "InvocationID", unit).stdout.strip() for unit in UNITS]

    def as_alice(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.box.run("runuser", "-l", "alice", "-c", " ".join(command), check=check)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    reason = why_not() or _no_debian_python() or _no_sshd()
    if reason:
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("appliance")
    checkout, wheels = folder / "checkout", folder / "wheels"
    left_out = shutil.ignore_patterns(".venv", ".git", ".*_cache", "__pycache__", ".hypothesis")
    shutil.copytree(SOURCE, checkout, ignore=left_out)
    _fetch_packages(wheels)
    with Systemd(share=[checkout, wheels]) as box:
        _start_sshd(box)
        yield Machine(box, checkout, wheels)


def _start_sshd(box: Systemd) -> None:
    """As Debian configures it, on the loopback of the box; this machine's own units of it are masked there."""
    for unit in ("ssh.service", "sshd.service"):
        (box.root / "etc/systemd/system" / unit).unlink(missing_ok=True)
    (box.root / "run/nologin").unlink(missing_ok=True)  # what systemd-user-sessions does at the end of a boot
    box.run("ssh-keygen", "-A")
    box.run("systemctl", "daemon-reload")
    box.run("systemctl", "start", "ssh.service")


def _no_debian_python() -> str | None:
    done = subprocess.run([PYTHON, "-c", "import venv, ensurepip, tomllib"], capture_output=True, timeout=20)
    return f"{PYTHON} has no venv module" if done.returncode else None


def _no_sshd() -> str | None:
    return None if Path("/lib/systemd/system/ssh.service").exists() else "openssh-server is not installed"


def _fetch_packages(wheels: Path) -> None:
    """By the account's own settings of pip, which may name the only mirror that can be reached."""
    version = subprocess.run(
        [PYTHON, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], capture_output=True, text=True
    )
    options = ["--quiet", "--only-binary", ":all:", "--python-version", version.stdout.strip(), "--require-hashes"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "download", *options, "-r", "requirements.lock", "-d", str(wheels)],
        cwd=SOURCE,
        env={**os.environ, "HOME": pwd.getpwuid(os.geteuid()).pw_dir},
        capture_output=True,
        text=True,
        timeout=250,
    )
    if done.returncode:
        pytest.skip(f"no packages to install from: {done.stderr.strip()[-300:]}")
