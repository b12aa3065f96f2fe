"""The report: everything a self-test found, as signed JSON. Whole numbers and one-line texts only, so that it has one
spelling (`licensing.attest`).
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any

import msgspec

from agent.api.decode import convert
from agent.api.errors import ApiError
from agent.api.givenfile import read_given
from agent.api.program import printable
from agent.gate import NodeSignature
from agent.gpu.inspection import GpuInspection
from agent.selftest.burn import Seen
from agent.selftest.checks import Check
from agent.selftest.errors import EX_CANTCREAT, FAILED, SelftestError
from agent.selftest.order import Order

SUBJECT = "selftest"
FORMAT = 1
MAX_BYTES = 4 * 1024 * 1024


class TestedNode(msgspec.Struct, frozen=True, kw_only=True):
    """Where it was."""

    name: str
    key: str
    """The public half of the key that signs, 64 hex digits; `GET /v1/node` of the node says the same."""
    kernel: str
    cpu: str
    cpus: int
    memory_bytes: int
    driver_version: str | None = None


class TestedGpu(msgspec.Struct, frozen=True, kw_only=True):
    """A GPU of the node."""

    index: int
    uuid: str
    name: str
    tested: bool
    serial: str | None = None
    vbios: str | None = None
    memory_total_bytes: int | None = None
    pcie_generation_max: int | None = None
    pcie_width: int | None = None
    nvlinks: int | None = None

    @classmethod
    def of(cls, found: GpuInspection, *, tested: bool) -> TestedGpu:
        """As it was found."""
        return cls(
            index=found.reading.index,
            uuid=found.reading.uuid,
            name=found.reading.name,
            tested=tested,
            serial=found.serial,
            vbios=found.vbios,
            memory_total_bytes=found.reading.memory_total_bytes,
            pcie_generation_max=found.pcie_generation_max,
            pcie_width=found.pcie_width,
            nvlinks=found.nvlinks,
        )


class Versions(msgspec.Struct, frozen=True, kw_only=True):
    """What it was tested with."""

    stoker: str
    python: str | None = None
    torch: str | None = None
    cuda: str | None = None
    nccl: str | None = None


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All of it."""

    format: int = FORMAT
    verdict: str
    """PASS, FAIL or `no verdict`."""
    summary: str
    node: TestedNode
    began_at: int
    ended_at: int
    mode: str
    """`quick` or `full`."""
    burn_s: int
    order: Order | None = None
    gpus: tuple[TestedGpu, ...] = ()
    checks: tuple[Check, ...] = ()
    burn: tuple[Seen, ...] = ()
    versions: Versions
    notes: tuple[str, ...] = ()


def encode(report: Report, signature: NodeSignature, now: int) -> bytes:
    """Signed, as the text of a file."""
    return signature.sign(SUBJECT, _clean(msgspec.to_builtins(report)), now)


def unused(stem: str) -> Path:
    """A file's name in this folder that nothing has: `stem.json`, else `stem-2.json` and so on."""
    names = (f"{stem}{suffix}.json" for suffix in chain([""], (f"-{number}" for number in count(2))))
    return next(path for path in map(Path, names) if not os.path.lexists(path))


def prepare(path: Path) -> None:
    """See before the test that its report can be written: hours may lie between.

    Raises:
        SelftestError: it cannot.
    """
    folder = path.parent
    if path.is_dir():
        raise SelftestError(f"cannot write the report {path}: it is a folder; name a file", EX_CANTCREAT)
    if path.exists() and not path.is_file():  # the report would take its place: /dev/stdout, /dev/null
        what = "it is a pipe, a socket or a device; name a file, and see it with --json"
        raise SelftestError(f"cannot write the report {path}: {what}", EX_CANTCREAT)
    if os.path.lexists(path):
        raise SelftestError(f"{path} exists and is not overwritten; name another file with --report", EX_CANTCREAT)
    if not os.access(folder, os.W_OK):
        why = "may not be written" if folder.is_dir() else "is no folder"
        raise SelftestError(f"cannot write the report {path}: {folder} {why}; name a file with --report", EX_CANTCREAT)


def write(path: Path, data: bytes) -> None:
    """Put it there whole.

    Raises:
        SelftestError: it cannot be written.
    """
    temp: Path | None = None
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        temp = Path(name)
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temp.replace(path)
    except OSError as error:
        if temp is not None:
            temp.unlink(missing_ok=True)
        raise SelftestError(
            f"cannot write the report {path}: {error.strerror}; name another file with --report", EX_CANTCREAT
        ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Genuine:
    """A report whose signature holds."""

    report: Report
    key_hex: str
    signed_at: int
    text: str
    """The file."""


def verify(path: Path) -> Genuine:
    """Read a report, if its signature holds.

    Raises:
        SelftestError: it cannot be read, is no such report, or was changed; says which.
    """
    try:
        data = read_given(path, MAX_BYTES)
        signed = NodeSignature.verify(SUBJECT, data)
        report = convert(signed.fields, Report)
    except OSError as error:
        raise SelftestError(f"cannot read the report {path}: {error.strerror}", FAILED) from error
    except ApiError as error:
        raise SelftestError(f"REFUSED {path}: {error.message}", FAILED) from error
    except msgspec.ValidationError as error:
        what = printable(str(error))
        raise SelftestError(f"REFUSED {path}: signed, but no report that this version reads: {what}", FAILED) from error
    if report.node.key != signed.key_hex:
        raise SelftestError(f"REFUSED {path}: it is signed by another key than its node's", FAILED)
    return Genuine(report=report, key_hex=signed.key_hex, signed_at=signed.signed_at, text=data.decode("utf-8"))


def _clean(value: Any) -> Any:
    """Texts come from drivers and libraries: one line each, nothing that acts on a terminal."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {_clean(name): _clean(each) for name, each in value.items()}
    return [_clean(each) for each in value] if isinstance(value, list | tuple) else value
