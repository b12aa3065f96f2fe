"""How busy a job's GPUs were of late: a sliding window over its allocation.

The window slides over measured time. Time in which the GPUs could not be read is not in it: what is not known is not
held against a job. A GPU of the job's without any process counts as idle, and so does one with a process that does
nothing; the busiest of the job's GPUs is what counts.
"""

from __future__ import annotations

import msgspec

PARTS = 60
"""Into which the window is divided: it slides by a 60th of its length."""
MIN_PART_S = 1.0


class Part(msgspec.Struct, array_like=True):
    """A piece of the window."""

    seconds: float = 0.0
    busy_s: float = 0.0


class Activity(msgspec.Struct):
    """The last `window_s` of a job's measured time; serialises."""

    window_s: float
    parts: list[Part] = []

    def add(self, level: float | None, seconds: float) -> None:
        """The busiest GPU's utilisation, 0..1, over the last `seconds`; one that cannot be told counts as busy."""
        if not self.parts or self.parts[-1].seconds >= max(self.window_s / PARTS, MIN_PART_S):
            self.parts.append(Part())
            del self.parts[: -(PARTS + 1)]
        part = self.parts[-1]
        part.seconds += seconds
        part.busy_s += seconds * (1.0 if level is None else level)

    def covered_s(self) -> float:
        """Measured time in the window."""
        return min(sum(part.seconds for part in self.parts), self.window_s)

    def busy_percent(self, last_s: float) -> float | None:
        """Mean over the last `last_s` of measured time, to the nearest part; `None` before anything was measured."""
        seconds = busy = 0.0
        for part in reversed(self.parts):
            if seconds >= last_s:
                break
            seconds += part.seconds
            busy += part.busy_s
        return 100 * busy / seconds if seconds else None
