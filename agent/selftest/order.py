"""What was ordered, and what stands in the machine.

    model = "H100 SXM"       # one of models.toml, or the driver's name, or a part of it
    count = 8                # GPUs in this node
    memory_gb = 80           # of each GPU, as it is sold
    pcie_generation = 5
    pcie_width = 16
    nvlink_count = 18        # links of each GPU that are up

`model` and `count` have to be there; what is left out is not compared.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from agent.api.decode import convert
from agent.api.givenfile import read_given
from agent.api.program import meant, printable
from agent.gpu.inspection import GpuInspection
from agent.selftest.checks import NODE, Check, Verdict, compared, gpu, untold
from agent.selftest.errors import OrderError
from agent.selftest.expected import Expected, plain

MAX_BYTES = 64 * 1024
MEMORY_SHARE = (0.93, 1.15)
"""A sold GB is a little less or more than what the driver shows: 80 GB are 79.6 GiB, ECC takes a sixteenth of GDDR."""

_Count = Annotated[int, Meta(ge=1, le=1024)]


class Order(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An order's file; the module's head says what each key means."""

    model: Annotated[str, Meta(min_length=1, max_length=200)]
    count: _Count
    memory_gb: Annotated[int, Meta(ge=1, le=100_000)] | None = None
    pcie_generation: Annotated[int, Meta(ge=1, le=10)] | None = None
    pcie_width: Annotated[int, Meta(ge=1, le=32)] | None = None
    nvlink_count: Annotated[int, Meta(ge=0, le=1024)] | None = None


def read(path: Path) -> Order:
    """Read an order.

    Raises:
        OrderError: it cannot be read, or says something we do not understand; nothing in it is ignored.
    """
    try:
        raw = read_given(path, MAX_BYTES)
        text = raw.decode("utf-8")
    except OSError as error:
        raise OrderError(f"cannot read the order {path}: {error.strerror}; name the order's TOML file") from error
    except UnicodeDecodeError as error:
        raise OrderError(f'the order {path} is not text; it has lines like: model = "H100 SXM"') from error
    if len(raw) > MAX_BYTES:
        raise OrderError(f"the order {path} is longer than {MAX_BYTES} bytes; it has at most six lines")
    try:
        data = tomllib.loads(text)
        return convert(data, Order)
    except tomllib.TOMLDecodeError as error:
        raise OrderError(f"the order {path} is not valid TOML: {printable(str(error))}") from error
    except msgspec.ValidationError as error:
        raise OrderError(f"the order {path}: {_explained(str(error))}") from error


def compare(order: Order, gpus: Sequence[GpuInspection], expected: Expected) -> list[Check]:
    """A line for each thing that was ordered."""
    count = compared(
        NODE, "GPUs", len(gpus), order.count, "another number of GPUs than ordered; see: lspci -d 10de: and dmesg"
    )
    return [count, *(check for each in gpus for check in _compare_gpu(order, each, expected))]


def _compare_gpu(order: Order, found: GpuInspection, expected: Expected) -> Iterator[Check]:
    subject, uuid, name = gpu(found.reading.index), found.reading.uuid, found.reading.name
    yield Check(
        subject=subject,
        name="model",
        found=name,
        expected=order.model,
        verdict=Verdict.PASS if _is_model(order.model, name, expected) else Verdict.FAIL,
        detail=None if _is_model(order.model, name, expected) else "another model than ordered",
        uuid=uuid,
    )
    if order.memory_gb is not None:
        yield _memory(order.memory_gb, found)
    for label, have, want in (
        ("PCIe generation", found.pcie_generation_max, order.pcie_generation),
        ("PCIe lanes", found.pcie_width, order.pcie_width),
    ):
        if want is not None:
            detail = "the link is not as ordered; see slot, riser and BIOS, and: nvidia-smi -q (GPU Link Info)"
            yield compared(subject, label, have, want, detail, uuid)
    if order.nvlink_count is not None:
        have = 0 if found.nvlinks is None and order.nvlink_count == 0 else found.nvlinks
        detail = "links are missing; see: nvidia-smi nvlink -s, and the fabric manager's service"
        yield compared(subject, "NVLinks up", have, order.nvlink_count, detail, uuid)


def _is_model(ordered: str, name: str, expected: Expected) -> bool:
    known = expected.of(ordered)
    if known is not None:
        return expected.of(name) == known
    return re.search(rf"(?:^| ){re.escape(plain(ordered))}(?:$| )", plain(name)) is not None


def _memory(wanted_gb: int, found: GpuInspection) -> Check:
    subject, total = gpu(found.reading.index), found.reading.memory_total_bytes
    if total is None:
        return untold(subject, "memory", f"{wanted_gb} GB", found.reading.uuid)
    least, most = (share * wanted_gb * 1e9 for share in MEMORY_SHARE)
    good = least <= total <= most
    return Check(
        subject=subject,
        name="memory",
        found=f"{total / 1e9:.1f} GB",
        expected=f"{wanted_gb} GB",
        verdict=Verdict.PASS if good else Verdict.FAIL,
        detail=None if good else "another amount of memory than ordered",
        uuid=found.reading.uuid,
    )


def _explained(message: str) -> str:
    """Put msgspec's sentence into the words of the file."""
    keys = Order.__struct_fields__
    unknown = re.search(r"unknown field `([^`]*)`", message)
    if unknown:
        key = printable(unknown.group(1))
        return f"unknown key {key!r}{meant(key, keys) or '; known: ' + ', '.join(keys)}"
    missing = re.search(r"missing required field `([^`]*)`", message)
    if missing:
        return f"the key {missing.group(1)!r} is missing; an order says at least model and count"
    where = re.search(r" - at `\$\.([^`]*)`$", message)
    text = printable(message[: where.start()] if where else message)
    return f"{where.group(1) if where else 'it'}: {text[:1].lower()}{text[1:]}"
