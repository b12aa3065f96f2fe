"""Usage reports made: what was merged since the last one, closed and signed.

Rules kept here: a report is stored before it is signed and handed out, and asked for again it is the same; it takes
each chain up to the last row that begins in its period, so what comes later is in the next one, under its own day.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import msgspec

from licensing import keys, moments, usage_events, usage_file
from licensing.document import MAX_LEASE_S, Licence, decode, encode, sign_content
from licensing.ed25519 import PrivateKey
from licensing.errors import UsageError
from licensing.exchange import SeatPeak, Usage, UsageTotal
from licensing.stage import LEASE_TOLERANCE_S
from licensing.store import Ledger
from licensing.units import Units
from licensing.usage_book import Branch, UsageBook, digest
from licensing.usage_events import Period
from licensing.usage_file import GpuUse, NodeLine

SETTLED_S = 180
"""How long after a period a node has its last row of it: it splits what runs with its second heartbeat of the day."""
_OPEN_MOST, _TOTALS_MOST = 64, 620
_LEASE_S = MAX_LEASE_S + LEASE_TOLERANCE_S
"""How long after it had a seat a GPU may still be given to jobs."""
_CONTENT_MOST = 48_000
"""A token has 64 KiB in base64."""


@dataclass(slots=True)
class _Sums:
    """What the rows of a report come to."""

    period: Period
    totals: dict[tuple[str, str], int] = field(default_factory=dict)
    late_ms: int = 0
    lines: list[str] = field(default_factory=list)
    rows: list[str] = field(default_factory=list)


class Reports:
    """The reports of one site. Used from the thread that owns the ledger."""

    def __init__(self, ledger: Ledger, book: UsageBook, units: Units, key: PrivateKey) -> None:
        self._ledger = ledger
        self._book = book
        self._units = units
        self._key = key

    def export(self, licence: Licence, month: Period, now: int, *, rows: bool) -> tuple[str, str]:
        """The report that covers a month, made if there is none yet: the name of its file, and the text.

        Raises:
            UsageError: the month is not over, or months before it are to be exported first.
            StoreError: the ledger cannot be used.
        """
        number = self._covering(month)
        if number is None:
            number = self._close(licence, self._period(month, now), now)
        return self._file(number, rows=rows)

    def _covering(self, month: Period) -> int | None:
        found = self._ledger.one("SELECT min(number) FROM usage_report WHERE ends >= ?", (month.ends,))
        return found[0] if found else None

    def _period(self, month: Period, now: int) -> Period:
        """The month, if it is its turn.

        Raises:
            UsageError: it is not.
        """
        if now < month.ends:
            name, over = _month(month.begins), moments.when(month.ends)
            raise UsageError(f"{name} is not over, and a month is closed once; its report can be made from {over} on")
        last = self._ledger.one("SELECT ends FROM usage_report ORDER BY number DESC LIMIT 1")
        if last is not None and last[0] < month.begins:
            first = _month(last[0])
            raise UsageError(f"months are reported in order: stoker-license usage export --month {first} comes first")
        return month

    def _close(self, licence: Licence, period: Period, now: int) -> int:
        with self._ledger.transaction():
            before: tuple[int, bytes] | None = self._ledger.one(
                "SELECT number, content FROM usage_report ORDER BY number DESC LIMIT 1"
            )
            sums, taken = self._add_up(period)
            usage = self._usage(licence, period, now, sums, before)
            if len(usage.totals) > _TOTALS_MOST:
                raise _too_long(usage)
            usage, content = _fitting(usage)
            self._ledger.run(
                "INSERT INTO usage_report (number, begins, ends, content, nodes, made_at) VALUES (?, ?, ?, ?, ?, ?)",
                (usage.number, period.begins, period.ends, content, "\n".join(sums.lines), now),
            )
            for branch, last in taken:
                self._book.mark_sent(branch, last)
            self._ledger.audit(now, "usage-report", usage.id, gpu_ms=usage.gpu_ms, begins=usage.begins, ends=usage.ends)
        return usage.number

    def _add_up(self, period: Period) -> tuple[_Sums, list[tuple[Branch, int]]]:
        sums, taken = _Sums(period=period), []
        leased = self._book.leased()
        for branch in self._book.branches():
            sent = self._book.sent(branch)
            last = self._book.cut(branch, sent, period.ends)
            self._add_branch(sums, branch, sent, last, leased)
            taken.append((branch, last))
        return sums, taken

    def _add_branch(
        self, sums: _Sums, branch: Branch, sent: int, last: int, leased: dict[tuple[str, str], int]
    ) -> None:
        gpus: dict[str, list[int]] = {}
        again, begins = 0, sums.period.begins
        first_day, last_day = _day(begins), _day(sums.period.ends - 1)
        for kept in self._book.kept(branch, sent, last):
            sums.rows.append(kept.text)
            again += kept.gpu_ms - kept.counted
            if not kept.gpu:
                continue
            day = min(_day(kept.start), last_day)
            late = kept.counted if day < first_day else 0
            used = gpus.setdefault(kept.gpu, [0, 0, kept.start])
            used[0], used[1], used[2] = used[0] + kept.counted, used[1] + late, min(used[2], kept.start)
            sums.late_ms += late
            sums.totals[day, kept.sku] = sums.totals.get((day, kept.sku), 0) + kept.counted
        uses = tuple(
            GpuUse(
                gpu=gpu, gpu_ms=used, late_ms=late, leased=int(leased.get((branch.node, gpu), 0) >= since - _LEASE_S)
            )
            for gpu, (used, late, since) in sorted(gpus.items())
        )
        line = NodeLine(
            node=branch.node,
            chain=branch.chain,
            branch=branch.branch,
            first=sent + 1,
            last=last,
            before=self._book.head_at(branch, sent),
            head=self._book.head_at(branch, last),
            again_ms=again,
            gpus=uses,
        )
        sums.lines.append(usage_file.encode_line(line))

    def _usage(
        self, licence: Licence, period: Period, now: int, sums: _Sums, before: tuple[int, bytes] | None
    ) -> Usage:
        number, content = before or (0, b"")
        told = sum(sums.totals.values())
        earlier = decode(Usage, content).cumulative_gpu_ms if content else 0
        peak = self._book.peak(period.begins, period.ends)
        site = keys.public_hex(self._key)
        events = usage_events.told(self._ledger, self._book, period, late_ms=sums.late_ms)
        return Usage(
            id=f"usage-{site[:8]}-{number + 1}",
            iat=now,
            licence=licence.id,
            rev=licence.rev,
            generation=licence.generation,
            site=site,
            number=number + 1,
            prev=hashlib.sha256(content).hexdigest() if content else "",
            begins=period.begins,
            ends=period.ends,
            totals=_totals(sums),
            gpu_ms=told,
            cumulative_gpu_ms=earlier + told,
            peak=SeatPeak(seats=peak[0], at=peak[1]) if peak else None,
            events=tuple(usage_events.most_telling(events, usage_events.MOST, period)),
            open_nodes=tuple(self._book.silent(period.ends + SETTLED_S)[:_OPEN_MOST]),
            head=self._book.head,
            nodes=digest(sums.lines),
            rows=digest(sums.rows),
            units=self._units.peaks(period.begins, period.ends),
        )

    def _file(self, number: int, *, rows: bool) -> tuple[str, str]:
        row = self._ledger.one("SELECT content, nodes FROM usage_report WHERE number = ?", (number,))
        assert row is not None, "it was found or made"
        content, nodes = row
        usage = decode(Usage, content)
        lines = nodes.split("\n") if nodes else []
        texts = self._rows(usage, lines) if rows else None
        name = f"usage-{_month(usage.ends - 1)}-{number}.usage"
        return name, usage_file.write(sign_content(self._key, Usage, content), lines, texts)

    def _rows(self, usage: Usage, lines: Sequence[str]) -> list[str]:
        """Every row that it tells of.

        Raises:
            UsageError: some are not kept any more.
        """
        branches = {(each.node, each.chain, each.branch): each for each in self._book.branches()}
        texts: list[str] = []
        for line in usage_file.decode_lines(lines):
            branch = branches[line.node, line.chain, line.branch]
            if line.first <= min(line.last, branch.pruned):
                raise UsageError(
                    f"the rows of {_month(usage.begins)} are not kept any more: your vendor acknowledged them, and "
                    "they are older than [hub] usage_days. The report itself is the same without --rows"
                )
            texts += [kept.text for kept in self._book.kept(branch, line.first - 1, line.last)]
        return texts


def _fitting(usage: Usage) -> tuple[Usage, bytes]:
    """With as many of its events as leave it short enough for a token: its totals come first.

    Raises:
        UsageError: it is too long without any.
    """
    period, events = Period(begins=usage.begins, ends=usage.ends), usage.events
    for most in (len(events), 32, 16, 8, 1):
        fewer = msgspec.structs.replace(usage, events=tuple(usage_events.most_telling(events, most, period)))
        content = encode(fewer)
        if len(content) <= _CONTENT_MOST:
            return fewer, content
    raise _too_long(usage)


def _totals(sums: _Sums) -> tuple[UsageTotal, ...]:
    return tuple(
        UsageTotal(day=day, sku=sku, gpu_ms=gpu_ms) for (day, sku), gpu_ms in sorted(sums.totals.items()) if gpu_ms
    )


def _too_long(usage: Usage) -> UsageError:
    return UsageError(
        f"the report of {_month(usage.begins)} would have {len(usage.totals)} totals by day and model, more than fit "
        "into a signed file; tell your vendor"
    )


def _day(moment: int) -> str:
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d}"


def _month(moment: int) -> str:
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m}"
