"""`stoker-license usage export | verify`: a month's usage as a signed file, and the check of such files.

`verify` needs no hub and no licence: who has the files can check them, the vendor runs the same (`check_files`). The
words of the command line are in `usage_words`; this is loaded when one of them is typed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """The files that a command names: those that are reports, and why the others are none."""

    reports: tuple[UsageFile, ...]
    names: tuple[str, ...]
    """Of the reports, in their order."""
    refused: tuple[tuple[str, LicenceError], ...] = ()

    def of(self, report: str) -> str:
        """` (FILE)` of a report's id where several are told of; a report that is not among the files has none."""
        files = [name for name, each in zip(self.names, self.reports, strict=True) if each.usage.id == report]
        return f" ({_printable(', '.join(files))})" if files and len(self.names) + len(self.refused) > 1 else ""


def read_all(names: Sequence[str]) -> Given:
    """Read files of reports. What is refused does not keep the others from being told.

    Raises:
        LicenceError: the only one cannot be read, or was changed after it was signed.
    """
    reports: list[UsageFile] = []
    good: list[str] = []
    refused: list[tuple[str, LicenceError]] = []
    for name in names:
        try:
            reports.append(read(name))
            good.append(files.origin(name))
        except LicenceError as error:
            if len(names) == 1:
                raise
            refused.append((files.origin(name), error))
    return Given(reports=tuple(reports), names=tuple(good), refused=tuple(refused))


def check_files(names: Sequence[str], licence: Licence | None, *, now: int, as_json: bool = False) -> int:
    """Check reports and print what was found; the exit code, see `tell`.

    Raises:
        LicenceError: the only file cannot be read, or was changed after it was signed.
    """
    given = read_all(names)
    found = usage_verify.check(given.reports, licence, now)
    if as_json:
        code = _exit(found, given)
        told = [{"file": name, **_told(each)} for name, each in zip(given.names, given.reports, strict=True)]
        refused = [{"file": name, "code": error.code, "words": error.message} for name, error in given.refused]
        print(json.dumps({"sound": not code, "reports": told, "found": _plain(found), "refused": refused}))
        return code
    for report in sorted(given.reports, key=lambda each: each.usage.number):
        print(f"{_line(report)}{given.of(report.usage.id)}")
    return tell(found, given)


def tell(found: Sequence[Finding], given: Given) -> int:
    """Print what was found, for buyer and vendor alike; 0 when nothing is wrong, 5 when something is, 7 for a fork."""
    for each in found:
        print(f"{each.grade:<6} {each.report}{given.of(each.report)} {_printable(each.words)}")
    for _, error in given.refused:
        print(f"{Grade.WRONG:<6} {_printable(error.message)}")  # which names the file
    words = "the reports do not hold: talk to the site that signed them" if _exit(found) else "the reports hold"
    if given.refused:
        count = len(given.refused)
        are = f"{count} of {count + len(given.reports)} files refused: ask their site for the originals"
        words = f"{are}; of the others {words}" if given.reports else are
    print(words)
    return _exit(found, given)


def _exit(found: Sequence[Finding], given: Given | None = None) -> int:
    grades = {each.grade for each in found}
    if Grade.FORK in grades:
        return EXIT_FORK
    return EXIT_WRONG if Grade.WRONG in grades or (given and given.refused) else 0


def read(name: str) -> UsageFile:
    """Read a report's file and verify its signature; `-` is standard input.

    Raises:
        LicenceError: it cannot be read, or was changed after it was signed; the message names the file.
    """
    text = text_of(name)
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
