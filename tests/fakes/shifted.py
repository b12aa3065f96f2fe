"""A clock that a test moves, in real daemons and programs: wall clock and uptime go ahead by what stands in a file.

Both go together, as on a machine that simply ran for so long; files, sockets, jobs and timers are what they are.
"""

from __future__ import annotations

from pathlib import Path

_CODE = """
import time
def _shift(path, wall=time.time, clock=time.clock_gettime):
    def by():
        with open(path) as file:
            return int(file.read() or 0)
    time.time = lambda: wall() + by()
    time.clock_gettime = lambda which: clock(which) + (by() if which == time.CLOCK_BOOTTIME else 0)
_shift({path!r})
"""
_AGENT = "import agent.engine.usage; agent.engine.usage.BEAT_S = 0.2\n"
_HUB = """
import agent.hub.metering, agent.hub.seats
agent.hub.metering.Metering.__init__.__kwdefaults__["fetch_s"] = agent.hub.seats.OFFER_S = 0.4
"""


class Shifted:
    """The file, and the code that reads it."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "ahead"
        self.ahead_s = 0
        self.ahead(0)

    def ahead(self, seconds: int) -> None:
        """From now on so much further ahead."""
        self.ahead_s += seconds
        new = self._path.with_suffix(".new")
        new.write_text(str(self.ahead_s))
        new.rename(self._path)

    @property
    def program(self) -> str:
        """Goes before a program's own code."""
        return _CODE.format(path=str(self._path))

    @property
    def agent(self) -> str:
        """… an agent's, whose heartbeat is a fifth of a second."""
        return self.program + _AGENT

    @property
    def hub(self) -> str:
        """… a hub's, which looks at its nodes as often."""
        return self.program + _HUB
