"""Usage reports checked to the last row: the same for the buyer (`usage verify`) and the vendor (`verify-usage`).

What the signed totals tell by themselves is checked in `usage_check`; here come the parts that they name:

    1  the GPUs of all nodes sum up to the total          5  the rows lead from each first head to each last
    2  no GPU was used for longer than the period took     6  the rows sum up to the totals, by day and model, by GPU
    3  each GPU had a seat                                 7  no GPU is given to more than the whole of it at once
    4  each chain goes on where the last report left it    8  no row ends after the export

Steps 5 to 8 where the rows were exported. Pure.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime

from licensing import usage_check
from licensing.clock import JUMP_S
from licensing.document import Licence
from licensing.errors import LicenceError
from licensing.exchange import Usage
from licensing.moments import when
from licensing.usage_check import Finding, Grade
from licensing.usage_file import NodeLine, UsageFile, chained, rows_of
from licensing.usage_rows import DAY_S, WHOLE, Row


def check(files: Sequence[UsageFile], licence: Licence | None, now: int) -> list[Finding]:
    """All that is wrong with the reports of one site, by themselves and with each other."""
    found = usage_check.check([file.token for file in files], licence, now)
    for file in files:
        found += _parts(file)
        if file.rows is not None:
            found += _rows(file)
    return found + _chains(files)


def _parts(file: UsageFile) -> list[Finding]:
    if file.nodes is None:
        return _findings(file.usage, Grade.NOTE, ["came without the part on its nodes: only its totals are checked"])
    usage, wrong = file.usage, []
    used: dict[str, int] = defaultdict(int)
    for line in file.nodes:
        if line.last < line.first - 1:
            wrong.append(f"{line.node}: its last row is before its first")
        for gpu in line.gpus:
            used[gpu.gpu] += gpu.gpu_ms - gpu.late_ms
            if not gpu.leased and gpu.gpu_ms:
                wrong.append(f"{line.node}: {gpu.gpu} was used and had no seat")  # 3
    total = sum(gpu.gpu_ms for line in file.nodes for gpu in line.gpus)
    if total != usage.gpu_ms:
        wrong.append(f"the GPUs of its nodes sum up to {total} GPU-ms, its total is {usage.gpu_ms}")  # 1
    most = (usage.ends - usage.begins) * WHOLE
    wrong += [f"{gpu} was used for longer than the period took" for gpu, ms in sorted(used.items()) if ms > most]  # 2
    return [*_findings(usage, Grade.WRONG, wrong), *_noted(file)]


def _noted(file: UsageFile) -> list[Finding]:
    nodes = file.nodes or ()
    forks = [
        f"{line.node}: its rows did not continue those that were known" for line in nodes if line.branch and line.last
    ]
    again = [f"{line.node}: {line.again_ms} GPU-ms were told twice and counted once" for line in nodes if line.again_ms]
    events = [f"{each.event} of {each.subject}, {when(each.at)}" for each in file.usage.events]
    return [
        *_findings(file.usage, Grade.FORK, forks),
        *_findings(file.usage, Grade.NOTE, again),
        *_findings(file.usage, Grade.NOTE, events),
    ]


def _rows(file: UsageFile) -> list[Finding]:
    usage, wrong, read = file.usage, [], []
    unsound = 0
    try:
        for line, texts in rows_of(file):
            rows = chained(line, texts)  # 5
            sound = [row for row in rows if row is not None and row.node == line.node]
            unsound += len(rows) - len(sound)
            wrong += _of_line(line, sound)
            read += sound
    except (ValueError, LicenceError) as error:
        return _findings(usage, Grade.WRONG, [str(error)])
    wrong += [*_totals(file, read), *_shared(read), *_late(usage, read)]
    noted = [f"{unsound} rows cannot be read and count nothing"] if unsound else []
    return [*_findings(usage, Grade.WRONG, wrong), *_findings(usage, Grade.NOTE, noted)]


def _of_line(line: NodeLine, rows: Sequence[Row]) -> list[str]:
    """Step 6, by GPU. What was told twice is known as a sum only."""
    used: dict[str, int] = defaultdict(int)
    for row in rows:
        used[row.gpu] += row.share * (row.end - row.start)
    said = {gpu.gpu: gpu.gpu_ms for gpu in line.gpus}
    over = sum(used.values()) - sum(said.values())
    short = [gpu for gpu in said if said[gpu] > used.get(gpu, 0)]
    if over == line.again_ms and not short and (line.again_ms or said == {gpu: used[gpu] for gpu in used}):
        return []
    return [f"{line.node}: its rows do not sum up to what is said of its GPUs"]


def _totals(file: UsageFile, rows: Iterable[Row]) -> list[str]:
    """Step 6, by day and model; a row that is dated after the period counts on its last day."""
    last, names = (file.usage.ends - 1) // DAY_S, dict[int, str]()
    sums: dict[tuple[int, str], int] = defaultdict(int)
    for row in rows:
        sums[min(row.start // DAY_S, last), row.sku] += row.share * (row.end - row.start)
    again = sum(line.again_ms for line in file.nodes or ())
    said = {(total.day, total.sku): total.gpu_ms for total in file.usage.totals}
    for (day, sku), found in sorted(sums.items()):
        name = names.setdefault(day, f"{datetime.fromtimestamp(day * DAY_S, UTC):%Y-%m-%d}")
        again -= found - said.pop((name, sku), 0)
    if again or said:
        return ["its rows do not sum up to its totals by day and model"]
    return []


def _shared(rows: Iterable[Row]) -> list[str]:
    """Step 7. A run that two chains tell of is one."""
    by_gpu: dict[str, dict[tuple[str, int], Row]] = defaultdict(dict)
    for row in rows:
        runs, run = by_gpu[row.gpu], (row.job, row.start)
        if run not in runs or runs[run].end < row.end:
            runs[run] = row
    gpus = [gpu for gpu in sorted(by_gpu) if _overlaps(by_gpu[gpu].values())]
    return [f"{gpu} was given away more than once at a time" for gpu in gpus]


def _overlaps(rows: Collection[Row]) -> bool:
    edges = sorted([*((row.start, 1, row.share) for row in rows), *((row.end, 0, -row.share) for row in rows)])
    held = 0
    for _, _, share in edges:  # at the same second an end comes before a start
        held += share
        if held > WHOLE:
            return True
    return False


def _late(usage: Usage, rows: Iterable[Row]) -> list[str]:
    """Step 8. A node's clock may be ahead of the hub's as far as its leases may."""
    last = max((row.end for row in rows), default=0)
    if last <= usage.iat + JUMP_S:
        return []
    return [f"a row ends {when(last)}, and it was exported {when(usage.iat)}"]


def _chains(files: Sequence[UsageFile]) -> list[Finding]:
    """Step 4, where the report before is here too."""
    found = []
    by_number = {file.usage.number: file for file in files}
    for file in files:
        before = by_number.get(file.usage.number - 1)
        if file.nodes is None or (file.usage.number > 1 and (before is None or before.nodes is None)):
            continue
        last = before.nodes if before and before.nodes else ()
        known = {(line.node, line.chain, line.branch): line for line in last}
        here = {(line.node, line.chain, line.branch) for line in file.nodes}
        wrong = [_gap(line, known.get((line.node, line.chain, line.branch))) for line in file.nodes]
        wrong += [f"{node}: its chain {chain[:8]} is missing" for node, chain, _ in sorted(set(known) - here)]
        found += _findings(file.usage, Grade.WRONG, [each for each in wrong if each])
    return found


def _gap(line: NodeLine, before: NodeLine | None) -> str | None:
    last, head = (before.last, before.head) if before else (0, None)
    if line.first != last + 1:
        return f"{line.node}: rows {last + 1} to {line.first - 1} of its chain {line.chain[:8]} are missing"
    if head is not None and line.before != head:
        return f"{line.node}: its chain {line.chain[:8]} does not go on where the last report left it"
    return None


def _findings(usage: Usage, grade: Grade, words: Iterable[str]) -> list[Finding]:
    return [Finding(grade=grade, report=usage.id, words=each) for each in words]
