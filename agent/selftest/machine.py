"""What this machine is: what its agent says, what the driver shows, and whether its GPUs may be tested now."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import msgspec

from agent.api import program
from agent.api.client import Client
from agent.api.errors import ConnectError, StokerError
from agent.api.health import KnownGpu
from agent.api.types import Gpu, GpuSource, Node
from agent.api.unix import UnixTransport
from agent.config import Config
from agent.gpu.inspection import GpuInspection, Inspection, InspectSpec
from agent.selftest.children import Children, Line
from agent.selftest.errors import SelftestError

AGENT_TIMEOUT_S = 20.0
DRIVER_TIMEOUT_S = 90.0
"""A driver without its persistence daemon needs a minute to start eight GPUs."""


def ask_agent(config: Config) -> Node | None:
    """The node as its agent sees it; `None` if none runs.

    Raises:
        SelftestError: one may run and does not answer us: then nobody knows what may be tested.
    """
    try:
        with Client(UnixTransport(config.agent_socket), timeout_s=AGENT_TIMEOUT_S) as client:
            return client.node()
    except ConnectError as error:
        if isinstance(error.__cause__, FileNotFoundError | ConnectionRefusedError):
            return None
        raise SelftestError(f"the agent was not asked which GPUs are free: {error}") from error
    except StokerError as error:
        raise SelftestError(f"the agent did not say which GPUs are free: {error}") from error


def ask_inventory(config: Config) -> list[KnownGpu]:
    """The GPUs that the agent remembers from its installation; none where it knows of none or does not say."""
    try:
        with Client(UnixTransport(config.agent_socket), timeout_s=AGENT_TIMEOUT_S) as client:
            return client.inventory()
    except StokerError:  # an agent of an earlier version, or one that has just ended
        return []


def inspect(library: str | None) -> Inspection:
    """What the driver shows now.

    Raises:
        SelftestError: it does not answer.
    """
    with Children() as children:
        start_inspector(children, library)
        event = children.first("inspector")
    if isinstance(event, Line) and isinstance(event.value, Inspection):
        return event.value
    why = getattr(event, "why", None) or "ended"
    raise SelftestError(f"the driver does not say what GPUs there are: its reader {why}; see dmesg for an Xid")


def start_inspector(children: Children, library: str | None, *, endless: bool = False) -> None:
    """Start the process that reads the GPUs each second."""
    spec = msgspec.json.encode(InspectSpec(library=library)).decode()
    argv = (sys.executable, "-I", "-m", "agent", "inspect", spec)
    children.start("inspector", argv, Inspection, silence_s=DRIVER_TIMEOUT_S, endless=endless)


def why_no_gpus(config: Config, node: Node | None) -> str | None:
    """Why there is nothing to inspect: simulated GPUs cannot be tested."""
    if node is not None and node.gpu_source is GpuSource.SIMULATED:
        return "the GPUs of this node's agent are simulated, and simulated GPUs cannot be tested"
    if node is None and config.gpu.source == GpuSource.SIMULATED:
        return "gpu.source is simulated in the configuration, and simulated GPUs cannot be tested"
    if config.gpu.source == GpuSource.NONE:
        return "gpu.source is none in the configuration"
    return None


def choose(gpus: Sequence[GpuInspection], words: str | None) -> list[GpuInspection]:
    """The GPUs named by index or UUID, with commas between; all without words.

    Raises:
        SelftestError: there is no such GPU.
    """
    if words is None:
        return list(gpus)
    chosen: list[GpuInspection] = []
    for word in (each.strip() for each in words.split(",")):
        found = next((each for each in gpus if word in (str(each.reading.index), each.reading.uuid)), None)
        if found is None:
            there = ", ".join(str(each.reading.index) for each in gpus) or "none"
            raise SelftestError(f"--gpus: there is no GPU {word!r} here; there are: {there}", program.USAGE)
        if found not in chosen:
            chosen.append(found)
    return chosen


def refusal(node: Node | None, chosen: Sequence[GpuInspection], *, everything: bool, force: bool) -> str | None:
    """Why these GPUs may not be tested now, and what to do; `None` when they may. Pure.

    Args:
        node: what the agent says; `None` where none runs.
        chosen: the GPUs to test.
        everything: they are all there are, so that the node can be drained as one.
        force: test though no agent runs.
    """
    divided = [each for each in chosen if each.reading.divided]
    if divided:
        return f"{_names(divided)}: divided by MIG, and only whole GPUs are tested; choose others with --gpus"
    if node is None:
        return _without_agent(chosen, force)
    if force:
        return "--force is for machines whose agent does not run, and this one's does; drain the GPUs instead"
    known = {gpu.uuid: gpu for gpu in node.gpus}
    strange = [each for each in chosen if each.reading.uuid not in known]
    if strange:
        return f"{_names(strange)}: not known to the agent of {node.name}; restart it: systemctl restart stoker-agent"
    gpus = [known[each.reading.uuid] for each in chosen]
    return _undrained(node, gpus, everything) or _busy(node, gpus)


def _without_agent(chosen: Sequence[GpuInspection], force: bool) -> str | None:
    if not force:
        return (
            "no agent runs here, so nobody can say whether these GPUs are free; start it (systemctl start "
            "stoker-agent) and drain them, or say --force if no job runs on this machine"
        )
    for each in chosen:
        if each.reading.processes:
            return f"process {each.reading.processes[0].pid} is on GPU {each.reading.index}; end it first"
    return None


def _undrained(node: Node, gpus: Sequence[Gpu], everything: bool) -> str | None:
    if node.drain is not None:
        return None
    open_ = [gpu for gpu in gpus if gpu.drain is None]
    if not open_:
        return None
    which = [node.name] if everything and len(open_) == len(gpus) else [f"{node.name}:{gpu.index}" for gpu in open_]
    verbs = "; ".join(f"stoker drain {name} --reason selftest" for name in which)
    names = ", ".join(f"GPU {gpu.index}" for gpu in open_)
    return f"a job may start at any moment on {names} of {node.name}; drain first: {verbs}"


def _busy(node: Node, gpus: Sequence[Gpu]) -> str | None:
    for gpu in gpus:
        if gpu.job_id is not None:
            return (
                f"job {gpu.job_id} is still on GPU {gpu.index} of {node.name}; "
                f"wait for it (stoker wait {gpu.job_id}) or cancel it (stoker cancel {gpu.job_id})"
            )
        for process in gpu.processes:
            who = ", ".join(word for word in (process.command, process.user) if word) or "no job's"
            return f"process {process.pid} ({who}) is on GPU {gpu.index} of {node.name}; end it first"
    return None


def _names(gpus: Sequence[GpuInspection]) -> str:
    return ", ".join(f"GPU {each.reading.index}" for each in gpus)
