"""A hub that nobody reaches, for commands that must not even ask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agent.api.errors import ConnectError
from agent.gate import as_licence_errors


class NoHub:
    """Nothing answers; the vendor's verbs must not even ask."""

    def licence(self, config: Path | None = None) -> dict[str, Any]:
        with as_licence_errors():
            raise ConnectError("no hub answers at /run/stoker/hub.sock; start it: systemctl start stoker-hub")

    def activate(self, text: str, config: Path | None = None) -> dict[str, Any]:
        return self.licence()

    def state_dir(self, config: Path | None = None) -> Path:
        raise AssertionError("nobody's ledger is looked for")

    def request(self, want: str, config: Path | None = None) -> dict[str, Any]:
        return self.licence()

    def release(self, to: str | None, config: Path | None = None) -> dict[str, Any]:
        return self.licence()

    def order(
        self, verb: str, subject: str, *, days: int = 0, force: bool = False, config: Path | None = None
    ) -> dict[str, Any]:
        return self.licence()

    def metrics(self, config: Path | None = None) -> str:
        return str(self.licence())
