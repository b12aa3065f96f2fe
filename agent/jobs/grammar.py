"""The little languages in sbatch's values: times, sizes, counts, GPUs, exported variables, names.

Rules kept here: each reader takes the text of one value and returns what it means, or raises `GrammarError` with the
end of a sentence that begins with the value: "… is not a time limit; write minutes, …". What real sbatch accepts is
accepted with the same meaning; the recorded answers are in `tests/data/sbatch-golden.jsonl`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_NAME_BYTES = 256
MAX_PATH_BYTES = 4096
"""PATH_MAX of Linux, with its NUL."""
_MAX_MINUTES = 0xFFFF_FFFD
"""Slurm keeps minutes in 32 bits, with the two highest values meaning "infinite" and "not set"."""
_MAX_BYTES = 2**63 - 1
"""SQLite and cgroup files hold signed 64-bit numbers."""

_TIME = re.compile(r"(?:(?P<days>\d{1,9})-)?(?P<a>\d{1,12})(?::(?P<b>\d{1,12}))?(?::(?P<c>\d{1,12}))?", re.ASCII)
_SIZE = re.compile(r"(\d{1,20})([KMGT]?)B?", re.ASCII | re.IGNORECASE)
_COUNT = re.compile(r"\d{1,9}", re.ASCII)
_GPU_TYPE = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}", re.ASCII)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


class GrammarError(ValueError):
    """The value does not mean anything here; the message continues a sentence that begins with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuRequest:
    """How many GPUs, and of which type when that matters."""

    count: int
    type: str | None = None


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
    if match["days"] is not None:
        seconds = int(match["days"]) * 86_400 + (a or 0) * 3600 + (b or 0) * 60 + (c or 0)
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
    number, unit = int(match[1]), match[2].upper() or "M"
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


def only_one(text: str) -> int:
    """Read a number of nodes or tasks, of which one machine's engine runs exactly one."""
    low, dash, high = text.partition("-")
    if positive(low) == 1 and (not dash or positive(high) == 1):
        return 1
    raise GrammarError("needs the cluster engine: this node runs jobs of one node and one task; write 1")


def gres(text: str) -> GpuRequest:
    """Read `--gres`: `gpu`, `gpu:2`, `gpu:h100:2` or `none`. Of the generic resources this node has GPUs only."""
    if text.lower() == "none":
        return GpuRequest(count=0)
    if "," in text:
        raise GrammarError("names several resources; this node gives a job GPUs of one type: write gpu:COUNT")
    kind, _, rest = re.sub(r"^gres[:/]", "", text).partition(":")
    if kind != "gpu":
        raise GrammarError("asks for something other than GPUs; write gpu:COUNT, gpu:TYPE:COUNT or none")
    return gpus(rest) if rest else _bare_gres(text)


def gpus(text: str) -> GpuRequest:
    """Read `--gpus`: `2`, `h100:2`, or `h100` for one."""
    gpu_type, _, count = text.rpartition(":")
    if not gpu_type and _GPU_TYPE.fullmatch(text):
        return GpuRequest(count=1, type=text)
    if not _COUNT.fullmatch(count) or (gpu_type and not _GPU_TYPE.fullmatch(gpu_type)) or text.startswith(":"):
        raise GrammarError("is not a number of GPUs; write COUNT or TYPE:COUNT, such as 2 or h100:2")
    return GpuRequest(count=int(count), type=gpu_type or None)


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
    if not text.isprintable():
        raise GrammarError("holds a control or invisible character; use printable text")
    if utf8_length(text) > MAX_NAME_BYTES:
        raise GrammarError(f"is longer than {MAX_NAME_BYTES} bytes")
    return text


def path(text: str) -> str:
    """Check a path or a pattern of one."""
    if not text or "\0" in text:
        raise GrammarError("is not a path: it is empty or holds a NUL")
    if utf8_length(text) >= MAX_PATH_BYTES:
        raise GrammarError(f"is longer than the {MAX_PATH_BYTES - 1} bytes that Linux allows in a path")
    return text


def output(text: str) -> str:
    """Read `--output` or `--error`: a path with %-patterns, or `none`."""
    return "/dev/null" if text.lower() == "none" else path(text)


def open_mode(text: str) -> str:
    """Read `--open-mode`: `append` or `truncate`, of which sbatch reads the first letter only."""
    mode = {"a": "append", "t": "truncate"}.get(text[:1].lower())
    if mode is None:
        raise GrammarError("is not a way to open a file; write append or truncate")
    return mode


def utf8_length(text: str) -> int:
    """Bytes that the text takes in a file or an exec."""
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        raise GrammarError("is not UTF-8 text") from None


def _bare_gres(text: str) -> GpuRequest:
    if text.endswith(":"):
        raise GrammarError("ends with a colon; write gpu:COUNT")
    return GpuRequest(count=1)


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
