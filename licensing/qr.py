"""A QR code for a terminal: two modules a character, by half blocks, in 77 columns and 39 rows at most.

Dark modules are drawn as blanks on light ones, so that it reads on the dark ground of most terminals; `invert` is for
light ones. The only user of segno, which is loaded when a code is drawn.
"""

from __future__ import annotations

from licensing.errors import UsageError

MAX_VERSION = 14
QUIET = 2
"""Light modules around the code. The standard asks for 4; phones read it with 2, and 80 columns leave no more."""
_BOTH, _UPPER, _LOWER, _NONE = "█", "▀", "▄", " "


def draw(text: str, *, invert: bool = False) -> str:
    """The code as lines of text.

    Raises:
        UsageError: too long for a code that fits a terminal of 80 columns.
    """
    import segno
    from segno.encoder import DataOverflowError

    try:
        code = segno.make_qr(text, error="l", mode="byte", version=None, boost_error=False)
    except DataOverflowError as error:
        raise _too_long(text) from error
    if int(code.version) > MAX_VERSION:
        raise _too_long(text)
    rows = [[bool(module) is invert for module in row] for row in code.matrix_iter(scale=1, border=QUIET)]
    if len(rows) % 2:
        rows.append([not invert] * len(rows[0]))
    return "\n".join(
        "".join(_half(upper, lower) for upper, lower in zip(rows[at], rows[at + 1], strict=True))
        for at in range(0, len(rows), 2)
    )


def _half(upper: bool, lower: bool) -> str:
    if upper:
        return _BOTH if lower else _UPPER
    return _LOWER if lower else _NONE


def _too_long(text: str) -> UsageError:
    return UsageError(f"{len(text)} characters do not fit a QR code of 80 columns; write a file instead: -o FILE")
