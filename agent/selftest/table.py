"""A report as a person reads it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from agent.api.program import printable
from agent.selftest.checks import Verdict
from agent.selftest.report import Report

_TITLES = ("WHAT", "CHECK", "FOUND", "EXPECTED", "VERDICT")


def lines(report: Report) -> Iterator[str]:
    """Head, table, remarks, verdict."""
    node = report.node
    yield f"node       {node.name}, {node.cpus} CPUs, {node.memory_bytes / 1e9:.0f} GB ({node.cpu})"
    yield f"tested     {moment(report.began_at)}, {report.ended_at - report.began_at} s, {report.mode}{_burned(report)}"
    yield f"versions   {_versions(report)}"
    yield ""
    rows = [_TITLES, *((each.subject, each.name, each.found, each.expected, each.verdict) for each in report.checks)]
    yield from _table([[printable(str(cell)) for cell in row] for row in rows])
    remarks = [
        f"{each.subject} {each.name}: {each.detail}"
        for each in report.checks
        if each.detail and each.verdict is not Verdict.PASS
    ]
    notes = [*report.notes, *remarks]
    if notes:
        yield ""
        yield from (f"- {printable(note)}" for note in notes)
    yield ""
    yield f"{report.verdict}: {printable(report.summary)}"


def moment(at: int) -> str:
    """A time, whoever reads it wherever."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _burned(report: Report) -> str:
    return f", burn-in {report.burn_s / 60:g} min" if report.burn_s else ""


def _versions(report: Report) -> str:
    versions = report.versions
    known = {
        "stoker": versions.stoker,
        "driver": report.node.driver_version,
        "torch": versions.torch,
        "CUDA": versions.cuda,
        "NCCL": versions.nccl,
    }
    return printable(", ".join(f"{name} {text}" for name, text in known.items() if text))


def _table(rows: list[list[str]]) -> Iterator[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(_TITLES))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
