"""From what a user asks to what a job is: `parse` reads a submission the way sbatch does.

Rules kept here: a flag wins over an `SBATCH_*` variable, which wins over the script; of the same option said twice at
one place the last one counts; an option that this version does not honour is refused by name and place, never
ignored; nothing that could harm a terminal, a path or an exec gets into a `JobSpec`.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from agent.api.options import OPTIONS, Flag, Option, OptionError, scan
from agent.api.types import SubmitRequest
from agent.jobs import grammar, script
from agent.jobs.errors import SpecError
from agent.jobs.spec import DEFAULT_OUTPUT, Export, JobSpec

_MAX_EXEC_STRING_BYTES = 128 * 1024
"""execve(2): MAX_ARG_STRLEN, the most that one argument or variable may hold, with its NUL."""


def parse(request: SubmitRequest, *, default_time_s: int | None = None) -> JobSpec:
    """Read a submission.

    Args:
        request: script, flags, environment and folder as the client sent them.
        default_time_s: the limit of a job that names none; `None` for unlimited.

    Raises:
        SpecError: it cannot be honoured; the message names the option and the flag, variable or line.
    """
    script_name = _checked("$.script_name", "the script's name", grammar.path, posixpath.basename(request.script_name))
    script.check(request.script, script_name)
    _check_exec(request)
    said = _collect(request, script_name)
    gpus = _gpus(said)
    return JobSpec(
        name=_name(said, script_name),
        script_name=script_name,
        args=request.args,
        submit_dir=request.work_dir,
        work_dir=posixpath.join(request.work_dir, said.get("chdir", grammar.path, "")).rstrip("/") or "/",
        umask=request.umask & 0o777,
        gpus=gpus.count,
        gpu_type=gpus.type if gpus.count else None,
        cpus_per_task=said.get("cpus-per-task", grammar.positive, 1),
        cpus_said=said.setting("cpus-per-task") is not None,
        memory_bytes=said.get("mem", grammar.memory_bytes, None),
        time_limit_s=said.get("time", grammar.time_limit_s, default_time_s),
        output=said.get("output", grammar.output, DEFAULT_OUTPUT),
        error=said.get("error", grammar.output, None),
        open_mode=said.get("open-mode", grammar.open_mode, None),
        requeue=said.requeue(),
        export=_export(said),
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
    if cpu_count is not None and spec.cpus_per_task > cpu_count:
        return f"asks for {_count(spec.cpus_per_task, 'CPU')}; {node} has {cpu_count}"
    if spec.gpus > len(gpus):
        return f"asks for {_count(spec.gpus, 'GPU')}; {node} has {len(gpus) or 'none'}"
    if spec.gpu_type is None:
        return None
    fitting = sum(grammar.matches_type(spec.gpu_type, name) for _, name in gpus)
    if spec.gpus <= fitting:
        return None
    names = ", ".join(sorted({name for _, name in gpus}))
    return f"asks for {_count(spec.gpus, 'GPU')} of type {spec.gpu_type}; {node} has {fitting or 'none'} ({names})"


# --- what was said, and where -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Setting:
    """An option with its value and the place where it was said."""

    option: Option
    value: str | None
    field: str
    label: str
    """How a message begins: `train.sh:7: --time=abc`."""

    def read(self, reader: Callable[[str], Any]) -> Any:
        try:
            return reader(self.value or "")
        except grammar.GrammarError as error:
            raise SpecError(f"{self.label} {error}", self.field) from None


class _Said:
    """All settings of a submission, in the order in which later ones win."""

    def __init__(self, settings: Sequence[_Setting]) -> None:
        self._settings = settings
        self._last = {setting.option.long: setting for setting in settings}

    def setting(self, name: str) -> _Setting | None:
        return self._last.get(name)

    def get(self, name: str, reader: Callable[[str], Any], default: Any) -> Any:
        setting = self._last.get(name)
        return default if setting is None else setting.read(reader)

    def requeue(self) -> bool:
        last = [each.option.long for each in self._settings if each.option.long in ("requeue", "no-requeue")]
        return bool(last) and last[-1] == "requeue"


def _collect(request: SubmitRequest, script_name: str) -> _Said:
    settings = [
        *_from_script(request.script, script_name),
        *_from_environment(request.env),
        *_from_flags(request.flags),
    ]
    said = _Said(settings)
    _refuse_unsupported([setting for setting in settings if not setting.option.honoured])
    for name in ("nodes", "ntasks"):
        said.get(name, grammar.only_one, 1)
    return said


def _refuse_unsupported(settings: Sequence[_Setting]) -> None:
    """Name them all at once: whoever brings a script from another cluster wants to mend it once."""
    if not settings:
        return
    verb, them = ("is", "it") if len(settings) == 1 else ("are", "them")
    named = ", ".join(setting.label for setting in settings)
    raise SpecError(f"{named} {verb} not supported by this node's engine; remove {them}", settings[0].field)


def _from_script(text: str, name: str) -> Iterator[_Setting]:
    for number, words in script.directives(text, name):
        place = f"{name}:{number}"
        for flag in _scan(words, place, f"{place}: "):
            yield _setting(flag, place, f"{place}: ")


def _from_environment(env: dict[str, str]) -> Iterator[_Setting]:
    for option in OPTIONS:
        if option.variable is not None and option.variable in env:
            value = env[option.variable]
            label = f"{option.variable}={_shown(value)}"
            yield _Setting(option=option, value=value, field=option.variable, label=label)


def _from_flags(words: Sequence[str]) -> Iterator[_Setting]:
    for flag in _scan(words, None, ""):
        yield _setting(flag, str(flag.option), "")


def _scan(words: Sequence[str], place: str | None, prefix: str) -> list[Flag]:
    try:
        flags, used = scan(words)
    except OptionError as error:
        raise SpecError(f"{prefix}{error.message}", place or error.word) from None
    if used < len(words):
        extra = words[used]
        what = "heterogeneous jobs need the cluster engine" if extra.startswith(":") else "it is not an option"
        raise SpecError(f"{prefix}{_shown(extra)!r} is not expected here: {what}", place or f"$.flags[{used}]")
    return flags


def _setting(flag: Flag, field: str, prefix: str) -> _Setting:
    label = f"{prefix}{flag.option}" + ("" if flag.value is None else f"={_shown(flag.value)}")
    return _Setting(option=flag.option, value=flag.value, field=field, label=label)


def _shown(value: str) -> str:
    """A value as a message may show it: short, and nothing in it that acts on a terminal."""
    text = value if len(value) <= 60 else f"{value[:57]}…"
    return text if text.isprintable() else repr(text)[1:-1]


# --- the values that need more than one look --------------------------------------------------------------------------


def _name(said: _Said, script_name: str) -> str:
    if said.setting("job-name") is not None:
        name: str = said.get("job-name", grammar.job_name, "")
        return name
    try:
        return grammar.job_name(script_name)
    except grammar.GrammarError as error:
        what = f"the script's name, which names the job, {error}"
        raise SpecError(f"{what}, or name the job: -J NAME", "$.script_name") from None


def _gpus(said: _Said) -> grammar.GpuRequest:
    by_gres, by_gpus = said.setting("gres"), said.setting("gpus")
    none = grammar.GpuRequest(count=0)
    gres: grammar.GpuRequest = by_gres.read(grammar.gres) if by_gres else none
    gpus: grammar.GpuRequest = by_gpus.read(grammar.gpus) if by_gpus else none
    if by_gres and by_gpus and gres != gpus:
        raise SpecError(f"{by_gpus.label} contradicts {by_gres.label}; say how many GPUs once", by_gpus.field)
    return gpus if by_gpus else gres


def _export(said: _Said) -> Export:
    asked: grammar.ExportRequest = said.get("export", grammar.export, grammar.ExportRequest(everything=True))
    return Export(everything=asked.everything, names=asked.names, values=dict(asked.values))


def _check_exec(request: SubmitRequest) -> None:
    """Refuse what execve(2) and chdir(2) would refuse, while the submitter is still there to read it."""
    work_dir = _checked("$.work_dir", f"the folder {_shown(request.work_dir)!r}", grammar.path, request.work_dir)
    if not work_dir.startswith("/"):
        raise SpecError(f"the folder {_shown(work_dir)!r} is not absolute; send the full path", "$.work_dir")
    for index, argument in enumerate(request.args):
        _checked(f"$.args[{index}]", f"argument {index + 1} of the script", _exec_string, argument)
    for name, value in request.env.items():
        if not name or "=" in name:
            raise SpecError(f"the environment has a variable called {_shown(name)!r}, which is no name", "$.env")
        _checked("$.env", f"the environment variable {_shown(name)}", _exec_string, f"{name}={value}")


def _exec_string(text: str) -> str:
    if "\0" in text:
        raise grammar.GrammarError("holds a NUL, which no program can be given")
    if grammar.utf8_length(text) >= _MAX_EXEC_STRING_BYTES:
        raise grammar.GrammarError(f"is longer than the {_MAX_EXEC_STRING_BYTES - 1} bytes that Linux allows")
    return text


def _checked(field: str, what: str, reader: Callable[[str], str], value: str) -> str:
    try:
        return reader(value)
    except grammar.GrammarError as error:
        raise SpecError(f"{what} {error}", field) from None


def _gib(size: int) -> str:
    return f"{size / 2**30:,.1f} GiB"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
