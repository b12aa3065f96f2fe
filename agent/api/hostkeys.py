"""Which host keys we trust: OpenSSH's known_hosts files, or one pinned key.

Rules kept here (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT): hashed and plain names, `[host]:port`, wildcards and negations;
a `@revoked` key is refused whatever else is said; a line we cannot use is skipped, never fatal. A host of which we know
any key may not come with another one, not even one of another type: that is what an attacker without the key would do.
"""

from __future__ import annotations

import base64
import binascii
import enum
import fcntl
import fnmatch
import hashlib
import hmac
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from agent.api.errors import HostKeyError, StokerError
from agent.api.givenfile import read_given

_FILE_MAX_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class HostKey:
    """A public key of a host."""

    type: str
    """As on the wire, e.g. `ssh-ed25519`."""
    blob: bytes
    """RFC 4253, section 6.6."""

    @classmethod
    def parse(cls, text: str) -> HostKey:
        """Read `ssh-ed25519 AAAA… [comment]`.

        Raises:
            StokerError: it is not a public key.
        """
        words = text.split()
        key = _key(words[0], words[1]) if len(words) >= 2 else None
        if key is None:
            raise StokerError(f"{text[:60]!r} is not a public key; write it as in known_hosts: ssh-ed25519 AAAA…")
        return key

    @property
    def fingerprint(self) -> str:
        """As `ssh-keygen -l` prints it: `SHA256:` and unpadded base64."""
        return "SHA256:" + base64.b64encode(hashlib.sha256(self.blob).digest()).decode().rstrip("=")

    def __str__(self) -> str:
        return f"{self.type} {base64.b64encode(self.blob).decode()}"


class UnknownHostError(HostKeyError):
    """A host never seen. `remember` accepts its key, once the user has compared the fingerprint."""

    def __init__(self, *, host: str, key: HostKey, file: Path) -> None:
        message = (
            f"the host key of {host} is not known; its {key.type} fingerprint is {key.fingerprint}; "
            "compare it on the host itself before accepting it"
        )
        super().__init__(message, host=host, fingerprint=key.fingerprint, key_type=key.type, known=False)
        self.key = key
        self.file = file
        """Where the key would be remembered."""


class HostKeyPolicy(Protocol):
    """Says which keys to ask a host for, and whether the one it shows is right."""

    def types(self, name: str) -> Sequence[str]:
        """Key types known of the host, for the negotiation to prefer."""
        ...

    def check(self, name: str, key: HostKey) -> None:
        """Accept the key, or refuse it.

        Raises:
            HostKeyError: with the fingerprints and what to do.
        """
        ...


class PinnedKey:
    """The one key that the configuration names: how the hub knows its nodes."""

    def __init__(self, key: HostKey, origin: str) -> None:
        self._key = key
        self._origin = origin

    def types(self, name: str) -> Sequence[str]:
        """The pinned key's type."""
        return (self._key.type,)

    def check(self, name: str, key: HostKey) -> None:
        """Accept the pinned key only."""
        if key == self._key:
            return
        raise HostKeyError(
            f"{name} shows the host key {key.fingerprint} ({key.type}), but {self._origin} pins "
            f"{self._key.fingerprint} ({self._key.type}); if the node was replaced, pin its new key there, "
            "else find out who answers",
            host=name,
            fingerprint=key.fingerprint,
            key_type=key.type,
            known=True,
        )


class KnownHosts:
    """The user's known_hosts files; the first is the one that new keys are remembered in."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = files

    def types(self, name: str) -> Sequence[str]:
        """Types of the keys that the files hold for the host."""
        return tuple(dict.fromkeys(entry.key.type for entry in self._entries(name) if entry.mark is _Mark.PLAIN))

    def check(self, name: str, key: HostKey) -> None:
        """Accept a key that the files hold; revoked wins."""
        entries = list(self._entries(name))
        for entry in entries:
            if entry.mark is _Mark.REVOKED and entry.key == key:
                raise _refused(name, key, f"is revoked by {entry.place}; do not connect, and tell an admin")
        plain = [entry for entry in entries if entry.mark is _Mark.PLAIN]
        if any(entry.key == key for entry in plain):
            return
        if plain:
            known = next((entry for entry in plain if entry.key.type == key.type), plain[0])
            raise _refused(
                name,
                key,
                f"has changed: {known.place} says {known.key.fingerprint} ({known.key.type}); someone may be "
                "in between. If an admin confirms the new key, remove that line and connect again",
            )
        raise UnknownHostError(host=name, key=key, file=self._files[0])

    def _entries(self, name: str) -> Iterable[_Entry]:
        for file in self._files:
            for entry in _read(file):
                if _matches(entry.names, name):
                    yield entry


def remember(error: UnknownHostError) -> None:
    """Append the key of an unknown host to the user's known_hosts: one write, under a lock, on disk when it returns.

    Raises:
        StokerError: the file cannot be written.
    """
    line = f"{error.host} {error.key}\n".encode()
    try:
        error.file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(error.file, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            size = os.fstat(fd).st_size
            unended = size > 0 and os.pread(fd, 1, size - 1) != b"\n"
            os.write(fd, b"\n" + line if unended else line)
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as failure:
        raise StokerError(f"cannot remember the host key in {error.file}: {failure.strerror or failure}") from failure


def host_name(host: str, port: int) -> str:
    """A host's name in known_hosts: `[host]:port` unless the port is 22."""
    return host.lower() if port == 22 else f"[{host.lower()}]:{port}"


# --- the file's lines -------------------------------------------------------------------------------------------------


class _Mark(enum.Enum):
    PLAIN = enum.auto()
    REVOKED = enum.auto()
    CA = enum.auto()
    """An authority that signs host certificates. We do not ask hosts for certificates, so it vouches for no key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    mark: _Mark
    names: str
    key: HostKey
    place: str


_MARKS = {"@revoked": _Mark.REVOKED, "@cert-authority": _Mark.CA}


def _read(file: Path) -> Iterable[_Entry]:
    try:
        text = read_given(file, _FILE_MAX_BYTES)[:_FILE_MAX_BYTES].decode("utf-8", "replace")
    except OSError:
        return  # a file that is not there knows no host
    for number, line in enumerate(text.splitlines(), start=1):
        entry = _entry(line, f"{file}:{number}")
        if entry is not None:
            yield entry


def _entry(line: str, place: str) -> _Entry | None:
    words = line.split()
    if not words or words[0].startswith("#"):
        return None
    mark = _Mark.PLAIN
    if words[0].startswith("@"):
        known = _MARKS.get(words.pop(0))
        if known is None:
            return None  # sshd(8): a line with an unknown marker does not count
        mark = known
    if len(words) < 3:
        return None
    key = _key(words[1], words[2])
    return None if key is None else _Entry(mark=mark, names=words[0], key=key, place=place)


def _key(kind: str, text: str) -> HostKey | None:
    try:
        blob = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    length = int.from_bytes(blob[:4], "big")
    return HostKey(type=kind, blob=blob) if blob[4 : 4 + length] == kind.encode() and length else None


def _matches(names: str, name: str) -> bool:
    if names.startswith("|1|"):
        return _matches_hash(names, name)
    found = False
    for pattern in names.lower().split(","):
        negated = pattern.startswith("!")
        if _glob(pattern.removeprefix("!"), name):
            if negated:
                return False
            found = True
    return found


def _glob(pattern: str, name: str) -> bool:
    # Only * and ? are special in known_hosts, but fnmatch knows [ ] too, and they stand in every [host]:port.
    return fnmatch.fnmatchcase(name, pattern.replace("[", "[[]"))


def _matches_hash(names: str, name: str) -> bool:
    """`|1|SALT|HASH`: HMAC-SHA1 of the name, as `HashKnownHosts yes` writes it."""
    try:
        salt, digest = (base64.b64decode(part, validate=True) for part in names[3:].split("|"))
    except (binascii.Error, ValueError):
        return False
    return hmac.compare_digest(hmac.new(salt, name.encode(), hashlib.sha1).digest(), digest)


def _refused(name: str, key: HostKey, what: str) -> HostKeyError:
    return HostKeyError(
        f"the host key of {name}, {key.fingerprint} ({key.type}), {what}",
        host=name,
        fingerprint=key.fingerprint,
        key_type=key.type,
        known=True,
    )
