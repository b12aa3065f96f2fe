"""Which GPUs the demo uses: it asks the sampler process, the same way the agent will."""

from __future__ import annotations

import subprocess
import threading
from dataclasses import dataclass

import msgspec

from agent.api.decode import decode
from agent.api.types import GpuSource
from agent.gpu.frames import ChildSpec, Frame
from agent.gpu.sampler import CHILD_ARGV

_DEADLINE_S = 30.0
"""A driver without its persistence daemon takes seconds to come up; one that hangs never does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A value for `gpu.source`, and the sentence that tells the user why."""

    name: str
    sentence: str


def choose_source(deadline_s: float = _DEADLINE_S) -> Source:
    """NVML if it finds GPUs within the deadline, otherwise 8 simulated ones."""
    frame = _ask_nvml(deadline_s)
    if frame is not None and frame.source is GpuSource.NVML and frame.gpus:
        return Source(name="nvml", sentence=f"GPUs: this machine's {len(frame.gpus)}, driver {frame.driver_version}.")
    reason = (frame.reason or "").partition(";")[0] if frame is not None else "the driver does not answer"
    sentence = f"GPUs: 8 simulated ones ({reason}). The training is real, on the CPU."
    return Source(name="simulated", sentence=sentence)


def _ask_nvml(deadline_s: float) -> Frame | None:
    """The sampler's first answer that says something about GPUs; `None` when there is none in time."""
    spec = ChildSpec(source="auto", period_s=1.0, library=None, simulated_count=0, node_name="demo", state_dir="/")
    child = subprocess.Popen(
        [*CHILD_ARGV, msgspec.json.encode(spec).decode()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = threading.Timer(deadline_s, child.kill)
    deadline.name = "nvml-deadline"
    deadline.start()
    try:
        return _first_answer(child)
    finally:
        deadline.cancel()
        child.kill()
        child.communicate()


def _first_answer(child: subprocess.Popen[bytes]) -> Frame | None:
    assert child.stdout is not None
    for line in child.stdout:
        frame = decode(line, Frame)
        if frame.gpus is not None and (frame.gpus or frame.source is GpuSource.NONE):
            return frame
    return None
