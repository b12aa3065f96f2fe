"""Finding things in a job's log: since a time, and the lines with some text."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.engine import logread, logtimes
from agent.engine.logread import LINE_MOST_BYTES, Piece
from agent.engine.logtimes import MARK_BYTES, MARKS_MOST, LogTimes, pack, unpack
from agent.engine.output import BoundedLog
from agent.engine.records import AttemptDir
from tests.fakes.attempts import Bench


def written(folder: Path, *parts: bytes, head: int = 1 << 20, tail: int = 0) -> AttemptDir:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    log = BoundedLog(fd, head, tail)
    for part in parts:
        log.write(part)
    log.close()
    os.close(fd)
    return AttemptDir(folder)


def marked(folder: Path, *marks: tuple[int, int, int]) -> AttemptDir:
    attempt = written(folder, b"x" * 1000)
    (folder / logtimes.NAME).write_bytes(b"".join(pack(*mark) for mark in marks))
    return attempt


# --- since ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("since", "offset"),
    [
        (0, 0),
        (100, 0),
        (100.5, 0),
        (101, 10),
        (102, 10),
        (110.5, 10),
        (111, 500),
        (200.9, 500),
        (201, 1000),
        (1e12, 1000),
    ],
)
def test_since_begins_with_the_mark_that_covers_the_time(tmp_path: Path, since: float, offset: int) -> None:
    attempt = marked(tmp_path, (0, 100_000, 1000), (10, 110_000, 1000), (500, 200_000, 1000))
    assert logread.offset_since(attempt, since) == offset


def test_without_marks_everything_is_since(tmp_path: Path) -> None:
    attempt = written(tmp_path, b"abc")
    (tmp_path / logtimes.NAME).unlink()
    assert logread.offset_since(attempt, time.time() + 100) == 0
    (tmp_path / logtimes.NAME).write_bytes(b"torn")
    assert logread.offset_since(attempt, time.time() + 100) == 0
    assert logread.offset_since(AttemptDir(tmp_path / "none"), 0) == 0


def test_marks_are_made_once_a_second_and_tell_the_time(tmp_path: Path) -> None:
    now = 0.0
    fd = os.open(tmp_path, os.O_RDONLY)
    times = LogTimes(fd, lambda: now, lambda: 5000 + now)
    for offset in range(100):
        times.mark(offset)
        now += 0.25
    times.close()
    os.close(fd)
    marks = unpack((tmp_path / logtimes.NAME).read_bytes())
    assert [mark[0] for mark in marks] == list(range(0, 100, 4))
    assert marks[3] == (12, 5_003_000, 1000)


def test_the_file_is_bounded_and_no_time_is_ever_lost(tmp_path: Path) -> None:
    """A job that writes for two days: whatever is looked for begins at or before what was written then, not by much."""
    now, whole_s = 0.0, 2 * 86_400
    fd = os.open(tmp_path, os.O_RDONLY)
    times = LogTimes(fd, lambda: now, lambda: now)
    path, attempt = tmp_path / logtimes.NAME, AttemptDir(tmp_path)
    for second in range(whole_s):
        now = float(second)
        times.mark(second * 10)
    times.close()
    os.close(fd)
    assert path.stat().st_size <= MARKS_MOST * MARK_BYTES
    for age in (0, 1, 5, 60, 600, 3600, 86_400, whole_s - 10):
        then = whole_s - 1 - age
        offset = logread.offset_since(attempt, then)
        assert then - (2 + age / 200) <= offset / 10 <= then


@given(st.lists(st.integers(0, 10**7), min_size=2, max_size=200), st.integers(0, 10**7))
def test_thinning_joins_and_never_loses(moments: list[int], at: int) -> None:
    """Also where the clock was set back: what is found for a time of a mark is not after that mark."""
    moments.sort()
    data = b"".join(pack(number, moment, 1000) for number, moment in enumerate(moments))
    now = moments[-1] + 1000
    thin = unpack(logtimes.thinned(data, now))
    assert len(thin) <= len(moments)
    assert thin[0][:2] == (0, moments[0])
    wanted = moments[at % len(moments)]
    first = next(offset for offset, at_ms, span_ms in thin if at_ms + span_ms > wanted)
    assert moments[first] <= wanted


@given(st.lists(st.tuples(st.integers(0, 2**60), st.integers(0, 2**60), st.integers(0, 2**60)), max_size=50))
def test_any_marks_can_be_thinned(marks: list[tuple[int, int, int]]) -> None:
    data = b"".join(pack(*mark) for mark in marks)
    thin = logtimes.thinned(data, 1000)
    assert len(unpack(thin)) <= len(marks)
    assert len(marks) < 8 or len(unpack(thin)) <= len(marks) * 7 / 8


def test_a_real_jobs_log_is_found_by_time(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.run("echo early; sleep 2.2; date +%s; echo late")
    attempt = bench.last
    whole = logread.read(attempt, 0, 1000)[0].data
    at = int(whole.split()[1])
    offset = logread.offset_since(attempt, at)
    assert whole[offset:].startswith(str(at).encode())
    assert logread.offset_since(attempt, at - 60) == 0
    assert logread.offset_since(attempt, at + 60) == len(whole)


# --- grep -------------------------------------------------------------------------------------------------------------


def test_lines_with_the_text_and_where_they_are(tmp_path: Path) -> None:
    attempt = written(tmp_path, b"loss 1\nacc 2\nloss 3\nLoss 4\n\nlo", b"ss 5")
    found = logread.grep(attempt, b"loss", 0, 1000)
    assert [(each.offset, each.data) for each in found.lines] == [(0, b"loss 1\n"), (13, b"loss 3\n")]
    assert found.end == 28, "the line that is still being written is left for later"
    found = logread.grep(attempt, b"loss", 0, 1000, ended=True, ignore_case=True)
    assert [each.data for each in found.lines] == [b"loss 1\n", b"loss 3\n", b"Loss 4\n", b"loss 5"]
    assert found.end == logread.size(attempt)
    assert logread.grep(attempt, b"loss", found.end, 1000, ended=True).lines == []


def test_text_is_text_and_no_pattern(tmp_path: Path) -> None:
    attempt = written(tmp_path, b"a.c\nabc\n(a+)+$\n[\n\xff\xfe\n")
    for text in (b"a.c", b"(a+)+$", b"[", b"\xff"):
        assert [text in each.data for each in logread.grep(attempt, text, 0, 1000).lines] == [True]


def test_a_limit_is_kept_and_the_next_call_goes_on(tmp_path: Path) -> None:
    attempt = written(tmp_path, b"".join(b"match %d\n" % number for number in range(1000)))
    lines, offset, calls = [], 0, 0
    while (found := logread.grep(attempt, b"match", offset, 100)).lines:
        lines += found.lines
        offset, calls = found.end, calls + 1
    assert b"".join(each.data for each in lines) == logread.read(attempt, 0, 1 << 20)[0].data
    assert calls > 50


def test_row_20_lines_of_megabytes_and_binary_are_looked_at_in_pieces(tmp_path: Path) -> None:
    attempt = written(tmp_path, b"x" * (3 << 20) + b"needle\n" + bytes(range(256)) * 100 + b"\nneedle\n", head=8 << 20)
    found = logread.grep(attempt, b"needle", 0, 1 << 20)
    assert len(found.lines) == 2
    assert all(len(each.data) <= LINE_MOST_BYTES for each in found.lines)
    assert found.end == logread.size(attempt)


def test_what_was_cut_out_ends_a_line(tmp_path: Path) -> None:
    attempt = written(tmp_path, b"needle 1 " + b"y" * 500 + b" needle 2\n", head=12, tail=40)
    found = logread.grep(attempt, b"needle", 0, 1000, ended=True)
    assert found.lines[0] == Piece(0, b"needle 1 yyy")
    assert found.lines[1].data.endswith(b" needle 2\n")


def test_a_search_that_takes_too_long_says_how_far_it_came(tmp_path: Path) -> None:
    attempt = written(tmp_path, (b"." * 99 + b"\n") * 40_000, head=8 << 20)
    ticks = iter(range(1000))
    found = logread.grep(attempt, b"needle", 0, 1000, clock=lambda: next(ticks) * 0.4)
    assert found.lines == []
    assert 0 < found.end < logread.size(attempt)
    assert logread.grep(attempt, b"needle", found.end, 1000).end == logread.size(attempt)


@given(
    st.lists(st.sampled_from([b"a", b"b", b"ab", b"\n", b"\r", b"\0"]), max_size=60).map(b"".join),
    st.sampled_from([b"a", b"ab", b"ba", b"\r", b"\0"]),
    st.booleans(),
)
def test_it_finds_what_a_plain_search_finds(
    tmp_path_factory: pytest.TempPathFactory, whole: bytes, text: bytes, ended: bool
) -> None:
    attempt = written(tmp_path_factory.mktemp("log"), whole)
    lines = whole.split(b"\n")
    expected = [line + b"\n" for line in lines[:-1] if text in line]
    if ended and lines[-1] and text in lines[-1]:
        expected.append(lines[-1])
    assert [each.data for each in logread.grep(attempt, text, 0, 10_000, ended=ended).lines] == expected
