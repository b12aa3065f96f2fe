"""Trying again what the disk refused, for as long as it takes."""

from __future__ import annotations

import asyncio
import logging

from agent.api.errors import StokerError

logger = logging.getLogger(__name__)

_LONGEST_S = 30.0


class Retry:
    """A pause that grows from 1 to 30 s, and one line in the log whenever the reason is a new one."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._said = ""
        self._pause_s = 0.5

    async def after(self, error: Exception) -> None:
        """Say it, and wait."""
        if str(error) != self._said:
            logger.error("%s: %s; trying again", self._what, error, exc_info=not isinstance(error, StokerError))
            self._said = str(error)
        self._pause_s = min(self._pause_s * 2, _LONGEST_S)
        await asyncio.sleep(self._pause_s)
