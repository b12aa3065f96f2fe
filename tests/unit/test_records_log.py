"""The bounded log against a model: whatever is written in whatever pieces, head and tail are what they must be."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.engine import logread
from agent.engine.output import BoundedLog
from agent.engine.records import AttemptDir

Folder = pytest.TempPathFactory


def _written(folder: Path, head: int, tail: int, parts: list[bytes]) -> tuple[AttemptDir, BoundedLog]:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        log = BoundedLog(fd, head, tail)
        for part in parts:
            log.write(part)
            assert sum(path.stat().st_size for path in folder.glob("log*")) <= head + tail
        log.close()
    finally:
        os.close(fd)
    return AttemptDir(folder), log


def _parts(lengths: list[int]) -> list[bytes]:
    """Bytes that tell where they are: no two neighbours at a distance below 65,521 are alike by accident."""
    whole = b"".join(number.to_bytes(4, "big") for number in range(sum(lengths) // 4 + 1))
    parts, at = [], 0
    for length in lengths:
        parts.append(whole[at : at + length])
        at += length
    return parts


@given(
    head=st.integers(0, 100),
    tail=st.integers(0, 100),
    lengths=st.lists(st.integers(0, 300), max_size=12),
    step=st.integers(1, 400),
)
def test_head_and_tail_are_kept_and_every_offset_means_what_it_says(
    tmp_path_factory: Folder, head: int, tail: int, lengths: list[int], step: int
) -> None:
    parts = _parts(lengths)
    whole = b"".join(parts)
    attempt, log = _written(tmp_path_factory.mktemp("log"), head, tail, parts)
    assert log.size == len(whole)
    pieces = logread.read(attempt, 0, len(whole) + 1)
    for piece in pieces:
        assert piece.data == whole[piece.offset : piece.end]
    kept = b"".join(piece.data for piece in pieces)
    assert kept.startswith(whole[:head])
    if tail:
        assert not whole or pieces[-1].end == len(whole)
        assert len(kept) >= min(len(whole), head + tail * 3 // 4 - 3)
    # Read in steps, as a follower does: the same bytes.
    offset, again = 0, b""
    while got := logread.read(attempt, offset, step):
        again += b"".join(piece.data for piece in got)
        offset = got[-1].end
    assert again == kept


@given(offset=st.integers(0, 2000), limit=st.integers(0, 2000))
def test_a_read_from_anywhere_is_what_is_kept_from_there(tmp_path_factory: Folder, offset: int, limit: int) -> None:
    whole = b"".join(_parts([1000]))
    attempt, _ = _written(tmp_path_factory.mktemp("log"), 100, 200, [whole])
    kept = logread.read(attempt, 0, 10_000)
    positions = [(piece.offset + at, piece.data[at]) for piece in kept for at in range(len(piece.data))]
    expected = [each for each in positions if each[0] >= offset][:limit]
    got = logread.read(attempt, offset, limit)
    assert [(piece.offset + at, piece.data[at]) for piece in got for at in range(len(piece.data))] == expected


def test_a_log_that_fits_is_one_piece(tmp_path: Path) -> None:
    attempt, _ = _written(tmp_path, 10, 100, [b"0123456789abcdef"])
    assert logread.read(attempt, 0, 100) == [logread.Piece(0, b"0123456789abcdef")]
    assert logread.size(attempt) == 16


def test_no_log_yet_is_an_empty_one(tmp_path: Path) -> None:
    attempt = AttemptDir(tmp_path / "none")
    assert (logread.read(attempt, 0, 10), logread.size(attempt)) == ([], 0)


@pytest.mark.parametrize(("offset", "limit"), [(-1, 10), (0, -1)])
def test_a_negative_position_is_refused(tmp_path: Path, offset: int, limit: int) -> None:
    with pytest.raises(ValueError, match="position"):
        logread.read(AttemptDir(tmp_path), offset, limit)


def test_foreign_files_beside_the_log_are_not_read(tmp_path: Path) -> None:
    attempt, _ = _written(tmp_path, 10, 0, [b"abc"])
    for name in ("log.old", "log.5.gz", "logs", "log."):
        (tmp_path / name).write_text("foreign")
    assert logread.read(attempt, 0, 100) == [logread.Piece(0, b"abc")]


def test_segments_that_rotate_away_under_the_reader_are_a_jump(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    log = BoundedLog(fd, 4, 16)
    log.write(b"HEAD" + b"a" * 16)
    first = logread.read(AttemptDir(tmp_path), 0, 6)
    log.write(b"b" * 40)
    second = logread.read(AttemptDir(tmp_path), first[-1].end, 100)
    log.close()
    os.close(fd)
    assert first == [logread.Piece(0, b"HEADaa")]
    assert second[0].offset > 6
    assert second[-1].end == 60
    assert set(second[-1].data) == {ord("b")}
