"""All field values of one GPU in one call with a kept array. NVML `nvmlDeviceGetFieldValues`. A part of the door to
`pynvml`.

    each second    the first fields of the list
    every 10 s     all of them, and those of each NVLink

A field that this GPU does not offer is left out of the array for an hour: asked for again and again it would cost the
driver's time each second.
"""

from __future__ import annotations

import ctypes
import struct
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from operator import and_
from typing import Any

import pynvml

from agent.gpu.nvml_call import FORGET_S, UNSUPPORTED, Call, function_of, raise_if_fatal

_FIELD = struct.Struct("I20xIiQ")  # nvmlFieldValue_t: field, type, return code, value; not scope, times
ANSWER = "24xQQ"  # the same without the field's number, type and return code as one number
ASKED = struct.Struct("II32x")  # the same, as it is handed in: field, scope
_SIGNED = struct.Struct("q")
_DOUBLE = struct.Struct("d")
_RAW = struct.Struct("Q")

_ALL_LINKS = 2**32 - 1
"""Scope of the throughput of all NVLinks together."""

RECEIVED_PCIE = pynvml.NVML_FI_DEV_PCIE_COUNT_RX_BYTES
SENT_PCIE = pynvml.NVML_FI_DEV_PCIE_COUNT_TX_BYTES
RECEIVED_NVLINK_KIB = pynvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX
SENT_NVLINK_KIB = pynvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX
MEMORY_TEMPERATURE = pynvml.NVML_FI_DEV_MEMORY_TEMP
THROTTLED_POWER_NS = pynvml.NVML_FI_DEV_PERF_POLICY_POWER
THROTTLED_HEAT_NS = pynvml.NVML_FI_DEV_PERF_POLICY_THERMAL
THROTTLED_NS = {
    THROTTLED_POWER_NS: "power",
    THROTTLED_HEAT_NS: "thermal",
    pynvml.NVML_FI_DEV_PERF_POLICY_SYNC_BOOST: "sync_boost",
    pynvml.NVML_FI_DEV_PERF_POLICY_BOARD_LIMIT: "board",
    pynvml.NVML_FI_DEV_PERF_POLICY_RELIABILITY: "reliability",
}
"""Not `…CLOCKS_EVENT_REASON_…SLOWDOWN`: their numbers are 251 to 253 in drivers of 2025 and 269 to 271 in later ones,
and each means something else to the other."""

LINK_COUNT = pynvml.NVML_FI_DEV_NVLINK_LINK_COUNT
LINK_STATE = pynvml.NVML_FI_DEV_NVLINK_GET_STATE
LINK_CRC = pynvml.NVML_FI_DEV_NVLINK_ERROR_DL_CRC
LINK_REPLAYS = pynvml.NVML_FI_DEV_NVLINK_ERROR_DL_REPLAY
LINK_RECOVERIES = pynvml.NVML_FI_DEV_NVLINK_ERROR_DL_RECOVERY

_OFTEN = (
    (MEMORY_TEMPERATURE, 0),
    (RECEIVED_PCIE, 0),
    (SENT_PCIE, 0),
    (RECEIVED_NVLINK_KIB, _ALL_LINKS),
    (SENT_NVLINK_KIB, _ALL_LINKS),
    (THROTTLED_POWER_NS, 0),
    (THROTTLED_HEAT_NS, 0),
)
OFTEN = tuple(number for number, _ in _OFTEN)
_NUMBERS_OFTEN = frozenset(OFTEN)
_NOTHING = (None,) * len(OFTEN)
_SELDOM = tuple(
    (number, 0)
    for number in (
        *(number for number in THROTTLED_NS if number not in (THROTTLED_POWER_NS, THROTTLED_HEAT_NS)),
        pynvml.NVML_FI_DEV_ECC_SBE_VOL_TOTAL,
        pynvml.NVML_FI_DEV_ECC_DBE_VOL_TOTAL,
        pynvml.NVML_FI_DEV_ECC_SBE_AGG_TOTAL,
        pynvml.NVML_FI_DEV_ECC_DBE_AGG_TOTAL,
        pynvml.NVML_FI_DEV_REMAPPED_COR,
        pynvml.NVML_FI_DEV_REMAPPED_UNC,
        pynvml.NVML_FI_DEV_REMAPPED_PENDING,
        pynvml.NVML_FI_DEV_REMAPPED_FAILURE,
        pynvml.NVML_FI_DEV_RETIRED_SBE,
        pynvml.NVML_FI_DEV_RETIRED_DBE,
        pynvml.NVML_FI_DEV_RETIRED_PENDING,
        pynvml.NVML_FI_DEV_PCIE_REPLAY_COUNTER,
        pynvml.NVML_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL,
        pynvml.NVML_FI_DEV_NVLINK_CRC_DATA_ERROR_COUNT_TOTAL,
        pynvml.NVML_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL,
        pynvml.NVML_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL,
        pynvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION,
        LINK_COUNT,
    )
)
_RESTLESS = frozenset({MEMORY_TEMPERATURE, RECEIVED_PCIE, SENT_PCIE, RECEIVED_NVLINK_KIB, SENT_NVLINK_KIB})
"""The first ones of `_OFTEN`."""
_EACH_LINK = frozenset({LINK_STATE, LINK_CRC, LINK_REPLAYS, LINK_RECOVERIES})

_UNKNOWN = UNSUPPORTED | {pynvml.NVML_ERROR_INVALID_ARGUMENT}
"""An older driver calls the number of a newer field an invalid argument."""

Asked = tuple[int, int]
"""A field and its scope: which link, or all of them."""


@dataclass(slots=True)
class Fields:
    """What was answered."""

    one: dict[int, int] = field(default_factory=dict)
    """Field → value, of the whole GPU."""
    links: dict[int, list[int]] = field(default_factory=dict)
    """Field → its value on each NVLink that has one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UsualFields:
    """Those of each second that a GPU has, and what its answers look like while nothing is wrong."""

    asked: tuple[Asked, ...]
    heads: tuple[int, ...]
    masks: tuple[int, ...]


class FieldCall:
    """The fields of one GPU."""

    def __init__(self, index: int, library: ctypes.CDLL, handle: Any) -> None:
        self._index = index
        self._function: Callable[..., int] = function_of(library, "nvmlDeviceGetFieldValues")
        self._handle = handle
        self._links = 0
        self._refused: set[Asked] = set()
        self._refused_until = 0.0
        self._steady: list[int] | None = None
        """What `all` told of the fields that seldom change; `None` where that is not sure."""
        self.failed: frozenset[int] = frozenset()
        """Fields that were not told just now, though they are offered."""
        self._prepare()

    def often(self, monotonic: float) -> Sequence[int | None]:
        """The fields of each second in the order of `OFTEN`, `None` where one is not told; raises as `Call.ask`."""
        row = self._often
        if not row.asked or not row.call.ask(monotonic):
            self.failed = _NUMBERS_OFTEN if row.call.error is not None else frozenset()
            return _NOTHING
        values = row.as_before()
        if values is not None:
            self.failed = frozenset()
            if len(values) == len(_OFTEN):
                return values
        one = self._sort(row).one if values is None else dict(zip(row.numbers, values, strict=True))
        return [one.get(number) for number in OFTEN]

    def usual(self) -> UsualFields | None:
        """What is asked each second and how the answers come; `None` where something is not as it should be."""
        row = self._often
        if self.failed or len(row.heads) != len(row.asked):
            return None
        return UsualFields(asked=row.asked, heads=row.heads, masks=row.masks)

    def still(self, monotonic: float) -> bool:
        """Ask for all fields: whether they are what they were at `all`, but for those that always change. Raises as
        `Call.ask`.
        """
        row = self._all
        if self._steady is None or monotonic >= self._refused_until or not row.asked or not row.call.ask(monotonic):
            return False
        return row.is_as_told() or row.steady() == self._steady

    def all(self, monotonic: float) -> Fields:
        """All fields; raises as `Call.ask`."""
        if monotonic >= self._refused_until:
            self._refused_until = monotonic + FORGET_S
            self._refused.clear()
            self._prepare()
        found = self._ask(self._all, monotonic)
        links = min(found.one.get(LINK_COUNT, self._links), pynvml.NVML_NVLINK_MAX_LINKS)
        if links != self._links:
            self._links = links
            self._prepare()
            found = self._ask(self._all, monotonic)
        self._steady = self._all.steady() if found.one else None
        self._all.tell()
        return found

    def _prepare(self) -> None:
        """Make the arrays without what is refused."""
        links = tuple((number, link) for number in sorted(_EACH_LINK) for link in range(self._links))
        self._often = self._row(_OFTEN)
        self._all = self._row((*_OFTEN, *_SELDOM, *links))

    def _row(self, wanted: Iterable[Asked]) -> _Row:
        asked = tuple(each for each in wanted if each not in self._refused)
        return _Row(self._index, self._function, self._handle, asked)

    def _ask(self, row: _Row, monotonic: float) -> Fields:
        if not row.asked or not row.call.ask(monotonic):
            self.failed = frozenset(row.numbers) if row.call.error is not None else frozenset()
            return Fields()
        values = row.as_before()
        if values is None:
            return self._sort(row)
        self.failed = frozenset()
        one = dict(zip(row.numbers[: row.singles], values, strict=False))
        return Fields(one=one, links={number: values[place] for number, place in row.each_link.items()})

    def _sort(self, row: _Row) -> Fields:
        """What was answered, looked at one by one; what is refused is not asked for again."""
        found = Fields()
        refused, failed = [], set()
        for each, (number, kind, code, raw) in zip(row.asked, _FIELD.iter_unpack(row.call.buffer), strict=True):
            if code:
                raise_if_fatal(code, self._index)
                if code in _UNKNOWN:
                    refused.append(each)
                else:
                    failed.add(number)
            elif number in _EACH_LINK:
                found.links.setdefault(number, []).append(_value(kind, raw))
            else:
                found.one[number] = _value(kind, raw)
        self.failed = frozenset(failed)
        if refused:
            self._refused.update(refused)
            self._prepare()
        else:
            row.learn()
        return found


class _Row:
    """Some fields, and the kept array they are asked for in. Those of the whole GPU come first, then link by link."""

    def __init__(self, index: int, function: Callable[..., int], handle: Any, asked: tuple[Asked, ...]) -> None:
        self.asked = asked
        self.numbers = tuple(number for number, _ in asked)
        self._restless = sum(number in _RESTLESS for number in self.numbers)
        self.singles = sum(number not in _EACH_LINK for number in self.numbers)
        self.each_link = {
            number: slice(self.numbers.index(number), self.numbers.index(number) + self.numbers.count(number))
            for number in self.numbers[self.singles :]
        }
        start = b"".join(ASKED.pack(*each) for each in asked)
        count = ctypes.c_int32(len(asked))
        self.call = Call(index, function, handle, count, layout=_FIELD, start=start, rows=len(asked))
        self._layout = struct.Struct("=" + ANSWER * len(asked))
        restless = ASKED.size * self._restless
        self._rest = struct.Struct(f"={restless}x" + ANSWER * (len(asked) - self._restless))
        self._told: tuple[int, ...] = ()
        """All but what is restless, as it lies in the array."""
        self.heads: tuple[int, ...] = ()
        """Types and return codes of the answers that were learnt from; empty before."""
        self.masks: tuple[int, ...] = ()
        """What is wanted of the room of each of their values."""

    def as_before(self) -> list[int] | None:
        """The values, if they came as those that were learnt from: then nobody has to look at each."""
        flat = self._layout.unpack_from(self.call.buffer)
        return list(map(and_, flat[1::2], self.masks)) if flat[0::2] == self.heads else None

    def steady(self) -> list[int] | None:
        """As `as_before`, without the counters of traffic and what is hot, which change all the time."""
        values = self.as_before()
        return None if values is None else values[self._restless :]

    def tell(self) -> None:
        """What was answered now is known."""
        self._told = self._rest.unpack_from(self.call.buffer)

    def is_as_told(self) -> bool:
        """Whether the same came again, to the last bit; `steady` knows which bits matter, and takes longer."""
        return self._rest.unpack_from(self.call.buffer) == self._told

    def learn(self) -> None:
        """Remember of what types the values are, if all are numbers without a sign and none failed."""
        heads = self._layout.unpack_from(self.call.buffer)[0::2]
        masks = [_MASKS.get(head) for head in heads]
        if None not in masks:
            self.heads, self.masks = heads, tuple(mask or 0 for mask in masks)


def _value(kind: int, raw: int) -> int:
    """A union of nvml.h as a number: what lies beyond a short value in its room means nothing."""
    if kind in (_LONG_LONG, pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG):
        return raw
    if kind == pynvml.NVML_VALUE_TYPE_UNSIGNED_INT:
        return raw & 0xFFFF_FFFF
    if kind == pynvml.NVML_VALUE_TYPE_UNSIGNED_SHORT:
        return raw & 0xFFFF
    if kind == pynvml.NVML_VALUE_TYPE_SIGNED_INT:
        return (raw & 0xFFFF_FFFF) - (raw << 1 & 0x1_0000_0000)
    if kind == pynvml.NVML_VALUE_TYPE_DOUBLE:
        double: float = _DOUBLE.unpack(_RAW.pack(raw))[0]
        return int(double) if abs(double) < _SENSIBLE else -1
    signed: int = _SIGNED.unpack(_RAW.pack(raw))[0]
    return signed


_LONG_LONG = pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG
_MASKS = {
    int.from_bytes(struct.pack("=Ii", kind, pynvml.NVML_SUCCESS), sys.byteorder): mask
    for kind, mask in {
        pynvml.NVML_VALUE_TYPE_UNSIGNED_SHORT: 0xFFFF,
        pynvml.NVML_VALUE_TYPE_UNSIGNED_INT: 0xFFFF_FFFF,
        pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG: 2**64 - 1,
        _LONG_LONG: 2**64 - 1,
    }.items()
}
"""Good answers of types of which nothing but the room has to be known."""
_SENSIBLE = 2.0**63
