"""Nothing that acts on a terminal gets out of `tui.safe`, whatever goes in."""

from __future__ import annotations

import json
import time
import unicodedata
from collections.abc import Iterator

import msgspec
import msgspec.inspect
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from agent.api.decode import decode
from agent.api.types import GpuProcess, GpuReading, Job, JobState, LogChunk
from tui import safe

anything = st.text(
    st.one_of(
        st.characters(),
        st.sampled_from("\x00\x07\x08\t\n\r\x1b\x7f\x80\x85\x90\x9b\x9c\x9d[]();m0123456789?\\"),
        st.sampled_from("\u200b\u200d\u200e\u202a\u202e\u2066\u2069\ufeff\u00ad\u2028\u2029\ufe0f\u0301\u20e3\u3164"),
        st.integers(0xD800, 0xDFFF).map(chr),
        st.sampled_from("日本한👍🏽🇩🇪\u1100\u1161\u0903"),
    ),
    max_size=60,
)
ACTING = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


@given(anything)
def test_nothing_that_acts_gets_out(value: str) -> None:
    result = safe.text(value)
    assert not [char for char in result if unicodedata.category(char) in ACTING]
    assert len(result) <= safe.LIMIT
    result.encode("utf-8")


@given(anything)
def test_once_is_enough(value: str) -> None:
    once = safe.text(value)
    assert safe.text(once) == once


@given(anything)
def test_width_is_what_textual_measures(value: str) -> None:
    result = safe.text(value)
    assert safe.width(result) == cell_len(result)


@given(anything, st.integers(0, 40), st.booleans())
def test_fit_is_exact(value: str, cells: int, right: bool) -> None:
    assert safe.width(safe.fit(safe.text(value), cells, right=right)) == cells


@given(st.binary(max_size=200))
def test_bytes_of_any_kind(value: bytes) -> None:
    assert safe.text(safe.text(value)) == safe.text(value)


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=80))
def test_plain_ascii_is_untouched(value: str) -> None:
    assert safe.text(value) == value


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;owned\x07title", "title"),
        ("\x1b]52;c;ZXZpbA==\x1b\\clip", "clip"),
        ("\x9b2Jgone", "gone"),
        ("\x1b]0;never ended", "0;never ended"),
        ("\x1b[\x1b[31m31mx", "31mx"),
        ("a\nb\r\nc", "a↵b↵c"),
        ("a\tb", "a b"),
        ("nul\x00byte", "nul�byte"),
        ("evil\u202egnp.exe", "evilgnp.exe"),
        ("zero\u200bwidth\ufeff", "zerowidth"),
        ("\ud800", "�"),
        ("[bold red]markup[/]", "[bold red]markup[/]"),
        ("Zürich 日本 Здравствуй", "Zürich 日本 Здравствуй"),
        ("e\u0301", "é"),
        ("🇩🇪", "DE"),
        ("👍🏽", "👍"),
    ],
)
def test_examples(value: str, shown: str) -> None:
    assert safe.text(value) == shown


def test_stacked_marks_are_cut() -> None:
    assert (
        safe.text("x" + "\u0336\u0334" * 50).count("\u0336") + safe.text("x" + "\u0336\u0334" * 50).count("\u0334") == 2
    )


def test_a_mark_cannot_sit_on_what_is_drawn_before_it() -> None:
    assert safe.text("\u0336\u0336rest") == "rest"


def test_length_is_capped_and_says_so() -> None:
    assert len(safe.text("x" * 10_000)) == safe.LIMIT
    assert safe.text("x" * 10_000).endswith("…")
    assert safe.text("\x1b[0m" * 10_000 + "x").endswith("…")
    assert safe.text("abcdef", limit=3) == "ab…"


@pytest.mark.parametrize("piece", ["\x1b[", "\x1b]", "\x9d", "\x1b]x", "\x1b[0", "\u0301", "\x1b(", "\x90\x1b"])
def test_hostile_text_costs_no_time(piece: str) -> None:
    started = time.process_time()
    safe.text(piece * 1_000_000)
    assert time.process_time() - started < 0.5


def test_truncate_never_splits_a_wide_character() -> None:
    assert safe.truncate("日本語", 4) == "日…"
    assert safe.truncate("日本語", 6) == "日本語"
    assert safe.truncate("abc", 0) == ""


def test_clean_reaches_every_string() -> None:
    reading = GpuReading(
        index=0, uuid="GPU-1", name="H\x1b[2J100", sampled_at=1.0, processes=(GpuProcess(pid=1, command="a\nb"),)
    )
    cleaned = safe.clean(reading)
    assert cleaned.name == "H100"
    assert cleaned.processes[0].command == "a↵b"
    assert cleaned.uuid is reading.uuid


def test_clean_keeps_what_needs_nothing() -> None:
    job = Job(id=1, node="n1", name="train", user="a", state=JobState.RUNNING, submitted_at=0, work_dir="/tmp")
    assert safe.clean(job) is job
    assert safe.clean([job, "a\x00"]) == [job, "a�"]


def as_read(value: Job | GpuReading, line: bytes) -> tuple[object, object]:
    """What is made of a line that says it, by either way."""
    read = decode(line, type(value))
    return safe.clean_read(read, line), safe.clean(read)


@given(anything, anything, st.sampled_from([safe.LIMIT - 1, safe.LIMIT, safe.LIMIT + 1, 3 * safe.LIMIT]))
def test_what_shows_at_once_that_it_is_harmless_is_what_cleaning_makes_of_it(user: str, key: str, long: int) -> None:
    job = Job(id=1, node="n1", name="x" * long, user="", state=JobState.RUNNING, gpus=1, submitted_at=1, work_dir="/w")
    try:
        lines = [msgspec.json.encode(msgspec.structs.replace(job, user=user, sweep={key: user}))]
    except UnicodeEncodeError:  # a lone surrogate: as an escape, which JSON may have
        lines = []
    lines.append(json.dumps(msgspec.to_builtins(msgspec.structs.replace(job, user=user))).encode("ascii"))
    for line in lines:
        if b"\\ud" in line:
            continue  # no JSON of ours: refused where it is read
        quick, slow = as_read(job, line)
        assert quick == slow


def test_a_plain_line_is_taken_as_it_is_and_no_other() -> None:
    job = Job(id=1, node="n1", name="train", user="al", state=JobState.RUNNING, gpus=1, submitted_at=1, work_dir="/w")
    line = msgspec.json.encode(job)
    read = decode(line, Job)
    assert safe.clean_read(read, line) is read
    for byte in (b"\\u001b", b"\xc2\x9b", "‮".encode(), b"\x7f", b"x" * safe.LIMIT):
        quick, slow = as_read(job, said := line.replace(b"train", byte + b"train"))
        assert (quick, quick != decode(said, Job)) == (slow, True)


def test_clean_leaves_log_bytes() -> None:
    chunk = LogChunk(offset=0, data=b"\x1b[31m")
    assert safe.clean(chunk) is chunk


def test_clean_passes_over_no_field_that_may_hold_a_text() -> None:
    """Numbers are not looked at; what msgspec's own view of a type says may be a text is."""
    kinds = list(_structs(msgspec.Struct))
    assert len(kinds) > 50
    for kind in kinds:
        may = {each.name for each in msgspec.inspect.type_info(kind).fields if _may_be_text(each.type)}  # type: ignore[attr-defined]
        assert may <= set(safe._foreign(kind)), kind


def _structs(kind: type[msgspec.Struct]) -> Iterator[type[msgspec.Struct]]:
    for each in kind.__subclasses__():
        if each.__module__.startswith("agent.api."):
            yield each
            yield from _structs(each)


def _may_be_text(kind: msgspec.inspect.Type) -> bool:
    if isinstance(kind, msgspec.inspect.UnionType):
        return any(map(_may_be_text, kind.types))
    bare = msgspec.inspect.IntType | msgspec.inspect.FloatType | msgspec.inspect.BoolType | msgspec.inspect.NoneType
    return not isinstance(kind, bare)
