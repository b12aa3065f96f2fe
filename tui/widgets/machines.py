"""A table of nodes or GPUs, on which they can be drained and resumed."""

from __future__ import annotations

from typing import ClassVar

from textual.binding import BindingType
from textual.message import Message

from tui.keymap import Scope
from tui.widgets.keys import bindings
from tui.widgets.table import Table


class MachineTable(Table):
    """Its rows are named by a node, or by a node and a GPU's UUID."""

    BINDINGS: ClassVar[list[BindingType]] = bindings(Scope.MACHINE)

    class DrainWanted(Message):
        """A node or a GPU is to be drained, or resumed."""

        def __init__(self, node: str, gpu_uuid: str | None, *, resume: bool) -> None:
            super().__init__()
            self.node = node
            self.gpu_uuid = gpu_uuid
            self.resume = resume

    def action_drain(self) -> None:
        """The row under the cursor is to take no new job."""
        self._want(resume=False)

    def action_resume(self) -> None:
        """The row under the cursor is to take jobs again."""
        self._want(resume=True)

    def _want(self, *, resume: bool) -> None:
        if isinstance(self.key, str):
            self.post_message(self.DrainWanted(self.key, None, resume=resume))
        elif isinstance(self.key, tuple):
            node, uuid = self.key
            self.post_message(self.DrainWanted(str(node), uuid and str(uuid), resume=resume))
