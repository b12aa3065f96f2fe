"""What a call in the background dies of is told: a fault of ours must not look like an answer that never comes."""

from __future__ import annotations

import logging

from textual.message_pump import MessagePump
from textual.worker import Worker, WorkerState

logger = logging.getLogger(__name__)


class TellsFaults(MessagePump):
    """For a screen or an app whose workers are begun with `exit_on_error=False`."""

    def on_worker_state_changed(self, event: Worker.StateChanged) -> None:
        """Textual's word of a worker; sent to where it was begun."""
        error = event.worker.error
        if event.state is WorkerState.ERROR and error is not None and self.app.is_running:
            logger.error("the screen's worker %s died", event.worker.name, exc_info=error)
            self.tell_fault(f"A fault of this program, please report it: {type(error).__name__}: {error}")

    def tell_fault(self, sentence: str) -> None:
        """Show it."""
        self.app.notify(sentence, severity="error", timeout=20, markup=False)
