"""The process behind `Inspection`: `python -I -m agent inspect SPEC` writes one a period until its input ends."""

from __future__ import annotations

import os
import sys
import threading
import time

import msgspec

from agent.api.decode import decode
from agent.gpu.base import NoGpusError
from agent.gpu.inspection import Inspection, InspectSpec


def main(argv: list[str]) -> int:
    """Read until standard input ends.

    Args:
        argv: one `InspectSpec` as JSON.
    """
    try:
        (text,) = argv
        spec = decode(text, InspectSpec)
    except (ValueError, msgspec.MsgspecError) as error:
        print(f"the self-test starts this, with one JSON argument: {error}", file=sys.stderr)
        return os.EX_USAGE
    threading.Thread(target=_end_with_stdin, name="inspect-stdin", daemon=True).start()
    from agent.gpu.nvml_inspect import Inspector

    inspector = Inspector(spec.library)
    try:
        inspector.open()
        while True:
            begun = time.monotonic()
            _write(inspector.read())
            time.sleep(max(0.0, begun + spec.period_s - time.monotonic()))
    except NoGpusError as error:
        _write(Inspection(reason=str(error), at=time.monotonic()))
    except BrokenPipeError:
        pass
    # Not sys.exit: the exit handlers of the driver's library may wait for a call that never returns.
    os._exit(os.EX_OK)


def _write(inspection: Inspection) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(inspection) + b"\n")
    sys.stdout.buffer.flush()


def _end_with_stdin() -> None:
    while os.read(0, 4096):  # not sys.stdin: its lock, held here, would abort the interpreter's end
        pass
    os._exit(os.EX_OK)
