"""An HTTP answer read piece by piece: where its body ends, and what is no answer."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.api.answer import HEADERS_MAX, LINE_MAX_BYTES, Answer, GarbledError, NoAnswerError

OK = b"HTTP/1.1 200 OK\r\n"


class _Drip(io.RawIOBase):
    """Bytes that come a few at a time, and then the connection's end."""

    def __init__(self, data: bytes, most: int) -> None:
        self._data, self._most = data, most

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        piece, self._data = self._data[: min(self._most, len(buffer))], self._data[min(self._most, len(buffer)) :]
        buffer[: len(piece)] = piece
        return len(piece)


def coming(data: bytes, most: int = 1 << 20) -> io.BufferedReader:
    return io.BufferedReader(_Drip(data, most))


def answer(data: bytes, *, method: str = "GET", most: int = 1 << 20) -> Answer:
    return Answer(coming(data, most), method)


def body(read: Answer) -> bytes:
    return b"".join(iter(read.piece, b""))


def test_a_body_ends_with_its_length_and_the_connection_may_be_asked_again() -> None:
    file = coming(OK + b"Content-Length: 5\r\n\r\nhello" + OK + b"content-length: 1\r\n\r\n!", 7)
    first = Answer(file, "GET")
    assert (first.status, body(first), first.will_close) == (200, b"hello", False)
    assert body(Answer(file, "GET")) == b"!"


def test_a_body_ends_with_its_last_chunk() -> None:
    data = OK + b"Transfer-Encoding: Chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\nT: r\r\n\r\n" + OK + b"\r\n"
    file = coming(data, 3)
    first = Answer(file, "GET")
    assert (body(first), first.will_close) == (b"hello", False)
    assert Answer(file, "GET").status == 200


def test_a_body_that_says_no_end_ends_with_the_connection() -> None:
    read = answer(OK + b"\r\nhello", most=2)
    assert (body(read), read.will_close) == (b"hello", True)


@pytest.mark.parametrize(
    "head", [b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n", OK + b"Connection: Close\r\nContent-Length: 0\r\n"]
)
def test_a_server_that_closes_says_so(head: bytes) -> None:
    assert answer(head + b"\r\n").will_close


@pytest.mark.parametrize(("status", "method"), [(b"204", "POST"), (b"304", "GET"), (b"200", "HEAD")])
def test_some_answers_have_no_body_whatever_they_say(status: bytes, method: str) -> None:
    read = answer(b"HTTP/1.1 " + status + b" Word\r\nContent-Length: 99\r\n\r\n", method=method)
    assert (body(read), read.will_close) == (b"", False)


def test_an_interim_answer_is_passed_over() -> None:
    assert answer(b"HTTP/1.1 100 Continue\r\n\r\n" + OK.replace(b"200", b"201") + b"\r\n").status == 201


def test_headers_are_found_in_any_case_and_joined() -> None:
    read = answer(OK + b"Stoker-Log-End:  7 \r\nA: b\nA: c\r\n\r\n")
    assert (read.header("stoker-log-end"), read.header("a"), read.header("none")) == ("7", "b, c", None)


def test_a_piece_is_handed_on_before_the_next_one_is_there() -> None:
    def stop(_: memoryview) -> int:
        raise TimeoutError

    raw = _Drip(OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc", 1 << 20)
    file: io.BufferedReader = io.BufferedReader(raw)
    read = Answer(file, "GET")
    raw.readinto = stop  # type: ignore[method-assign,assignment]
    assert read.piece() == b"abc"
    with pytest.raises(TimeoutError):
        read.piece()
    with pytest.raises(GarbledError):  # and not the body's orderly end
        read.piece()


def test_nothing_is_told_from_garbage() -> None:
    with pytest.raises(NoAnswerError):
        answer(b"")


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 +20 OK\r\n\r\n",
        OK,
        OK + b"Content-Len",
        OK + b"no colon\r\n\r\n",
        OK + b": no name\r\n\r\n",
        OK + b"A: b\r\n folded: c\r\n\r\n",
        OK + b"Content-Length : 5\r\n\r\n",
        OK + b"Content-Length: -5\r\n\r\n",
        OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n",
        OK + b"Content-Length: \xb2\r\n\r\n",
        OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n",
        OK + b"A: " + b"x" * LINE_MAX_BYTES + b"\r\n\r\n",
        OK + b"A: b\r\n" * (HEADERS_MAX + 1) + b"\r\n",
    ],
)
def test_a_head_that_is_none(data: bytes) -> None:
    with pytest.raises(GarbledError):
        answer(data)


@pytest.mark.parametrize(
    "rest",
    [
        b"",
        b"5\r\nhel",
        b"5\r\nhello",
        b"5\r\nhello\r\n",
        b"5\r\nhelloX\r\n0\r\n\r\n",
        b"zz\r\n",
        b"-1\r\n",
        b"1_0\r\n",
        b"\r\n",
        b"0\r\n",
    ],
)
def test_chunks_that_are_none(rest: bytes) -> None:
    with pytest.raises(GarbledError):
        body(answer(OK + b"Transfer-Encoding: chunked\r\n\r\n" + rest))


def test_a_body_shorter_than_its_length_is_cut_short() -> None:
    with pytest.raises(GarbledError, match="2 bytes"):
        body(answer(OK + b"Content-Length: 5\r\n\r\nhel"))


@given(pieces=st.lists(st.binary(min_size=1, max_size=40)), most=st.integers(1, 50))
def test_chunks_cut_at_any_byte_are_whole_again(pieces: list[bytes], most: int) -> None:
    data = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in [*pieces]) + b"0\r\n\r\n"
    assert body(answer(OK + b"Transfer-Encoding: chunked\r\n\r\n" + data, most=most)) == b"".join(pieces)
