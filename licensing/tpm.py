"""What tells a TPM 2.0 from every other: the certificate of its endorsement key, else that key.

Commands of "TPM 2.0 Library, Part 3", asked over the kernel's resource manager; none changes anything in the TPM, none
needs a password, and none makes the key anew, which takes a TPM up to a minute. Where the certificates lie is said by
"TCG EK Credential Profile", 2.2.1.4 and 2.2.1.5, and the keys by "TCG TPM v2.0 Provisioning Guidance", 7.8.
"""

from __future__ import annotations

import hashlib
import os
import select
import stat
import struct
import time
from collections.abc import Callable
from pathlib import Path

DEVICE = "dev/tpmrm0"
TIMEOUT_S = 2.0
"""Of one answer. A TPM has milliseconds for these; one that is busy with another's key has seconds."""

_CERTIFICATES = (0x01C00002, 0x01C0000A, 0x01C00012, 0x01C00014, 0x01C00016, 0x01C00018, 0x01C0001A, 0x01C0001C)
"""NV indexes: RSA 2048 and NIST P-256, then those of the high range."""
_KEYS = (0x81010001, 0x81010002)
"""Persistent handles that a provisioned TPM has its endorsement keys at."""
_NV_READ_PUBLIC, _NV_READ, _READ_PUBLIC = 0x169, 0x14E, 0x173
_NO_SESSIONS, _SESSIONS = 0x8001, 0x8002
_OWNER = 0x40000001
_EMPTY_PASSWORD = struct.pack(">IIHBH", 9, 0x40000009, 0, 0, 0)
"""TPM_RS_PW with nothing in it."""
_AUTH_READ = 1 << 18
_WRITTEN = 1 << 29
"""Attributes of an NV index: its own password, which is empty, reads it; something was written."""
_HEADER = struct.Struct(">HII")
_WARNING, _WARNING_BITS = 0x900, 0xF80
_NOT_LOADED = range(0x910, 0x917)
"""TPM_RC_REFERENCE_…: warnings too, of what is not there."""
_ANSWER_MOST = 4096
_PART = 512
"""Bytes of a certificate read at once: any TPM gives so many."""
_CERTIFICATE_MOST = 8192


class TpmError(Exception):
    """It answered what no TPM does, or nothing."""


def endorsement(root: Path) -> str | None:
    """A digest that only this TPM has, in hex; `None` where there is none, it has no such key, or we may not ask it.

    Blocks for some ten milliseconds.

    Raises:
        TpmError: there is a device, and it does not answer as a TPM.
    """
    try:
        device = os.open(root / DEVICE, os.O_RDWR | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
    except (OSError, ValueError):
        return None
    try:
        if not stat.S_ISCHR(os.fstat(device).st_mode):
            return None
        found = _first(_CERTIFICATES, lambda index: _certificate(device, index))
        found = found or _first(_KEYS, lambda handle: _ask(device, _READ_PUBLIC, struct.pack(">I", handle)))
        return hashlib.sha256(found).hexdigest() if found else None
    except OSError as error:
        raise TpmError(f"{root / DEVICE}: {error.strerror or error}") from error
    except struct.error as error:
        raise TpmError(f"{root / DEVICE}: an answer is cut short") from error
    finally:
        os.close(device)


def _first(places: tuple[int, ...], read: Callable[[int], bytes | None]) -> bytes | None:
    return next((found for place in places if (found := read(place))), None)


def _certificate(device: int, index: int) -> bytes | None:
    told = _ask(device, _NV_READ_PUBLIC, struct.pack(">I", index))
    if told is None:
        return None
    (policy_size,) = struct.unpack_from(">H", told, 12)
    (attributes,), (size,) = struct.unpack_from(">I", told, 8), struct.unpack_from(">H", told, 14 + policy_size)
    if not attributes & _WRITTEN or not 0 < size <= _CERTIFICATE_MOST:
        return None
    authority = index if attributes & _AUTH_READ else _OWNER
    content = b""
    while len(content) < size:
        wanted = struct.pack(">HH", min(_PART, size - len(content)), len(content))
        part = _ask(device, _NV_READ, struct.pack(">II", authority, index) + _EMPTY_PASSWORD + wanted, _SESSIONS)
        if part is None:
            return None
        (length,) = struct.unpack_from(">H", part, 4)
        if not length or len(part) < 6 + length:
            raise TpmError(f"index {index:#x}: {len(content)} of {size} bytes could be read")
        content += part[6 : 6 + length]
    return content


def _ask(device: int, command: int, words: bytes, tag: int = _NO_SESSIONS) -> bytes | None:
    """What the TPM answers behind its header; `None` when it refuses, as for what it does not have.

    Raises:
        TpmError: it cannot now (locked out, testing itself, interrupted): of what it has nothing is known by that.
    """
    os.write(device, _HEADER.pack(tag, _HEADER.size + len(words), command) + words)
    until = time.monotonic() + TIMEOUT_S
    answer = _read(device, until)
    while len(answer) < _HEADER.size or len(answer) < _HEADER.unpack_from(answer)[1]:
        answer += _read(device, until)
    _, size, code = _HEADER.unpack_from(answer)
    if not _HEADER.size <= size == len(answer):
        raise TpmError(f"an answer of {len(answer)} bytes says that it has {size}")
    if code & _WARNING_BITS == _WARNING and code not in _NOT_LOADED:
        raise TpmError(f"it cannot answer now (TPM_RC {code:#x})")
    return answer[_HEADER.size :] if code == 0 else None


def _read(device: int, until: float) -> bytes:
    waits = select.poll()
    waits.register(device, select.POLLIN)
    if not waits.poll(max(0.0, until - time.monotonic()) * 1000):
        raise TpmError(f"no answer within {TIMEOUT_S:.0f} s")
    data = os.read(device, _ANSWER_MOST)
    if not data:
        raise TpmError("it ended its answer before it was whole")
    return data
