"""Where the ranks' output goes: through srun as whole lines, or straight into a file of the rank's own.

Rules kept here: lines of different ranks never mix; a last line without its end is ended before another rank's begins;
a rank that has a file to itself, or the only rank of a step, writes for itself and nothing stands between.
Cheap imports only (see `words`).
"""

from __future__ import annotations

import os

from agent.step.words import StepError

_DIGITS = "0123456789"
_LONGEST_LINE = 64 * 1024
"""A longer one is passed on in pieces."""


class Sink:
    """A file that ranks' lines go to."""

    def __init__(self, fd: int, width: int | None) -> None:
        """`width` of the rank's number in a label; `None`: lines are not labelled."""
        self._fd = fd
        self._width = width
        self._open_line: int | None = None
        """The rank whose line is not ended yet."""

    def write(self, rank: int, data: bytes, *, last: bool = False) -> bytes:
        """Pass on the whole lines of `data`, and with `last` the rest too; what is left waits for its end."""
        end = len(data) if last or len(data) > _LONGEST_LINE else data.rfind(b"\n") + 1
        if end:
            _write_all(self._fd, self._labelled(rank, data[:end]))
        return data[end:]

    def _labelled(self, rank: int, data: bytes) -> bytes:
        before = b"\n" if self._open_line not in (None, rank) else b""
        self._open_line = None if data.endswith(b"\n") else rank
        if self._width is None:
            return before + data
        label = b"%*d: " % (self._width, rank)
        self._open_line = None
        return b"".join(label + line.rstrip(b"\n") + b"\n" for line in data.splitlines(keepends=True))


class Files:
    """The files of one stream of a step: which descriptor each rank gets, or which sink its lines go to."""

    def __init__(self, pattern: str | None, names: dict[str, str], ranks: int, own_fd: int, *, mode: str) -> None:
        """Open what is needed.

        Raises:
            StepError: a file cannot be opened.
        """
        self.paths = [_path(pattern, names, rank) for rank in range(ranks)]
        """Of each rank; `None`: srun's own."""
        self.fds: dict[str | None, int] = {None: own_fd}
        for path in dict.fromkeys(self.paths):
            if path is not None:
                self.fds[path] = _open(path, mode)

    def alone(self, rank: int) -> bool:
        """Whether no other rank writes where this one does."""
        return self.paths.count(self.paths[rank]) == 1

    def fd(self, rank: int) -> int:
        """Where a rank's output ends up."""
        return self.fds[self.paths[rank]]


def pattern_names(job_id: str, step_id: int, node: str, env: dict[str, str]) -> dict[str, str]:
    """What the letters of a file name stand for, but for `%t`. srun(1), FILENAME PATTERN."""
    return {
        "A": env.get("SLURM_ARRAY_JOB_ID", job_id),
        "a": env.get("SLURM_ARRAY_TASK_ID", "4294967294"),
        "j": job_id,
        "J": f"{job_id}.{step_id}",
        "N": node.split(".")[0],
        "n": "0",
        "s": str(step_id),
        "u": env.get("SLURM_JOB_USER", ""),
        "x": env.get("SLURM_JOB_NAME", ""),
        "%": "%",
    }


def expand(pattern: str, names: dict[str, str]) -> str:
    """Fill a pattern in; `%3t` pads a number with zeros, a letter that means nothing stays, a backslash ends it all."""
    if "\\" in pattern:
        return pattern.replace("\\", "")
    out, place = "", 0
    while place < len(pattern):
        end = place + 1
        while pattern[place] == "%" and end < len(pattern) and pattern[end] in _DIGITS:
            end += 1
        value = names.get(pattern[end : end + 1]) if pattern[place] == "%" else None
        if value is None:
            out, place = out + pattern[place], place + 1
            continue
        width = int(pattern[place + 1 : end] or "0")
        out, place = out + (value.zfill(min(width, 10)) if value.isdigit() else value), end + 1
    return out


def _path(pattern: str | None, names: dict[str, str], rank: int) -> str | None:
    if pattern is None or pattern == "all":
        return None
    is_rank = pattern.isascii() and pattern.isdigit()
    if pattern == "none" or (is_rank and int(pattern) != rank):
        return os.devnull
    if is_rank:
        return None
    return expand(pattern, {**names, "t": str(rank)})


def _open(path: str, mode: str) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | (os.O_TRUNC if mode == "truncate" else 0)
    try:
        return os.open(path, flags, 0o666)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise StepError(f"Could not open output file {path}: {why}") from error


def _write_all(fd: int, data: bytes) -> None:
    """Write it; a reader that has gone costs the output, not the ranks."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            _wait_writable(fd)
        except OSError:
            return


def _wait_writable(fd: int) -> None:
    import select

    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    poll.poll(1000)
