"""How bytes reach a server: the seam between the client and a Unix socket or an ssh channel.

Rules kept here: a `Conn` is one byte stream in both directions and knows nothing of HTTP; every wait on it is bounded
by the timeout last set; `close` may be called from any thread, any number of times, and wakes a blocked reader.
"""

from __future__ import annotations

from typing import Protocol


class Conn(Protocol):
    """One open byte stream to a server."""

    def recv_into(self, buffer: memoryview, /) -> int:
        """Read at least one byte; 0 means that the other end has finished.

        Raises:
            TimeoutError: nothing came within the timeout.
            OSError: the stream broke.
        """
        ...

    def sendall(self, data: bytes | memoryview, /) -> None:
        """Write everything.

        Raises:
            TimeoutError: the other end did not take it within the timeout.
            OSError: the stream broke.
        """
        ...

    def settimeout(self, timeout_s: float, /) -> None:
        """Bound each of the next reads and writes."""
        ...

    def is_stale(self) -> bool:
        """Whether an idle stream is of no more use: the other end closed it or said something unasked."""
        ...

    def close(self) -> None:
        """End it, and wake whoever reads from it."""
        ...


class Transport(Protocol):
    """A way to one server; safe to use from several threads."""

    def open(self, timeout_s: float) -> Conn:
        """A new stream to the server.

        Raises:
            TransportError: with a sentence that says what to do.
        """
        ...

    def describe(self) -> str:
        """The server's place in words, for error sentences: `/run/stoker/hub.sock`, `alice@head1`."""
        ...

    @property
    def behind(self) -> str | None:
        """Where this is root by `sudo` on the server's machine: who it was before."""
        ...

    def close(self) -> None:
        """Give up what all streams share; they end too where they depend on it."""
        ...
