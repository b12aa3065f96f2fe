"""Delivering notices: tried until the receiver has taken each, or it is given up for dead.

Rules kept here: a notice is on disk before it is sent, and stays there until its receiver has taken it, so it may come
twice and is not lost by a restart (its `id` is the same both times); a receiver that fails is tried again at growing
pauses, then the notice is a dead letter that an admin can send again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import ssl
import subprocess
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

import aiohttp
import msgspec

from agent.api.queue import DeadLetter
from agent.config import Config, HooksTable
from agent.engine.message import Notice
from agent.engine.shelf import Shelf

FIRST_PAUSE_S, LONGEST_PAUSE_S = 5, 1800
TRIES = 12
"""Over some two hours; then it is a dead letter."""
LOOK_S = 5.0
"""How often tries that have come due are looked for."""
DEAD_AT_MOST = 1000
"""Dead letters kept; beyond, the oldest go."""
AT_ONCE = 4
_SAID_BYTES = 500

logger = logging.getLogger(__name__)


class DeliveryError(Exception):
    """The receiver did not take it; the message says why."""


class Courier:
    """Has the notices on their way, and the dead letters."""

    def __init__(self, config: Callable[[], Config], shelf: Shelf) -> None:
        self._config = config
        self._shelf = shelf
        self._waiting: dict[str, Notice] = {}
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._said: str | None = None
        """Why the receiver took none, as the log has it; `None`: it took the last one."""

    async def start(self) -> None:
        """Take up what was not delivered."""
        self._waiting = {each.id: each for each in await self._shelf.all("notice", Notice)}
        self._task = asyncio.create_task(self._deliver(), name="notices-courier")

    async def stop(self) -> None:
        """Stop; what is not delivered stays on disk."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def take(self, notices: Sequence[Notice]) -> None:
        """Deliver these, which are on the shelf already."""
        self._waiting |= {each.id: each for each in notices}
        self._wake.set()

    async def dead(self) -> list[DeadLetter]:
        """What could not be delivered, oldest first."""
        letters = sorted(await self._shelf.all("dead", Notice), key=lambda each: each.at)
        return [_letter(number, each) for number, each in enumerate(letters, start=1)]

    async def undelivered(self) -> list[DeadLetter]:
        """What is given up, and then what is still tried, each oldest first."""
        dead = await self.dead()
        return dead + self._tried(first=len(dead) + 1)

    def _tried(self, first: int) -> list[DeadLetter]:
        """What is still tried, numbered from `first` on."""
        waiting = sorted(self._waiting.values(), key=lambda each: each.at)
        return [_letter(number, each, each.next_at) for number, each in enumerate(waiting, start=first)]

    async def retry(self) -> list[DeadLetter]:
        """Try all now that is not delivered, dead letters as if they were new; the answer is what is tried."""
        again = [msgspec.structs.replace(each, tries=0, next_at=0) for each in await self._shelf.all("dead", Notice)]
        await self._shelf.change([("notice", each.id, each) for each in again], [("dead", each.id) for each in again])
        # Not on disk: one that is on its way now may have been taken, and must not be put back.
        self._waiting = {each.id: msgspec.structs.replace(each, next_at=0) for each in self._waiting.values()}
        self.take(again)
        return self._tried(first=1)  # at once: some may be delivered at the next moment

    async def _deliver(self) -> None:
        while True:
            self._wake.clear()
            now = time.time()
            due = sorted((each for each in self._waiting.values() if each.next_at <= now), key=lambda each: each.at)
            for number in range(0, len(due), AT_ONCE):
                await asyncio.gather(*(self._try(each) for each in due[number : number + AT_ONCE]))
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _try(self, each: Notice) -> None:
        config = self._config()
        try:
            await send(config.hooks, each.body(config.cluster), each)
        except DeliveryError as error:
            await guarded(self._put_off(each, str(error)))
            return
        except Exception as error:  # the rim of one notice: it is put off like one that was refused
            logger.exception("notice=%s could not be sent", each.id)
            await guarded(self._put_off(each, f"{type(error).__name__}: {error}"))
            return
        self._said = None
        self._waiting.pop(each.id, None)
        await guarded(self._shelf.change([], [("notice", each.id)]))

    async def _put_off(self, each: Notice, error: str) -> None:
        tries = each.tries + 1
        pause_s = min(FIRST_PAUSE_S * 2**each.tries, LONGEST_PAUSE_S)
        later = msgspec.structs.replace(each, tries=tries, next_at=int(time.time()) + pause_s, error=error)
        if tries < TRIES:
            if error != self._said:
                logger.warning("notice=%s was not taken, and is sent again, for two hours: %s", each.id, error)
                self._said = error
            self._waiting[each.id] = later
            await self._shelf.change([("notice", each.id, later)], [])
            return
        logger.error("notice=%s is given up after %d tries: %s; see stoker notices", each.id, tries, error)
        self._waiting.pop(each.id, None)
        old = sorted(await self._shelf.all("dead", Notice), key=lambda letter: letter.at)[: -DEAD_AT_MOST + 1]
        await self._shelf.change(
            [("dead", each.id, later)], [("notice", each.id), *(("dead", letter.id) for letter in old)]
        )


async def guarded(work: Awaitable[None]) -> None:
    """Await `work`; what goes wrong is logged, because the loop that asked must live."""
    try:
        await work
    except Exception:  # the rim of a loop that must live
        logger.exception("a notice could not be made or kept")


async def send(hooks: HooksTable, body: bytes, each: Notice) -> None:
    """Hand one notice to the command and the URL that the configuration names; both must take it.

    Raises:
        DeliveryError: one did not.
    """
    if hooks.notify_command is not None:
        await asyncio.to_thread(_run, hooks.notify_command, body, each, hooks.timeout_s)
    if hooks.notify_url is not None:
        await _post(hooks.notify_url, body, hooks.timeout_s)


def _run(command: Path, body: bytes, each: Notice, timeout_s: int) -> None:
    environ = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        **each.environ(),
    }
    try:
        child = subprocess.Popen(
            [os.fspath(command)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environ,
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        raise DeliveryError(f"cannot run {command}: {error.strerror}") from error
    with child:
        try:
            _, said = child.communicate(body, timeout=timeout_s)
        except subprocess.TimeoutExpired as error:
            os.killpg(child.pid, signal.SIGKILL)
            child.communicate()
            raise DeliveryError(f"{command} took longer than {timeout_s} s and was killed") from error
    if child.returncode:
        told = said[-_SAID_BYTES:].decode("utf-8", "replace").strip()
        raise DeliveryError(f"{command} ended with {child.returncode}" + (f": {told}" if told else ""))


async def _post(url: str, body: bytes, timeout_s: int) -> None:
    where = urlsplit(url)
    target = "http://localhost/" if where.scheme == "unix" else url
    limit = aiohttp.ClientTimeout(total=timeout_s)
    headers = {"Content-Type": "application/json"}
    try:
        async with (
            aiohttp.ClientSession(connector=await _connector(where), timeout=limit) as session,
            session.post(target, data=body, headers=headers, allow_redirects=False) as answer,
        ):
            if answer.status >= 300:
                said = (await answer.content.read(_SAID_BYTES)).decode("utf-8", "replace").strip()
                raise DeliveryError(f"{url} answered {answer.status}" + (f": {said}" if said else ""))
    except TimeoutError as error:
        raise DeliveryError(f"{url} did not answer within {timeout_s} s") from error
    except (aiohttp.ClientError, OSError) as error:
        raise DeliveryError(f"{url}: {error}") from error


async def _connector(where: SplitResult) -> aiohttp.BaseConnector | None:
    if where.scheme == "unix":
        return aiohttp.UnixConnector(where.path)
    if where.scheme == "https":  # read now: aiohttp was imported without the machine's certificates (`daemon`)
        return aiohttp.TCPConnector(ssl=await asyncio.to_thread(ssl.create_default_context))
    return None


def _letter(number: int, each: Notice, next_at: int | None = None) -> DeadLetter:
    return DeadLetter(
        id=number,
        at=each.at,
        job_id=each.job.id if each.job is not None else None,
        incident_id=each.incident.id if each.incident is not None else None,
        event=each.event,
        to=each.to,
        tries=each.tries,
        error=each.error or "",
        next_at=next_at,
    )
