"""How large a job is: its tasks, CPUs, GPUs and memory, out of the many options that say so.

Rules kept here: on one node "per job" and "per node" are the same, so `--gpus`, `--gpus-per-node` and `--gres=gpu` are
three words for one number; whatever is said twice must agree, and the error names both places; what is said per task,
per CPU or per GPU is multiplied out, so that nobody else has to.
"""

from __future__ import annotations

import msgspec

from agent.jobs import grammar
from agent.jobs import gres as words
from agent.jobs.errors import SpecError
from agent.jobs.gres import GpuRequest
from agent.jobs.said import Said

_MAX = 999_999_999
"""The most of anything that is counted, as `grammar.positive` reads it."""
_MAX_BYTES = 2**63 - 1


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """What the options say, multiplied out. The fields are those of `JobSpec`."""

    tasks: int
    ntasks_per_node: int | None
    cpus_per_task: int
    cpus_said: bool
    gpus: int
    gpu_type: str | None
    gpus_per_task: int | None
    shards: int
    memory_bytes: int | None
    memory_per_cpu_bytes: int | None
    memory_per_gpu_bytes: int | None


def read(said: Said) -> Shape:
    """Read all options that say how large the job is.

    Raises:
        SpecError: one has no meaning, or two contradict each other.
    """
    said.get("nodes", grammar.nodes, 1)
    gres: words.GresRequest = said.get("gres", words.gres, words.GresRequest())
    gpus = _Gpus(said, gres)
    tasks = _tasks(said, gpus)
    count = gpus.multiplied_out(tasks)
    if count and gres.shards:
        raise said.contradiction("gres", gpus.source, "a job has either whole GPUs or shards of one")
    cpus_per_task, cpus_said = _cpus_per_task(said, tasks, count)
    memory, per_cpu, per_gpu = _memory(said, tasks * cpus_per_task, count)
    return Shape(
        tasks=tasks,
        ntasks_per_node=said.get("ntasks-per-node", grammar.positive, None),
        cpus_per_task=cpus_per_task,
        cpus_said=cpus_said,
        gpus=count,
        gpu_type=gpus.type if count else None,
        gpus_per_task=gpus.per_task.count or None if gpus.per_task else None,
        shards=gres.shards,
        memory_bytes=memory,
        memory_per_cpu_bytes=per_cpu,
        memory_per_gpu_bytes=per_gpu,
    )


# --- GPUs and tasks ---------------------------------------------------------------------------------------------------


class _Gpus:
    """GPUs as they were asked for: all of them at once, by each task, or by the tasks that share one."""

    def __init__(self, said: Said, gres: words.GresRequest) -> None:
        self._said = said
        self.source = ""
        """The option that says how many, for messages."""
        self.total: int | None = None
        self.type: str | None = None
        asked = {"gres": gres.gpus}
        asked |= {name: said.get(name, words.gpus, None) for name in ("gpus-per-node", "gpus")}
        for name, request in asked.items():
            if request is not None:
                self._agree(name, request)
        self.per_task: GpuRequest | None = said.get("gpus-per-task", words.gpus, None)
        self.shared_by: int | None = said.get("ntasks-per-gpu", grammar.positive, None)
        self._check_kinds()

    def multiplied_out(self, tasks: int) -> int:
        """GPUs of the whole job, once it is known how many tasks there are."""
        if self.per_task is not None:
            self._agree("gpus-per-task", GpuRequest(count=self.per_task.count * tasks, type=self.per_task.type))
        elif self.shared_by is not None and self.total is None:
            if tasks % self.shared_by:
                advice = f"{tasks} tasks are no multiple of it; say the GPUs with --gpus"
                raise self._said.contradiction("ntasks-per-gpu", "ntasks", advice)
            self.total, self.source = tasks // self.shared_by, "ntasks-per-gpu"
        return self.total or 0

    def _agree(self, name: str, request: GpuRequest) -> None:
        known = self.total is not None
        types = self.type is not None and request.type is not None and self.type != request.type
        if known and (request.count != self.total or types):
            raise self._said.contradiction(name, self.source, "say how many GPUs once")
        self.total, self.type = request.count, self.type or request.type
        self.source = name

    def _check_kinds(self) -> None:
        if self.shared_by is None:
            return
        for other in ("gpus-per-task", "ntasks-per-node"):
            if self._said.setting(other) is not None:
                raise self._said.contradiction("ntasks-per-gpu", other, "use only one of them")
        if self._said.setting("ntasks") is None and not self.total:
            raise self._said.refusal("ntasks-per-gpu", "needs a number of GPUs: say it with --gpus, or use --ntasks")


def _tasks(said: Said, gpus: _Gpus) -> int:
    tasks: int | None = said.get("ntasks", grammar.positive, None)
    if gpus.shared_by is not None and gpus.total:
        of_gpus = _at_most(said, "ntasks-per-gpu", gpus.shared_by * gpus.total)
        if tasks is not None and tasks != of_gpus:
            raise said.contradiction("ntasks", "ntasks-per-gpu", f"which makes {of_gpus} tasks; say it once")
        return of_gpus
    per_node: int | None = said.get("ntasks-per-node", grammar.positive, None)
    if tasks is not None and per_node is not None and tasks > per_node:
        at_most = f"with {said.place('ntasks-per-node')} needs the cluster engine: this node runs jobs of one node"
        raise said.refusal("ntasks", at_most)
    if gpus.per_task is not None and gpus.per_task.count and gpus.source != "gpus":
        _check_tasks_are_said(said)
    return tasks or per_node or _tasks_of_gpus(said, gpus)


def _check_tasks_are_said(said: Said) -> None:
    """As sbatch: GPUs of each task are a number only where the tasks are."""
    if all(said.setting(each) is None for each in ("ntasks", "ntasks-per-node", "nodes")):
        why = "without either --gpus or -n/--ntasks is not allowed: say how many tasks there are, such as --ntasks=1"
        raise said.refusal("gpus-per-task", why)


def _tasks_of_gpus(said: Said, gpus: _Gpus) -> int:
    """`--gpus=4 --gpus-per-task=2` means two tasks; with neither count said it is one."""
    if gpus.per_task is None or not gpus.per_task.count or not gpus.total:
        return 1
    if gpus.total % gpus.per_task.count:
        raise said.contradiction("gpus-per-task", gpus.source, "the one is no multiple of the other")
    return gpus.total // gpus.per_task.count


# --- CPUs and memory --------------------------------------------------------------------------------------------------


def _cpus_per_task(said: Said, tasks: int, gpus: int) -> tuple[int, bool]:
    """CPUs of each task, and whether they were asked for."""
    per_task: int | None = said.get("cpus-per-task", grammar.positive, None)
    per_gpu: int | None = said.get("cpus-per-gpu", grammar.positive, None)
    if per_gpu is None:
        _at_most(said, "cpus-per-task", tasks * (per_task or 1))
        return per_task or 1, per_task is not None or tasks > 1
    if per_task is not None:
        raise said.contradiction("cpus-per-gpu", "cpus-per-task", "use only one of them")
    if not gpus:
        raise said.refusal("cpus-per-gpu", "needs a number of GPUs: say it with --gpus")
    return -(-_at_most(said, "cpus-per-gpu", per_gpu * gpus) // tasks), True


def _memory(said: Said, cpus: int, gpus: int) -> tuple[int | None, int | None, int | None]:
    """Memory of the node, and what was said per CPU and per GPU."""
    used = [name for name in ("mem", "mem-per-cpu", "mem-per-gpu") if said.setting(name) is not None]
    if len(used) > 1:
        raise said.contradiction(used[1], used[0], "--mem, --mem-per-cpu and --mem-per-gpu exclude each other")
    if not used:
        return None, None, None
    [name] = used
    size: int | None = said.get(name, grammar.memory_bytes, None)
    if name == "mem" or size is None:
        return size, None, None
    if name == "mem-per-cpu":
        return _bytes(said, name, size * cpus), size, None
    if not gpus:
        raise said.refusal("mem-per-gpu", "needs a number of GPUs: say it with --gpus")
    return _bytes(said, name, size * gpus), None, size


def _bytes(said: Said, name: str, size: int) -> int:
    if size > _MAX_BYTES:
        raise said.refusal(name, "is more memory than a machine can have")
    return size


def _at_most(said: Said, name: str, number: int) -> int:
    if number > _MAX:
        label = said.place(name) if said.setting(name) else "the number of tasks"
        raise SpecError(f"{label} makes more than {_MAX} of them", f"--{name}")
    return number
