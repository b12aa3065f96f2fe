"""The options of `stoker-agent selftest`. Apart from the rest: every start of `stoker-agent` makes its parser."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

DESCRIPTION = """\
The acceptance test of this machine's GPUs: inventory against the order, matrix products per dtype, memory, bus and
links against the model's data sheet, and a burn-in with every result compared. Only drained GPUs are tested; no
clock, limit or mode is touched. The rates need torch (the extra `train`, or --python). Without a GPU the CPU path is
tested, and said to be."""
EPILOG = """\
exit codes: 0 PASS; 1 FAIL, or --verify refused the report; 3 no GPU was tested; 64 usage; 65 the order cannot be read;
73 the report cannot be written; 130 interrupted"""
FULL_BURN_MIN = 10.0
BURN_MAX_MIN = 7 * 24 * 60.0


def add_options(parser: argparse.ArgumentParser) -> None:
    """Put the verb's options on its parser."""
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    depth = parser.add_mutually_exclusive_group()
    depth.add_argument("--quick", action="store_true", help="a short look at each rate (default)")
    depth.add_argument(
        "--full",
        action="store_true",
        help=f"longer, every pair of GPUs, and {FULL_BURN_MIN:g} minutes of burn-in of the GPUs",
    )
    parser.add_argument("--order", type=Path, metavar="FILE", help="a TOML file of what was ordered: compare with it")
    parser.add_argument("--gpus", metavar="LIST", help="only these: indexes or UUIDs with commas between")
    parser.add_argument("--burn", type=_minutes, metavar="MINUTES", help="burn-in for so long; 0 for none")
    parser.add_argument("--python", type=Path, metavar="FILE", help="an interpreter that has torch, in place of ours")
    parser.add_argument("--force", action="store_true", help="test though no agent runs here to ask what is drained")
    parser.add_argument("--report", type=Path, metavar="FILE", help="where the signed report goes; else a file here")
    parser.add_argument("--json", action="store_true", help="print the signed report in place of the table")
    parser.add_argument("--verify", type=Path, metavar="FILE", help="test nothing: prove and show a report")
    parser.add_argument("--key", metavar="HEX", help="with --verify: only this node's key will do")


def _minutes(text: str) -> float:
    value = float(text)
    if not math.isfinite(value) or not 0 <= value <= BURN_MAX_MIN:
        raise ValueError
    return value


_minutes.__name__ = "number of minutes"  # argparse says: invalid number of minutes value: 'x'
