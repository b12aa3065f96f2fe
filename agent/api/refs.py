"""How a job is named on a command line and in a path: `17`, or `n1:17` where two nodes both have a 17."""

from __future__ import annotations

import re
from dataclasses import dataclass

from agent.api.errors import StokerError


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRef:
    """A job id, with its node where that was said."""

    id: int
    node: str | None = None

    @classmethod
    def parse(cls, text: str) -> JobRef:
        """Read `17` or `n1:17`.

        Raises:
            StokerError: the text is neither.
        """
        match = re.fullmatch(r"(?:([A-Za-z0-9._-]{1,64}):)?([0-9]{1,12})", text)
        if match is None:
            raise StokerError(f"{text!r} is not a job; write a number such as 17, or NODE:17")
        return cls(id=int(match.group(2)), node=match.group(1))

    @property
    def path(self) -> str:
        """The job's address on the API."""
        return f"/v1/nodes/{self.node}/jobs/{self.id}" if self.node else f"/v1/jobs/{self.id}"

    def __str__(self) -> str:
        return f"{self.node}:{self.id}" if self.node else str(self.id)
