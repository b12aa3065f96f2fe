"""A Unix socket server that says exactly what a test wants, byte by byte."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

Talk = Callable[[socket.socket, int], None]
"""Serves one connection; gets its number, from 0."""


@contextmanager
def raw_server(path: Path, talk: Talk) -> Iterator[None]:
    """Serve each connection to `path` with `talk`, in a thread of its own."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen(16)
    open_socks: list[socket.socket] = []

    def serve(sock: socket.socket, number: int) -> None:
        with contextlib.suppress(OSError), sock:
            talk(sock, number)

    def accept() -> None:
        for number in range(1_000_000):
            try:
                sock, _ = server.accept()
            except OSError:
                return
            open_socks.append(sock)
            threading.Thread(target=serve, args=(sock, number), name=f"raw {number}", daemon=True).start()

    thread = threading.Thread(target=accept, name="raw server", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        for sock in open_socks:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        thread.join(5)


def read_request(sock: socket.socket) -> bytes:
    """One request: head and body. Empty when the client has closed."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = sock.recv(65536)
        if not piece:
            return b""
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            while len(body) < int(line.split(b":")[1]):
                body += sock.recv(65536)
    return head + b"\r\n\r\n" + body


def http(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    """A whole answer with a length."""
    lines = [f"HTTP/1.1 {status}", "Content-Type: application/json", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body; of nothing: its end."""
    return b"%x\r\n%s\r\n" % (len(data), data)


STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
