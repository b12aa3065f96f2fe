"""The few things that the shim takes from C instead of from the standard library's Python half.

A shim is one fresh `python -I -S` per job, so every import is paid on every start. Measured above a bare start of
9.5 ms (CPython 3.11, 2 cores): `json` +10 ms (it pulls in `re` and `enum`), `signal` +6 ms (`enum`), `ctypes` +4 ms,
`typing` +14 ms. The C modules behind them cost less than 0.5 ms each. They are private to CPython, so each has its
public module as the fallback, and `tests/unit/test_records_lean.py` runs both.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as signal
else:
    try:
        import _signal as signal
    except ImportError:
        import signal

try:
    from _json import encode_basestring_ascii, make_encoder, make_scanner
except ImportError:
    make_encoder = make_scanner = None  # type: ignore[assignment,misc]

_PR_SET_CHILD_SUBREAPER = 36
"""prctl(2): orphans of ours come back to us instead of going to init."""

_SYS_CLONE3 = 435
"""The same on all architectures."""
_CLONE_INTO_CGROUP = 0x200000000


class _Strict:
    """What `_json.make_scanner` asks of a decoder: plain Python values, control characters refused."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float  # NaN and Infinity, as json reads them


_SCAN = None if make_scanner is None else make_scanner(_Strict)  # type: ignore[arg-type]  # any with these attributes
_ENCODE = (
    None
    if make_encoder is None
    else make_encoder(None, None, encode_basestring_ascii, None, ": ", ", ", False, False, True)  # type: ignore[arg-type]
)
"""What `json.dumps` ends in where nothing is asked for but the default, and no circles are looked for."""

_functions: dict[str, int] = {}
"""Addresses of functions of libc: looked for once, by whoever makes processes that need them."""


def load_all() -> None:
    """Load now what is else loaded where it is needed: for whoever makes processes that will need it."""
    import resource  # noqa: F401

    try:
        for name in ("prctl", "syscall"):
            _function(name)
    except ImportError:
        import ctypes  # noqa: F401
    parse_json(to_json({"a": "b"}))


def read_file(path: str) -> bytes:
    """A small file, of /proc for example; empty where it cannot be read. `open` costs 0.3 ms, and text 2 more."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return read_all(fd)
    except OSError:
        return b""
    finally:
        os.close(fd)


def read_all(fd: int) -> bytes:
    """Up to the end of the file.

    Raises:
        OSError: it cannot be read.
    """
    parts = []
    while part := os.read(fd, 65536):
        parts.append(part)
    return b"".join(parts)


def write_file(path: str, text: str) -> bool:
    """One write to a file that is there, of /proc or a cgroup; whether it was taken."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.write(fd, text.encode())
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def parse_json(data: bytes) -> object:
    r"""Read one JSON value.

    Lone surrogates (`"\udcff"`, how surrogateescape writes the byte 0xff) are kept.

    Raises:
        ValueError: not UTF-8, not JSON, or something behind the value.
    """
    text = data.decode("utf-8").strip(" \t\n\r")  # JSON knows no other white space
    if _SCAN is not None:
        try:
            value, end = _SCAN(text, 0)
            if end == len(text):
                return value
        except (StopIteration, ValueError, SystemError):
            pass
    import json  # which knows how to say what is wrong

    return json.loads(text)


def to_json(fields: dict[str, str | int | float | bool | None]) -> bytes:
    """Write a flat object, one line."""
    if _ENCODE is not None:
        return "".join([*_ENCODE(fields, 0), "\n"]).encode()
    import json

    return f"{json.dumps(fields)}\n".encode()


def become_subreaper() -> None:
    """Make this process the parent of every orphan below it (prctl(2), `PR_SET_CHILD_SUBREAPER`).

    Raises:
        OSError: the kernel refused.
    """
    try:
        from _ctypes import call_cdeclfunction

        failed = call_cdeclfunction(_function("prctl"), (_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
    except ImportError:
        import ctypes

        failed = ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    if failed:
        raise OSError("prctl(PR_SET_CHILD_SUBREAPER) was refused")


def fork_into(cgroup: int) -> int:
    """As fork(2), with the child in a cgroup (v2) from its first moment, given by its folder's descriptor; clone3(2).

    For a process of one thread, as a shim is: what `os.fork` does besides is about the other threads.

    Raises:
        OSError: refused: a kernel before 5.7, or a container's filter.
    """
    from _ctypes import call_cdeclfunction

    fields = (_CLONE_INTO_CGROUP, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, 0, 0, cgroup)
    arguments = b"".join(each.to_bytes(8, sys.byteorder) for each in fields)
    pid = int(call_cdeclfunction(_function("syscall"), (_SYS_CLONE3, arguments, len(arguments))))
    if pid < 0:
        raise OSError("clone3(CLONE_INTO_CGROUP) was refused")
    return pid


def _function(name: str) -> int:
    """Address of a function of libc.

    Raises:
        ImportError: this interpreter does not say.
    """
    if name not in _functions:
        from _ctypes import dlopen, dlsym

        _functions[name] = dlsym(dlopen(None, 2), name)  # type: ignore[arg-type]  # None is this process: dlopen(3)
    return _functions[name]
