"""Reports that a site with its own key could sign and that cannot be true: buyer and vendor find the same in them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from licensing import cli, keys, usage_file, usage_rows
from licensing.document import sign
from licensing.exchange import UsageTotal
from licensing.usage_book import digest
from licensing.usage_file import GpuUse, NodeLine, UsageFile
from tests.fakes.nohub import NoHub
from tests.fakes.usage_ledger import BEGINS, GPUS, MONTH, SKU, Node, fetch, make_site, report
from tests.fakes.vendor import DAY, changed

_NOW = BEGINS + 5 * MONTH


@dataclass(frozen=True)
class Signed:
    """Two months of a real site, and the key that signs what a test makes of them."""

    folder: Path
    first: UsageFile
    second: UsageFile

    def write(self, name: str, file: UsageFile, **fields: object) -> Path:
        """Signed as the site would, whatever it says."""
        lines = [usage_file.encode_line(line) for line in file.nodes or ()]
        usage = changed(file.usage, nodes=digest(lines), rows=digest(file.rows or ()), **fields)
        token = sign(keys.load(self.folder / "hub" / "site.key"), usage)
        path = self.folder / name
        path.write_text(usage_file.write(token, lines, file.rows))
        return path


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Signed]:
    folder = tmp_path_factory.mktemp("signed")
    site, node = make_site(folder), Node(folder)
    for number in range(4):
        node.run(BEGINS + (3 + number) * DAY, 3600)
    node.run(BEGINS + MONTH + DAY, 3600)
    fetch(site, node)
    assert isinstance(site.lease("n1", site.key_hex, GPUS, 1, BEGINS + MONTH + DAY), str)
    site.usage_seats(BEGINS + MONTH + DAY)
    yield Signed(folder, report(site), report(site, month=1, now=BEGINS + 2 * MONTH + DAY))
    site.close()
    node.close()


Asked = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Asked:
    monkeypatch.setattr("licensing.cli.time.time", lambda: _NOW)

    def said(*words: str) -> tuple[int, list[str]]:
        code = cli.main(words, NoHub())
        out = capsys.readouterr().out.splitlines()
        return code, [line for line in out if line.split(" ")[0] in ("wrong", "fork", "the") or "files refused" in line]

    def ask(*files: Path) -> tuple[int, list[str]]:
        """What the buyer is told; the vendor is told the same."""
        names = [str(each) for each in files]
        buyer = said("usage", "verify", *names)
        assert buyer == said("vendor", "verify-usage", *names, "--desk", str(tmp_path))
        return buyer

    return ask


def the_line(file: UsageFile) -> NodeLine:
    (line,) = file.nodes or ()
    return line


def with_line(file: UsageFile, *, rows: Sequence[str] | None, **fields: Any) -> UsageFile:
    return replace(file, nodes=(changed(the_line(file), **fields),), rows=tuple(rows) if rows is not None else None)


def rechained(file: UsageFile, edit: Callable[[usage_rows.Row], usage_rows.Row]) -> UsageFile:
    """Its rows edited and chained anew, with sums that fit: what a site could do that wanted to."""
    rows = [edit(row) for row in usage_rows.verified(file.rows or (), 1, the_line(file).before, the_line(file).head)
            if row is not None]  # fmt: skip
    texts = [usage_rows._encoder.encode(row).decode() for row in rows]
    head = usage_rows.head_after(the_line(file).before, texts)
    return with_line(file, rows=texts, head=head)


def test_what_a_site_really_signed_holds(signed: Signed, verdict: Asked) -> None:
    one, two = signed.write("one", signed.first), signed.write("two", signed.second)
    assert verdict(one, two) == (0, ["the reports hold"])
    assert verdict(two, one)[0] == 0


def test_two_files_with_one_parent_are_a_fork(signed: Signed, verdict: Asked) -> None:
    twin = signed.write("twin", signed.second, id="usage-twin", iat=signed.second.usage.iat + 60)
    code, said = verdict(signed.write("one", signed.first), signed.write("two", signed.second), twin)
    assert (code, "another report number 2" in said[0]) == (7, True)


def test_a_report_of_another_parent_is_a_fork(signed: Signed, verdict: Asked) -> None:
    other = signed.write("other", signed.second, prev="ab" * 32)
    code, said = verdict(signed.write("one", signed.first), other)
    assert (code, "does not continue the report number 1" in said[0]) == (7, True)


def test_a_file_that_is_refused_is_named_and_the_others_are_told(
    signed: Signed, verdict: Asked, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = signed.write("one", signed.first), signed.write("two", signed.second)
    bad, none = signed.folder / "bad", signed.folder / "none"
    bad.write_text(one.read_text().replace("v4.public.ey", "v4.public.ez", 1))
    code, said = verdict(one, bad, none, two)
    assert code == 5
    assert said == [
        f"wrong  {bad}: the signature does not hold: the text was changed on its way; fetch the file again",
        f"wrong  cannot read {none}: No such file or directory; name a usage report",
        "2 of 4 files refused: ask their site for the originals; of the others the reports hold",
    ]
    names = [str(each) for each in (one, bad, two)]
    cli.main(("usage", "verify", *names), NoHub())
    told = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in told[:2]] == ["report 1", "report 2"]
    assert [line.endswith(f" ({path})") for line, path in zip(told, (one, two), strict=False)] == [True, True]
    assert cli.main(("usage", "verify", "--json", *names), NoHub()) == 5
    found = json.loads(capsys.readouterr().out)
    assert (found["sound"], [each["file"] for each in found["reports"]]) == (False, [str(one), str(two)])
    assert [(each["file"], each["code"]) for each in found["refused"]] == [(str(bad), "licence_signature")]
    assert verdict(bad, none)[1][-1] == "2 of 2 files refused: ask their site for the originals"


def test_what_is_found_in_one_of_several_files_names_the_file(signed: Signed, verdict: Asked) -> None:
    other = signed.write("other", signed.second, prev="ab" * 32)
    code, said = verdict(signed.write("one", signed.first), other, signed.folder / "none")
    assert code == 7, "a fork is worse than a file that is not there"
    assert said[0].startswith(f"fork   {signed.second.usage.id} ({other}) does not continue")
    assert said[-1] == (
        "1 of 3 files refused: ask their site for the originals; "
        "of the others the reports do not hold: talk to the site that signed them"
    )


def test_rows_left_out_in_the_middle_are_missed(signed: Signed, verdict: Asked) -> None:
    line, rows = the_line(signed.first), list(signed.first.rows or ())
    (gpu,) = line.gpus
    less = gpu.gpu_ms - 3_600_000
    gap = with_line(
        signed.first, rows=rows[1:], first=2, before=usage_rows.head_after(line.before, rows[:1]),
        gpus=(changed(gpu, gpu_ms=less),),
    )  # fmt: skip
    path = signed.write("gap", gap, totals=signed.first.usage.totals[1:], gpu_ms=less, cumulative_gpu_ms=less)
    code, said = verdict(path)
    assert (code, len(said), "n1: rows 1 to 1 of its chain" in said[0]) == (5, 2, True)


def test_rows_left_out_between_two_reports_are_missed(signed: Signed, verdict: Asked) -> None:
    line = the_line(signed.second)
    later = with_line(signed.second, rows=signed.second.rows, first=line.first + 3, last=line.last + 3)
    code, said = verdict(signed.write("one", signed.first), signed.write("later", later))
    assert (code, any("rows 5 to 7 of its chain" in each for each in said)) == (5, True)


def test_a_gpu_without_a_seat_is_named(signed: Signed, verdict: Asked) -> None:
    (gpu,) = the_line(signed.first).gpus
    unseated = with_line(signed.first, rows=signed.first.rows, gpus=(changed(gpu, leased=0),))
    code, said = verdict(signed.write("unseated", unseated))
    assert (code, "n1: GPU-0 was used and had no seat" in said[0]) == (5, True)


def test_more_seconds_of_a_gpu_than_the_month_has_are_found(signed: Signed, verdict: Asked) -> None:
    line, month_ms = the_line(signed.first), (MONTH + 60) * 1000
    whole, days = DAY * 1000, MONTH // DAY
    totals = [UsageTotal(day=f"2027-01-{day + 1:02}", sku=SKU, gpu_ms=whole) for day in range(days - 1)]
    totals.append(UsageTotal(day="2027-01-31", sku=SKU, gpu_ms=month_ms - (days - 1) * whole))
    much = with_line(signed.first, rows=None, gpus=(GpuUse(gpu="GPU-0", gpu_ms=month_ms, late_ms=0, leased=1),))
    path = signed.write("much", much, totals=tuple(totals), gpu_ms=month_ms, cumulative_gpu_ms=month_ms)
    code, said = verdict(path)
    assert line.gpus[0].gpu_ms < month_ms
    assert (code, said[0].endswith("GPU-0 was used for longer than the period took")) == (5, True)


def test_a_gpu_given_away_twice_at_a_time_is_found(signed: Signed, verdict: Asked) -> None:
    start = BEGINS + 3 * DAY
    twice = rechained(signed.first, lambda row: changed(row, start=start, end=start + 3600))
    code, said = verdict(signed.write("twice", twice))
    assert code == 5
    assert any("GPU-0 was given away more than once at a time" in each for each in said)


@pytest.mark.parametrize(
    ("iat", "words"),
    [(BEGINS + MONTH - 1, "before its period ended"), (_NOW + 3600, "and here it is"), (1, "before its period ended")],
)
def test_an_export_time_that_cannot_be_is_found(signed: Signed, verdict: Asked, iat: int, words: str) -> None:
    code, said = verdict(signed.write("when", replace(signed.first, rows=None), iat=iat))
    assert (code, words in said[0]) == (5, True)


def test_a_row_of_after_the_export_is_found(signed: Signed, verdict: Asked) -> None:
    late = BEGINS + 4 * MONTH
    ahead = rechained(signed.first, lambda row: changed(row, start=late, end=late + 3600) if row.seq == 4 else row)
    code, said = verdict(signed.write("ahead", ahead))
    assert (code, any("a row ends 2027-05-05" in each for each in said)) == (5, True), said


def test_a_sum_that_is_not_that_of_its_parts_is_found(signed: Signed, verdict: Asked) -> None:
    (gpu,) = the_line(signed.first).gpus
    less = with_line(signed.first, rows=None, gpus=(changed(gpu, gpu_ms=gpu.gpu_ms - 1),))
    code, said = verdict(signed.write("less", less))
    assert (code, "the GPUs of its nodes sum up to" in said[0]) == (5, True)
