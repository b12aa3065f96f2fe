"""What a call over the wire can raise.

    StokerError
    ├── ApiError            the server understood and refused; carries its code, message and field
    └── TransportError      no answer came
        ├── ConnectError    nothing listens there: socket missing, refused, host unreachable
        │   └── AwayError   nobody listens where a daemon of ours should: it may be restarting
        ├── AuthError       ssh: no key or password was accepted
        ├── HostKeyError    ssh: the host's key is unknown, changed or revoked
        ├── DeadlineError   no answer within the deadline
        └── ProtocolError   the bytes that came are not ours: garbled, cut short, or another protocol
            └── VersionError    a newer version of our protocol

Messages say what failed, on what, and what to do next; the cause is chained, not repeated.
"""

from __future__ import annotations


class StokerError(Exception):
    """Base of everything a user may be shown as one sentence."""


class ApiError(StokerError):
    """The server understood the call and refused it.

    Raised on the server to answer with, and by the client when it was answered so.
    """

    def __init__(self, status: int, code: str, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.field = field


class TransportError(StokerError):
    """No answer came."""


class ConnectError(TransportError):
    """Nothing listens there."""


class AwayError(ConnectError):
    """Nobody listens where a daemon of ours should: it has stopped, or is restarting. Nothing was sent."""


class AuthError(TransportError):
    """The ssh server accepted none of our keys."""


class HostKeyError(TransportError):
    """The host's key is not the one we know.

    `known` is False for a host never seen (the user may accept it), True for one that changed or was revoked.
    """

    def __init__(self, message: str, *, host: str, fingerprint: str, key_type: str, known: bool) -> None:
        super().__init__(message)
        self.host = host
        self.fingerprint = fingerprint
        self.key_type = key_type
        self.known = known


class DeadlineError(TransportError):
    """No answer within the deadline."""


class ProtocolError(TransportError):
    """What came is not our protocol."""


class VersionError(ProtocolError):
    """A newer version of our protocol: trying again helps nobody before this program is upgraded."""
