"""The little languages in sbatch's values: time limits, sizes, counts, signals, exported variables, names.

Rules kept here: each reader takes the text of one value and returns what it means, or raises `GrammarError` with the
end of a sentence that begins with the value: "… is not a time limit; write minutes, …". What real sbatch accepts is
accepted with the same meaning; the recorded answers are in `tests/data/sbatch-golden.jsonl`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from agent.api import signals
from agent.jobs.spec import WarnSignal

MAX_NAME_BYTES = 256
MAX_TEXT_BYTES = 1024
MAX_PATH_BYTES = 4096
"""PATH_MAX of Linux, with its NUL."""
_MAX_EXEC_STRING_BYTES = 128 * 1024
"""execve(2): MAX_ARG_STRLEN, the most that one argument or variable may hold, with its NUL."""
_MAX_MINUTES = 0xFFFF_FFFD
"""Slurm keeps minutes in 32 bits, with the two highest values meaning "infinite" and "not set"."""
_MAX_BYTES = 2**63 - 1
"""SQLite and cgroup files hold signed 64-bit numbers."""

_TIME = re.compile(
    r"(?P<d>\d{1,9})-|(?:(?P<days>\d{1,9})-)?(?P<a>\d{1,12})(?::(?P<b>\d{1,12}))?(?::(?P<c>\d{1,12}))?", re.ASCII
)
_SIZE = re.compile(r"(\d{1,20})(?:([KMGT])B?)?", re.ASCII | re.IGNORECASE)
_COUNT = re.compile(r"\d{1,9}", re.ASCII)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_SIGNAL = re.compile(r"(?:(?P<flags>[RB]|RB|BR):)?(?P<signal>[A-Z0-9]{1,12})(?:@(?P<before>\d{0,9}))?", re.ASCII | re.I)

_MAX_NICE = 2_147_483_645
_MAX_PRIORITY = 0xFFFF_FFFE
_MAX_SIGNAL = 64
_MAX_SIGNAL_S = 65_535
"""Slurm keeps it in 16 bits."""
_SIGNALS = (
    *("HUP", "INT", "QUIT", "ABRT", "KILL", "ALRM", "TERM", "USR1"),
    *("USR2", "URG", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "XCPU"),
)
"""The names that sbatch knows (22.05, asked one by one); every other signal is sent by its number."""


class GrammarError(ValueError):
    """The value does not mean anything here; the message continues a sentence that begins with it."""


def time_limit_s(text: str) -> int | None:
    """Read a time limit: seconds, rounded up to whole minutes as sbatch does, or `None` for unlimited."""
    if text.upper() in ("UNLIMITED", "INFINITE", "-1"):
        return None
    match = _TIME.fullmatch(text)
    if match is None:
        raise GrammarError(
            "is not a time limit; write minutes, minutes:seconds, hours:minutes:seconds, days-hours, "
            "days-hours:minutes, days-hours:minutes:seconds or UNLIMITED"
        )
    a, b, c = (None if match[part] is None else int(match[part]) for part in "abc")
    days = match["days"] or match["d"]
    if days is not None:
        seconds = int(days) * 86_400 + (a or 0) * 3600 + (b or 0) * 60 + (c or 0)
    elif c is not None:
        seconds = (a or 0) * 3600 + (b or 0) * 60 + c
    else:
        seconds = (a or 0) * 60 + (b or 0)
    minutes = -(-seconds // 60)
    if minutes > _MAX_MINUTES:
        raise GrammarError("is longer than Slurm can count; write UNLIMITED for no limit")
    return minutes * 60 or None


def memory_bytes(text: str) -> int | None:
    """Read a memory size: a number with K, M (the default), G or T. `None` for 0, which means all of the node's."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise GrammarError("is not a memory size; write a number of megabytes, or one with K, M, G or T such as 16G")
    number, unit = int(match[1]), (match[2] or "M").upper()
    # Slurm counts memory in whole MiB, so kilobytes round up.
    mebibytes = -(-number // 1024) if unit == "K" else number * {"M": 1, "G": 1024, "T": 1024 * 1024}[unit]
    if mebibytes * 1024 * 1024 > _MAX_BYTES:
        raise GrammarError("is more memory than a machine can have; write a number with K, M, G or T such as 16G")
    return mebibytes * 1024 * 1024 or None


def positive(text: str) -> int:
    """Read a count of at least 1."""
    if not _COUNT.fullmatch(text) or int(text) == 0:
        raise GrammarError("is not a count; write a number from 1 to 999999999")
    return int(text)


def count(text: str) -> int:
    """Read a count of at least 0."""
    if not _COUNT.fullmatch(text):
        raise GrammarError("is not a count; write a number from 0 to 999999999")
    return int(text)


def nodes(text: str) -> int:
    """Read `--nodes`: `1`, or a range that begins with 1; this engine runs every job on one node."""
    low, dash, high = text.partition("-")
    least = positive(low)
    if dash and positive(high) < least:
        raise GrammarError(f"is not a number of nodes: {high} is less than {least}")
    if least > 1:
        raise GrammarError("needs the cluster engine: this node's own engine runs jobs of one node; write 1")
    return least


def matches_type(gpu_type: str, gpu_name: str) -> bool:
    """Whether a GPU is of the type asked for: `h100` fits "NVIDIA H100 80GB HBM3"; only letters and digits count."""
    return _letters(gpu_type) in _letters(gpu_name)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRequest:
    """What `--export` says: everything, and/or these."""

    everything: bool
    names: tuple[str, ...] = ()
    values: tuple[tuple[str, str], ...] = ()


def export(text: str) -> ExportRequest:
    """Read `--export`: `ALL`, `NONE`, or a list of `NAME` and `NAME=value`; a value with commas stands in ' quotes."""
    if text.upper() == "NONE":
        return ExportRequest(everything=False)
    everything, names, values = False, [], []
    for part in _split_outside_quotes(text):
        name, equals, value = part.partition("=")
        if part.upper() == "ALL":
            everything = True
        elif not _VARIABLE.fullmatch(name):
            raise GrammarError(
                f"names {name!r}, which is no variable; write ALL, NONE, NAME or NAME=value, with commas"
            )
        elif equals:
            values.append((name, value))
        else:
            names.append(name)
    return ExportRequest(everything=everything, names=tuple(names), values=tuple(values))


def job_name(text: str) -> str:
    """Check a job's name: any printable text. It is shown on other people's terminals."""
    if not text:
        raise GrammarError("is empty; give the job a name")
    return _plain(text, MAX_NAME_BYTES)


def path(text: str) -> str:
    """Check a path or a pattern of one."""
    if not text or "\0" in text:
        raise GrammarError("is not a path: it is empty or holds a NUL")
    if utf8_length(text) >= MAX_PATH_BYTES:
        raise GrammarError(f"is longer than the {MAX_PATH_BYTES - 1} bytes that Linux allows in a path")
    return text


def output(text: str) -> str:
    """Read `--output`, `--error` or `--input`: a path with %-patterns, or `none`."""
    return "/dev/null" if text.lower() == "none" else path(text)


def open_mode(text: str) -> str:
    """Read `--open-mode`: `append` or `truncate`, of which sbatch reads the first letter only."""
    mode = {"a": "append", "t": "truncate"}.get(text[:1].lower())
    if mode is None:
        raise GrammarError("is not a way to open a file; write append or truncate")
    return mode


def printable(text: str) -> str:
    """Check a text that is kept and shown as it is: an account, a comment, an address."""
    return _plain(text, MAX_TEXT_BYTES)


def name(text: str) -> str:
    """Check the name of something that the site set up: a partition, an account, a QOS, a reservation."""
    if not text or re.search(r"[\s,:;|&]", text):
        raise GrammarError("is not a name; write one name, without blanks, commas or colons")
    return job_name(text)


def nice(text: str) -> int:
    """Read `--nice`: more than 0 gives way, less asks for more; bare it is 100."""
    if text == "":
        return 100
    if not re.fullmatch(r"[+-]?\d{1,10}", text, re.ASCII) or abs(int(text)) > _MAX_NICE:
        raise GrammarError(f"is not a niceness; write a number from -{_MAX_NICE} to {_MAX_NICE}")
    return int(text)


def priority(text: str) -> int:
    """Read `--priority`: a number, or TOP for the highest; 0 holds the job, as in Slurm."""
    if text.upper() == "TOP":
        return _MAX_PRIORITY
    if not re.fullmatch(r"\d{1,10}", text, re.ASCII) or int(text) > _MAX_PRIORITY:
        raise GrammarError(f"is not a priority; write a number from 0 to {_MAX_PRIORITY}, or TOP")
    return int(text)


def yes_or_no(text: str) -> bool:
    """Read `yes` or `no`."""
    said = {"yes": True, "no": False}.get(text.lower())
    if said is None:
        raise GrammarError("is neither yes nor no")
    return said


def exclusive(text: str) -> bool:
    """Read `--exclusive`: bare. Sharing a node with some others only (`user`, `mcs`, `topo`) is not honoured."""
    if not text:
        return True
    if text.lower() in ("user", "mcs", "topo"):
        raise GrammarError("is not supported by this node's engine; --exclusive alone keeps the whole node for the job")
    raise GrammarError("is not a way to be exclusive; write --exclusive alone")


def warn_signal(text: str) -> WarnSignal:
    """Read `--signal`: `[R][B:]SIG[@SECONDS]`. R is about reservations that may be put off, and none here may."""
    match = _SIGNAL.fullmatch(text.strip())
    if match is None:
        raise GrammarError("is not a signal; write SIGNAL, SIGNAL@SECONDS or B:SIGNAL@SECONDS, such as B:USR1@300")
    before_s = int(match["before"]) if match["before"] else 60
    if before_s > _MAX_SIGNAL_S:
        raise GrammarError(f"comes too long before the end; the most is {_MAX_SIGNAL_S} seconds")
    batch_only = "B" in (match["flags"] or "").upper()
    return WarnSignal(number=_signal_number(match["signal"]), before_s=before_s, batch_only=batch_only)


def exec_string(text: str) -> str:
    """Check a text that a program is to be given as an argument, or as a variable with its value."""
    if "\0" in text:
        raise GrammarError("holds a NUL, which no program can be given")
    if utf8_length(text) >= _MAX_EXEC_STRING_BYTES:
        raise GrammarError(f"is longer than the {_MAX_EXEC_STRING_BYTES - 1} bytes that Linux allows")
    return text


def utf8_length(text: str) -> int:
    """Bytes that the text takes in a file or an exec."""
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        raise GrammarError("is not UTF-8 text") from None


def _plain(text: str, most_bytes: int) -> str:
    if not text.isprintable():
        raise GrammarError("holds a control or invisible character; use printable text")
    if utf8_length(text) > most_bytes:
        raise GrammarError(f"is longer than {most_bytes} bytes")
    return text


def _signal_number(text: str) -> int:
    if text.isdecimal():
        if 1 <= int(text) <= _MAX_SIGNAL:
            return int(text)
        raise GrammarError(f"is not a signal: {text} is none of 1 to {_MAX_SIGNAL}")
    short = text.upper().removeprefix("SIG")
    if short not in _SIGNALS:
        raise GrammarError(f"is not a signal that sbatch sends; write a number or one of {', '.join(_SIGNALS)}")
    return signals.NAMES[short]


def _letters(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


def _split_outside_quotes(text: str) -> list[str]:
    """Split at commas that stand outside single quotes, and drop the quotes."""
    parts, current, quoted = [], "", False
    for char in text:
        if char == "'":
            quoted = not quoted
        elif char == "," and not quoted:
            parts.append(current)
            current = ""
        else:
            current += char
    if quoted:
        raise GrammarError("opens a ' that it does not close")
    return [*parts, current]
