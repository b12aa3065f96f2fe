"""Hiding devices from a job, and every way in which its user might get at them.

Simulated: the devices are stand-ins (plain files, and nodes of /dev/zero's number) in a folder of the test's; the mount
namespaces, the users and the attempts are real. `tests/gpu` has the same with a real GPU.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.engine import confine
from agent.engine.capabilities import Roots
from agent.engine.claims import GpuDevice, Grant
from agent.engine.records import HookOrders
from tests.fakes.attempts import Bench, finish, log, started

WHO = {"uid": 54321, "gid": 54321, "groups": ()}
SECRET = "the other GPU"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can hide devices")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Two GPUs' stand-ins: files, so that reading one tells which it is; and a true device node."""
    with tempfile.TemporaryDirectory(prefix="stoker-dev-") as name:
        path = Path(name)
        path.chmod(0o755)
        for number, text in enumerate(("its own GPU", SECRET)):
            (path / f"nvidia{number}").write_text(text)
            (path / f"nvidia{number}").chmod(0o666)
        os.mknod(path / "nvidia2", stat.S_IFCHR | 0o666, os.makedev(1, 5))
        (path / "nvidia2").chmod(0o666)
        yield path


@pytest.fixture
def own() -> Iterator[Path]:
    """A folder in which the ordinary user may write."""
    with tempfile.TemporaryDirectory(prefix="stoker-own-") as name:
        os.chown(name, 54321, 54321)
        yield Path(name)


def run(bench: Bench, dev: Path, script: str, hidden: tuple[str, ...] = ("nvidia1", "nvidia2"), **claim: object) -> str:
    """Run as the ordinary user with some devices hidden; what it said, errors too."""
    paths = tuple(str(dev / each) for each in hidden)
    bench.run(script, hidden_devices=paths, confine="on", **{**WHO, **claim})
    return log(bench.last).decode(errors="replace")


def test_the_jobs_own_device_opens_and_the_others_do_not(bench: Bench, dev: Path) -> None:
    said = run(
        bench, dev, f"cat {dev}/nvidia0; echo; cat {dev}/nvidia1; head -c 3 {dev}/nvidia2; stat -c %a {dev}/nvidia1"
    )
    assert said.splitlines()[0] == "its own GPU"
    assert said.count("Permission denied") == 2
    assert "\n0\n" in said
    assert SECRET not in said


def test_outside_the_job_nothing_has_changed(bench: Bench, dev: Path) -> None:
    run(bench, dev, "exit 0")
    assert str(dev) not in Path("/proc/self/mountinfo").read_text()
    assert (dev / "nvidia1").read_text() == SECRET
    with (dev / "nvidia2").open("rb", buffering=0) as device:
        assert device.read(2) == b"\0\0"


ATTEMPTS = {
    "umount": "umount {dev}/nvidia1; umount -l {dev}/nvidia1; cat {dev}/nvidia1",
    "chmod": "chmod 666 {dev}/nvidia1; chown 54321 {dev}/nvidia1; cat {dev}/nvidia1",
    "replace": "rm -f {dev}/nvidia1; mv {dev}/nvidia1 {own}/n; cat {dev}/nvidia1 {own}/n",
    "mknod": "mknod {own}/n c 1 5; head -c 3 {own}/n | od -c | grep '\\\\0  \\\\0' && echo {secret}",
    "hard link": "ln {dev}/nvidia1 {own}/l; cat {own}/l",
    "user namespace": "unshare -r cat {dev}/nvidia1",
    "user namespace, umount": "unshare -rm sh -c 'umount {dev}/nvidia1; umount -l {dev}/nvidia1; cat {dev}/nvidia1'",
    "user namespace, umount all": "unshare -rm sh -c 'umount -l {dev}; umount -l /; cat {dev}/nvidia1'",
    "user namespace, bind without what is mounted in it": (
        "mkdir {own}/b; unshare -rm sh -c 'mount --bind {dev} {own}/b; cat {own}/b/nvidia1'"
    ),
    "user namespace, bind with it": (
        "mkdir {own}/b; unshare -rm sh -c 'mount --rbind {dev} {own}/b; umount -l {own}/b/nvidia1; cat {own}/b/nvidia1'"
    ),
    "user namespace, mount over": "unshare -rm sh -c 'mount --move {dev}/nvidia1 /mnt; cat {dev}/nvidia1'",
    "user namespace, mknod": (
        "unshare -rm sh -c 'mount -t tmpfs none /mnt && mknod /mnt/n c 1 5; head -c 3 /mnt/n | od -c | "
        'grep "0  .0" && echo {secret}\''
    ),
    "user namespace, devtmpfs": "unshare -rm sh -c 'mount -t devtmpfs none /mnt; ls /mnt; cat /mnt/nvidia1'",
    "user and pid namespace": (
        "unshare -rmpf --mount-proc sh -c 'umount -l {dev}/nvidia1; cat /proc/1/root{dev}/nvidia1'"
    ),
    "the namespace of PID 1": "nsenter -t 1 -m cat {dev}/nvidia1",
    "the namespace of PID 1 from a user namespace": "unshare -r nsenter -t 1 -m cat {dev}/nvidia1",
    "the root of PID 1": "cat /proc/1/root{dev}/nvidia1",
    "the root of the shim": "cat /proc/$PPID/root{dev}/nvidia1; nsenter -t $PPID -m cat {dev}/nvidia1",
    "an overlay": (
        "mkdir -p {own}/o/u {own}/o/w {own}/o/m; unshare -rm sh -c 'cd {own}/o; "
        "mount -t overlay -o lowerdir={dev},upperdir=u,workdir=w o m; cat m/nvidia1'"
    ),
}


@pytest.mark.parametrize("what", ATTEMPTS)
def test_an_ordinary_user_cannot_undo_it(bench: Bench, dev: Path, own: Path, what: str) -> None:
    for tool in ("unshare", "nsenter", "umount", "mknod"):
        assert shutil.which(tool), f"{tool} is not installed, so nothing was tried"
    script = ATTEMPTS[what].format(dev=dev, own=own, secret=SECRET)
    said = run(bench, dev, f"{{ {script}; }} 2>&1; echo tried", env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})
    assert said.endswith("tried\n")
    assert said != "tried\n", "nothing was refused: the attempt itself is wrong"
    assert SECRET not in said, said
    assert (dev / "nvidia1").read_text() == SECRET


def test_the_user_namespace_attempts_do_get_their_namespace(bench: Bench, dev: Path) -> None:
    """Else the tests above would show nothing."""
    said = run(bench, dev, "unshare -rm sh -c 'id -u; mount -t tmpfs none /mnt && echo mounted'")
    assert said == "0\nmounted\n"


def test_everything_below_the_job_inherits_it(bench: Bench, dev: Path) -> None:
    said = run(bench, dev, f"setsid sh -c '(cat {dev}/nvidia1) 2>&1'; bash -c 'cat {dev}/nvidia1' 2>&1")
    assert said.count("Permission denied") == 2


# --- MIG: a stand-in for the driver's folders, never yet the driver's own ---------------------------------------------


@pytest.fixture
def roots(dev: Path) -> Roots:
    """GPU 0 in MIG mode: instance 1 whole, instance 2 shared by two compute instances. GPU 1 is whole."""
    (caps := dev / "nvidia-caps").mkdir()
    caps.chmod(0o755)
    top = dev / "proc/driver/nvidia/capabilities"
    places = {"mig/config": 1, "mig/monitor": 2, "gpu0/mig/gi1": 12, "gpu0/mig/gi1/ci0": 13, "gpu0/mig/gi2": 21}
    for where, minor in {**places, "gpu0/mig/gi2/ci0": 22, "gpu0/mig/gi2/ci1": 23}.items():
        access = top / where if where.startswith("mig") else top / where / "access"
        access.parent.mkdir(parents=True, exist_ok=True)
        access.write_text(f"DeviceFileMinor: {minor}\nDeviceFileMode: 292\nDeviceFileModify: 1\n")
        (caps / f"nvidia-cap{minor}").write_text(where)
        (caps / f"nvidia-cap{minor}").chmod(0o444)
    return Roots(dev=dev, proc=dev / "proc")


def device(uuid: str, minor: int | None, mig: tuple[int, int] | None = None) -> GpuDevice:
    return GpuDevice(uuid=uuid, index=0, minor=minor, mig=mig)


PARTS = {each: device(f"MIG-{each}", 0, each) for each in ((1, 0), (2, 0), (2, 1))}


@pytest.mark.parametrize(
    ("own", "opens"),
    [
        ([PARTS[1, 0]], {"nvidia0", "gpu0/mig/gi1", "gpu0/mig/gi1/ci0"}),
        ([PARTS[2, 1]], {"nvidia0", "gpu0/mig/gi2", "gpu0/mig/gi2/ci1"}),
        (
            [PARTS[1, 0], PARTS[2, 0]],
            {"nvidia0", *(f"gpu0/mig/{each}" for each in ("gi1", "gi1/ci0", "gi2", "gi2/ci0"))},
        ),
        ([device("GPU-1", 1)], {"nvidia1"}),
        ([], set()),
        (
            [device("MIG-x", 0)],  # the driver does not tell which: its GPU's are left open
            {"nvidia0", *(f"gpu0/mig/{each}" for each in ("gi1", "gi1/ci0", "gi2", "gi2/ci0", "gi2/ci1"))},
        ),
    ],
)
def test_a_job_opens_its_own_mig_instances_and_no_others(
    bench: Bench, dev: Path, roots: Roots, own: list[GpuDevice], opens: set[str]
) -> None:
    others = [each for each in [*PARTS.values(), device("GPU-1", 1)] if each not in own]
    (dev / "nvidia0").write_text("nvidia0")
    (dev / "nvidia1").write_text("nvidia1")
    grant = Grant(gpus=own, others=others)
    script = f"for node in {dev}/nvidia[01] {dev}/nvidia-caps/*; do cat $node && echo; done 2>/dev/null"
    bench.run(script, hidden_devices=grant.hidden(roots), confine="on", **WHO)
    said = set(log(bench.last).decode().split())
    assert said - {"mig/config", "mig/monitor"} == opens
    assert {"mig/config", "mig/monitor"} <= said, "root's by their mode; not ours to cover"


def test_an_instance_that_is_destroyed_meanwhile_or_told_of_oddly_is_left_out(dev: Path, roots: Roots) -> None:
    top = dev / "proc/driver/nvidia/capabilities/gpu0/mig"
    shutil.rmtree(top / "gi1")
    (top / "gi2/ci0/access").write_text("DeviceFileMinor: ../../sda\n")
    (top / "gi2/ci1/access").unlink()
    assert Grant(others=[PARTS[2, 0]]).hidden(roots) == (f"{dev}/nvidia0", f"{dev}/nvidia-caps/nvidia-cap21")
    assert Grant(others=[PARTS[2, 0]]).hidden(Roots(dev=dev, proc=dev / "none")) == (f"{dev}/nvidia0",)
    assert Grant(gpus=[device("SIM", None)]).hidden(roots) == ()


def test_what_is_not_there_is_nothing_to_hide(bench: Bench, dev: Path) -> None:
    assert run(bench, dev, f"cat {dev}/nvidia0", hidden=("nvidia7", "nvidia1")) == "its own GPU"


def test_mounts_of_the_host_still_reach_the_job_and_the_jobs_do_not_reach_the_host(
    bench: Bench, dev: Path, tmp_path: Path
) -> None:
    """A home that the automounter brings later must appear. Needs a shared root here, as systemd makes it."""
    (spot := dev / "home").mkdir()
    script = f"echo READY; while [ ! -e {spot}/came ]; do sleep 0.02; done; echo SEEN"
    with_shared = [
        sys.executable,
        "-c",
        SHARED.format(house=str(Path(confine.__file__).parents[2]), spot=spot, dev=dev),
    ]
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "shared", *with_shared, str(tmp_path), script],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.split() == ["READY", "SEEN"], done.stderr


SHARED = """
import subprocess, sys
from pathlib import Path
sys.path.insert(0, {house!r})
from tests.fakes.attempts import Bench, finish, log
bench = Bench(Path(sys.argv[1]) / "state")
who = dict(uid=54321, gid=54321, groups=())
attempt = bench.running(sys.argv[2], hidden_devices=("{dev}/nvidia1",), confine="on", **who)
subprocess.run(["mount", "-t", "tmpfs", "none", "{spot}"], check=True)
Path("{spot}/came").touch()
finish(attempt)
print(log(attempt).decode())
"""


def test_a_task_prolog_and_epilog_are_confined_as_the_job_is(bench: Bench, dev: Path) -> None:
    for name in ("task_prolog", "task_epilog"):
        path = dev / name
        path.write_text(f"#!/bin/bash\necho print $(cat {dev}/nvidia1 2>&1)\n")
        path.chmod(0o755)
    hooks = HookOrders(task_prolog=str(dev / "task_prolog"), task_epilog=str(dev / "task_epilog"))
    said = run(bench, dev, "exit 0", hooks=hooks)
    assert "Permission denied" in said
    assert SECRET not in said + (bench.last.path / "hooks.log").read_text()


# --- where it cannot be had -------------------------------------------------------------------------------------------


def _without_rights(bench: Bench, dev: Path, mode: str) -> tuple[str | None, str, str]:
    """A root without CAP_SYS_ADMIN, as in a container: the shim is started under setpriv."""
    attempt = bench.attempt("echo ran", hidden_devices=(str(dev / "nvidia1"),), confine=mode, **WHO)
    from agent.engine.launch import shim_command

    drop = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin"]
    subprocess.run([*drop, *shim_command(sys.executable), str(attempt.path)], check=True, timeout=60, cwd="/")
    ended = finish(attempt)
    return ended.why, ended.detail or "", log(attempt).decode()


def test_on_refuses_the_start_where_it_cannot_be_had(bench: Bench, dev: Path) -> None:
    why, detail, said = _without_rights(bench, dev, "on")
    assert (why, said) == ("start", "")
    assert detail.startswith("the other GPUs' device nodes could not be hidden from it: Operation not permitted; ")
    assert 'jobs.confine_gpus = "on"' in detail


def test_auto_starts_and_says_so(bench: Bench, dev: Path) -> None:
    why, detail, said = _without_rights(bench, dev, "auto")
    assert (why, said) == (None, "ran\n")
    assert detail == "the other GPUs' device nodes could not be hidden from it: Operation not permitted"


def test_without_the_private_half_of_ctypes_it_works_too(dev: Path) -> None:
    code = (
        "import sys, os, ctypes\n"
        f"sys.path.append({str(Path(confine.__file__).parents[2])!r})\n"
        "sys.modules['_ctypes'] = None\n"
        "from agent.engine import confine\n"
        f"folder = os.open({str(dev)!r}, os.O_RDONLY)\n"
        "confine.make_cover(folder)\n"
        f"confine.hide([{str(dev / 'nvidia1')!r}], {str(dev / 'cover')!r})\n"
        "os.setresuid(54321, 54321, 54321)\n"
        "try:\n"
        f"    open({str(dev / 'nvidia1')!r})\n"
        "except PermissionError:\n"
        "    print('hidden')\n"
        "try:\n"
        "    confine.hide([], '')\n"
        "except PermissionError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == ["hidden", "[Errno 1] Operation not permitted"], done.stderr


def test_the_shim_itself_stays_where_it_was(bench: Bench, dev: Path) -> None:
    """Only the child enters the namespace: the epilog sees the whole node."""
    attempt = bench.running("echo READY; sleep 0.3", hidden_devices=(str(dev / "nvidia1"),), **WHO)
    who = started(attempt)
    own = os.readlink("/proc/self/ns/mnt")
    assert os.readlink(f"/proc/{who.shim_pid}/ns/mnt") == own
    assert os.readlink(f"/proc/{who.job_pid}/ns/mnt") != own
    finish(attempt)
