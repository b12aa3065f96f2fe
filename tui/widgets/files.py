"""A tree of files to choose one from: Textual's, with names that cannot act on the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from rich.text import Text
from textual.binding import Binding, BindingType
from textual.widgets import DirectoryTree

from tui import safe


class FileTree(DirectoryTree):
    """Files and folders. Textual reads a name as markup; ours is plain text that has passed the gate."""

    ICON_NODE = "▸ "
    ICON_NODE_EXPANDED = "▾ "
    ICON_FILE = "  "
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j", "cursor_down", show=False),
        Binding("k", "cursor_up", show=False),
    ]

    def __init__(self, folder: Path, *, id: str | None = None) -> None:
        super().__init__(folder, id=id)
        self.guide_depth = 2

    def process_label(self, label: str | Text) -> Text:
        """Textual's hook: from a name to what is drawn."""
        return Text(safe.text(str(label), limit=255) or safe.UNSEEN)
