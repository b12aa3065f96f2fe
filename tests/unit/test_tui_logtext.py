"""From a log's bytes to safe lines."""

from __future__ import annotations

import itertools
import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from tui.logtext import LINE_MAX, LogLine, LogText


def read(*pieces: bytes) -> list[str]:
    """All lines of a log that came in pieces."""
    text, offset, lines = LogText(), 0, []
    for piece in pieces:
        lines += text.feed(offset, piece)
        offset += len(piece)
    return [line.text for line in [*lines, *text.finish()]]


def test_lines_and_an_open_end() -> None:
    text = LogText()
    assert text.feed(0, b"one\ntwo\nthr") == [LogLine("one"), LogLine("two")]
    assert text.partial == "thr"
    assert text.feed(11, b"ee\n") == [LogLine("three")]
    assert text.partial == ""
    assert text.finish() == []


def test_a_progress_bar_shows_its_last_state() -> None:
    assert read(b" 10%\r 20%\r 30%\n") == [" 30%"]
    assert read(b" 10%\r", b" 20%\r", b" 30%", b"\ndone\n") == [" 30%", "done"]
    assert read(b"windows line\r\nnext\r\n") == ["windows line", "next"]


def test_an_open_progress_bar_does_not_grow() -> None:
    text, offset = LogText(), 0
    for number in range(10_000):
        piece = b"\r%d%%" % number
        text.feed(offset, piece)
        offset += len(piece)
    assert text.partial == "9999%"
    assert len(text._open) < 20


def test_a_line_without_end_is_cut_into_lines() -> None:
    lines = read(*[b"x" * 1000] * 100)
    assert sum(len(line) for line in lines) >= 4096
    assert all(len(line) <= LINE_MAX for line in lines)


def test_a_jump_is_noted_where_it_is() -> None:
    text = LogText()
    text.feed(0, b"before")
    lines = text.feed(1_048_582, b"after\n")
    assert [line.note for line in lines] == [False, True, False]
    assert "1.0 MiB" in lines[1].text


def test_a_log_may_begin_in_its_middle() -> None:
    assert LogText().feed(5_000_000, b"tail\n") == [LogLine("tail")]


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=5))
def test_the_cuts_between_chunks_do_not_matter(data: bytes, cuts: list[int]) -> None:
    borders = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    pieces = [data[a:b] for a, b in itertools.pairwise(borders)]
    assert read(*pieces) == read(data)


@given(st.binary(max_size=300))
def test_nothing_acts(data: bytes) -> None:
    for line in read(data):
        assert not [char for char in line if unicodedata.category(char) in {"Cc", "Cf", "Cs", "Co", "Cn"}]
