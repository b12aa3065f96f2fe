"""`install.sh test` on a machine that lacks a package: what it installs may not start, and nothing of ours stays.

In a box, with an `apt-get` of our own that says what a package's script would be told when it asks to start a service.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.sysd_ns import Systemd, why_not

SOURCE = Path(__file__).parents[2]
POLICY = "usr/sbin/policy-rc.d"
APT_GET = """#!/bin/sh
case $1 in
    update) exit 0 ;;
    install) shift ;;
esac
echo "asked for: $*"
/usr/sbin/policy-rc.d ssh start
echo "the policy says $?"
[ ! -e /run/apt-hangs ] || sleep 600
exit 1
"""


@pytest.fixture(scope="module")
def box() -> Iterator[Systemd]:
    reason = why_not()
    if reason:
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(prefix="stoker-means-") as name:
        checkout = Path(name) / "checkout"
        (checkout / "tests").mkdir(parents=True)
        for each in ("install.sh", "tests/means.sh"):
            shutil.copy(SOURCE / each, checkout / each)
        with Systemd(share=[checkout]) as booted:
            for program in ("usr/sbin/sshd", "usr/bin/busybox", "bin/busybox"):
                (booted.root / program).unlink(missing_ok=True)
            apt_get = booted.root / "usr/local/sbin/apt-get"
            apt_get.write_text(APT_GET)
            apt_get.chmod(0o755)
            (booted.root / "checkout").symlink_to(checkout)
            yield booted


def run_tests(box: Systemd) -> subprocess.CompletedProcess[str]:
    return box.run("sh", "/checkout/install.sh", "test", check=False)


def test_packages_may_not_start_services_while_they_are_installed(box: Systemd) -> None:
    (box.root / POLICY).unlink(missing_ok=True)
    done = run_tests(box)
    assert done.returncode == 1
    assert "asked for: --yes --no-install-recommends openssh-server" in done.stderr
    assert "the policy says 101" in done.stderr
    assert not (box.root / POLICY).exists(), "also after a failure"


def test_a_policy_of_the_machine_is_left_as_it_is(box: Systemd) -> None:
    policy = box.root / POLICY
    policy.write_text("#!/bin/sh\nexit 104\n")
    policy.chmod(0o755)
    assert "the policy says 104" in run_tests(box).stderr
    assert policy.read_text() == "#!/bin/sh\nexit 104\n"


def test_what_a_run_cut_short_left_is_taken_over_and_removed(box: Systemd) -> None:
    """By SIGKILL; SIGINT and SIGTERM are seen and leave nothing."""
    policy, hangs = box.root / POLICY, box.root / "run/apt-hangs"
    policy.unlink(missing_ok=True)
    hangs.touch()
    for number, left in (("TERM", False), ("KILL", True)):
        wait = f"until [ -e /{POLICY} ]; do sleep 0.05; done"
        line = f"sh /checkout/install.sh test & {wait}; kill -{number} $!; wait $!"
        box.run("timeout", "30", "sh", "-c", line, check=False)
        assert policy.exists() is left
    hangs.unlink()
    assert "the policy says 101" in run_tests(box).stderr
    assert not policy.exists()
