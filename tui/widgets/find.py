"""The line in which a filter or a search is typed: hidden until asked for, gone with esc."""

from __future__ import annotations

from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import Input


class Find(Input):
    """One line above the licence."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "give_up", "clear", show=False)]
    DEFAULT_CSS = "Find { display: none; height: 1; background: $panel; } Find.-open { display: block; }"

    class GivenUp(Message):
        """Esc: the word is to be forgotten."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(compact=True, id=id, max_length=200, select_on_focus=False)

    def open(self, prompt: str, word: str) -> None:
        """Show the line, with the word that is in force."""
        self.placeholder = prompt
        self.value = word
        self.cursor_position = len(word)
        self.add_class("-open")
        self.focus()

    def close(self) -> None:
        """Hide it."""
        self.remove_class("-open")

    def action_give_up(self) -> None:
        """Close, and forget the word."""
        self.post_message(self.GivenUp())
