"""What words of a command line mean, for all commands: each reader says in a sentence what it could not read."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import TypeVar

from agent.api.commandline import Parser
from agent.api.errors import StokerError
from agent.api.refs import JobRef

T = TypeVar("T")


def where(parser: argparse.ArgumentParser, default: object) -> None:
    """The options that every command has, before and after its name."""
    parser.add_argument(
        "-H", "--host", type=said, metavar="HOST", default=default, help="reach the cluster by ssh: user@host[:port]"
    )
    parser.add_argument(
        "--socket", type=said, metavar="PATH", default=default, help="of the hub or agent on this machine"
    )
    parser.add_argument("--json", action="store_true", default=default or False, help="print JSON")


def common() -> Parser:
    """The parent of every command's own parser."""
    made = Parser(add_help=False)
    where(made, argparse.SUPPRESS)
    return made


def examples(parser: argparse.ArgumentParser, *lines: str) -> None:
    """Put examples under a command's help."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "\n".join(["examples:", *(f"  {line}" for line in lines)])


def jobs_argument(parser: argparse.ArgumentParser, *, nargs: str = "+") -> None:
    """The jobs that a command is about."""
    parser.add_argument("job_refs", type=jobs, metavar="JOB", nargs=nargs, help="17, 17_3, 17_[1-5], n1:17")


def said(text: str) -> str:
    """A word that may not be empty."""
    if not text.strip():  # `-H "$HEAD"` with HEAD unset must not go to the cluster of this machine
        raise argparse.ArgumentTypeError("is empty; is a variable not set?")
    return text


def job(text: str) -> JobRef:
    """One job."""
    return _read(JobRef.parse, text)


def jobs(text: str) -> list[JobRef]:
    """Jobs: `17_[1-5]` are five."""
    from tui import arrays

    return _read(arrays.refs, text)


def count(text: str) -> int:
    """A number of things."""
    if not (text.isascii() and text.isdecimal()) or len(text) > 9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a count; write 0 or more")
    return int(text)


def page(text: str) -> int:
    """The number of a page."""
    if not (text.isascii() and text.isdecimal()) or len(text) > 9 or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no page; the first is 1")
    return int(text)


def moment(text: str) -> int:
    """A moment in the past, Unix seconds."""
    from tui import moments

    return _read(lambda value: moments.read(value, time.time()), text)


def _read(reader: Callable[[str], T], text: str) -> T:
    try:
        return reader(text)
    except StokerError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
