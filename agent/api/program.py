"""A program and its standard streams, which may be closed, full or gone. Without argparse, which costs 10 ms.

Rules kept here: output that cannot be written is a failure that is told, and never a traceback; whoever stops reading,
as `head` does, ends us quietly.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterable
from typing import TextIO

INTERRUPTED = 130
BROKEN_PIPE = 141
"""128 and the signal's number, as a shell says it: SIGINT and SIGPIPE."""

USAGE = os.EX_USAGE
CONFIG = os.EX_CONFIG
"""64 for words that are not understood and 78 for a configuration, sysexits(3): the same of all our programs, and other
than 1 and 2, which jobs end with. What has one of Slurm's names ends as Slurm's does."""

_COLUMNS = 80
_OBJECTS = 100_000
"""New ones between two searches; Python's own is 700. A search among so many takes 10 ms."""


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
        gc.freeze()  # or that end looks through all that was loaded once more, for a tenth of what a command costs
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


def collect_seldom() -> None:
    """Let Python look for garbage a hundred times less often: loading makes none, and the search was 5 % of a command.

    What follows a log for days is served as well: most is freed by its count of references, without any search.
    """
    gc.set_threshold(_OBJECTS)


def say(line: str) -> None:
    """Print on stderr, if there is anybody to read it."""
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:
        _discard(sys.stderr)


def columns(stream: TextIO | None) -> int:
    """Width of a terminal, as `shutil` tells it, which costs 3 ms; of what is none, 80 unless $COLUMNS says more.

    A program that was started with its stdout closed has `None` there.
    """
    said = os.environ.get("COLUMNS", "")
    if said.isdecimal() and int(said) > 0:
        return int(said)
    try:
        return (os.get_terminal_size(stream.fileno()).columns or _COLUMNS) if stream else _COLUMNS
    except (OSError, ValueError):
        return _COLUMNS


def printable(text: str) -> str:
    """Text without anything that acts on a terminal."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def meant(word: str, known: Iterable[str]) -> str:
    """`; did you mean jobs?`, or nothing when no known word is close."""
    import difflib  # only for a mistake: it costs every start 5 ms

    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


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
