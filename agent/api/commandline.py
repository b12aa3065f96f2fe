"""What the programs' command lines share: wrong words, and standard streams that are closed, full or gone.

Rules kept here: a word that is not known is answered in one line with the one that was probably meant; output that
cannot be written is a failure that is told, and never a traceback; whoever stops reading, as `head` does, ends us
quietly.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, NoReturn, TextIO

INTERRUPTED = 130
BROKEN_PIPE = 141
"""128 and the signal's number, as a shell says it: SIGINT and SIGPIPE."""


class Parser(argparse.ArgumentParser):
    """argparse that suggests; its subparsers do too, each with its own options."""

    usage_code: ClassVar[int] = 2
    """Exit code of wrong usage."""

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

    def error(self, message: str) -> NoReturn:
        """Say it in one line and end."""
        say(f"{self.prog}: {printable(message)}   ({self.prog} --help)")
        raise SystemExit(self.usage_code)

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
        self.error(f"{value!r} is no {noun}{meant(str(value), known) or '; known: ' + ', '.join(known)}")


def meant(word: str, known: Iterable[str]) -> str:
    """`; did you mean jobs?`, or nothing when no known word is close."""
    import difflib  # only for a mistake: it costs every start 5 ms

    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


def run(program: str, work: Callable[[], int]) -> int:
    """Do a program's work and write out what it printed; its exit code.

    An `OSError` that names no file is taken for trouble with the output: of all else, callers make sentences.
    """
    _open_streams()
    try:
        try:
            code = work()
        except SystemExit as end:  # argparse: --help, --version
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        sys.stdout.flush()  # here, where a reader that has gone is understood, and not at the interpreter's end
        return code
    except BrokenPipeError:
        _discard(sys.stdout)
        return BROKEN_PIPE
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:
        _discard(sys.stdout)
        where = f"{error.filename}" if error.filename else "cannot write the output"
        say(f"{program}: {printable(where)}: {error.strerror or error}")
        return 1


def say(line: str) -> None:
    """Print on stderr, if there is anybody to read it."""
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:
        _discard(sys.stderr)


def printable(text: str) -> str:
    """Text without anything that acts on a terminal."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


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


def _open_streams() -> None:
    """Put /dev/null in the place of standard streams that are closed, lest a socket opened later becomes descriptor 1.

    Input and output are opened the wrong way round: reading and writing fail as they did.
    """
    if sys.stdin is None:
        sys.stdin = os.fdopen(os.open(os.devnull, os.O_WRONLY))
    if sys.stdout is None:
        sys.stdout = os.fdopen(os.open(os.devnull, os.O_RDONLY), "w")
    if sys.stderr is None:
        sys.stderr = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")


def _discard(stream: TextIO) -> None:
    """Let what is still unwritten, and Python's own flush at exit, go nowhere."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)
