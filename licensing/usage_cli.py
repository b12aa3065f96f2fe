"""`stoker-license usage export | verify`: a month's usage as a signed file, and the check of such files.

`verify` needs no hub and no licence: who has the files can check them, the vendor runs the same (`check_files`). The
words of the command line are in `usage_words`; this is loaded when one of them is typed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from licensing import files, usage_file, usage_verify, verify
from licensing.document import Licence
from licensing.errors import FormatError, KeyFileError, LicenceError
from licensing.moments import day, when
from licensing.roots import pinned
from licensing.usage_check import Finding, Grade, units_told
from licensing.usage_file import MAX_BYTES, UsageFile
from licensing.usage_words import Export

EXIT_WRONG = 5
EXIT_FORK = 7


def run(args: argparse.Namespace, export: Export, *, now: int) -> int:
    """Do what was asked; the exit code.

    Raises:
        LicenceError: it was refused.
    """
    if args.what == "verify":
        licence = verify.licence_file(text_of(args.licence), pinned()).licence if args.licence else None
        return check_files(args.files, licence, now=now, as_json=args.json)
    name, text = export(args.month, rows=args.rows, config=args.config)
    return _write(args.output or name, text, args.month)


def check_files(names: Sequence[str], licence: Licence | None, *, now: int, as_json: bool = False) -> int:
    """Check reports and print what was found; the exit code, see `tell`.

    Raises:
        LicenceError: a file cannot be read, or was changed after it was signed.
    """
    reports = [_read(name) for name in names]
    found = usage_verify.check(reports, licence, now)
    if as_json:
        code = _exit(found)
        print(json.dumps({"sound": not code, "reports": [_told(each) for each in reports], "found": _plain(found)}))
        return code
    for report in sorted(reports, key=lambda each: each.usage.number):
        print(_line(report))
    return tell(found)


def tell(found: Sequence[Finding]) -> int:
    """Print what was found, for buyer and vendor alike; 0 when nothing is wrong, 5 when something is, 7 for a fork."""
    for each in found:
        print(f"{each.grade:<6} {each.report} {_printable(each.words)}")
    code = _exit(found)
    print("the reports do not hold: talk to the site that signed them" if code else "the reports hold")
    return code


def _exit(found: Sequence[Finding]) -> int:
    grades = {each.grade for each in found}
    if Grade.FORK in grades:
        return EXIT_FORK
    return EXIT_WRONG if Grade.WRONG in grades else 0


def _read(name: str) -> UsageFile:
    text = text_of(name)  # which names it
    try:
        return usage_file.read(text)
    except LicenceError as error:
        raise type(error)(f"{files.origin(name)}: {error.message}") from error


def text_of(name: str) -> str:
    """The text of a report's file, however many rows it has; `-` is standard input.

    Raises:
        FormatError: it cannot be read.
    """
    origin = files.origin(name)
    try:
        data = files.read_given_or_stdin(name, MAX_BYTES)
        if len(data) > MAX_BYTES:
            raise FormatError(f"{origin} is larger than {MAX_BYTES} bytes, which no usage report is; name a report")
        return files.as_text(data)
    except OSError as error:
        raise FormatError(f"cannot read {origin}: {error.strerror}; name a usage report") from error
    except UnicodeDecodeError as error:
        raise FormatError(f"{origin} is not text; a usage report begins with -----BEGIN STOKER USAGE-----") from error


def _write(name: str, text: str, month: str | None) -> int:
    usage = usage_file.read(text).usage
    if month is not None and day(usage.begins)[:7] != month:
        print(f"{month} was not closed by itself; what was used then is in this report", file=sys.stderr)
    if name == "-":
        sys.stdout.write(text)
        return 0
    _keep(Path(name), text.encode())
    print(
        f"{name}  {_hours(usage.gpu_ms)} GPU-hours, {when(usage.begins)} to {when(usage.ends)}; send it to your vendor"
    )
    return 0


def _keep(path: Path, report: bytes) -> None:
    """Put a report where nothing is, or in place of a report: the same month with its rows has the same name."""
    try:
        if not _is_report(path):
            files.create_new(path, report, mode=0o644)
        else:
            files.replace(path, report, mode=0o644)
    except FileExistsError as error:
        raise KeyFileError(f"{path} exists and is not overwritten; name another file with -o") from error
    except OSError as error:
        raise KeyFileError(f"cannot write {path}: {error.strerror}; choose another place with -o") from error


def _is_report(path: Path) -> bool:
    try:
        return files.read_given(path, len(usage_file.BEGIN)).startswith(usage_file.BEGIN.encode())
    except OSError:
        return False


def _line(report: UsageFile) -> str:
    usage = report.usage
    peak = f", {usage.peak.seats} seats at most ({when(usage.peak.at)})" if usage.peak else ""
    peak += f", {units_told(usage.units)} at most" if usage.units else ""
    rows = f", {len(report.rows)} rows" if report.rows is not None else ""
    return (
        f"report {usage.number}  {when(usage.begins)} to {when(usage.ends)}  {_hours(usage.gpu_ms)} GPU-hours"
        f"{peak}{rows}, site {usage.site[:16]}…"
    )


def _told(report: UsageFile) -> dict[str, object]:
    usage = report.usage
    return {
        "id": usage.id,
        "number": usage.number,
        "licence": usage.licence,
        "site": usage.site,
        "begins": usage.begins,
        "ends": usage.ends,
        "gpu_ms": usage.gpu_ms,
        "cumulative_gpu_ms": usage.cumulative_gpu_ms,
        "rows": None if report.rows is None else len(report.rows),
        "units": {each.unit: each.count for each in usage.units},
    }


def _plain(found: Sequence[Finding]) -> list[dict[str, str]]:
    return [{"grade": each.grade, "report": each.report, "words": each.words} for each in found]


def _hours(gpu_ms: int) -> str:
    return f"{gpu_ms / 3_600_000:.1f}"


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
