"""The usage ledger: rows appended and verified in memory, merged by the hub, and a month of it made into a report.

Per CPU-second, since wall time on a shared machine measures its other users. Floors: section 2 of the licensing design.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from agent.jobs import meter
from agent.jobs.meter import Metered
from agent.jobs.store import JobStore
from licensing import usage_file, usage_rows, usage_verify
from licensing.usage_rows import Page
from tests.bench.table import Row, repeat, row_of
from tests.fakes.usage_ledger import BEGINS, MONTH, make_site, tick

ROWS = 20_000
JOBS_A_DAY, DAYS = 1000, 31
REPEATS = 7


def rows() -> list[Row]:
    """All of it."""
    texts, head = _chain()
    verified = repeat(lambda: _rate(len(texts), lambda: _verify(texts, head)), REPEATS)
    appended = repeat(lambda: _rate(ROWS, _chain), REPEATS)
    with tempfile.TemporaryDirectory(prefix="stoker-bench-") as folder:
        stored = repeat(lambda: _stored(Path(folder)), 3)
        merged, made, checked = _month(Path(folder))
    return [
        row_of("rows appended: spelled and chained", appended, "1/CPU-s", "≥ 190000"),
        row_of("rows verified: chained and read", verified, "1/CPU-s", "≥ 100000"),
        row_of("runs opened and closed in agent.db", stored, "1/CPU-s"),
        row_of("rows merged by the hub", merged, "1/CPU-s"),
        row_of(f"report of a month of {JOBS_A_DAY} jobs a day, with rows", made, "CPU s"),
        row_of("that report verified to the last row", checked, "CPU s"),
    ]


def _rate(count: int, act: Callable[[], object]) -> float:
    begun = time.process_time()
    act()
    return count / (time.process_time() - begun)


def _chain() -> tuple[list[str], str]:
    head, texts = meter.genesis("0" * 32), []
    for seq in range(1, ROWS + 1):
        start = BEGINS + seq
        job = f"{seq:032x}"
        text = meter.encode_row("n1", seq, job, f"GPU-{seq % 8:032d}", "NVIDIA H100 80GB HBM3", 1000, start, start + 60)
        head = meter.link(head, text)
        texts.append(text)
    return texts, head


def _verify(texts: list[str], head: str) -> None:
    assert None not in usage_rows.verified(texts, 1, meter.genesis("0" * 32), head)


def _stored(folder: Path) -> float:
    """As the store does it: in one transaction with all else that waits for the same flush."""
    store, count = JobStore.open(folder / hashlib.sha256(str(time.time()).encode()).hexdigest(), now=1), 2000
    gpus = [Metered(gpu="GPU-0", sku="NVIDIA H100 80GB HBM3")]
    begun = time.process_time()
    with store.transaction():
        for job in range(1, count + 1):
            at = BEGINS + 10 * job
            store.meter_open(job, gpus, at, tick(at), user="ada", account="lab")
            store.meter_close(job, at + 10, tick(at + 10))
    spent = time.process_time() - begun
    store.close()
    return count / spent


def _month(folder: Path) -> tuple[list[float], list[float], list[float]]:
    site = make_site(folder)
    texts, head = [], meter.genesis("0" * 32)
    for seq in range(1, JOBS_A_DAY * DAYS + 1):
        start = BEGINS + (seq - 1) * 86_400 // JOBS_A_DAY
        text = meter.encode_row(
            "n1", seq, f"{seq:032x}", f"GPU-{seq % 2}", "NVIDIA H100 80GB HBM3", 1000, start, start + 80
        )
        texts.append(text)
    merged = []
    for first in range(0, len(texts), 5000):
        page = Page(chain="0" * 32, first=first + 1, before=head, rows=tuple(texts[first : first + 5000]))
        merged.append(_rate(len(page.rows), lambda: site._book.merge("n1", page, BEGINS + MONTH)))  # noqa: B023
        head = usage_rows.head_after(head, page.rows)
    made, checked = [], []
    for _ in range(REPEATS):
        begun = time.process_time()
        _, text = site.usage_export(BEGINS, BEGINS + MONTH, BEGINS + MONTH + 86_400, rows=True)
        made.append(time.process_time() - begun)
        begun = time.process_time()
        found = usage_verify.check([usage_file.read(text)], None, BEGINS + MONTH + 90_000)
        checked.append(time.process_time() - begun)
        assert not [each for each in found if each.grade != "note" and "no seat" not in each.words], found
    site.close()
    return merged, made, checked
