"""Lines are found whatever the pieces they come in."""

from __future__ import annotations

import itertools
import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.api.types import LogChunk, LogEnd
from tests.fakes.values import job
from tui import grep
from tui.grep import MOST_BYTES, Choice, Matching, PatternError


def found(pieces: list[LogChunk], text: str, *, fixed: bool = False) -> list[LogChunk]:
    passed: list[LogChunk | LogEnd | None] = []
    take = Matching(passed.append, Choice(text, fixed=fixed))
    for piece in pieces:
        take(piece)
    take(None)
    assert passed.pop() is None
    return [each for each in passed if isinstance(each, LogChunk)]


@given(st.lists(st.binary(max_size=12)), st.lists(st.integers(0, 40)), st.sampled_from(["a", "ab", "\n", "é", "\r"]))
def test_the_cuts_between_pieces_do_not_matter(lines: list[bytes], cuts: list[int], text: str) -> None:
    whole = b"\n".join(line.replace(b"\x00", b"ab") for line in lines)
    places = sorted({0, len(whole), *(min(cut, len(whole)) for cut in cuts)})
    pieces = [LogChunk(offset=a, data=whole[a:b]) for a, b in itertools.pairwise(places)]
    wanted = whole.split(b"\n")[:-1]
    expected = [line + b"\n" for line in wanted if text.encode() in line + b"\n"]
    rest = whole.split(b"\n")[-1]
    expected += [rest] if rest and text.encode() in rest else []
    got = found(pieces, text, fixed=True)
    assert [each.data for each in got] == expected
    assert all(whole[each.offset : each.offset + len(each.data)] == each.data for each in got)


def test_a_jump_ends_the_line_that_was_cut() -> None:
    pieces = [LogChunk(offset=0, data=b"no\nlo"), LogChunk(offset=100, data=b"ss\nloss=1\n")]
    assert [(each.offset, each.data) for each in found(pieces, "loss")] == [(103, b"loss=1\n")]


def test_a_line_without_an_end_is_judged_as_it_is() -> None:
    pieces = [LogChunk(offset=at * MOST_BYTES, data=b"x" * MOST_BYTES) for at in range(3)]
    assert len(found(pieces, "x")) == 3


def test_the_end_of_the_job_is_passed_on() -> None:
    passed: list[LogChunk | LogEnd | None] = []
    Matching(passed.append, Choice("x"))(LogEnd(job=job(1)))
    assert isinstance(passed[0], LogEnd)


@pytest.mark.parametrize(
    ("pattern", "line", "matches"),
    [
        (r"^loss=\d+\.\d+$", b"loss=0.25\n", True),
        (r"^loss=\d+\.\d+$", b"loss=0.25\r\n", True),
        (r"^loss=\d+\.\d+$", b"val loss=0.25\n", False),
        (r"nan|inf", b"grad is inf\n", True),
        (r"(?i)error", b"CUDA Error\n", True),
        (r"^.$", "é\n".encode(), True),
        (r"\xff|b", b"a\xffb\n", True),
        (r"[rank0]", b"[rank0]: up\n", True),
        (r"[rank0]", b"a\n", True),
    ],
)
def test_a_pattern_is_pythons(pattern: str, line: bytes, matches: bool) -> None:
    assert Choice(pattern).takes(line) is matches
    assert Choice(pattern, fixed=True).takes(line) is (pattern.encode() in line)


def test_a_server_is_told_of_plain_text_alone() -> None:
    assert [Choice("loss=").text, Choice("los.").text, Choice("los.", fixed=True).text] == ["loss=", None, "los."]


@pytest.mark.parametrize(
    ("pattern", "place"), [("a(b", "character 2, '(b'"), ("*a", "character 1, '*a'"), ("x[z", "character 2, '[z'")]
)
def test_what_is_no_pattern_is_refused_with_the_place(pattern: str, place: str) -> None:
    with pytest.raises(PatternError, match="no regular expression") as caught:
        Choice(pattern)
    assert place in str(caught.value)
    assert "--fixed-strings" in str(caught.value)


def test_a_pattern_that_would_take_for_ever_ends_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grep, "MOST_S", 0.1)
    before = signal.getsignal(signal.SIGALRM)
    with pytest.raises(PatternError, match="make it simpler"):
        Choice("(a+)+$").takes(b"a" * 100 + b"!\n")
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
