"""One self-test from the first question to the report: which steps there are, and what each adds."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from agent import __version__
from agent.config import Config
from agent.gpu.inspection import GpuInspection, Inspection
from agent.selftest import burn, inventory, judge, machine, xids
from agent.selftest.checks import CPU, Check, Verdict, failed, gpu
from agent.selftest.compute import Answer, Target, Torch
from agent.selftest.errors import SelftestError
from agent.selftest.expected import Expected, Model
from agent.selftest.order import Order, compare
from agent.selftest.report import Report, TestedGpu, TestedNode, Versions
from agent.telemetry.host import memory_total_bytes
from agent.telemetry.kernellog import KMSG

CPU_RANKS = 2
NO_TORCH_DO = "install one into this environment (extra `train`), or name an interpreter that has it with --python"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What was asked for."""

    full: bool = False
    burn_s: float = 0.0
    cpu_burn_s: float = 0.0
    """Without a GPU: only what was asked for in so many words."""
    gpus: str | None = None
    force: bool = False
    order: Order | None = None


class Session:
    """Collects lines and remarks on the way."""

    def __init__(
        self,
        config: Config,
        plan: Plan,
        expected: Expected,
        torch: Torch,
        say: Callable[[str], None],
        kernel_log: Path = KMSG,
    ) -> None:
        self._config = config
        self._plan = plan
        self._expected = expected
        self._torch = torch
        self._say = say
        self._kernel_log = kernel_log
        self._checks: list[Check] = []
        self._notes: list[str] = []
        self._burned: list[burn.Seen] = []
        self._versions = Versions(stoker=__version__)
        self._tested = False
        """At least one rate of each chosen GPU was measured."""

    def run(self, began: int, key_hex: str) -> Report:
        """All of it.

        Raises:
            SelftestError: it may not be, or there is nothing to ask.
        """
        found, chosen = self._inventory()
        if chosen:
            with closing(xids.XidWatch(self._kernel_log)) as log:
                self._test_gpus(chosen)
                self._look_at_xids(chosen, log)
        else:
            self._test_cpu()
        verdict, summary = self._verdict(chosen)
        return Report(
            verdict=verdict,
            summary=summary,
            node=self._node(key_hex, found.driver_version),
            began_at=began,
            ended_at=int(time.time()),
            mode="full" if self._plan.full else "quick",
            burn_s=round(self._plan.burn_s if chosen else self._plan.cpu_burn_s),
            order=self._plan.order,
            gpus=tuple(TestedGpu.of(each, tested=each in chosen and self._tested) for each in found.gpus),
            checks=tuple(self._checks),
            burn=tuple(self._burned),
            versions=self._versions,
            notes=tuple(self._notes),
        )

    def _inventory(self) -> tuple[Inspection, list[GpuInspection]]:
        node = machine.ask_agent(self._config)
        why = machine.why_no_gpus(self._config, node)
        found = Inspection(reason=why, at=0.0) if why else machine.inspect(self._config.gpu.library)
        chosen = machine.choose(found.gpus, self._plan.gpus)
        if chosen:
            everything = len(chosen) == len(found.gpus)
            refusal = machine.refusal(node, chosen, everything=everything, force=self._plan.force)
            if refusal:
                raise SelftestError(refusal)
        else:
            self._notes.append(f"NO GPU WAS TESTED, only the CPU path: {found.reason or 'the driver shows none'}")
        known = machine.ask_inventory(self._config) if node is not None and found.gpus else []
        if known:
            self._add(inventory.compare(known, found.gpus))
        if self._plan.order is not None:
            self._add(compare(self._plan.order, found.gpus, self._expected))
        return found, chosen

    # --- GPUs ---

    def _test_gpus(self, chosen: list[GpuInspection]) -> None:
        for name in sorted({each.reading.name for each in chosen if self._expected.of(each.reading.name) is None}):
            self._notes.append(f"nothing is known of the model {name!r}: its rates have no verdict")
        for model in {each.key: each for each in map(self._model, chosen) if each is not None}.values():
            if model.unconfirmed:
                what = ", ".join(model.unconfirmed)
                self._notes.append(f"what is expected of a {model.key} is not confirmed for: {what}; see models.toml")
        for each in chosen:
            self._add(judge.at_rest(each))
        alive = [each for each in chosen if each.error is None]
        seconds = 5.0 if self._plan.full else 2.0
        for each in alive:
            self._say(f"{gpu(each.reading.index)} {each.reading.name}: products per dtype, memory, bus …")
            answer = self._torch.rates(_target(each), seconds)
            if not self._usable(answer, cuda=True):
                return
            self._add(judge.gpu_rates(each, answer, self._expected, self._plan.order))
        self._tested = bool(alive)
        if len(alive) > 1:
            self._test_links(alive, seconds)
        if self._plan.burn_s and alive:
            self._burn(alive)

    def _look_at_xids(self, chosen: list[GpuInspection], log: xids.XidWatch) -> None:
        came = log.come()
        if log.problem is not None:
            self._notes.append(log.problem)
        if self._tested and (log.problem is None or came):
            self._add(xids.judge(chosen, came))

    def _model(self, found: GpuInspection) -> Model | None:
        return self._expected.of(found.reading.name)

    def _test_links(self, alive: list[GpuInspection], seconds: float) -> None:
        targets = [_target(each) for each in alive]
        self._say(f"{len(alive)} GPUs: copies from one to the other …")
        answer = self._torch.peers(targets, seconds / 4, all_pairs=self._plan.full)
        self._add(judge.peer_copies(alive, answer, self._expected))
        self._say(f"{len(alive)} GPUs: all-reduce …")
        self._add(judge.all_reduce(alive, self._torch.all_reduce(targets, seconds), self._expected))

    def _burn(self, alive: list[GpuInspection]) -> None:
        self._say(f"{len(alive)} GPUs: burn-in for {self._plan.burn_s / 60:g} min; Ctrl-C ends it …")
        samples: list[Inspection] = []
        began = time.monotonic()
        targets = [_target(each) for each in alive]
        answers = self._torch.burn(targets, self._plan.burn_s, self._config.gpu.library, samples.append)
        span = (samples[0].at if samples else began, time.monotonic())
        for each in alive:
            self._burned.append(burn.summary(each.reading.uuid, samples))
            self._add(burn.judge(each, samples, span, answers[_target(each).name], self._expected))

    # --- the CPU path ---

    def _test_cpu(self) -> None:
        seconds = 2.0 if self._plan.full else 0.5
        target = Target(name=CPU)
        self._say("no GPU: the CPU path: products, memory …")
        answer = self._torch.rates(target, seconds)
        if not self._usable(answer, cuda=False):
            return
        self._add(judge.cpu_rates(answer))
        self._say(f"no GPU: all-reduce of {CPU_RANKS} ranks over gloo …")
        self._add(judge.all_reduce([], self._torch.all_reduce([target] * CPU_RANKS, seconds), self._expected))
        burn_s = self._plan.cpu_burn_s
        if burn_s:
            self._say(f"no GPU: burn-in of the CPU for {burn_s / 60:g} min; Ctrl-C ends it …")
            answers = self._torch.burn([target], burn_s, None, lambda _: None)
            self._add(burn.results(CPU, answers[CPU]))

    # --- what it comes to ---

    def _usable(self, answer: Answer, *, cuda: bool) -> bool:
        """Whether torch is there and made for what is to be tested; if not, why not is said."""
        versions = answer.versions
        if answer.missing is not None:
            self._notes.append(f"torch is not here ({answer.missing}), so no rate was measured; {NO_TORCH_DO}")
            return False
        if versions is None:
            self._notes.append(f"torch did not start, so no rate was measured: {answer.problem or 'it said nothing'}")
            return False
        self._versions = Versions(
            stoker=__version__,
            python=versions.python,
            torch=versions.torch,
            cuda=versions.cuda,
            nccl=versions.nccl,
        )
        if cuda and versions.cuda is None:
            self._notes.append(
                f"torch {versions.torch} is a build without CUDA, so no rate was measured; {NO_TORCH_DO}"
            )
        return versions.cuda is not None or not cuda

    def _verdict(self, chosen: list[GpuInspection]) -> tuple[Verdict, str]:
        bad = failed(self._checks)
        if bad:
            what = ", ".join(dict.fromkeys(each.subject for each in bad))
            return Verdict.FAIL, f"{len(bad)} of {len(self._checks)} checks failed: {what}"
        if not chosen or not self._tested:
            return Verdict.NONE, "no GPU was tested" + ("" if not self._checks else "; what was tested did not fail")
        open_ = sum(each.verdict is Verdict.NONE for each in self._checks)
        known = [each for each in chosen if self._expected.of(each.reading.name) is not None]
        if not known:
            return Verdict.NONE, "nothing failed, but no range is known for any of these models"
        rest = f", {open_} without a verdict" if open_ else ""
        names = ", ".join(str(each.reading.index) for each in chosen)
        return Verdict.PASS, f"GPU {names}: {len(self._checks) - open_} checks passed{rest}"

    def _node(self, key_hex: str, driver_version: str | None) -> TestedNode:
        return TestedNode(
            name=self._config.name,
            key=key_hex,
            kernel=platform.release(),
            cpu=_cpu_name(),
            cpus=len(os.sched_getaffinity(0)),
            memory_bytes=memory_total_bytes(),
            driver_version=driver_version,
        )

    def _add(self, checks: Iterable[Check]) -> None:
        self._checks += checks


def _target(found: GpuInspection) -> Target:
    return Target(name=gpu(found.reading.index), uuid=found.reading.uuid)


def _cpu_name() -> str:
    """As /proc/cpuinfo has it; proc(5)."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())
