"""The sampler process: opens a source of readings and writes what it reads as frames to standard output.

    main thread        opens, asks, collects, writes frames; the only one to touch standard output
    gpu-open           `nvmlInit`, which may block as well
    gpu-reader-0 …     one, and one more for each stuck GPU, see `agent.gpu.rounds`
    gpu-processes      names of the processes on the GPUs, see `agent.gpu.processes`
    gpu-events-0 …     what the driver tells of by itself, one for each GPU, see `agent.gpu.nvml_events`
    gpu-stdin          takes hold lists; at end of file the agent is gone and the process ends

It must be able to end whatever its threads are stuck in, and so ends by `os._exit`. It imports only what sampling
needs: every MiB of it is there on every node.
"""

from __future__ import annotations

import gc
import logging
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from queue import Empty, SimpleQueue

import msgspec

from agent.api.decode import decode, decoder
from agent.api.types import GpuSource
from agent.gpu.base import DriverGoneError, GpuReader, Inventory, NoGpusError
from agent.gpu.frames import EXIT_FRESH, ChildSpec, Frame, FrameWriter, GpuEvent, Hold, Renewal, Stamped
from agent.gpu.processes import ProcessNames
from agent.gpu.rounds import Rounds, deadline_s
from agent.gpu.simulated import SimulatedReader
from agent.gpu.simulated_layout import Layout

_STDOUT = 1
log = logging.getLogger(__name__)

RETRY_S = 5.0
"""Between two attempts to open a source that had no GPUs."""
EVENTS_AT_ONCE = 256
"""Events a frame carries; the others wait for the next."""
SAY_S = 1.0
"""Between two frames while there is nothing to sample: the agent takes silence for death."""


def main(argv: list[str]) -> int:
    """Sample until standard input ends or the driver is exchanged.

    Args:
        argv: one `ChildSpec` as JSON.
    """
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    try:
        (text,) = argv
        spec = decode(text, ChildSpec)
    except (ValueError, msgspec.MsgspecError) as error:
        print(f"the agent starts the sampler, with one JSON argument: {error}", file=sys.stderr)
        return os.EX_USAGE
    reader = make_reader(spec)
    _start("gpu-stdin", lambda: _follow_stdin(reader))
    # Not sys.exit: the exit handlers of the driver's library may wait for a call that never returns.
    os._exit(Sampling(spec, reader).run())


def make_reader(spec: ChildSpec) -> GpuReader:
    """The reader that the configuration names; `auto` is NVML."""
    if spec.source == GpuSource.SIMULATED:
        return SimulatedReader(
            spec.simulated_count,
            node_name=spec.node_name,
            state_dir=Path(spec.state_dir),
            layout=Layout(spec.simulated_layout),
        )
    from agent.gpu.nvml import NvmlReader  # the binding costs 30 ms and 5 MiB that a simulated node need not pay

    return NvmlReader(spec.library)


class Sampling:
    """The main thread's work with one reader."""

    def __init__(self, spec: ChildSpec, reader: GpuReader) -> None:
        self._spec = spec
        self._reader = reader
        self._settled = False
        self._heard: SimpleQueue[GpuEvent] = SimpleQueue()
        reader.listen(self._heard.put)

    def run(self) -> int:
        """Open the source, again and again if need be, then sample it. Returns the exit status."""
        try:
            while True:
                inventory = self._open()
                if inventory is not None:
                    self._sample(inventory)
        except DriverGoneError as error:
            self._write_absent(str(error), gpus=())
            return EXIT_FRESH
        except BrokenPipeError:
            return os.EX_OK

    def _open(self) -> Inventory | None:
        """Open the source, saying meanwhile that it takes long; `None` after a failure and a pause.

        Raises:
            DriverGoneError: only a fresh process can open it.
        """
        opened: SimpleQueue[Inventory | Exception] = SimpleQueue()
        _start("gpu-open", lambda: opened.put(_try_open(self._reader)))
        begun = time.monotonic()
        timeout = deadline_s(self._spec.period_s)
        while True:
            try:
                outcome = opened.get(timeout=timeout)
            except Empty:
                waited = time.monotonic() - begun
                self._write_absent(f"the driver has not come up for {waited:.0f} s; see dmesg for its Xid", gpus=None)
                timeout = SAY_S
                continue
            if isinstance(outcome, Inventory):
                return outcome
            if not isinstance(outcome, NoGpusError) or isinstance(outcome, DriverGoneError):
                raise outcome
            self._pause(str(outcome))
            return None

    def _pause(self, reason: str) -> None:
        """Say why there are no GPUs, until it is time to try again."""
        until = time.monotonic() + RETRY_S
        while (left := until - time.monotonic()) > 0:
            self._write_absent(reason, gpus=())
            time.sleep(min(left, SAY_S))

    def _sample(self, inventory: Inventory) -> None:
        names = ProcessNames()
        writer = FrameWriter(self._reader.source, inventory.driver_version, names.name, names.known)

        def send(gpus: Iterable[Stamped | Renewal]) -> None:
            names.look(gpus, time.monotonic())
            _write(writer.write(gpus, self._events()))
            if not self._settled:
                self._settled = True
                _settle()

        fast_s = self._spec.fast_s or math.inf
        Rounds(self._reader, inventory.count, period_s=self._spec.period_s, send=send, fast_s=fast_s).run()

    def _events(self) -> tuple[GpuEvent, ...]:
        """Those heard since the last frame, up to a bound: a driver in a rage must not hold up the readings."""
        if self._heard.empty():
            return ()
        return tuple(self._heard.get() for _ in range(min(self._heard.qsize(), EVENTS_AT_ONCE)))

    def _write_absent(self, reason: str, gpus: tuple[()] | None) -> None:
        """A frame without GPUs. `auto` settles for no source; a source asked for by name stays named."""
        source = GpuSource.NONE if self._spec.source == "auto" else self._reader.source
        _write(msgspec.json.encode(Frame(source=source, reason=reason, gpus=gpus)) + b"\n")


def _write(line: bytes) -> None:
    while line := line[os.write(_STDOUT, line) :]:
        pass


def _try_open(reader: GpuReader) -> Inventory | Exception:
    """The rim of the `gpu-open` thread: whatever happens there is handed to the main thread."""
    try:
        return reader.open()
    except Exception as error:  # noqa: BLE001 - the main thread raises it
        return error


def _follow_stdin(reader: GpuReader) -> None:
    read = decoder(Hold).decode
    for line in sys.stdin.buffer:
        try:
            reader.hold(frozenset(read(line).uuids))
        except msgspec.MsgspecError:
            log.exception("a line from the agent makes no sense: %r", line[:200])
    os._exit(os.EX_OK)


def _settle() -> None:
    """What is there after the first frame stays: the collector need not look at it again and again."""
    gc.collect()
    gc.freeze()


def _start(name: str, target: Callable[[], None]) -> None:
    threading.Thread(target=target, name=name, daemon=True).start()
