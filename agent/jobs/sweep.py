"""Sweeps: named parameters with their values, of which each combination becomes one task of an array.

Rules kept here: a parameter becomes a variable of the job's environment, so its name is one, and none of those that
decide which code runs, that tell the job who and where it is, or that are ours.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from agent.jobs import arrays, grammar
from agent.jobs.errors import SpecError
from agent.jobs.said import shown
from agent.jobs.spec import ArraySpec

_FIELD = "$.sweep"
_PARAMETER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}", re.ASCII)
_TAKEN = re.compile(
    r"(BASH_|CUDA_|GCONV_|GLIBC_|JOB_|LD_|MALLOC_|NVIDIA_|PYTHON|SBATCH_|SLURM|STOKER_).*"
    r"|BASHOPTS|ENV|HOME|IFS|LOGNAME|PATH|PS4|PWD|SHELL|SHELLOPTS|TMPDIR|USER"
)


def array_of(sweep: Mapping[str, tuple[str, ...]]) -> ArraySpec:
    """The array that a sweep makes.

    Raises:
        SpecError: a name or a value cannot be used, or there are too many combinations.
    """
    for name, values in sweep.items():
        _check_name(name)
        _check_values(name, values)
    count = math.prod(len(values) for values in sweep.values())
    if count > arrays.MAX_TASK:
        raise SpecError(f"the sweep has {count} combinations; the most possible is {arrays.MAX_TASK}", _FIELD)
    tasks = tuple(range(count))
    return ArraySpec(tasks=tasks, text=arrays.show(tasks))


def _check_name(name: str) -> None:
    what = f"the sweep's parameter {shown(name)!r}"
    if not _PARAMETER.fullmatch(name):
        raise SpecError(f"{what} is no name; use letters, digits and _, and no digit first", _FIELD)
    if _TAKEN.fullmatch(name):
        raise SpecError(f"{what} would override a variable that is not the job's to set; name it otherwise", _FIELD)


def _check_values(name: str, values: tuple[str, ...]) -> None:
    what = f"the sweep's parameter {name}"
    if not values:
        raise SpecError(f"{what} has no values; write {name}=VALUE,VALUE…", _FIELD)
    if len(set(values)) < len(values):
        raise SpecError(f"{what} has a value twice; name each once", _FIELD)
    for value in values:
        if not value.isprintable():
            raise SpecError(f"{what} has a value with a control character: {shown(value)!r}", _FIELD)
        try:
            grammar.exec_string(f"{name}={value}")
        except grammar.GrammarError as error:
            raise SpecError(f"a value of {what} {error}", _FIELD) from None
