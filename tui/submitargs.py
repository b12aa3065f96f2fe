"""The words after `stoker submit`: our few options among sbatch's, up to the script.

Rules kept here: reading stops at the script, what follows is its own; a word that an sbatch option takes as its value
is never mistaken for one of ours; ours are those that sbatch lacks, and `--wait`, which means the same in both.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from agent.api.errors import StokerError
from agent.api.options import OPTIONS, Flag, OptionError, scan

_FLAGS = {"--json": "json", "--wait": "wait", "-W": "wait", "--help": "help", "-h": "help"}
_VALUES = {"--node": "node", "--key": "key", "--host": "host", "--socket": "socket"}


@dataclass(slots=True, kw_only=True)
class SubmitWords:
    """What was asked for; `rest` is what sbatch would be given."""

    rest: list[str]
    json: bool = False
    wait: bool = False
    help: bool = False
    node: str | None = None
    key: str | None = None
    host: str | None = None
    socket: str | None = None

    @classmethod
    def read(cls, words: Sequence[str]) -> SubmitWords:
        """Take our options out.

        Raises:
            StokerError: an option has no value or is not known, or no script is named.
        """
        found = cls(rest=[])
        index = 0
        while index < len(words) and words[index] != "--" and words[index].startswith("-") and words[index] != "-":
            index += found._take(words[index], words[index + 1] if index + 1 < len(words) else None)
        found.rest += words[index:]
        if index >= len(words) and not found.help:
            raise StokerError(_no_script(scan(found.rest)[0]))
        return found

    def _take(self, word: str, following: str | None) -> int:
        """Take one option; how many words it was."""
        name, equals, attached = word.partition("=")
        if word in _FLAGS:
            setattr(self, _FLAGS[word], True)
            return 1
        if name in _VALUES:
            value = attached if equals else following
            if not value:
                raise StokerError(f"{name} needs a value")
            setattr(self, _VALUES[name], value)
            return 1 if equals else 2
        if following is None:
            _scan(word)
            self.rest.append(word)
            return 1
        # Asked with a word after it that is no option, `scan` tells whether this one takes that as its value.
        used = _scan(word, "value")
        self.rest += [word, following][:used]
        return used


def _scan(*words: str) -> int:
    """How many words an option of sbatch takes; one that is none is perhaps meant to be ours.

    Raises:
        StokerError: it is not an option.
    """
    try:
        return scan(words)[1]
    except OptionError as error:
        name = error.word.partition("=")[0]
        nearest = difflib.get_close_matches(name, [*_FLAGS, *_VALUES, *map(str, OPTIONS)], n=1)
        if not nearest or nearest[0] not in (*_FLAGS, *_VALUES):
            raise
        raise StokerError(f"{name!r} is not an option; did you mean {nearest[0]}?") from error


def _no_script(flags: Sequence[Flag]) -> str:
    """What to say where the options were all; `--wrap` is one with which sbatch needs no script."""
    refused = next((flag.option for flag in flags if not flag.option.honoured), None)
    if refused is None:
        return "no job script is named; write: stoker submit [sbatch options] SCRIPT [ARGS]"
    instead = "; give the commands as a script on standard input: stoker submit -" if refused.long == "wrap" else ""
    return f"{refused} is not supported{instead or '; leave it out, and name a job script'}"
