"""How Slurm's commands read their command lines, and how they say what is wrong with one.

Rules kept here: options are read as getopt_long(3) reads them, among other words too (but for `sbatch`, whose own
scanner is `agent.api.options`); an option of Slurm's that we cannot honour is refused by name; a sentence begins as
Slurm's does, `squeue: error: …`, because tools look for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import msgspec

from agent.api import program
from agent.api.errors import StokerError

if TYPE_CHECKING:
    from agent.api.options import OptionError


class ToolError(StokerError):
    """A command ends with `code` after its sentence. `bare`: as it stands, as some of Slurm's are."""

    def __init__(self, message: str, *, code: int = 1, bare: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.bare = bare


class Words(msgspec.Struct):
    """A command line taken apart."""

    said: dict[str, list[str]] = msgspec.field(default_factory=dict)
    """Long name → values in order; a switch has the value ``."""
    rest: list[str] = msgspec.field(default_factory=list)

    def __contains__(self, name: str) -> bool:
        return name in self.said

    def last(self, name: str) -> str | None:
        """The value said last."""
        return self.said[name][-1] if name in self.said else None

    def listed(self, *names: str) -> list[str]:
        """All values of options that take lists, parted at their commas."""
        found = [each for name in names for value in self.said.get(name, []) for each in value.split(",")]
        return [each.strip() for each in found if each.strip()]


class _Option(msgspec.Struct, frozen=True):
    name: str
    takes: str
    """`=` a value, `?` one when attached, empty none."""
    refused: bool


class Options:
    """A command's options, written `user:u=`, `steps:s?`, `noheader:h`; `clusters:M=!` is refused by name."""

    def __init__(self, spec: str) -> None:
        self._long: dict[str, _Option] = {}
        self._short: dict[str, _Option] = {}
        for word in spec.split():
            names, refused = word.rstrip("!"), word.endswith("!")
            takes = names[-1] if names[-1] in "=?" else ""
            name, _, letter = names.rstrip("=?").partition(":")
            option = _Option(name, takes, refused)
            self._long[name] = option
            if letter:
                self._short[letter] = option

    def read(self, argv: Sequence[str]) -> Words:
        """Take a command line apart.

        Raises:
            ToolError: a word is no option, lacks its value, or is refused.
        """
        words, index = Words(), 0
        while index < len(argv):
            word = argv[index]
            following = argv[index + 1] if index + 1 < len(argv) else None
            index += 1
            if word == "--":
                words.rest += argv[index:]
                break
            if word.startswith("--"):
                index += self._read_long(word, following, words)
            elif word.startswith("-") and len(word) > 1:
                index += self._read_short(word, following, words)
            else:
                words.rest.append(word)
        return words

    def _read_long(self, word: str, following: str | None, words: Words) -> int:
        given, equals, attached = word[2:].partition("=")
        option = self._find(given)
        if equals and not option.takes:
            raise _wrong(f"option '--{option.name}' doesn't allow an argument")
        if equals or option.takes != "=":
            return _put(words, option, attached, 0)
        if following is None:
            raise _wrong(f"option '--{option.name}' requires an argument")
        return _put(words, option, following, 1)

    def _read_short(self, word: str, following: str | None, words: Words) -> int:
        for place, letter in enumerate(word[1:], start=2):
            option = self._short.get(letter)
            if option is None:
                raise _wrong(f"invalid option -- '{letter}'")
            attached = word[place:]
            if option.takes == "=" and not attached:
                if following is None:
                    raise _wrong(f"option requires an argument -- '{letter}'")
                return _put(words, option, following, 1)
            if option.takes:
                return _put(words, option, attached, 0)
            _put(words, option, "", 0)
        return 0

    def _find(self, given: str) -> _Option:
        if given in self._long:
            return self._long[given]
        starting = [name for name in self._long if given and name.startswith(given)]
        if len(starting) == 1:
            return self._long[starting[0]]
        if starting:
            several = " ".join(f"'--{name}'" for name in starting)
            raise _wrong(f"option '--{given}' is ambiguous; possibilities: {several}")
        raise _wrong(f"unrecognized option '--{given}'{_meant(given, self._long)}")


def refused(error: OptionError) -> ToolError:
    """What is wrong with a word of sbatch's, srun's or salloc's, as getopt_long says it; our hint stays."""
    said, word = error.message, error.word
    hint = f"; did you mean {said.partition('; did you mean ')[2]}" if "; did you mean " in said else ""
    long, letter = word.startswith("--"), word.lstrip("-")[:1]
    if " is not an option of sbatch" in said:
        bad = re.match(r"'-(.)'", said)
        sentence = f"unrecognized option '{word}'{hint}" if long else f"invalid option -- '{bad[1] if bad else letter}'"
    elif " needs a value" in said:
        sentence = f"option '{word}' requires an argument" if long else f"option requires an argument -- '{letter}'"
    elif " takes no value" in said:
        sentence = f"option '{word.partition('=')[0]}' doesn't allow an argument"
    elif " could be " in said:
        sentence = f"option '{word}' is ambiguous; it {said.partition(' ')[2]}"
    else:
        sentence = said
    return ToolError(f'TOOL: {sentence}\nTry "TOOL --help" for more information', code=255, bare=True)


def complain(tool: str, error: StokerError) -> int:
    """Say why a command fails; the exit code."""
    from tui import safe

    sentence = safe.text(str(error))
    if isinstance(error, ToolError) and error.bare:
        program.say("\n".join(safe.text(line) for line in str(error).replace("TOOL", tool).split("\n")))
    else:
        program.say(f"{tool}: error: {sentence}")
    return error.code if isinstance(error, ToolError) else 1


def _put(words: Words, option: _Option, value: str, taken: int) -> int:
    if option.refused:
        raise ToolError(f"--{option.name} is not offered here")
    words.said.setdefault(option.name, []).append(value)
    return taken


def _meant(given: str, known: Iterable[str]) -> str:
    import difflib  # only for a mistake: it costs every start 5 ms

    close = difflib.get_close_matches(given, list(known), n=1, cutoff=0.75)
    return f"; did you mean --{close[0]}?" if close else ""


def _wrong(sentence: str) -> ToolError:
    return ToolError(f'TOOL: {sentence}\nTry "TOOL --help" for more information', bare=True)
