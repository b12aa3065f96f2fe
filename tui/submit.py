"""From words and a file to a `SubmitRequest`, for the form and for `stoker submit`.

Rules kept here: what cannot be a job script is refused here with a sentence, before anything is sent: no such file, a
folder, no permission, over 512 KiB, a NUL or bytes that are not UTF-8. What sbatch would say about its content (no
`#!`, carriage returns, a wrong option) is the server's to say.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from agent.api.errors import StokerError
from agent.api.givenfile import NotPlainError, read_given
from agent.api.options import SplitArgv, split_argv, wrapped
from agent.api.types import MAX_SCRIPT_BYTES, SubmitRequest

_FROM_STDIN = "stdin"
_NO_SWEEP: Mapping[str, tuple[str, ...]] = {}


def request(
    words: Sequence[str],
    *,
    environ: Mapping[str, str],
    work_dir: Path,
    umask: int,
    node: str | None = None,
    wrap: str | None = None,
    command: Sequence[str] | None = None,
    sweep: Mapping[str, tuple[str, ...]] = _NO_SWEEP,
) -> SubmitRequest:
    """Read `[sbatch flags] SCRIPT [ARGS]`; the script is found as sbatch finds it.

    Args:
        words: flags, script and arguments; the flags alone where `wrap` or `command` stands for the script.
        environ: the submitter's environment.
        work_dir: where the submitter stands.
        umask: the submitter's.
        node: where it is to run.
        wrap: commands for a shell, as sbatch takes them with `--wrap`.
        command: a program and its words, which become the script's.
        sweep: named parameters and their values.

    Raises:
        StokerError: a flag is none of sbatch's, no script is named, or it cannot be one.
    """
    split = split_argv(words)
    for word in (*split.flags, *split.args, *(command or ()), wrap or "", str(work_dir)):
        check_text(word)
    name, script, args = _script(split, work_dir, wrap, command)
    return SubmitRequest(
        script=script,
        script_name=os.fsencode(name).decode("utf-8", "replace"),  # it only names the job, where nothing else does
        flags=split.flags,
        args=args,
        env=sendable(environ),
        work_dir=str(work_dir),
        umask=umask,
        node=node,
        sweep=dict(sweep),
    )


def _script(
    split: SplitArgv, work_dir: Path, wrap: str | None, command: Sequence[str] | None
) -> tuple[str, str, tuple[str, ...]]:
    """Name, text and arguments of what is to run."""
    if wrap is not None:
        return "wrap", check(wrapped(wrap).encode(), "--wrap"), ()
    if command:
        return Path(command[0]).name or "command", '#!/bin/sh\nexec "$@"\n', tuple(command)
    if split.script is None:
        raise StokerError("no job script is named; write: stoker submit [sbatch flags] SCRIPT [ARGS]")
    if split.script == "-":
        return _FROM_STDIN, _read_stdin(), split.args
    path = work_dir / typed_path(split.script)
    return os.path.normpath(path), read_script(path), split.args


def typed_path(text: str) -> Path:
    """A path as somebody wrote it; a `~name` of no account stands for itself, as in a shell."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)


def read_script(path: Path) -> str:
    """The text of a job script.

    Raises:
        StokerError: it cannot be read, or cannot be a script.
    """
    try:
        return check(read_given(path, MAX_SCRIPT_BYTES), str(path))
    except NotPlainError as error:
        raise StokerError(f"{path} is not a regular file; name the job script itself") from error
    except IsADirectoryError as error:
        raise StokerError(f"{path} is a folder; name the job script itself") from error
    except FileNotFoundError as error:
        raise StokerError(f"there is no job script {path}; check the path, it is seen from this machine") from error
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise StokerError(f"cannot read the job script {path}: {why}; check its permissions") from error


def check(data: bytes, origin: str) -> str:
    """The bytes as text.

    Raises:
        StokerError: they cannot be a script.
    """
    if len(data) > MAX_SCRIPT_BYTES:
        raise StokerError(
            f"{origin} is larger than {MAX_SCRIPT_BYTES // 1024} KiB, which no job script may be; keep data and "
            "programs in files that the script names"
        )
    if not data:
        raise StokerError(f"{origin} is empty; a job script begins with #! and the path of its shell")
    if b"\0" in data:
        raise StokerError(f"{origin} is a binary file, not a script; submit a script that starts it")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise StokerError(f"{origin}:{line}: a byte that is not UTF-8; save the script as UTF-8") from error


def here() -> Path:
    """The folder that the job is to run in.

    Raises:
        StokerError: it was removed meanwhile.
    """
    try:
        return Path.cwd()
    except OSError as error:
        raise StokerError("the present folder does not exist any more; change to one that does") from error


def sendable(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that JSON can carry; one with bytes that are not UTF-8 cannot."""
    return {name: value for name, value in environ.items() if _is_text(name) and _is_text(value)}


def current_umask() -> int:
    """The process's umask. There is no call that only reads it, so it is set and set back."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _read_stdin() -> str:
    try:
        data = sys.stdin.buffer.read(MAX_SCRIPT_BYTES + 1)
    except OSError as error:
        raise StokerError(f"cannot read the job script from standard input: {error.strerror or error}") from error
    return check(data, "standard input")


def check_text(word: str) -> None:
    """Refuse a word that a job cannot be given.

    Raises:
        StokerError: it has bytes that are not UTF-8.
    """
    if not _is_text(word):
        raise StokerError(f"{word!a} has bytes that are not UTF-8, which a job cannot be given; write it otherwise")


def _is_text(value: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in value)
