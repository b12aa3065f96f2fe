"""What commands print: aligned tables, one-line facts, and JSON that is safe to show on a terminal.

Rules kept here: results go to stdout and nothing else does; tables are aligned by terminal cells; only the last column
is cut, and only where a terminal's width is known; JSON is ASCII, so no C1 or bidirectional control gets through it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TextIO

import msgspec

from agent.api import program
from agent.api.errors import StokerError, TransportError
from tui import safe, spans

_GAP = "  "
_INDENT = 6
"""How far in a note is told that has no room on its row."""


def table(titles: Sequence[str], rows: Sequence[Sequence[str]], out: TextIO, *, fold: bool = False) -> None:
    """Print rows under titles; a title that begins with `>` is set to the right.

    With `fold` a last cell that a terminal has no room for is told below its row, whole; else it is cut there.
    """
    right = [title.startswith(">") for title in titles]
    lines = [[title.lstrip(">") for title in titles], *rows]
    widths = [max(safe.width(line[column]) for line in lines) for column in range(len(titles))]
    room = program.columns(out) if out.isatty() else None
    for line in lines:
        cells = [safe.fit(text, width, right=to) for text, width, to in zip(line, widths, right, strict=True)]
        joined = _GAP.join([*cells[:-1], line[-1]])
        if fold and room and safe.width(joined) > room and line[-1]:
            print(safe.truncate(_GAP.join(cells[:-1]), room).rstrip(), file=out)
            for piece in spans.folded(line[-1], max(20, room - _INDENT)):
                print(" " * _INDENT + piece, file=out)
            continue
        print((safe.truncate(joined, room) if room else joined).rstrip(), file=out)


def facts(pairs: Sequence[tuple[str, str]], out: TextIO) -> None:
    """Print names and values, one a line."""
    width = max((safe.width(name) for name, _ in pairs), default=0)
    for name, value in pairs:
        print(f"{safe.fit(name, width)}{_GAP}{value}".rstrip(), file=out)


def as_json(value: object, out: TextIO) -> None:
    """Print a wire value on one line, with every character outside printable ASCII escaped."""
    import json  # for JSON alone: it costs every start 2 ms

    text = json.dumps(msgspec.to_builtins(value), ensure_ascii=True, separators=(",", ":"))
    print(text.replace("\x7f", "\\u007f"), file=out, flush=True)


def note(sentence: str) -> None:
    """Say on stderr what is good to know beside a result."""
    program.say(safe.text(sentence))


def complain(sentence: str) -> None:
    """Say on stderr what went wrong."""
    program.say(f"stoker: {safe.text(sentence)}")


def wait_told(sentences: str) -> None:
    """Say on stderr that something is waited for, a sentence a line."""
    for sentence in sentences.splitlines():
        complain(sentence)


def refuse(error: StokerError, *, json: bool, about: str = "") -> None:
    """Say on stderr what a command failed of: in words, or with `json` as one line with a stable code for programs."""
    if not json:
        complain(f"{about}{error}")
        return
    code = "unreachable" if isinstance(error, TransportError) else "refused"
    body = {"code": getattr(error, "code", code), "message": f"{about}{error}", "field": getattr(error, "field", None)}
    as_json({"error": body}, sys.stderr)
