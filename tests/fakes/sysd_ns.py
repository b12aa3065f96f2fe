"""A real systemd as PID 1, in namespaces of its own, over a throw-away copy of this machine's root.

    with Systemd(share=[tmp_path]) as box:
        box.run("systemctl", "start", "stoker-agent.socket")      # subprocess.CompletedProcess, raises when it fails
        box.root / "etc/stoker"                                   # its files, seen from outside
        child = box.popen("sleep", "60")

Inside, `/` is this machine's root with all writes going to memory (overlay on tmpfs): units, users and files that a
test installs there vanish with it. What is listed in `share` is the same folder inside and outside. There is no network
but a loopback of its own, and units are all masked but the few that a boot needs (journald, tmpfiles, dbus when it is
here). It boots in less than a second. Ended by killing its PID 1, which ends everything in it.

Needs root, overlayfs, and cgroup v2 somewhere; `why_not()` says what is missing, for `pytest.skip`.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

SYSTEMD = Path("/lib/systemd/systemd")
KEPT = (
    "systemd-journald.service",
    "systemd-tmpfiles-setup.service",
    "dbus.service",
)
"""Services that boot; every other one that this machine would start is masked."""

_INIT = r"""
set -e
umask 022
mount --make-rprivate /
mount -t tmpfs -o mode=0755 stoker-ns "$work"
mkdir "$work/upper" "$work/work" "$work/root"
mount -t overlay -o "lowerdir=/,upperdir=$work/upper,workdir=$work/work" stoker-ns "$work/root"
root="$work/root"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=0755 run "$root/run"
mount -t tmpfs -o mode=1777 tmp "$root/tmp"
mount -t tmpfs -o mode=0755 dev "$root/dev"
for each in null zero full random urandom tty; do
    : > "$root/dev/$each"
    mount --bind "/dev/$each" "$root/dev/$each"
done
mkdir "$root/dev/shm" "$root/dev/pts"
mount -t tmpfs -o mode=1777 shm "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"; ln -s /proc/self/fd "$root/dev/fd"
ln -s fd/0 "$root/dev/stdin"; ln -s fd/1 "$root/dev/stdout"; ln -s fd/2 "$root/dev/stderr"
for each in $share; do mkdir -p "$root$each"; mount --bind "$each" "$root$each"; done
for each in $masked; do ln -sf /dev/null "$root/etc/systemd/system/$each"; done
rm -f "$root/etc/machine-id"; echo "$machine" > "$root/etc/machine-id"
hostname stoker-box
ip link set lo up 2>/dev/null || true
cd "$root"
mkdir -p run/old
pivot_root . run/old
umount -l /run/old
exec env -i container=stoker PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --system --unit=multi-user.target --show-status=no --log-target=journal
"""


def why_not() -> str | None:
    """Why no systemd can be booted here, or `None`."""
    if os.geteuid() != 0:
        return "booting a systemd needs root"
    if not SYSTEMD.exists():
        return "systemd is not installed"
    missing = [each for each in ("unshare", "nsenter", "pivot_root", "systemd-run") if shutil.which(each) is None]
    if missing:
        return f"booting a systemd needs {', '.join(missing)}"
    if "overlay" not in Path("/proc/filesystems").read_text():
        return "booting a systemd needs overlayfs"
    if _cgroup2() is None:
        return "booting a systemd needs a writable cgroup v2"
    probe = subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "--cgroup", "true"], capture_output=True, text=True, timeout=20
    )
    return f"namespaces are not allowed here: {probe.stderr.strip()}" if probe.returncode else None


class Systemd:
    """One booted systemd; a context manager."""

    def __init__(self, share: Iterable[Path] = (), timeout_s: float = 60.0) -> None:
        self._share = [*_unseen(), *(Path(each).resolve() for each in share)]
        self._timeout_s = timeout_s
        self._cgroups: list[Path] = []
        self.pid = 0
        """Its PID 1, as seen from outside."""

    def __enter__(self) -> Systemd:
        self._work = Path(tempfile.mkdtemp(prefix="stoker-ns-"))
        try:
            self._boot()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def root(self) -> Path:
        """Its `/`, seen from outside."""
        return Path(f"/proc/{self.pid}/root")

    def run(
        self, *command: str, check: bool = True, timeout_s: float = 60.0, input: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in it as root, with its output as text."""
        done = subprocess.run(
            self._enter(command), capture_output=True, text=True, timeout=timeout_s, input=input, env=_ENV
        )
        if check and done.returncode:
            raise AssertionError(f"{shlex.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done

    def popen(self, *command: str, stdout: int | None = None) -> subprocess.Popen[str]:
        """Start a command in it; the caller waits for it."""
        return subprocess.Popen(self._enter(command), stdout=stdout, text=True, env=_ENV)

    def entering(self) -> list[str]:
        """The command that runs another in it."""
        return self._enter(())

    def close(self) -> None:
        """End everything in it, and leave nothing outside."""
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self._unshare.wait(timeout=60)
            self.pid = 0
        elif hasattr(self, "_unshare"):
            self._unshare.kill()
            self._unshare.wait(timeout=60)
        for cgroup in self._cgroups:
            _remove_cgroup(cgroup)
        shutil.rmtree(self._work, ignore_errors=True)

    def _boot(self) -> None:
        cgroup = _cgroup2()
        assert cgroup is not None
        for controller in (cgroup / "cgroup.controllers").read_text().split():
            with contextlib.suppress(OSError):
                (cgroup / "cgroup.subtree_control").write_text(f"+{controller}")
        own = cgroup / f"stoker-ns-{uuid.uuid4().hex[:12]}"
        own.mkdir()
        self._cgroups.append(own)
        self._log = self._work / "boot.log"
        enter = f'echo $$ > {own}/cgroup.procs && exec unshare {_NAMESPACES} --fork --kill-child sh -c "$init"'
        with self._log.open("w") as log:
            self._unshare = subprocess.Popen(
                ["sh", "-c", enter], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._boot_environment()
            )
        self._await_boot()
        # Only a cgroup without processes hands its controllers on: the one that waits for PID 1 leaves the box's own.
        (cgroup / "cgroup.procs").write_text(str(self._unshare.pid))

    def _boot_environment(self) -> dict[str, str]:
        return {
            **_ENV,
            "init": _INIT,
            "work": str(self._work),
            "share": " ".join(str(each) for each in self._share),
            "masked": " ".join(_others()),
            "machine": uuid.uuid4().hex,
        }

    def _await_boot(self) -> None:
        give_up = time.monotonic() + self._timeout_s
        while time.monotonic() < give_up:
            if self._unshare.poll() is not None:
                break
            if not self.pid:
                self.pid = _child(self._unshare.pid)
            elif _command(self.pid) == "systemd" and (self.root / "run/systemd/private").is_socket():
                state = self.run("systemctl", "is-system-running", "--wait", check=False, timeout_s=self._timeout_s)
                if state.stdout.strip() in ("running", "degraded"):
                    return
            time.sleep(0.02)
        raise AssertionError(f"systemd did not boot: {self._log.read_text()[-2000:]}")

    def _enter(self, command: tuple[str, ...]) -> list[str]:
        return ["nsenter", "--target", str(self.pid), *_NAMESPACES.split(), "--root", "--", "env", "-C", "/", *command]


_NAMESPACES = "--mount --uts --ipc --net --pid --cgroup"
_ENV = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}


def _unseen() -> list[Path]:
    """Checkout and interpreter, where the overlay of `/` does not show them: on other mounts, or below new ones."""
    folders = {Path(__file__).resolve().parents[2], Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve()}
    covered = tuple(Path(each) for each in ("/tmp", "/run", "/dev"))
    root = Path("/").stat().st_dev
    return sorted(
        each for each in folders if each.stat().st_dev != root or any(each.is_relative_to(one) for one in covered)
    )


def _cgroup2() -> Path | None:
    """Where cgroup v2 is mounted, whatever controllers it has."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, options, *_ = line.split()
        if kind == "cgroup2" and options.split(",")[0] == "rw":
            return Path(where)
    return None


def _others() -> list[str]:
    """Units of this machine that the box does without."""
    units = {
        path.name
        for folder in ("/lib/systemd/system", "/etc/systemd/system")
        for path in Path(folder).glob("*.wants/*")
        if path.suffix in (".service", ".timer", ".mount", ".automount", ".path")
    }
    return sorted(units - set(KEPT))


def _child(pid: int) -> int:
    with contextlib.suppress(OSError):
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(found[0]) if found else 0
    return 0


def _command(pid: int) -> str:
    """What it runs: `sh` until everything is mounted; before, its root is still ours."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def _remove_cgroup(path: Path) -> None:
    """Remove an empty tree of cgroups; its last members may still be on their way out."""
    for _ in range(100):
        for folder, _, _ in os.walk(path, topdown=False):
            with contextlib.suppress(OSError):
                Path(folder).rmdir()
        if not path.exists():
            return
        time.sleep(0.02)
