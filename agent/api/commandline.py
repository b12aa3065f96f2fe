"""What the programs' command lines share: how wrong words are answered. What comes around the work is in `program`.

Rules kept here: a word that is not known is answered in one line with the one that was probably meant.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from agent.api import program
from agent.api.program import BROKEN_PIPE as BROKEN_PIPE
from agent.api.program import INTERRUPTED as INTERRUPTED
from agent.api.program import meant as meant
from agent.api.program import printable as printable
from agent.api.program import run as run
from agent.api.program import say as say


class Parser(argparse.ArgumentParser):
    """argparse that suggests; its subparsers do too, each with its own options."""

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """As argparse does it, but nothing is left over: what is not known is refused here, where the options are."""
        words = sys.argv[1:] if args is None else list(args)
        if "-" in self.prefix_chars:
            self._refuse_unknown(_leading_options(words))
        found, extra = super().parse_known_args(words, namespace)
        self._refuse_unknown(extra)
        if extra:
            self.error(f"{extra[0]!r} is one word too many")
        return found, extra

    def _get_formatter(self) -> argparse.HelpFormatter:
        # With the width: argparse makes one for every option, and would ask `shutil` each time.
        width = program.columns(sys.stdout) - 2
        return self.formatter_class(prog=self.prog, width=width)  # type: ignore[call-arg]  # typeshed: the name alone

    def error(self, message: str) -> NoReturn:
        """Say it in one line and end."""
        say(f"{self.prog}: {printable(message)}   ({self.prog} --help)")
        raise SystemExit(program.USAGE)

    def _refuse_unknown(self, words: Iterable[str]) -> None:
        known = self._option_string_actions
        for word in words:
            name = word.partition("=")[0]
            if not name.startswith("-") or name[:2] in known or any(each.startswith(name) for each in known):
                continue
            self.error(f"{name!r} is not an option{meant(name, known)}")

    def _print_message(self, message: str, file: Any = None) -> None:
        print(message, end="", file=file or sys.stderr)  # argparse's own hides that it cannot be written

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        known = [str(each) for each in action.choices]
        noun = action.metavar.lower() if isinstance(action.metavar, str) else f"value of {_name(action)}"
        if "|" in noun:
            self.error(f"{value!r} is none of {', '.join(known)}{meant(str(value), known)}")
        self.error(f"{value!r} is no {noun}{meant(str(value), known) or '; known: ' + ', '.join(known)}")


def _leading_options(words: Sequence[str]) -> list[str]:
    """The long options before the first other word: refused first, lest a value of one is taken for a command."""
    leading = []
    for word in words:
        if not word.startswith("--") or word == "--":
            break
        leading.append(word)
    return leading


def _name(action: argparse.Action) -> str:
    return "/".join(action.option_strings) or action.dest
