"""`stoker-license usage …`: its words. What they do is in `usage_cli`, loaded when needed."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Protocol

from licensing.errors import HubError


class Export(Protocol):
    """Has the hub make a report of a month (the last whole one): gives a name for its file, and the text.

    Raises:
        LicenceError: the hub's refusal, or `HubError` when it does not answer.
    """

    def __call__(self, month: str | None, *, rows: bool, config: Path | None = None) -> tuple[str, str]:
        """See above."""


def nowhere(month: str | None, *, rows: bool, config: Path | None = None) -> tuple[str, str]:
    """An `Export` of a program that has no hub."""
    raise HubError("this program reaches no hub; run it where stoker-hub runs")


def add_verbs(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Put the verbs of `usage` on its parser; gives the one that asks a hub."""
    verbs = parser.add_subparsers(dest="what", required=True, metavar="VERB")
    export: argparse.ArgumentParser = verbs.add_parser(
        "export", help="close a month and write its signed report; again, and it is the same"
    )
    export.add_argument("--month", type=_month, metavar="YYYY-MM", help="in UTC; else the last whole month")
    export.add_argument("--rows", action="store_true", help="with every row: node, GPU, salted job, start, end")
    export.add_argument("-o", "--output", metavar="FILE", help="else a name by month and number; - is standard output")
    check = verbs.add_parser("verify", help="check reports to the last row; needs no hub and no network")
    check.add_argument("files", nargs="+", metavar="FILE", help="best all there are: each names the one before it")
    check.add_argument("--licence", metavar="FILE", help="check also that they are of this licence and its site")
    check.add_argument("--json", action="store_true", help="print what was found as one JSON object")
    return export


def _month(text: str) -> str:
    if not re.fullmatch(r"20[0-9]{2}-(0[1-9]|1[0-2])", text):
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no month; write it as 2026-11")
    return text
