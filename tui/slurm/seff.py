"""`seff JOB`: what a job made of what it held; Slurm's contributed script's layout, and the GPUs beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agent.api import program
from agent.api.types import FINAL_STATES, Job
from tui.slurm import ask, times
from tui.slurm import job as jobs_as
from tui.slurm.argv import ToolError
from tui.slurm.job import View

HELP = "Usage: seff JOB...      17, 17_3, 17_[1-5]\n"
_SIZES = ("B", "KB", "MB", "GB", "TB", "PB")


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """The command; its exit code."""
    import time

    named = [word for word in argv if not word.startswith("-")]
    if not named or len(named) < len(argv):
        raise ToolError("name a job, such as: seff 17")
    queue = ask.Queue.open(environ)
    found = queue.named_all(named, "Invalid job id")
    if not found:
        raise ToolError(f"Job not found: {program.printable(' '.join(named))}", bare=True)
    cluster = queue.cluster()
    partition = queue.default_partition()
    for number, each in enumerate(found):
        if number:
            print()
        print("\n".join(lines(View(jobs=(each,), now=time.time(), partition=partition), cluster)))
    return 0


def lines(view: View, cluster: str) -> list[str]:
    """One job's account."""
    job = view.job
    head = [
        f"Job ID: {job.id}",
        *([f"Array Job ID: {view.id}"] if job.array_job_id is not None else []),
        f"Cluster: {cluster}",
        f"User/Group: {job.user}/{jobs_as.group(job.user)[0]}",
        f"State: {view.state}" + (f" (exit code {job.exit_code or 0})" if job.state in FINAL_STATES else ""),
    ]
    if view.pending or job.started_at is None:
        return [*head, "Efficiency not available for jobs in the PENDING state."]
    head += ["Cores: 1"] if view.cpus == 1 else ["Nodes: 1", f"Cores per node: {view.cpus}"]
    warning = (
        []
        if job.state in FINAL_STATES
        else [f"WARNING: Efficiency statistics may be misleading for {view.state} jobs."]
    )
    return [*head, *_cpu(view), *_memory(view), *_gpus(job), *warning]


def _cpu(view: View) -> list[str]:
    used = view.job.usage.cpu_seconds if view.job.usage else None
    wall = view.elapsed_s
    held = wall * view.cpus
    share = "not measured" if used is None else f"{_percent(used, held)} of {times.full(held)} core-walltime"
    return [
        f"CPU Utilized: {'not measured' if used is None else times.full(used)}",
        f"CPU Efficiency: {share}",
        f"Job Wall-clock time: {times.full(wall)}",
    ]


def _memory(view: View) -> list[str]:
    peak = view.job.usage.host_memory_peak_bytes if view.job.usage else None
    asked = view.job.memory_bytes
    lines = [f"Memory Utilized: {'not measured' if peak is None else _size(peak)}"]
    if asked:
        share = "not measured" if peak is None else _percent(peak, asked)
        lines.append(f"Memory Efficiency: {share} of {_size(asked)}")
    return lines


def _gpus(job: Job) -> list[str]:
    if not job.gpus:
        return []
    usage = job.usage
    if usage is None or usage.utilization_percent is None:
        return [f"GPUs: {job.gpus}", "GPU Efficiency: not measured"]
    held = f"{times.full(usage.gpu_seconds)} GPU-walltime"
    lines = [
        f"GPUs: {job.gpus}",
        f"GPU Utilized: {times.full(usage.gpu_busy_seconds)}",
        f"GPU Efficiency: {usage.utilization_percent:.2f}% of {held}",
    ]
    if usage.memory_peak_bytes is not None:
        lines.append(f"GPU Memory Utilized: {_size(usage.memory_peak_bytes)}")
    if usage.energy_kwh is not None:
        lines.append(f"GPU Energy: {usage.energy_kwh:.3f} kWh")
    said = f" ({usage.sentence})" if usage.sentence else ""
    return [*lines, f"Verdict: {usage.verdict.value}{said}"]


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.2f}%" if whole else "0.00%"


def _size(count: int) -> str:
    value, place = float(count), 0
    while value >= 1024 and place < len(_SIZES) - 1:
        value, place = value / 1024, place + 1
    return f"{value:.2f} {_SIZES[place]}"
