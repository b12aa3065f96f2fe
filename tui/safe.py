"""The one gate between foreign text and the operator's terminal.

Every string that a node, a job, a licence or an ssh server says passes here where it enters, before it is stored in
the state, drawn by a widget or printed in a table. What comes out

- holds no control character, escape sequence, bidirectional control, zero-width or unassigned character, and no lone
  surrogate: nothing in it can move a cursor, set a title, reorder a line or hide;
- is one line of at most `limit` characters, in which every character has a width that terminals agree on;
- is plain text. It is drawn as `Segment`s and `Text`, never parsed as markup.

Letters of any script stay as they are: the gate is about what text does, not about what it says.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from typing import TypeVar

import msgspec

LIMIT = 4096
"""Characters kept of one text. Longer ones end in an ellipsis."""

UNSEEN = "\N{REPLACEMENT CHARACTER}"
ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"

_MAX_MARKS = 2
"""Combining marks kept on one letter; real scripts stay below, stacks of them draw over neighbouring lines."""

# ECMA-48 control sequences: CSI, the strings (OSC, DCS, SOS, PM, APC) with their terminator, and two-byte escapes.
# The strings may not contain a control, so one scan ends at the next introducer and the whole stays linear.
_SEQUENCE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x00-\x1f\x7f-\x9f]*(?:\x07|\x1b\\|\x9c)"
    r"|\x1b[ -/]*[0-~]"
)
_HANGUL_PARTS = ((0x1100, 0x11FF), (0xA960, 0xA97F), (0xD7B0, 0xD7FF))
_DISPUTED = ((0x2630, 0x2637), (0x268A, 0x268F), (0x4DC0, 0x4DFF), (0x1D300, 0x1D376))
"""Trigrams, hexagrams, counting rods: Unicode 16 made them wide, so terminals disagree."""
_SKIN_TONES = (0x1F3FB, 0x1F3FF)
_FLAG_LETTERS = (0x1F1E6, 0x1F1FF)

_NUMBERS = frozenset({int, float, bool, type(None)})

T = TypeVar("T")


def text(value: str | bytes, limit: int = LIMIT) -> str:
    """Make one foreign text safe to draw: a single line, at most `limit` characters."""
    if isinstance(value, bytes):
        value = value[: 4 * limit + 4].decode("utf-8", "replace")
    if value.isascii() and value.isprintable() and len(value) <= limit:
        return value
    shortened = _SEQUENCE.sub("", value[: 4 * limit])
    normal = unicodedata.normalize("NFC", shortened.replace("\r\n", "\n"))
    plain = unicodedata.normalize("NFC", "".join(_visible(normal)))  # what became a plain letter may combine anew
    cut = len(plain) > limit or len(value) > 4 * limit
    return plain[: limit - 1] + ELLIPSIS if cut else plain


def clean(value: T) -> T:
    """Make every string inside a wire value safe: structs, dicts, tuples, lists, however deep. Bytes are left alone."""
    result: object = value
    kind = type(value)
    if kind in _NUMBERS:
        return value
    if kind is str:  # not the words of an enum: those are ours
        result = text(value)  # type: ignore[arg-type]
    elif isinstance(value, msgspec.Struct):
        fields = _foreign(type(value))
        changed = {name: new for name in fields if (new := clean(old := getattr(value, name))) is not old}
        result = msgspec.structs.replace(value, **changed) if changed else value
    elif isinstance(value, dict):
        result = {clean(name): clean(each) for name, each in value.items()}
        result = value if result == value else result
    elif isinstance(value, (tuple, list)):
        items = [clean(each) for each in value]
        same = all(new is old for new, old in zip(items, value, strict=True))
        result = value if same else type(value)(items)
    return result  # type: ignore[return-value]  # the same shape comes out as went in


def clean_read(value: T, line: bytes) -> T:
    """The same for a value that was read from a line of JSON: most of them show at once that they hold nothing else.

    Without an escape each text in it stands there as it is; so where all of the line is printable ASCII, and no text of
    it can be over `LIMIT`, each of them is what `text` would make of it.
    """
    return value if _is_harmless(line) else clean(value)


def _is_harmless(line: bytes) -> bool:
    if not line.isascii() or b"\\" in line or not line.decode("ascii").isprintable():
        return False
    half = LIMIT // 2  # a text over the limit fills one of these stretches, and no quote is within it
    return all(line.find(b'"', at, at + half) >= 0 for at in range(0, len(line) - half + 1, half))


@functools.cache
def _foreign(kind: type[msgspec.Struct]) -> tuple[str, ...]:
    """Fields that may hold a text, all but those of numbers: of a reading's sixty these are a quarter."""
    declared: dict[str, object] = {}
    for each in reversed(kind.__mro__):
        declared |= getattr(each, "__annotations__", {})
    return tuple(name for name in kind.__struct_fields__ if not _is_number(declared.get(name)))


def _is_number(annotation: object) -> bool:
    """Whether a field is declared as nothing but numbers: `int | None`. What is not understood may be a text."""
    return isinstance(annotation, str) and set(re.findall(r"\w+", annotation)) <= {"int", "float", "bool", "None"}


def width(value: str) -> int:
    """Terminal cells of a text that has passed `text`."""
    if value.isascii():
        return len(value)
    return _wide(value)


@functools.lru_cache(maxsize=4096)
def _wide(value: str) -> int:
    """Kept: bars and marks are few, and drawn again and again."""
    return sum(_cells(char) for char in value)


def truncate(value: str, cells: int) -> str:
    """Cut a safe text to at most `cells` cells, with an ellipsis where something was cut."""
    if width(value) <= cells:
        return value
    if cells <= 0:
        return ""
    kept, used = [], 0
    for char in value:
        used += _cells(char)
        if used > cells - 1:
            break
        kept.append(char)
    return "".join(kept) + ELLIPSIS


def fit(value: str, cells: int, *, right: bool = False) -> str:
    """Make a safe text exactly `cells` wide: cut with an ellipsis, or padded with spaces."""
    short = truncate(value, cells)
    padding = " " * max(0, cells - width(short))
    return padding + short if right else short + padding


def _visible(value: str) -> list[str]:
    """The characters to show, one output piece per input character that is kept."""
    pieces: list[str] = []
    marks = _MAX_MARKS  # a text may not begin with a mark: it would sit on whatever is drawn before it
    for char in value:
        if unicodedata.category(char) in ("Mn", "Me", "Mc"):
            marks += 1
            if marks <= _MAX_MARKS and _is_plain_mark(char):
                pieces.append(char)
            continue
        shown = char if char.isascii() and char.isprintable() else _replacement(char)
        marks = 0 if shown else marks
        pieces.append(shown)
    return pieces


def _is_plain_mark(char: str) -> bool:
    """Whether a combining mark only decorates. Variation selectors and enclosing marks change widths."""
    return unicodedata.category(char) == "Mc" or unicodedata.combining(char) != 0


def _replacement(char: str) -> str:
    """What is shown for a character: itself, a stand-in, or nothing."""
    if char == "\n":
        return "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}"
    if char in "\t\N{NO-BREAK SPACE}":
        return " "
    category, code = unicodedata.category(char), ord(char)
    if category == "Cf" or _SKIN_TONES[0] <= code <= _SKIN_TONES[1]:
        return ""
    if _FLAG_LETTERS[0] <= code <= _FLAG_LETTERS[1]:
        return chr(ord("A") + code - _FLAG_LETTERS[0])
    if category == "Zs":
        return " "
    if category in ("Cc", "Cs", "Co", "Cn", "Zl", "Zp") or _is_unsteady(code):
        return UNSEEN
    return char


def _is_unsteady(code: int) -> bool:
    """Whether a letter draws nothing, depends on its neighbours, or has no agreed width."""
    return code in (0x3164, 0xFFA0) or any(low <= code <= high for low, high in _HANGUL_PARTS + _DISPUTED)


def _cells(char: str) -> int:
    if char.isascii():
        return 1
    if unicodedata.category(char) in ("Mn", "Mc"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1
