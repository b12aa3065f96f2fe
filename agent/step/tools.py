"""The folder that goes first on a job's PATH: `srun`, `scontrol`, and Slurm's other names where we offer them.

Rules kept here: written once at the agent's start, each file whole or not at all, because jobs run while it is
rewritten; a wrapper starts our own interpreter by its full path and nothing that a job's PATH or folder could replace.
"""

from __future__ import annotations

import shlex
from pathlib import Path

STEP_COMMANDS = {"srun": "srun.py", "scontrol": "scontrol.py", "stoker-attach": "attach.py"}
"""They need the standard library only and answer while the agent is down."""

CLIENT_COMMANDS = ("sbatch", "squeue", "scancel", "sacct", "sinfo", "seff", "sprio", "sshare")
"""They ask the agent, by the package `tui` where it is installed."""

_HERE = Path(__file__).resolve().parent


def folder(state_dir: Path) -> Path:
    """Where they are: below the agent's own folder, which jobs' accounts may pass through."""
    return state_dir / "tools"


def install(at: Path, python: str, socket: Path | None = None) -> None:
    """Write the wrappers; what is right already is left alone.

    Args:
        at: made if it is not there; everybody may read and nobody but us write.
        python: the interpreter they start, by its full path.
        socket: the agent's own, which the commands ask unless `$STOKER_SOCKET` names another.

    Raises:
        OSError: the folder cannot be written.
    """
    at.mkdir(parents=True, exist_ok=True)
    at.chmod(0o711)  # a job runs what is in it by name; there is nothing to list
    for name, file in STEP_COMMANDS.items():
        words = f"{shlex.quote(python)} -I -S {shlex.quote(str(_HERE / file))}"
        _write(at / name, _wrapper(words, socket if name == "scontrol" else None))
    if not (_HERE.parents[1] / "tui" / "slurm").is_dir():
        return
    for name in CLIENT_COMMANDS:
        _write(at / name, _wrapper(f"{shlex.quote(python)} -I -m tui.slurm {name}", socket))


def _wrapper(words: str, socket: Path | None) -> str:
    ask = "" if socket is None else f': "${{STOKER_SOCKET:={_in_quotes(str(socket))}}}"\nexport STOKER_SOCKET\n'
    return f'#!/bin/sh\n{ask}exec {words} "$@"\n'


def _in_quotes(text: str) -> str:
    """As it stands within a shell's double quotes."""
    return "".join(f"\\{char}" if char in '"$`\\}' else char for char in text)


def _write(path: Path, text: str) -> None:
    if path.is_file() and not path.is_symlink() and path.read_text(encoding="utf-8") == text:
        return
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    new.write_text(text, encoding="utf-8")
    new.chmod(0o755)
    new.replace(path)
