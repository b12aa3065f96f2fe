"""The rows of a usage ledger: their one spelling, and the chain that holds them together.

    row   ["n1",17,"5d41…","GPU-8f3a…","NVIDIA H100 80GB HBM3",1000,1764547200,1764550800]
          node, number, job (salted), GPU, model, thousandths of it, start, end (Unix seconds)
    head  h_n = SHA-256(h_{n-1} ‖ row)

Node and hub chain the same texts. A row that cannot be read stays in its chain and counts nothing. Pure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated

import msgspec
from msgspec import Meta

from licensing import strictjson
from licensing.document import GpuUuid, Name, Time

DAY_S = 86_400
WHOLE = 1000
"""A whole GPU; what it makes of a second is 1000 ms."""
MAX_ROW_S = DAY_S
"""No row is longer: the node splits them at midnight."""


class Row(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Who had which GPU from when to when."""

    node: Name
    seq: Annotated[int, Meta(ge=1, le=strictjson.MAX_INTEGER)]
    job: Annotated[str, Meta(pattern=r"^[0-9a-f]{32}$")]
    gpu: GpuUuid
    sku: Name
    share: Annotated[int, Meta(ge=1, le=WHOLE)]
    start: Time
    end: Time

    @property
    def gpu_ms(self) -> int:
        """Thousandths of GPU-seconds."""
        return self.share * (self.end - self.start)


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a node says of one of its chains."""

    chain: str
    seq: int
    head: str
    gpu_ms: int
    open_gpu_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Rows of one chain in order, the first numbered `first`, and the head before it."""

    chain: str
    first: int
    before: str
    rows: tuple[str, ...]


_decoder = msgspec.json.Decoder(Row)  # noqa: TID251 - made at import, by one thread: see `agent.api.decode`
_encoder = msgspec.json.Encoder()


def read(text: str, seq: int) -> Row | None:
    """A row whose number is expected; `None` when it is no sound row."""
    try:
        row = _decoder.decode(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    sound = row.seq == seq and 0 <= row.end - row.start <= MAX_ROW_S
    return row if sound and _encoder.encode(row) == text.encode() else None


def genesis(chain: str) -> str:
    """The head before the first row of a chain."""
    return hashlib.sha256(f"stoker usage {chain}".encode()).hexdigest()


def link(head: bytes, text: bytes) -> bytes:
    """The next head."""
    return hashlib.sha256(head + text).digest()


def head_after(head: str, texts: Iterable[str]) -> str:
    """Where a chain stands after these rows."""
    at = bytes.fromhex(head)
    for text in texts:
        at = hashlib.sha256(at + text.encode()).digest()
    return at.hex()


def verified(texts: Sequence[str], first: int, before: str, head: str) -> list[Row | None]:
    """Read rows that are to lead from one head to another; `None` for each that is no sound row.

    Raises:
        ValueError: they lead elsewhere: one is missing or was changed.
    """
    at, rows = bytes.fromhex(before), []
    for number, text in enumerate(texts, first):
        at = hashlib.sha256(at + text.encode()).digest()
        rows.append(read(text, number))
    if at.hex() != head:
        raise ValueError(f"rows {first} to {first + len(texts) - 1} do not lead to the head that is said")
    return rows
