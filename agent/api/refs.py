"""How a job is named on a command line and in a path: `17`, `17_3` for a task of an array, `n1:17` on one node."""

from __future__ import annotations

import re

import msgspec

from agent.api.errors import StokerError


class JobRef(msgspec.Struct, frozen=True, kw_only=True):
    """A job id, with its task and its node where these were said. An array's id without a task means all its tasks."""

    id: int
    task: int | None = None
    node: str | None = None

    @classmethod
    def parse(cls, text: str) -> JobRef:
        """Read `17`, `17_3` or `n1:17`.

        Raises:
            StokerError: the text is none of them.
        """
        match = re.fullmatch(r"(?:([A-Za-z0-9._-]{1,64}):)?([0-9]{1,12})(?:_([0-9]{1,9}))?", text)
        if match is None:
            raise StokerError(f"{text!r} is not a job; write a number such as 17, a task such as 17_3, or NODE:17")
        return cls(id=int(match[2]), task=None if match[3] is None else int(match[3]), node=match[1])

    @property
    def path(self) -> str:
        """The job's address on the API."""
        return f"/v1/nodes/{self.node}/jobs/{self.local}" if self.node else f"/v1/jobs/{self.local}"

    @property
    def local(self) -> str:
        """Its name on its own node: `17`, `17_3`."""
        return str(self.id) if self.task is None else f"{self.id}_{self.task}"

    def __str__(self) -> str:
        return f"{self.node}:{self.local}" if self.node else self.local
