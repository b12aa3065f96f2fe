"""What a submission says, option by option, and where it says it.

Rules kept here: a flag wins over an `SBATCH_*` variable, which wins over the script; of the same option said twice at
one place the last one counts; an option that this version does not honour is refused by name and place, all of them at
once; what tells the submitting command what to do must stand where that command reads it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from agent.api.options import OPTIONS, Flag, Option, OptionError, Takes, scan
from agent.api.types import SubmitRequest
from agent.jobs import grammar, script
from agent.jobs.errors import SpecError

_FOR_THE_COMMAND = frozenset({"help", "parsable", "test-only", "usage", "version", "wait", "wrap"})
"""Not `quiet` and `verbose`: what they change is worth no refusal."""
_MAX_OPTIONS = 1000
_MAX_VALUE = 32 * 1024
"""Far above what anybody writes, and low enough that no submission keeps the agent busy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """An option with its value and the place where it was said."""

    option: Option
    value: str | None
    field: str
    label: str
    """How a message begins: `train.sh:7: --time=abc`."""

    def read(self, reader: Callable[[str], Any]) -> Any:
        """What the value means.

        Raises:
            SpecError: nothing, or it is too long to be meant.
        """
        try:
            if self.value is not None and len(self.value) > _MAX_VALUE:
                raise grammar.GrammarError(f"is longer than {_MAX_VALUE} characters")
            return reader(self.value or "")
        except grammar.GrammarError as error:
            raise SpecError(f"{self.label} {error}", self.field) from None


class Said:
    """All settings of a submission, in the order in which later ones win."""

    def __init__(self, settings: Sequence[Setting]) -> None:
        self._settings = settings
        self._last = {setting.option.long: setting for setting in settings}

    def setting(self, name: str) -> Setting | None:
        return self._last.get(name)

    def get(self, name: str, reader: Callable[[str], Any], default: Any) -> Any:
        setting = self._last.get(name)
        return default if setting is None else setting.read(reader)

    def place(self, name: str) -> str:
        """An option that was said, as messages name it."""
        return self._last[name].label

    def refusal(self, name: str, text: str) -> SpecError:
        """An error about an option that was said."""
        setting = self._last[name]
        return SpecError(f"{setting.label} {text}", setting.field)

    def contradiction(self, name: str, other: str, advice: str) -> SpecError:
        """Two options that cannot both be meant."""
        return self.refusal(name, f"contradicts {self._last[other].label}; {advice}")

    def requeue(self) -> bool:
        last = [each.option.long for each in self._settings if each.option.long in ("requeue", "no-requeue")]
        return bool(last) and last[-1] == "requeue"


def collect(request: SubmitRequest, script_name: str) -> Said:
    settings = [
        *_at_most(_from_script(request.script, script_name), script_name),
        *_from_environment(request.env),
        *_at_most(_from_flags(request.flags), "$.flags"),
    ]
    _refuse_unsupported([setting for setting in settings if not setting.option.honoured])
    said = Said(settings)
    if said.setting("ignore-pbs") is None:
        _refuse_foreign(request.script, script_name)
    return said


def _at_most(settings: Iterator[Setting], where: str) -> Iterator[Setting]:
    for number, setting in enumerate(settings, start=1):
        if number > _MAX_OPTIONS:
            raise SpecError(f"{setting.label} is one option too many; the most is {_MAX_OPTIONS}", where)
        yield setting


def _refuse_unsupported(settings: Sequence[Setting]) -> None:
    """Name them all at once: whoever brings a script from another cluster wants to mend it once."""
    if not settings:
        return
    verb, them = ("is", "it") if len(settings) == 1 else ("are", "them")
    named = ", ".join(setting.label for setting in settings)
    raise SpecError(f"{named} {verb} not supported by this node's engine; remove {them}", settings[0].field)


def _refuse_foreign(text: str, name: str) -> None:
    """Directives of other systems, which sbatch honours and we do not: they are not passed over in silence."""
    found = next(script.foreign_directives(text), None)
    if found is not None:
        number, mark = found
        what = f"{mark} lines are not read by this node's engine; write #SBATCH, or submit with --ignore-pbs"
        raise SpecError(f"{name}:{number}: {what}", f"{name}:{number}")


def _from_script(text: str, name: str) -> Iterator[Setting]:
    for number, words in script.directives(text, name):
        place = f"{name}:{number}"
        for flag in _scan(words, place, f"{place}: "):
            setting = _setting(flag, place, f"{place}: ")
            if flag.option.long in _FOR_THE_COMMAND:
                what = "is for the submitting command, which does not read the script; write it on its command line"
                raise SpecError(f"{setting.label} {what}", place)
            yield setting


def _from_environment(env: dict[str, str]) -> Iterator[Setting]:
    for option in OPTIONS:
        value = env.get(option.variable or "")
        if value is not None and option.variable and not _is_off(option, value):
            label = f"{option.variable}={shown(value)}"
            yield Setting(option=option, value=value, field=option.variable, label=label)


def _is_off(option: Option, value: str) -> bool:
    """sbatch: a variable of an option without a value counts when it is empty, `yes` or a number other than 0."""
    if option.takes is not Takes.NONE:
        return False
    return not (value in ("", "yes") or (re.fullmatch(r"[+-]?\d+", value, re.ASCII) and int(value[:20]) != 0))


def _from_flags(words: Sequence[str]) -> Iterator[Setting]:
    for flag in _scan(words, None, ""):
        yield _setting(flag, str(flag.option), "")


def _scan(words: Sequence[str], place: str | None, prefix: str) -> list[Flag]:
    if len(words) > 2 * _MAX_OPTIONS:
        raise SpecError(f"{prefix}there are {len(words)} words; the most is {2 * _MAX_OPTIONS}", place or "$.flags")
    try:
        flags, used = scan(words)
    except OptionError as error:
        raise SpecError(f"{prefix}{error.message}", place or error.word) from None
    if used < len(words):
        extra = words[used]
        several = extra.startswith(":") or extra in ("hetjob", "packjob")
        what = "heterogeneous jobs need the cluster engine" if several else "it is not an option"
        raise SpecError(f"{prefix}{shown(extra)!r} is not expected here: {what}", place or f"$.flags[{used}]")
    return flags


def _setting(flag: Flag, field: str, prefix: str) -> Setting:
    label = f"{prefix}{flag.option}" + ("" if flag.value is None else f"={shown(flag.value)}")
    return Setting(option=flag.option, value=flag.value, field=field, label=label)


def shown(value: str) -> str:
    """A value as a message may show it: short, and nothing in it that acts on a terminal."""
    text = value if len(value) <= 60 else f"{value[:57]}…"
    return text if text.isprintable() else repr(text)[1:-1]
