"""The GPUs of the machine that the hub itself runs on, as NVML has them: asked of the agent beside it.

The agent has NVML in a process of its own. A hub loads no library of a driver, which takes 20 MB and may hang.
"""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

from agent.api.client import Client
from agent.api.errors import StokerError
from agent.api.gpus import GpuSource
from agent.api.unix import UnixTransport

ASK_S = 2.0
"""How long the agent may take: less than a reading of the hardware does."""
_log = logging.getLogger(__name__)


def nvml_uuids(agent: Path) -> list[str]:
    """Their UUIDs; none where no agent listens on this socket, where it hangs, or where its GPUs are not real."""
    try:
        with contextlib.closing(Client(UnixTransport(agent), timeout_s=ASK_S)) as client:
            node = client.node()
    except StokerError as error:
        _log.debug("hardware: the agent tells no GPUs: %s", error)
        return []
    return [gpu.uuid for gpu in node.gpus if gpu.mig_parent is None] if node.gpu_source is GpuSource.NVML else []
