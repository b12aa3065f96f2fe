"""The vendor's files on this machine: read one with care, tidy what was pasted, write one that is not there yet.

Rules kept here: a file is opened without waiting and read to a bound, so a pipe, a device or a file of any size is
refused at once; nothing is overwritten. What a file says is the hub's to judge. No Textual in here.
"""

from __future__ import annotations

import codecs
import os
import re
from pathlib import Path

from agent.api.errors import StokerError
from agent.api.givenfile import NotPlainError, read_given

LIMIT = 256 * 1024
"""Bytes of a vendor's file; the hub reads no longer one."""

_BEGIN = re.compile(r"[ \t]*(-----BEGIN STOKER [A-Z]+-----)\s*")
_END = re.compile(r"\s*(-----END STOKER [A-Z]+-----)[ \t]*")


def read(path: Path) -> str:
    """The text of a vendor's file.

    Raises:
        StokerError: it cannot be read, or is certainly none; says what to do.
    """
    try:
        data = read_given(path, LIMIT)
    except IsADirectoryError as error:
        raise StokerError(f"{path} is a folder; choose a file in it") from error
    except NotPlainError as error:
        raise StokerError(
            f"{path} is no plain file but a pipe, a socket or a device; choose a voucher or licence file"
        ) from error
    except OSError as error:
        raise StokerError(f"cannot read {path}: {error.strerror}; choose a voucher or licence file") from error
    if len(data) > LIMIT:
        raise StokerError(
            f"{path} is larger than {LIMIT} bytes, which no vendor's file is; choose a voucher or licence file"
        )
    if not data.strip():
        raise StokerError(f"{path} is empty; fetch the vendor's file again")
    try:
        text = data.decode("utf-16" if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise _no_text(path) from error
    if "\0" in text:
        raise _no_text(path)
    return text


def place(folder: Path, typed: str) -> Path:
    """Where a typed name is: `~` is the home, any other name is of this folder, also one of nobody's home."""
    name = typed.strip().replace("\0", "")
    try:
        return folder / Path(name).expanduser()
    except RuntimeError:
        return folder / name


def tidy(pasted: str) -> str:
    """What a terminal made of a pasted file, with the line ends that it should have."""
    lines = "\n".join(line.strip() for line in pasted.splitlines())
    return _END.sub(r"\n\1\n", _BEGIN.sub(r"\1\n", lines)).strip() + "\n" if lines.strip() else ""


def write_new(path: Path, text: str) -> None:
    """Write a file that is not there yet; on disk when this returns, and none when it does not.

    Raises:
        StokerError: there is one, or it cannot be written.
    """
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            _fill(handle, text)
        except (OSError, ValueError):
            path.unlink(missing_ok=True)
            raise
    except FileExistsError as error:
        raise StokerError(f"{path} exists and is not overwritten; name another file") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise StokerError(f"cannot write {path}: {reason}; name another file") from error


def _fill(handle: int, text: str) -> None:
    with os.fdopen(handle, "w", encoding="ascii") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _no_text(path: Path) -> StokerError:
    return StokerError(f"{path} is no text; a vendor's file begins with -----BEGIN STOKER; fetch it again")
