"""XIDs: lines of real kernel logs, and the table."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.api.health import Severity
from agent.telemetry.xid import MEANINGS, meaning, parse_line


@pytest.mark.parametrize(
    ("line", "code", "pci", "pid", "process", "detail"),
    [
        (
            "NVRM: Xid (PCI:0000:cb:00): 13, pid='<unknown>', name=<unknown>, Graphics SM Warp Exception on (GPC 7",
            13,
            "0000:cb:00",
            None,
            None,
            "Graphics SM Warp Exception on (GPC 7",
        ),
        (
            "NVRM: Xid (PCI:0000:3B:00): 79, pid=4711, name=python3, GPU has fallen off the bus.",
            79,
            "0000:3b:00",
            4711,
            "python3",
            "GPU has fallen off the bus.",
        ),
        ("NVRM: Xid (0000:03:00): 14, Channel 00000001", 14, "0000:03:00", None, None, "Channel 00000001"),
        (
            "NVRM: Xid (PCI:0000:5d:00): 63, pid=1, name=a b c, Row Remapper: x",
            63,
            "0000:5d:00",
            1,
            "a b c",
            "Row Remapper: x",
        ),
        ("NVRM: Xid (PCI:0001:00:00 GPU-I:02): 31, pid=99, name=train", 31, "0001:00:00", 99, "train", None),
        ("NVRM: Xid (PCI:00000000:0A:00.0): 119", 119, "0000:0a:00", None, None, None),
    ],
)
def test_lines_of_kernel_logs(
    line: str, code: int, pci: str, pid: int | None, process: str | None, detail: str | None
) -> None:
    found = parse_line(line, 5.0)
    assert found is not None
    assert (found.code, found.pci, found.pid, found.process, found.detail, found.at) == (
        code, pci, pid, process, detail, 5.0,
    )  # fmt: skip


def test_the_log_tells_which_instance_was_hit() -> None:
    found = parse_line("NVRM: Xid (PCI:0001:00:00 GPU-I:02): 31, pid=99, name=train", 5.0)
    assert found is not None
    assert found.mig_gi == 2


@pytest.mark.parametrize(
    "line", ["", "NVRM: GPU at PCI:0000:cb:00: GPU-b850", "NVRM: Xid (PCI:0000:cb:00): x", "Xid (PCI:0000:cb:00): 13"]
)
def test_other_lines_are_none(line: str) -> None:
    assert parse_line(line, 0.0) is None


@given(st.text())
def test_nothing_in_a_line_is_too_strange(text: str) -> None:
    parse_line(text, 0.0)
    parse_line(f"NVRM: Xid (PCI:0000:cb:00): 13, {text}", 0.0)


def test_every_meaning_tells_what_and_what_next() -> None:
    assert meaning(79).severity is Severity.CRITICAL
    assert meaning(31).severity is Severity.INFO
    assert meaning(9999).what.startswith("an error that this version does not know")
    for each in MEANINGS.values():
        assert each.what[0].islower()
        assert not each.what.endswith(".")
        assert len(each.advice) > 10
