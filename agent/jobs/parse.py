"""From what a user asks to what a job is: `parse` reads a submission the way sbatch does.

Rules kept here: only the grammar is judged; what the site has and allows is for `agent.jobs.rules`, what the node has
for `check_fits`. Nothing that could harm a terminal, a path or an exec gets into a `JobSpec`.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Mapping, Sequence
from datetime import tzinfo
from typing import Any

import msgspec

from agent.api.options import wrapped
from agent.api.types import SubmitRequest
from agent.jobs import arrays, dependency, grammar, lists, script, shape, sweep, times
from agent.jobs.errors import SpecError
from agent.jobs.said import Said, collect, shown
from agent.jobs.spec import DEFAULT_ARRAY_OUTPUT, DEFAULT_OUTPUT, ArraySpec, Export, JobSpec

FROM_STDIN = ("stdin", "sbatch")
"""What `stoker submit -` and sbatch name a script that has no file; that of one that has is a whole path."""

_PATH_MOST = 4096
"""PATH_MAX of limits.h."""


def parse(request: SubmitRequest, *, now: int, default_time_s: int | None = None, tz: tzinfo | None = None) -> JobSpec:
    """Read a submission.

    Args:
        request: script, flags, environment and folder as the client sent them.
        now: Unix seconds, which `--begin=now+1hour` is counted from.
        default_time_s: the limit of a job that names none; `None` for unlimited.
        tz: the zone of `--begin=16:00`; `None` for the node's own.

    Raises:
        SpecError: it cannot be honoured; the message names the option and the flag, variable or line.
    """
    script_name = _checked("$.script_name", "the script's name", grammar.path, posixpath.basename(request.script_name))
    origin = "standard input" if request.script_name in FROM_STDIN else script_name
    script.check(request.script, origin)
    _check_exec(request)
    said = collect(request, origin)
    _check_wrap(said, request.script)
    work_dir = posixpath.join(request.work_dir, said.get("chdir", grammar.path, "")).rstrip("/") or "/"
    asked = JobSpec(
        name=_name(said, script_name),
        script_name=script_name,
        script_path=_script_path(request.script_name),
        args=request.args,
        submit_dir=request.work_dir,
        work_dir=work_dir,
        umask=request.umask & 0o777,
        export=_export(said),
        time_limit_s=said.get("time", grammar.time_limit_s, default_time_s),
        time_said=said.setting("time") is not None,
        test_only=said.setting("test-only") is not None,
    )
    array, parameters = _array(said, request.sweep)
    asked = msgspec.structs.replace(asked, array=array, sweep=parameters, **msgspec.structs.asdict(shape.read(said)))
    asked = _with_place(_with_order(_with_times(asked, said, now, tz), said), said, request.env)
    return _with_run(asked, said)


def _with_times(spec: JobSpec, said: Said, now: int, tz: tzinfo | None) -> JobSpec:
    """What must be so before it starts."""
    begin_at, deadline_at = _when(said, now, tz)
    return msgspec.structs.replace(
        spec,
        begin_at=begin_at,
        deadline_at=deadline_at,
        dependency=said.get("dependency", dependency.dependency, None),
        kill_on_invalid_dep=said.get("kill-on-invalid-dep", grammar.yes_or_no, False),
    )


def _with_order(spec: JobSpec, said: Said) -> JobSpec:
    """Its turn among the others; `--priority=0` is Slurm's other word for `--hold`."""
    priority: int | None = said.get("priority", grammar.priority, None)
    held = said.setting("hold") is not None or priority == 0
    return msgspec.structs.replace(
        spec,
        held="user" if held else None,
        priority=priority or None,
        nice=said.get("nice", grammar.nice, 0),
        account=said.get("account", grammar.name, None),
        partition=",".join(said.get("partition", lists.partitions, ())) or None,
        qos=said.get("qos", grammar.name, None),
        reservation=said.get("reservation", grammar.name, None),
    )


def _with_place(spec: JobSpec, said: Said, env: Mapping[str, str]) -> JobSpec:
    """What it needs of the node besides its size."""
    return msgspec.structs.replace(
        spec,
        exclusive=said.get("exclusive", grammar.exclusive, False),
        features=said.get("constraint", lists.features, ()),
        licenses=said.get("licenses", lists.licenses, ()),
        nodelist=_as_configured(said.get("nodelist", lists.nodes, ()), env),
        exclude=_as_configured(said.get("exclude", lists.nodes, ()), env),
    )


def _as_configured(names: Sequence[str], env: Mapping[str, str]) -> tuple[str, ...]:
    """What a job was told as its node's name, where that cannot be looked up (`engine.address`), is the node's."""
    told, node = env.get("SLURM_JOB_NODELIST"), env.get("SLURMD_NODENAME")
    return tuple(dict.fromkeys(node if node and name == told else name for name in names))


def _with_run(spec: JobSpec, said: Said) -> JobSpec:
    """Its files, and what is to happen while it runs and after."""
    return msgspec.structs.replace(
        spec,
        output=said.get("output", grammar.output, DEFAULT_ARRAY_OUTPUT if spec.array else DEFAULT_OUTPUT),
        error=said.get("error", grammar.output, None),
        input=said.get("input", grammar.output, None),
        open_mode=said.get("open-mode", grammar.open_mode, None),
        requeue=said.requeue(),
        signal=said.get("signal", grammar.warn_signal, None),
        mail_types=said.get("mail-type", lists.mail_types, ()),
        mail_user=said.get("mail-user", grammar.printable, None) or None,
        comment=said.get("comment", grammar.printable, None),
        wckey=said.get("wckey", grammar.printable, None),
    )


def check_fits(
    spec: JobSpec,
    gpus: Sequence[tuple[str, str]],
    node: str,
    *,
    cpu_count: int | None = None,
    memory_total_bytes: int | None = None,
) -> str | None:
    """Why the job can never run on a node that has `gpus` (UUID and name of each); `None` when it can.

    Asked at submit: a job that no wait can help is refused instead of being queued.
    """
    if memory_total_bytes is not None and (spec.memory_bytes or 0) > memory_total_bytes:
        return f"asks for {_gib(spec.memory_bytes or 0)} of memory; {node} has {_gib(memory_total_bytes)}"
    if cpu_count is not None and spec.cpus > cpu_count:
        return f"asks for {_count(spec.cpus, 'CPU')}; {node} has {cpu_count}"
    if spec.shards and not gpus:
        return f"asks for {_count(spec.shards, 'shard')} of a GPU; {node} has no GPU"
    if spec.gpus > len(gpus):
        return f"asks for {_count(spec.gpus, 'GPU')}; {node} has {len(gpus) or 'none'}"
    if spec.gpu_type is None:
        return None
    fitting = sum(grammar.matches_type(spec.gpu_type, name) for _, name in gpus)
    if spec.gpus <= fitting:
        return None
    names = ", ".join(sorted({name for _, name in gpus}))
    return f"asks for {_count(spec.gpus, 'GPU')} of type {spec.gpu_type}; {node} has {fitting or 'none'} ({names})"


# --- the values that need more than one look --------------------------------------------------------------------------


def _script_path(name: str) -> str | None:
    """Where the script was found, as far as that is told and can be shown."""
    return name if posixpath.isabs(name) and name.isprintable() and len(name) <= _PATH_MOST else None


def _name(said: Said, script_name: str) -> str:
    if said.setting("job-name") is not None:
        name: str = said.get("job-name", lambda text: grammar.job_name(text.strip()), "")  # stripped as sbatch does
        return name
    try:
        return grammar.job_name(script_name)
    except grammar.GrammarError as error:
        what = f"the script's name, which names the job, {error}"
        raise SpecError(f"{what}, or name the job: -J NAME", "$.script_name") from None


def _check_wrap(said: Said, text: str) -> None:
    """The client makes the script of `--wrap`; the flag may come along, but not with another script."""
    wrap = said.setting("wrap")
    if wrap is not None and (wrap.value or "").strip() not in text:
        raise said.refusal("wrap", f"is not what the script does; send it as the script: {wrapped('COMMAND')!r}")


def _when(said: Said, now: int, tz: tzinfo | None) -> tuple[int | None, int | None]:
    """`--begin` and `--deadline`; a begin that is over says nothing any more."""

    def moment(text: str) -> int:
        return times.at(text, now=now, tz=tz)

    begin_at: int | None = said.get("begin", moment, None)
    deadline_at: int | None = said.get("deadline", moment, None)
    if deadline_at is not None and deadline_at <= now:
        raise said.refusal("deadline", "is over already; name a time to come")
    if begin_at is not None and deadline_at is not None and begin_at >= deadline_at:
        raise said.contradiction("begin", "deadline", "the job would begin after it must have ended")
    return (begin_at if begin_at is not None and begin_at > now else None), deadline_at


def _array(said: Said, parameters: Mapping[str, tuple[str, ...]]) -> tuple[ArraySpec | None, dict[str, Any]]:
    """`--array`, or the array that a sweep makes."""
    setting = said.setting("array")
    asked = setting is not None and setting.value != ""  # sbatch: an empty one is no array
    if not parameters:
        return (said.get("array", arrays.array, None) if asked else None), {}
    if asked:
        raise said.refusal("array", "contradicts the sweep, which makes an array of its own; use only one of them")
    return sweep.array_of(parameters), dict(parameters)


def _export(said: Said) -> Export:
    asked: grammar.ExportRequest = said.get("export", grammar.export, grammar.ExportRequest(everything=True))
    return Export(everything=asked.everything, names=asked.names, values=dict(asked.values))


def _check_exec(request: SubmitRequest) -> None:
    """Refuse what execve(2) and chdir(2) would refuse, while the submitter is still there to read it."""
    work_dir = _checked("$.work_dir", f"the folder {shown(request.work_dir)!r}", grammar.path, request.work_dir)
    if not work_dir.startswith("/"):
        raise SpecError(f"the folder {shown(work_dir)!r} is not absolute; send the full path", "$.work_dir")
    for index, argument in enumerate(request.args):
        _checked(f"$.args[{index}]", f"argument {index + 1} of the script", grammar.exec_string, argument)
    for name, value in request.env.items():
        if not name or "=" in name:
            raise SpecError(f"the environment has a variable called {shown(name)!r}, which is no name", "$.env")
        _checked("$.env", f"the environment variable {shown(name)}", grammar.exec_string, f"{name}={value}")


def _checked(field: str, what: str, reader: Callable[[str], str], value: str) -> str:
    try:
        return reader(value)
    except grammar.GrammarError as error:
        raise SpecError(f"{what} {error}", field) from None


def _gib(size: int) -> str:
    return f"{size / 2**30:,.1f} GiB"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
