"""From text to a chain that may be believed: root → issuer → licence → lease.

Only verified objects exist: the chain classes are made here and nowhere else. Each step verifies before it parses and
checks a child against its parent; nothing here depends on the time, so a result can be kept for as long as its text.
What time does to it is said in `stage`.

    1  cut the text into its tokens                   5  the licence stays inside its issuer
    2  the issuer's certificate: by a pinned root     6  the lease: by the licence's site, or a voucher's holder
    3  it covers this product, with a sound key       7  the lease stays inside its licence
    4  the licence: by that issuer                    8  the lease is made out to this node
"""

from __future__ import annotations

from dataclasses import dataclass

from licensing import armour, keys, stage
from licensing.document import PRODUCT, Issuer, Lease, Licence, open_token, signer
from licensing.errors import ChainError, OtherSiteError, SignatureError, TokenError
from licensing.paseto import MAX_TOKEN_CHARS
from licensing.roots import Roots


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuerChain:
    """An issuer's certificate that a root of ours signed."""

    issuer: Issuer
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LicenceChain:
    """A licence that an issuer of ours signed within its limits."""

    issuer: Issuer
    licence: Licence
    text: str
    """The tokens, root side first, as they are kept and passed on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseChain:
    """A lease that a site signed within a licence, made out to the node that asked."""

    issuer: Issuer
    licence: Licence
    lease: Lease
    text: str


def issuer_file(text: str, roots: Roots) -> IssuerChain:
    """Verify what stands in an issuer's certificate file.

    Raises:
        LicenceError: the first step that fails says why.
    """
    chain = armour.unwrap(armour.Label.ISSUER, text)
    (token,) = _cut(chain, ("issuer",))
    return IssuerChain(issuer=_issuer(token, roots), text=chain)


def licence_file(text: str, roots: Roots) -> LicenceChain:
    """Verify what stands in a voucher or licence file.

    Raises:
        LicenceError: the first step that fails says why.
    """
    return licence_chain(armour.unwrap(armour.Label.LICENCE, text), roots)


def licence_chain(text: str, roots: Roots) -> LicenceChain:
    """Verify issuer and licence.

    Raises:
        LicenceError: the first step that fails says why.
    """
    issuer_token, licence_token = _cut(text, ("issuer", "licence"))
    issuer = _issuer(issuer_token, roots)
    return LicenceChain(issuer=issuer, licence=_licence(licence_token, issuer), text=text)


def lease_chain(text: str, roots: Roots, node_key: str) -> LeaseChain:
    """Verify issuer, licence and lease, and that the lease is made out to `node_key` (64 hex digits).

    Raises:
        LicenceError: the first step that fails says why.
    """
    issuer_token, licence_token, lease_token = _cut(text, ("issuer", "licence", "lease"))
    issuer = _issuer(issuer_token, roots)
    licence = _licence(licence_token, issuer)
    lease = _lease(lease_token, licence)
    if lease.key != node_key:  # 8
        raise OtherSiteError(
            f"the lease {lease.id} is made out to {lease.node} with key {lease.key[:16]}…, this node's key is "
            f"{node_key[:16]}…; the hub hands every node a lease of its own"
        )
    return LeaseChain(issuer=issuer, licence=licence, lease=lease, text=text)


def _cut(text: str, kinds: tuple[str, ...]) -> list[str]:
    """Step 1."""
    if len(text) > MAX_TOKEN_CHARS:
        raise TokenError(f"the text has {len(text)} characters; at most {MAX_TOKEN_CHARS} are read")
    tokens = text.split(armour.LINK)
    if len(tokens) != len(kinds):
        raise ChainError(
            f"{len(tokens)} signed parts where {len(kinds)} belong ({', '.join(kinds)}); "
            "the file is cut short or of another kind"
        )
    return tokens


def _issuer(token: str, roots: Roots) -> Issuer:
    """Steps 2 and 3."""
    root = roots.find(signer(token))
    if root is None:  # 2
        raise SignatureError(
            "the issuer's certificate is not signed by a root key of this build; "
            "ask the vendor for a file for your version"
        )
    issuer = open_token(Issuer, token, keys.public_key(root.key))
    if PRODUCT not in issuer.products:  # 3
        raise ChainError(f"the issuer {issuer.name} may not sign for {PRODUCT}, only for {', '.join(issuer.products)}")
    keys.public_key(issuer.key)
    return issuer


def _licence(token: str, issuer: Issuer) -> Licence:
    """Steps 4 and 5."""
    if signer(token) != issuer.key:  # 4
        raise SignatureError(f"the licence is not signed by {issuer.name}, whose certificate comes with it")
    licence = open_token(Licence, token, keys.public_key(issuer.key))
    excess = _excess_of_licence(licence, issuer)  # 5
    if excess:
        raise ChainError(f"the licence {licence.id} {excess}; ask {issuer.name} for a corrected one")
    if licence.site is not None:
        keys.public_key(licence.site)
    return licence


def _excess_of_licence(licence: Licence, issuer: Issuer) -> str | None:
    if licence.product != PRODUCT:
        return f"is for {licence.product}, not for {PRODUCT}"
    if licence.exp <= licence.nbf:
        return "ends before it begins"
    if licence.nbf < issuer.nbf or licence.exp > issuer.exp:
        return f"reaches beyond the dates of its issuer {issuer.name}"
    if licence.exp - licence.nbf > issuer.max_term_s:
        return f"runs longer than its issuer {issuer.name} may allow"
    if licence.seats > issuer.max_seats:
        return f"has {licence.seats} seats, and its issuer {issuer.name} may give {issuer.max_seats}"
    extra = set(licence.features) - set(issuer.features)
    return f"has features its issuer {issuer.name} may not give: {', '.join(sorted(extra))}" if extra else None


def _lease(token: str, licence: Licence) -> Lease:
    """Steps 6 and 7. A voucher is bound to nobody, so its leases are signed by whatever site holds it."""
    site = signer(token)
    if licence.site is not None and site != licence.site:  # 6
        raise OtherSiteError(f"the lease is signed by site {site[:16]}…, the licence {licence.id} is bound to another")
    lease = open_token(Lease, token, keys.public_key(site))
    excess = _excess_of_lease(lease, licence, site)  # 7
    if excess:
        raise ChainError(f"the lease {lease.id} {excess}; restart the hub, and tell the vendor if it stays")
    keys.public_key(lease.key)
    return lease


def _excess_of_lease(lease: Lease, licence: Licence, site: str) -> str | None:
    if lease.site != site:
        return "names another site than the one that signed it"
    if (lease.licence, lease.rev) != (licence.id, licence.rev):
        return f"is for licence {lease.licence} rev {lease.rev}, and {licence.id} rev {licence.rev} comes with it"
    if lease.iat < licence.nbf or lease.exp > stage.ends(licence, lease.activated_at).restricted_at:
        return f"reaches beyond the dates of its licence {licence.id}"
    if lease.activated_at > lease.iat:
        return "was signed before its licence was activated"
    if len(set(lease.gpus)) != len(lease.gpus):
        return "names a GPU twice"
    if len(lease.gpus) > licence.seats:
        return f"covers {len(lease.gpus)} GPUs, and its licence {licence.id} has {licence.seats} seats"
    return None
