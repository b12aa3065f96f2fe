"""The shim's side of the job contract (`agent.jobs.contract`): `stop` written, `progress.json` believed.

The folder is the user's, who may have planted anything in it: `stop` is written as the user, by folder descriptor, to a
name of its own that is then renamed, so no link is followed; what is read is read by `foreign`'s rules. Cheap imports
only (see `lean`).
"""

from __future__ import annotations

import os

from agent.engine.jobproc import Account
from agent.engine.lean import parse_json, to_json
from agent.jobs.foreign import ForeignError, Part, open_folder, read_part

END_S = 1.0
"""What a job gets to end in, beyond the steps and saves that it has measured."""

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_MOST_BYTES = 64 * 1024


class JobFolder:
    """`$JOB_DIR` of the attempt."""

    def __init__(self, path: str | None, account: Account) -> None:
        """`None`: the job has no folder, and speaks no contract."""
        self._path = path
        self._account = account
        self._before: tuple[int, int, int] | None = None

    def clean(self) -> None:
        """Before the job: no `stop` of an earlier attempt, and what that one said of its progress does not count."""
        try:
            folder = self._open()
        except (OSError, ForeignError):
            return
        try:
            part = read_part(folder, "progress.json", 0)
            self._before = part.identity if part else None
        except (OSError, ForeignError):
            pass
        self._as_the_user(folder, _remove_stop)
        os.close(folder)

    def ask(self, why: str, by: str) -> tuple[float | None, str]:
        """Write `stop`; returns how many seconds the job needs to end of itself, and how that is known.

        0 where it does not speak the contract, or cannot be asked; `None` where it does and has measured no save yet.
        """
        try:
            folder = self._open()
        except (OSError, ForeignError):
            return 0.0, ""
        try:
            problem = self._as_the_user(folder, _write_stop, to_json({"why": why, "by": by}))
            if problem is not None:
                return 0.0, f"its stop file could not be written: {problem}"
            return self._patience(folder)
        finally:
            os.close(folder)

    def _open(self) -> int:
        if self._path is None:
            raise FileNotFoundError
        return open_folder(self._path)

    def _as_the_user(self, folder: int, act: object, *arguments: bytes) -> str | None:
        """Do something to the folder with the user's rights; returns why not."""
        try:
            self._account.assume()
            act(folder, *arguments)  # type: ignore[operator]
        except OSError as error:
            return error.strerror
        finally:
            self._account.leave()
        return None

    def _patience(self, folder: int) -> tuple[float | None, str]:
        """Twice a step and a save, as measured by the job itself in this attempt."""
        try:
            part = read_part(folder, "progress.json", _MOST_BYTES)
        except (OSError, ForeignError):
            return 0.0, ""
        progress = _progress(part)
        if part is None or part.identity == self._before or progress is None:
            return 0.0, ""
        step_s, save_s = _seconds(progress.get("step_s")), _seconds(progress.get("save_s"))
        if save_s is None:
            return None, "it has measured no save yet"
        return 2 * (
            (step_s or 0.0) + save_s
        ) + END_S, f"it takes {step_s or 0.0:.3g} s a step and {save_s:.3g} s a save"


def _remove_stop(folder: int) -> None:
    os.unlink("stop", dir_fd=folder)


def _write_stop(folder: int, data: bytes) -> None:
    """Whole or not at all. An old temporary file, or whatever stands at its name, makes way."""
    try:  # noqa: SIM105 - contextlib is not worth its import in a shim
        os.unlink(".stop.tmp", dir_fd=folder)
    except FileNotFoundError:
        pass
    fd = os.open(".stop.tmp", _NEW, 0o644, dir_fd=folder)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)
    os.rename(".stop.tmp", "stop", src_dir_fd=folder, dst_dir_fd=folder)


def _progress(part: Part | None) -> dict[str, object] | None:
    if part is None or not part.whole:
        return None
    try:
        value = parse_json(part.data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _seconds(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value < 1e6 else None
