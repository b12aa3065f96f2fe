"""The hub as `stoker-license` knows it, over a real ledger, without its socket.

from tests.fakes.localhub import LocalHub, hub as hub
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.gate import HubLicence, as_licence_errors
from agent.hub.metrics import of_licence
from tests.fakes.vendor import NOW, ROOTS, Boot


class LocalHub:
    """The hub without its socket: the same ledger, the same errors."""

    def __init__(self, licence: HubLicence, now: int, boot: Boot, folder: Path) -> None:
        self.state, self.now, self.boot, self.folder = licence, now, boot, folder

    def licence(self, config: Path | None = None) -> dict[str, Any]:
        return plain(self.state.status(self.now))

    def activate(self, text: str, config: Path | None = None) -> dict[str, Any]:
        with as_licence_errors():
            return plain(self.state.activate(text, self.now))

    def state_dir(self, config: Path | None = None) -> Path:
        return self.folder

    def request(self, want: str, config: Path | None = None) -> dict[str, Any]:
        with as_licence_errors():
            return plain(self.state.request(want, self.now))

    def release(self, to: str | None, config: Path | None = None) -> dict[str, Any]:
        with as_licence_errors():
            return plain(self.state.release(to, self.now))

    def order(
        self, verb: str, subject: str, *, days: int = 0, force: bool = False, config: Path | None = None
    ) -> dict[str, Any]:
        with as_licence_errors():
            if verb == "clock-confirm":
                return plain(self.state.confirm_clock(self.now, sure=force))
            what = "reclaim" if force else verb
            return plain(self.state.order(what, subject, self.now, days=days))

    def metrics(self, config: Path | None = None) -> str:
        return of_licence(self.state.status(self.now))


def plain(licence: Any) -> dict[str, Any]:
    return dict(msgspec.to_builtins(licence))


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[LocalHub]:
    boot = Boot()
    state = HubLicence(tmp_path / "hub", "test", ROOTS, boot)
    state.open()
    yield LocalHub(state, NOW, boot, tmp_path / "hub")
    state.close()
