"""Lines are found whatever the pieces they come in."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from agent.api.types import LogChunk, LogEnd
from tests.fakes.values import job
from tui.grep import MOST_BYTES, Matching


def found(pieces: list[LogChunk], text: str) -> list[LogChunk]:
    passed: list[LogChunk | LogEnd | None] = []
    take = Matching(passed.append, text)
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
    got = found(pieces, text)
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
    Matching(passed.append, "x")(LogEnd(job=job(1)))
    assert isinstance(passed[0], LogEnd)
