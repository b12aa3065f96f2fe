"""The file of a usage report: the signed part, then in plain text what the signed part names by digest.

    -----BEGIN STOKER USAGE-----
    v4.public.eyJ2Ijox…                      totals by day and model, peak, events, the report before it
    -----END STOKER USAGE-----
    nodes                                    a line for each chain of each node
    ["n1","5f0c…",0,1,412,"e3b0…","9a1f…",0,[["GPU-8f3a…",86400000,0,1]]]
    rows                                     all rows in the order of those lines; only where they were asked for
    ["n1",1,"5d41…","GPU-8f3a…","NVIDIA H100 80GB HBM3",1000,1764547200,1764550800]

A file has one spelling, so that a changed byte is found wherever it is; only line ends may be those of another system.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import msgspec
from msgspec import Meta

from licensing import armour, usage_rows, verify
from licensing.armour import Label
from licensing.document import GpuUuid, Name, Number
from licensing.errors import ContentError, FormatError
from licensing.exchange import Usage
from licensing.usage_book import compact, digest

MAX_BYTES = 1024 * 1024 * 1024
BEGIN = f"-----BEGIN STOKER {Label.USAGE}-----"
_END = f"-----END STOKER {Label.USAGE}-----\n"
_NODES, _ROWS = "nodes", "rows"

Hash = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]


class GpuUse(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a node's rows say of one GPU."""

    gpu: GpuUuid
    gpu_ms: Number
    late_ms: Number
    """How much of it was before the period, and came too late for the report it belongs to."""
    leased: Annotated[int, Meta(ge=0, le=1)]
    """Whether it had a seat on this node in that time."""


class NodeLine(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A chain of a node, in this period."""

    node: Name
    chain: Annotated[str, Meta(pattern=r"^[0-9a-f]{32}$")]
    branch: Number
    """Above 0 after a fork: the node's rows did not continue those that were known, and were taken from the first."""
    first: Number
    last: Number
    """One less than `first` where there were no rows."""
    before: Hash
    head: Hash
    again_ms: Number
    """What its rows tell a second time, and is not counted."""
    gpus: tuple[GpuUse, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageFile:
    """A report whose signature holds, with parts that are those it names."""

    token: verify.SiteToken[Usage]
    nodes: tuple[NodeLine, ...] | None
    """`None` where the signed part came alone, from a paste or from a desk's own store, or names none."""
    rows: tuple[str, ...] | None
    """`None` where they were not exported."""

    @property
    def usage(self) -> Usage:
        """What was signed."""
        return self.token.paper


_node_line = msgspec.json.Decoder(NodeLine)  # noqa: TID251 - made at import, by one thread: see `agent.api.decode`


def write(token: str, nodes: Sequence[str], rows: Sequence[str] | None) -> str:
    """The file's text."""
    parts = [armour.wrap(Label.USAGE, token), _NODES, "\n", *(f"{line}\n" for line in nodes)]
    if rows is not None:
        parts += [_ROWS, "\n", *(f"{line}\n" for line in rows)]
    return "".join(parts)


def read(text: str) -> UsageFile:
    """Verify the signature, then that the parts are what was signed. The signed part alone is taken as well.

    Raises:
        LicenceError: not a usage report, or changed after it was signed.
    """
    if not text.lstrip().startswith(BEGIN):
        alone = verify.site_paper(Usage, armour.bare(Label.USAGE, text))
        return UsageFile(token=alone, nodes=None, rows=None)
    signed, parts = _cut(text.replace("\r\n", "\n"))
    chain = armour.unwrap(Label.USAGE, signed)
    token = verify.site_paper(Usage, chain)
    if armour.wrap(Label.USAGE, chain) != signed:
        raise FormatError("the usage report was changed around its signed part; fetch the original file again")
    usage = token.paper
    if not parts and not usage.nodes:
        return UsageFile(token=token, nodes=None, rows=None)
    nodes, rows = _split(parts)
    if digest(nodes) != usage.nodes:
        raise ContentError(f"the nodes of the usage report {usage.id} are not those that were signed; fetch it again")
    if rows is not None and digest(rows) != usage.rows:
        raise ContentError(f"the rows of the usage report {usage.id} are not those that were signed; fetch it again")
    return UsageFile(token=token, nodes=tuple(_lines(usage, nodes)), rows=rows)


def _cut(text: str) -> tuple[str, str]:
    at = text.find(_END)
    if at < 0:
        raise FormatError("no whole USAGE block in the file; name a file that stoker-license usage export wrote")
    at += len(_END)
    return text[:at], text[at:]


def _split(parts: str) -> tuple[list[str], tuple[str, ...] | None]:
    if not parts.endswith("\n"):
        raise FormatError("the usage report is cut short: its last line has no end; fetch it again")
    lines = parts[:-1].split("\n")
    if lines[0] != _NODES:
        raise FormatError("the usage report is cut short: its nodes are not in the file; fetch it again")
    if _ROWS not in lines:
        return lines[1:], None
    at = lines.index(_ROWS)
    return lines[1:at], tuple(lines[at + 1 :])


def decode_lines(lines: Sequence[str]) -> list[NodeLine]:
    """Lines of the nodes, as `encode_line` wrote them."""
    return [_node_line.decode(line) for line in lines]


def _lines(usage: Usage, lines: Sequence[str]) -> list[NodeLine]:
    try:
        return decode_lines(lines)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ContentError(f"a node of the usage report {usage.id} cannot be read: {error}; upgrade Stoker") from error


def encode_line(line: NodeLine) -> str:
    """A line of the nodes in its one spelling."""
    return compact(json.loads(msgspec.json.encode(line)))


def rows_of(file: UsageFile) -> list[tuple[NodeLine, Sequence[str]]]:
    """The rows with the line that they belong to.

    Raises:
        ContentError: there are more or fewer than the lines say.
    """
    rows, at = file.rows or (), 0
    found: list[tuple[NodeLine, Sequence[str]]] = []
    for line in file.nodes or ():
        count = line.last - line.first + 1
        found.append((line, rows[at : at + count]))
        at += count
    if at != len(rows):
        raise ContentError(f"the usage report {file.usage.id} has {len(rows)} rows, its nodes tell of {at}")
    return found


def chained(line: NodeLine, rows: Sequence[str]) -> list[usage_rows.Row | None]:
    """Read the rows of a line.

    Raises:
        ValueError: they do not lead from its first head to its last.
    """
    return usage_rows.verified(rows, line.first, line.before, line.head)
