"""The demo's folder: what is where, and the environment that keeps the children inside it.

Rule kept here: children get their home, state, sockets and temporary files below one temporary folder. At the end only
the job's output and the services' logs remain of it.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

_SOCKET_PATH_MAX = 107
"""unix(7): `sun_path` holds 108 bytes with its NUL."""

_LEADS_OUT = re.compile(r"(PYTHON|XDG_|SLURM_|SBATCH_|STOKER_)")
"""Variables that could lead a child out of the folder, or change what the job asks for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One demo's folder."""

    root: Path

    @classmethod
    def make(cls) -> Place:
        """A new folder under `$TMPDIR`, or under /tmp where that is too long for the path of a socket."""
        root = Path(tempfile.mkdtemp(prefix="stoker-demo-"))
        if len(os.fsencode(root / "run" / "agent.sock")) > _SOCKET_PATH_MAX:
            root.rmdir()
            root = Path(tempfile.mkdtemp(prefix="stoker-demo-", dir="/tmp"))
        for name in ("home", "tmp", "logs", "work"):
            (root / name).mkdir()
        return cls(root=root)

    @property
    def config(self) -> Path:
        """The configuration of agent, hub and commands."""
        return self.root / "stoker.toml"

    @property
    def logs(self) -> Path:
        """What agent and hub say; stays."""
        return self.root / "logs"

    @property
    def work(self) -> Path:
        """Where the job is submitted and writes its output; stays."""
        return self.root / "work"

    def socket(self, what: str) -> Path:
        """Where `agent` or `hub` listens."""
        return self.root / "run" / f"{what}.sock"

    def write_config(self, gpu_source: str) -> None:
        """Settings of a node in user mode that ends jobs quickly. Where root runs the demo, root is its only user."""
        self.config.write_text(
            f"""\
[node]
name = "demo"
mode = "user"
state_dir = "{self.root}/state"
run_dir = "{self.root}/run"
allow_root_jobs = {str(os.geteuid() == 0).lower()}
[gpu]
source = "{gpu_source}"
[telemetry]
history = "days"
[jobs]
grace_s = 5
launcher = "fork"
[hub]
cluster = "demo"
""",
            encoding="utf-8",
        )

    def environment(self) -> dict[str, str]:
        """The caller's environment, bent into the folder."""
        kept = {name: value for name, value in os.environ.items() if not _LEADS_OUT.match(name)}
        return kept | {
            "HOME": str(self.root / "home"),
            "TMPDIR": str(self.root / "tmp"),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', os.defpath)}",
            "STOKER_CONFIG": str(self.config),
            "STOKER_SOCKET": str(self.socket("hub")),
        }

    @property
    def entry(self) -> Path:
        """What a shell reads to have the demo's commands."""
        return self.root / "env"

    def write_entry(self) -> None:
        """For a second terminal."""
        inside = self.environment()
        program = shlex.quote(str(Path(sys.executable).parent))
        lines = [f"{name}={shlex.quote(inside[name])}" for name in ("STOKER_CONFIG", "STOKER_SOCKET")]
        self.entry.write_text("\n".join([f"export PATH={program}:$PATH", f"export {' '.join(lines)}", ""]))

    def tidy(self) -> None:
        """Remove all but the job's output and the services' logs."""
        self.entry.unlink(missing_ok=True)
        for name in ("state", "run", "home", "tmp"):
            shutil.rmtree(self.root / name, ignore_errors=True)
        self.config.unlink(missing_ok=True)
