"""The few things that the shim takes from C instead of from the standard library's Python half.

A shim is one fresh `python -I -S` per job, so every import is paid on every start. Measured above a bare start of
9.5 ms (CPython 3.11, 2 cores): `json` +10 ms (it pulls in `re` and `enum`), `signal` +6 ms (`enum`), `ctypes` +4 ms,
`typing` +14 ms. The C modules behind them cost less than 0.5 ms each. They are private to CPython, so each has its
public module as the fallback, and `tests/unit/test_records_lean.py` runs both.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as signal
else:
    try:
        import _signal as signal
    except ImportError:
        import signal  # noqa: F401  (another interpreter: slower, same names)

_PR_SET_CHILD_SUBREAPER = 36
"""prctl(2): orphans of ours come back to us instead of going to init."""


class _Strict:
    """What `_json.make_scanner` asks of a decoder: plain Python values, control characters refused."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float  # NaN and Infinity, as json reads them


def parse_json(data: bytes) -> object:
    r"""Read one JSON value.

    Lone surrogates (`"\udcff"`, how surrogateescape writes the byte 0xff) are kept.

    Raises:
        ValueError: not UTF-8, not JSON, or something behind the value.
    """
    text = data.decode("utf-8").strip()
    try:
        from _json import make_scanner

        value, end = make_scanner(_Strict)(text, 0)  # type: ignore[arg-type]  # any object with these attributes
        if end == len(text):
            return value
    except (ImportError, StopIteration, ValueError, SystemError):
        pass
    import json  # which knows how to say what is wrong

    return json.loads(text)


def to_json(fields: dict[str, str | int | float | bool | None]) -> bytes:
    """Write a flat object, one line."""
    return ("{" + ", ".join(f"{_quote(name)}: {_scalar(value)}" for name, value in fields.items()) + "}\n").encode()


def become_subreaper() -> None:
    """Make this process the parent of every orphan below it (prctl(2), `PR_SET_CHILD_SUBREAPER`).

    Raises:
        OSError: the kernel refused.
    """
    try:
        from _ctypes import call_cdeclfunction, dlopen, dlsym

        library = dlopen(None, 2)  # type: ignore[arg-type]  # None is this process, as dlopen(3) has it
        failed = call_cdeclfunction(dlsym(library, "prctl"), (_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
    except ImportError:
        import ctypes

        failed = ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    if failed:
        raise OSError("prctl(PR_SET_CHILD_SUBREAPER) was refused")


def _scalar(value: str | int | float | bool | None) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _quote(value)
    return repr(value)


def _quote(text: str) -> str:
    try:
        from _json import encode_basestring_ascii
    except ImportError:
        from json.encoder import encode_basestring_ascii
    return str(encode_basestring_ascii(text))
