"""Ed25519 (RFC 8032) by libsodium, as PyNaCl binds it. No other module names that library.

What it takes was tried (tests/unit/test_licensing_ed25519.py): no S beyond the group's order, no R and no public key of
small order, no second spelling of either. A public key of mixed order passes for a signature now and then, and only for
whoever has its private half; that is no gain to anybody, so `keys` does not ask for the costly proof of its order.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from nacl import bindings
from nacl.exceptions import BadSignatureError

SIGNATURE_BYTES = 64
_KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class PublicKey:
    """Under which a signature is verified. Any 32 bytes: whether they may be trusted is said in `keys`."""

    raw: bytes

    def __post_init__(self) -> None:
        _check_length(self.raw)  # libsodium reads so many from wherever it is pointed to

    def has_signed(self, signature: bytes, message: bytes) -> bool:
        """Whether the signature holds for exactly this message; one of another length never does."""
        if len(signature) != SIGNATURE_BYTES:
            return False
        try:
            bindings.crypto_sign_open(signature + message, self.raw)
        except BadSignatureError:
            return False
        return True


@dataclass(frozen=True, slots=True, eq=False)
class PrivateKey:
    """What signs, known by the 32 bytes that a key file holds. Neither these nor what is made of them is ever shown."""

    seed: bytes = field(repr=False)
    public: PublicKey = field(init=False)
    _secret: bytes = field(init=False, repr=False)
    """The seed and the public key, as libsodium takes them."""

    def __post_init__(self) -> None:
        _check_length(self.seed)
        public, secret = bindings.crypto_sign_seed_keypair(self.seed)
        object.__setattr__(self, "public", PublicKey(public))
        object.__setattr__(self, "_secret", secret)

    @classmethod
    def generate(cls) -> PrivateKey:
        """A new one, from the system's randomness."""
        return cls(bindings.randombytes(_KEY_BYTES))

    def sign(self, message: bytes) -> bytes:
        """The 64 bytes of the signature; the same message has always the same."""
        return bindings.crypto_sign(message, self._secret)[:SIGNATURE_BYTES]


def _check_length(raw: bytes) -> None:
    if len(raw) != _KEY_BYTES:
        raise ValueError(f"a key has {_KEY_BYTES} bytes, and not {len(raw)}")
