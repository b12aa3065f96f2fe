"""A node's signature under something it measured: a JSON object whose `signature` covers each of its other fields.

The report stays readable and may be longer than a token: the token holds the SHA-256 of each field in its one spelling
(keys sorted, no blanks, UTF-8, whole numbers only), so a changed report is refused with the names of what was changed.
It proves that whoever holds the node's key wrote this, and no more; whose key it is, the reader must know.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from licensing import document, keys, strictjson
from licensing.document import Attestation
from licensing.errors import ContentError, FormatError, KeyFileError, SignatureError, TokenError

SIGNATURE = "signature"
MAX_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Attested:
    """A report whose signature holds."""

    fields: dict[str, object]
    """All of them but the signature."""
    key_hex: str
    signed_at: int


def key_of(state_dir: Path) -> str:
    """The public half of the node's key, which is made if there is none yet.

    Raises:
        KeyFileError: it cannot be read or made.
    """
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise KeyFileError(f"cannot create {state_dir}: {error.strerror}; run this as the agent's account") from error
    return keys.public_hex(keys.load_or_create(state_dir / "node.key"))


def sign(state_dir: Path, subject: str, fields: Mapping[str, object], now: int) -> bytes:
    """The fields with their signature, as the text of a file.

    Raises:
        KeyFileError: the node's key cannot be read.
        ContentError: the fields hold something that has more than one spelling.
    """
    key = keys.load(state_dir / "node.key")
    plain = strictjson.loads(json.dumps(fields, ensure_ascii=False).encode())
    attestation = Attestation(
        id=f"{subject}-{now}",
        iat=now,
        subject=subject,
        key=keys.public_hex(key),
        fields={name: digest(value) for name, value in plain.items()},
    )
    signed = {**plain, SIGNATURE: document.sign(key, attestation)}
    return json.dumps(signed, ensure_ascii=False, indent=2).encode() + b"\n"


def verify(subject: str, data: bytes) -> Attested:
    """Read a report; only one whose signature holds is given back.

    Raises:
        FormatError: not such a report.
        SignatureError: changed after it was signed; says where.
        WeakKeyError: signed under a key that proves nothing.
    """
    if len(data) > MAX_BYTES:
        raise FormatError(f"the report has {len(data)} bytes; at most {MAX_BYTES} are read")
    fields = strictjson.loads(data)
    token = fields.pop(SIGNATURE, None)
    if not isinstance(token, str):
        raise TokenError("the report has no signature; it was cut off, or this is another kind of file")
    named = document.signer(token)
    attestation = document.open_token(Attestation, token, keys.public_key(named))
    if attestation.key != named:
        raise SignatureError("the signature names two keys; the report was put together from two")
    if attestation.subject != subject:
        raise ContentError(f"this is a report of {attestation.subject}, not of {subject}; name the other file")
    _refuse_changed(attestation, fields)
    return Attested(fields=fields, key_hex=named, signed_at=attestation.iat)


def _refuse_changed(attestation: Attestation, fields: Mapping[str, object]) -> None:
    signed = attestation.fields
    changed = [name for name, value in fields.items() if name in signed and signed[name] != digest(value)]
    problems = [
        *(f"{name!r} was changed" for name in changed),
        *(f"{name!r} was added" for name in fields if name not in signed),
        *(f"{name!r} was taken out" for name in signed if name not in fields),
    ]
    if problems:
        raise SignatureError(f"the report is not what was signed: {', '.join(problems)}; ask for the original file")


def digest(value: object) -> str:
    """SHA-256 of a value's one spelling, in hex."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
