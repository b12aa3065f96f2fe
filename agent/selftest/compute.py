"""Has torch compute: starts `agent.training.selftest` in processes of their own and collects what they say.

torch is nowhere imported here. It may be another interpreter's (`--python`): that one is given this package's folder
last on its path.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from agent.gpu.inspection import Inspection
from agent.selftest.children import Children, Ended, Line
from agent.selftest.machine import start_inspector

SILENCE_S = 240.0
"""torch comes up, and CUDA with it, on the slowest of machines."""
_HOUSE = Path(__file__).parents[2]
_FOREIGN = (
    "import runpy, sys; sys.path.append(sys.argv.pop(1)); "
    "runpy.run_module('agent.training.selftest', run_name='__main__', alter_sys=True)"
)


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """A line of `agent.training.selftest`."""

    figure: str | None = None
    value: int | None = None
    unit: str = ""
    why: str | None = None
    source: int = 0
    target: int = 0
    direct: bool = True
    ranks: int = 0
    wrong: int = 0
    backend: str = ""
    burn: int | None = None
    done: bool = False
    error: str | None = None
    missing: str | None = None
    torch: str | None = None
    cuda: str | None = None
    nccl: str | None = None
    python: str | None = None


@dataclass(slots=True)
class Answer:
    """What one child said, and why it said no more."""

    told: list[Told] = field(default_factory=list)
    problem: str | None = None

    @property
    def figures(self) -> list[Told]:
        """Its measurements."""
        return [each for each in self.told if each.figure is not None]

    @property
    def versions(self) -> Told | None:
        """The line about torch."""
        return next((each for each in self.told if each.torch is not None), None)

    @property
    def missing(self) -> str | None:
        """Why torch cannot be imported."""
        return next((each.missing for each in self.told if each.missing is not None), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A device to compute on: a GPU by its UUID, or the CPU."""

    name: str
    uuid: str | None = None

    @property
    def device(self) -> str:
        """Torch's word."""
        return "cpu" if self.uuid is None else "cuda"


@dataclass(frozen=True, slots=True, kw_only=True)
class Torch:
    """How it is started."""

    python: Path | None = None
    """Another interpreter that has torch; `None` is our own."""

    def rates(self, target: Target, seconds: float) -> Answer:
        """All rates of one device."""
        return self._one(target.name, [target], task="rates", device=target.device, seconds=seconds)

    def peers(self, targets: Sequence[Target], seconds: float, *, all_pairs: bool) -> Answer:
        """Copies between GPUs; indexes are places in `targets`."""
        return self._one("peers", targets, task="peers", seconds=seconds, all_pairs=all_pairs)

    def all_reduce(self, targets: Sequence[Target], seconds: float) -> Answer:
        """Over all of them, a process each."""
        answers = {}
        with tempfile.TemporaryDirectory(prefix="stoker-selftest-") as folder, Children() as children:
            for rank, target in enumerate(targets):
                spec = {"task": "rank", "device": target.device, "seconds": seconds, "meeting": f"{folder}/meeting"}
                answers[f"rank {rank}"] = Answer()
                self._start(children, f"rank {rank}", targets, spec | {"rank": rank, "world": len(targets)})
            _collect(children, answers)
        told = [each for answer in answers.values() for each in answer.told]
        return Answer(told, next((f"{name}: {each.problem}" for name, each in answers.items() if each.problem), None))

    def burn(
        self, targets: Sequence[Target], seconds: float, library: str | None, watch: Callable[[Inspection], None]
    ) -> dict[str, Answer]:
        """Full load on all of them at once, by name; GPUs are read each second meanwhile."""
        answers = {each.name: Answer() for each in targets}
        with Children() as children:
            if any(each.uuid for each in targets):
                start_inspector(children, library, endless=True)
                _hand_on(children.first("inspector"), watch)  # nothing is loaded that nobody watches
            for each in targets:
                spec = {"task": "burn", "device": each.device, "seconds": seconds}
                self._start(children, each.name, [each], spec)
            _collect(children, answers, watch)
        return answers

    def _one(self, name: str, targets: Sequence[Target], **spec: Any) -> Answer:
        answers = {name: Answer()}
        with Children() as children:
            self._start(children, name, targets, spec)
            _collect(children, answers)
        return answers[name]

    def _start(self, children: Children, name: str, targets: Sequence[Target], spec: dict[str, Any]) -> None:
        text = msgspec.json.encode(spec | {"watch_stdin": True}).decode()
        if self.python is None:
            argv = [sys.executable, "-I", "-m", "agent.training.selftest", text]
        else:
            argv = [str(self.python), "-I", "-c", _FOREIGN, str(_HOUSE), text]
        uuids = [each.uuid for each in targets if each.uuid]
        environ = {**os.environ, "CUDA_VISIBLE_DEVICES": ",".join(uuids)}
        children.start(name, argv, Told, silence_s=SILENCE_S, environ=environ)


def _hand_on(event: Line | Ended, watch: Callable[[Inspection], None] | None) -> None:
    if watch is not None and isinstance(event, Line) and isinstance(event.value, Inspection):
        watch(event.value)


def _collect(children: Children, answers: dict[str, Answer], watch: Callable[[Inspection], None] | None = None) -> None:
    for event in children.events():
        _hand_on(event, watch)
        if isinstance(event, Line) and isinstance(event.value, Told):
            answers[event.name].told.append(event.value)
            answers[event.name].problem = event.value.error or answers[event.name].problem
        elif isinstance(event, Ended) and event.why and event.name in answers:
            answers[event.name].problem = event.why
