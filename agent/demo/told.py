"""What the demo prints: on a terminal in lines of its width, else a fact a line."""

from __future__ import annotations

import sys
import textwrap

from agent.api import program


def say(text: str, *, indent: int = 2) -> None:
    """Print a sentence or a fact; no word is broken, so that a path can be copied whole."""
    if sys.stdout.isatty():
        width = program.columns(sys.stdout)
        text = textwrap.fill(
            text, width, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False
        )
    print(text)
