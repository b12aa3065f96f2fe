"""The words after `stoker submit` and `stoker run`: our few options among sbatch's, up to the script.

Rules kept here: reading stops at the script, what follows is its own; a word that an sbatch option takes as its value
is never mistaken for one of ours; ours are those that sbatch lacks, and those that are the command's and not the job's
in sbatch too (`--wait`, `--wrap`, `--test-only`, `--parsable`, `--quiet`).
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from agent.api.errors import StokerError
from agent.api.options import OPTIONS, Flag, OptionError, scan

_COMMON_FLAGS = {"--help": "help", "-h": "help"}
_COMMON_VALUES = {"--node": "node", "--key": "key", "--host": "host", "--socket": "socket", "--wrap": "wrap"}
_FLAGS = {
    "submit": {
        "--json": "json",
        "--wait": "wait",
        "-W": "wait",
        "--dry-run": "dry_run",
        "--test-only": "dry_run",
        "--parsable": "parsable",
        "--quiet": "quiet",
        "-Q": "quiet",
        "--overlap": "overlap",
    }
    | _COMMON_FLAGS,
    "run": {"--json": "json"} | _COMMON_FLAGS,
}
_VALUES = {
    "submit": {"--sweep": "sweep", "--cron": "cron", "--missed": "missed"} | _COMMON_VALUES,
    "run": _COMMON_VALUES,
}
_MISSED = ("run", "skip")


class SubmitWords(msgspec.Struct, kw_only=True):
    """What was asked for; `rest` is what sbatch would be given, without the script where `wrap` or `command` is one."""

    verb: str = "submit"
    rest: list[str]
    json: bool = False
    wait: bool = False
    help: bool = False
    dry_run: bool = False
    overlap: bool = False
    parsable: bool = False
    """The number alone."""
    quiet: bool = False
    node: str | None = None
    key: str | None = None
    host: str | None = None
    socket: str | None = None
    wrap: str | None = None
    """Commands for a shell, in the place of a script."""
    command: list[str] | None = None
    """`stoker run -- CMD ARGS`: a program with its words, in the place of a script."""
    sweep: list[str] = msgspec.field(default_factory=list)
    """`name=v1,v2` as typed."""
    cron: str | None = None
    missed: str = "skip"

    @classmethod
    def read(cls, words: Sequence[str], verb: str = "submit") -> SubmitWords:
        """Take our options out.

        Raises:
            StokerError: an option has no value or is not known, options do not go together, or no script is named.
        """
        found = cls(rest=[], verb=verb)
        index = 0
        while index < len(words) and words[index] != "--" and words[index].startswith("-") and words[index] != "-":
            index += found._take(words[index], words[index + 1] if index + 1 < len(words) else None)
        if not found.help:
            found._take_script(words[index:])
        return found

    def _take(self, word: str, following: str | None) -> int:
        """Take one option; how many words it was."""
        name, equals, attached = word.partition("=")
        if word in _FLAGS[self.verb]:
            setattr(self, _FLAGS[self.verb][word], True)
            return 1
        if name in _VALUES[self.verb]:
            value = attached if equals else following
            if not value:
                raise StokerError(f"{name} needs a value")
            self._set(_VALUES[self.verb][name], value)
            return 1 if equals else 2
        if following is None:
            self._scan(word)
            self.rest.append(word)
            return 1
        # Asked with a word after it that is no option, `scan` tells whether this one takes that as its value.
        used = self._scan(word, "value")
        self.rest += [word, following][:used]
        return used

    def _set(self, name: str, value: str) -> None:
        if name == "sweep":
            self.sweep.append(value)
            return
        if name == "missed" and value not in _MISSED:
            raise StokerError(f"--missed is run or skip, not {value!r}")
        setattr(self, name, value)

    def _take_script(self, words: Sequence[str]) -> None:
        """The script and its words, or what stands in its place."""
        if self.verb == "run" and words[:1] == ["--"] and self.wrap is None:
            self.command, words = list(words[1:]), ()
            if not self.command:
                raise StokerError("no command follows --; write: stoker run -- CMD ARGS")
        elif self.wrap is not None and words:
            raise StokerError(f"--wrap has the commands already; {words[0]!r} would be a script, leave one of them out")
        elif self.wrap is None and not [word for word in words if word != "--"][:1]:
            raise StokerError(_no_script(self.verb, scan(self.rest)[0]))
        self.rest += words
        self._check_together()

    def _check_together(self) -> None:
        if self.cron is None and self.overlap:
            raise StokerError("--overlap is about a recurring job; name its times with --cron")
        if self.cron is not None and (self.wait or self.dry_run):
            word = "--wait" if self.wait else "--dry-run"
            raise StokerError(f"{word} does not go with --cron: the jobs are made later; leave one of them out")
        if self.dry_run and self.wait:
            raise StokerError("--wait does not go with --dry-run, which makes no job; leave one of them out")

    def _scan(self, *words: str) -> int:
        """How many words an option of sbatch takes; one that is none is perhaps meant to be ours.

        Raises:
            StokerError: it is not an option.
        """
        try:
            return scan(words)[1]
        except OptionError as error:
            import difflib  # only for a mistake: it costs every start 5 ms

            name = error.word.partition("=")[0]
            ours = [*_FLAGS[self.verb], *_VALUES[self.verb]]
            nearest = difflib.get_close_matches(name, [*ours, *map(str, OPTIONS)], n=1)
            if not nearest or nearest[0] not in ours:
                raise
            raise StokerError(f"{name!r} is not an option; did you mean {nearest[0]}?") from error


def _no_script(verb: str, flags: Sequence[Flag]) -> str:
    """What to say where the options were all."""
    refused = next((flag.option for flag in flags if not flag.option.honoured), None)
    if refused is not None:
        return f"{refused} is not supported; leave it out, and name a job script"
    if verb == "run":
        return "nothing to run is named; write: stoker run [options] SCRIPT, or stoker run [options] -- CMD ARGS"
    return "no job script is named; write: stoker submit [sbatch options] SCRIPT [ARGS], or --wrap 'COMMANDS'"
