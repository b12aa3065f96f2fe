"""Keeps one sampler process running from the agent's side, whatever becomes of it.

A child that dies, falls silent or writes nonsense is replaced after a pause. One that the kernel will not let die is
left behind, and at most one such: while two are stuck no third is started, since it would only get stuck too.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence

import msgspec

from agent.api.decode import decoder
from agent.gpu.frames import EXIT_FRESH, Frame, Hold

log = logging.getLogger(__name__)

FIRST_FRAME_S = 15.0
"""Silence allowed while the interpreter starts, on the slowest and busiest of nodes."""
PAUSE_S = (0.2, 30.0)
"""Least and greatest pause before a child is replaced; doubles from one to the other."""
HEALTHY_S = 60.0
"""A child that lived this long ends the doubling."""
END_WAIT_S = 1.0
STUCK_MAX = 1
"""Children left behind in the kernel beside which another may be started."""
_LINE_MAX_BYTES = 8 * 1024 * 1024


class ChildKeeper:
    """One running child at a time; reports its frames, and in a sentence what goes wrong with it."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        silence_s: float,
        on_frame: Callable[[Frame], None],
        on_trouble: Callable[[str], None],
    ) -> None:
        self._argv = argv
        self._silence_s = silence_s
        self._on_frame = on_frame
        self._on_trouble = on_trouble
        self._child: asyncio.subprocess.Process | None = None
        self._stuck: list[asyncio.subprocess.Process] = []
        self._held = Hold(uuids=())

    async def run(self) -> None:
        """Start a child, follow it to its end, replace it; until cancelled. A child is then still to be ended."""
        pause_s = PAUSE_S[0]
        while True:
            begun = time.monotonic()
            try:
                why = await self._live()
            except Exception:  # the rim of a loop that must live: the next child is followed
                log.exception("following the sampler process failed")
                why = "could not be followed, the log says why"
            if time.monotonic() - begun > HEALTHY_S:
                pause_s = PAUSE_S[0]
            if why is not None:
                self._on_trouble(f"the sampler process {why}; it is started again in {pause_s:g} s")
            await asyncio.sleep(pause_s)
            await self._wait_for_stuck()
            pause_s = min(pause_s * 2, PAUSE_S[1])

    @property
    def pid(self) -> int | None:
        """The running child's."""
        return self._child.pid if self._child else None

    async def end(self) -> None:
        """End the child after `run` was cancelled; one that cannot be killed is left to the kernel."""
        if self._child is not None:
            await self._end(self._child)
            self._child = None

    def hold(self, held: Hold) -> None:
        """Tell this child, and each after it, what jobs hold."""
        self._held = held
        child = self._child
        if child is None or child.stdin is None or child.stdin.is_closing():
            return
        child.stdin.write(msgspec.json.encode(held) + b"\n")

    async def _live(self) -> str | None:
        """One child's life. Returns how it ended; `None` if its last frame said so."""
        try:
            child = await asyncio.create_subprocess_exec(
                *self._argv,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=_LINE_MAX_BYTES,
                # Ctrl-C on the agent's terminal is the agent's business; the child ends with its standard input.
                start_new_session=True,
            )
        except OSError as error:
            return f"cannot be started ({error})"
        self._child = child
        self.hold(self._held)
        why = await self._follow(child)
        await self.end()
        return why if child.returncode != EXIT_FRESH else None

    async def _follow(self, child: asyncio.subprocess.Process) -> str:
        """Take frames for as long as good ones come. Returns what ended that."""
        assert child.stdout is not None
        decode = decoder(Frame).decode
        silence_s = FIRST_FRAME_S
        while True:
            try:
                async with asyncio.timeout(silence_s):
                    line = await child.stdout.readline()
                if not line:
                    return await self._how_it_ended(child)
                self._on_frame(decode(line))
            except TimeoutError:
                return f"was silent for {silence_s:g} s"
            except (ValueError, msgspec.MsgspecError) as error:
                return f"wrote something that is no frame ({error})"
            silence_s = self._silence_s

    async def _how_it_ended(self, child: asyncio.subprocess.Process) -> str:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_WAIT_S):
                code = await child.wait()
                return f"ended with status {code}" if code >= 0 else f"was ended by signal {-code}"
        return "closed its output"

    async def _end(self, child: asyncio.subprocess.Process) -> None:
        """By the end of its input, then by SIGKILL; else remember it as stuck."""
        assert child.stdin is not None
        child.stdin.close()
        if await _ends(child):
            return
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        if not await _ends(child):
            log.error("sampler pid=%d is stuck in the driver and cannot be killed; left behind", child.pid)
            self._stuck.append(child)

    async def _wait_for_stuck(self) -> None:
        """Hold the next child back while too many are stuck."""
        while len(stuck := [child for child in self._stuck if child.returncode is None]) > STUCK_MAX:
            self._stuck = stuck
            pids = " and ".join(str(child.pid) for child in stuck)
            self._on_trouble(
                f"the sampler processes {pids} are stuck in the driver; reboot this node when its jobs allow"
            )
            ends = [asyncio.ensure_future(child.wait()) for child in stuck]
            try:
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for end in ends:
                    end.cancel()
        self._stuck = stuck


async def _ends(child: asyncio.subprocess.Process) -> bool:
    """Whether the child ends within `END_WAIT_S`."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(END_WAIT_S):
            await child.wait()
            return True
    return False
