"""From text to a chain that may be believed: root → issuer (→ reseller) → licence → lease.

Only verified objects exist: the chain classes are made here and nowhere else. Each step verifies before it parses and
checks a child against its parent; nothing here depends on the time, so a result can be kept for as long as its text.
What time does to it is said in `stage`, what a revocation list does in `revocation`.

    1  cut the text into its tokens                   5  the licence stays inside its issuer
    2  the issuer's certificate: by a pinned root,    6  the lease: by the licence's site, or a voucher's holder
       a reseller's by an issuer that may delegate    7  the lease stays inside its licence
    3  it covers this product, with a sound key,      8  the lease is made out to this node
       for 25 months at most
    4  the licence: by the last issuer

What a site signs on its own (request, release, usage) is read by `site_paper`: the key it names is the key it proves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from licensing import armour, keys, plans, stage
from licensing.document import PRODUCT, Issuer, Lease, Licence, open_token, signer
from licensing.errors import ChainError, OtherSiteError, SignatureError, TokenError
from licensing.exchange import Crl, Receipt, Release, Request, Usage
from licensing.moments import when
from licensing.paseto import MAX_TOKEN_CHARS, split
from licensing.roots import Roots

SitePaper = TypeVar("SitePaper", Request, Release, Usage)
_MAX_ISSUERS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuerChain:
    """An issuer's certificate that a root of ours signed, or an issuer that may delegate."""

    path: tuple[Issuer, ...]
    """Root side first."""
    text: str

    @property
    def issuer(self) -> Issuer:
        """The one whose certificate this is."""
        return self.path[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class LicenceChain:
    """A licence that an issuer of ours signed within its limits."""

    path: tuple[Issuer, ...]
    licence: Licence
    text: str
    """The tokens, root side first, as they are kept and passed on."""

    @property
    def issuer(self) -> Issuer:
        """The one that signed the licence."""
        return self.path[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseChain:
    """A lease that a site signed within a licence, made out to the node that asked."""

    path: tuple[Issuer, ...]
    licence: Licence
    lease: Lease
    text: str

    @property
    def token(self) -> str:
        """The lease alone, as its hub knows it again."""
        return self.text.rsplit(armour.LINK, 1)[-1]

    @property
    def issuer(self) -> Issuer:
        """The one that signed the licence."""
        return self.path[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class CrlChain:
    """A revocation list of a root, or of an issuer for what stands below it."""

    path: tuple[Issuer, ...]
    """Empty for a root's."""
    signer: str
    crl: Crl
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiptChain:
    """A receipt that an issuer of ours signed."""

    path: tuple[Issuer, ...]
    receipt: Receipt
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteToken(Generic[SitePaper]):
    """What a site or node signed on its own."""

    paper: SitePaper
    key: str
    """Who signed it, 64 hex digits; a sound key."""
    text: str


def issuer_file(text: str, roots: Roots) -> IssuerChain:
    """Verify what stands in an issuer's certificate file.

    Raises:
        LicenceError: the first step that fails says why.
    """
    chain = armour.unwrap(armour.Label.ISSUER, text)
    tokens = _cut(chain, ("issuer",))
    return IssuerChain(path=_path(tokens, roots, ("issuer",)), text=chain)


def licence_file(text: str, roots: Roots) -> LicenceChain:
    """Verify what stands in a voucher or licence file. The lists beside it are read by `lists_in`.

    Raises:
        LicenceError: the first step that fails says why.
    """
    return licence_chain(armour.unwrap(armour.Label.LICENCE, text), roots)


def licence_chain(text: str, roots: Roots) -> LicenceChain:
    """Verify issuers and licence.

    Raises:
        LicenceError: the first step that fails says why.
    """
    kinds = ("issuer", "licence")
    *issuers, token = _cut(text, kinds)
    path = _path(issuers, roots, kinds)
    return LicenceChain(path=path, licence=_licence(token, path[-1]), text=text)


def lease_chain(text: str, roots: Roots, node_key: str) -> LeaseChain:
    """Verify issuers, licence and lease, and that the lease is made out to `node_key` (64 hex digits).

    Raises:
        LicenceError: the first step that fails says why.
    """
    kinds = ("issuer", "licence", "lease")
    *issuers, licence_token, lease_token = _cut(text, kinds)
    path = _path(issuers, roots, kinds)
    licence = _licence(licence_token, path[-1])
    lease = _lease(lease_token, licence)
    if lease.key != node_key:  # 8
        raise OtherSiteError(
            f"the lease {lease.id} is made out to {lease.node} with key {lease.key[:16]}…, this node's key is "
            f"{node_key[:16]}…; the hub hands every node a lease of its own"
        )
    return LeaseChain(path=path, licence=licence, lease=lease, text=text)


def crl_chain(text: str, roots: Roots) -> CrlChain:
    """Verify a revocation list, and the issuers above it if it is not a root's.

    Raises:
        LicenceError: the first step that fails says why.
    """
    *issuers, token = _cut(text, ("crl",), least=1)
    path = _path(issuers, roots, ("issuer", "crl")) if issuers else ()
    parts = split(token)
    by = signer(parts)
    if path and by != path[-1].key:
        raise SignatureError(f"the revocation list is not signed by {path[-1].name}, whose certificate comes with it")
    if not path and roots.find(by) is None:
        raise SignatureError(
            "the revocation list is not signed by a root key of this build; ask the vendor for another"
        )
    return CrlChain(path=path, signer=by, crl=open_token(Crl, parts, keys.verifying_key(by)), text=text)


def receipt_chain(text: str, roots: Roots) -> ReceiptChain:
    """Verify issuers and receipt.

    Raises:
        LicenceError: the first step that fails says why.
    """
    kinds = ("issuer", "receipt")
    *issuers, token = _cut(text, kinds)
    path = _path(issuers, roots, kinds)
    issuer = path[-1]
    parts = split(token)
    if signer(parts) != issuer.key:
        raise SignatureError(f"the receipt is not signed by {issuer.name}, whose certificate comes with it")
    receipt = open_token(Receipt, parts, keys.verifying_key(issuer.key))
    if not issuer.nbf <= receipt.iat <= issuer.exp:
        raise ChainError(f"the receipt {receipt.id} reaches beyond the dates of its issuer {issuer.name}")
    keys.verifying_key(receipt.site)
    return ReceiptChain(path=path, receipt=receipt, text=text)


def site_paper(kind: type[SitePaper], token: str) -> SiteToken[SitePaper]:
    """Verify what a site or node signed on its own, by the key that it names.

    Raises:
        LicenceError: it is of another kind, changed, or signed by another key than its content names.
    """
    parts = split(token)
    by = signer(parts)
    paper = open_token(kind, parts, keys.verifying_key(by))
    problem = _problem_of_site_paper(paper, by)
    if problem:
        raise ChainError(f"the {kind.kind} {paper.id} {problem}; export it again at its site")
    return SiteToken(paper=paper, key=by, text=token)


def _problem_of_site_paper(paper: Request | Release | Usage, by: str) -> str | None:
    if isinstance(paper, Release):
        if paper.node is None:
            return "names another site than the one that signed it" if paper.site != by else None
        keys.verifying_key(paper.site)
        return "names another node key than the one that signed it" if paper.key != by else None
    if isinstance(paper, Usage):
        if paper.site != by:
            return "names another site than the one that signed it"
        if paper.ends <= paper.begins:
            return "ends before it begins"
        if sum(total.gpu_ms for total in paper.totals) != paper.gpu_ms:
            return f"has totals that do not add up to the {paper.gpu_ms} ms it says"
        if paper.cumulative_gpu_ms < paper.gpu_ms:
            return "says less over all periods than in this one"
        if (paper.number == 1) != (paper.prev == ""):
            return f"is number {paper.number} and {'has' if paper.prev else 'names no'} report before it"
    return None


def _cut(text: str, kinds: tuple[str, ...], *, least: int | None = None) -> list[str]:
    """Step 1. One issuer more than `kinds` has may stand in front: a reseller's chain."""
    if len(text) > MAX_TOKEN_CHARS:
        raise TokenError(f"the text has {len(text)} characters; at most {MAX_TOKEN_CHARS} are read")
    tokens = text.split(armour.LINK)
    most = len(kinds) + 1 if least is None else least + _MAX_ISSUERS
    if not (least or len(kinds)) <= len(tokens) <= most:
        raise _wrong_count(len(tokens), kinds)
    return tokens


def _wrong_count(count: int, kinds: tuple[str, ...]) -> ChainError:
    return ChainError(
        f"{count} signed parts where {len(kinds)} belong ({', '.join(kinds)}); the file is cut short or of another kind"
    )


def _path(tokens: list[str], roots: Roots, kinds: tuple[str, ...]) -> tuple[Issuer, ...]:
    """Steps 2 and 3."""
    first = _issuer(tokens[0], roots)
    if len(tokens) == 1:
        return (first,)
    if first.delegate == 0:  # 2
        raise _wrong_count(len(tokens) - 1 + len(kinds), kinds)
    parts = split(tokens[1])
    if signer(parts) != first.key:
        raise SignatureError(f"the second certificate is not signed by {first.name}, whose certificate comes first")
    second = open_token(Issuer, parts, keys.verifying_key(first.key))
    excess = _excess_of_issuer(second, first)
    if excess:
        raise ChainError(f"the certificate of {second.name} {excess}; ask {first.name} for a corrected one")
    return first, _usable(second, roots)


def _issuer(token: str, roots: Roots) -> Issuer:
    parts = split(token)
    root = roots.find(signer(parts))
    if root is None:  # 2
        raise SignatureError(
            "the issuer's certificate is not signed by a root key of this build; "
            "ask the vendor for a file for your version"
        )
    return _usable(open_token(Issuer, parts, keys.verifying_key(root.key)), roots)


def _usable(issuer: Issuer, roots: Roots) -> Issuer:
    """Step 3. The certificate of this repository, whose key everybody has, lives for as long as its dates say."""
    if issuer.exp - issuer.nbf > plans.ISSUER_MONTHS * plans.ISSUER_MONTH_S and not roots.development:
        raise ChainError(
            f"the certificate of {issuer.name} runs from {when(issuer.nbf)} to {when(issuer.exp)}, longer than the "
            f"{plans.ISSUER_MONTHS} months that one may; ask the vendor for a file under a certificate of that length"
        )
    if PRODUCT not in issuer.products:
        raise ChainError(f"the issuer {issuer.name} may not sign for {PRODUCT}, only for {', '.join(issuer.products)}")
    keys.verifying_key(issuer.key)
    return issuer


def _excess_of_issuer(child: Issuer, parent: Issuer) -> str | None:
    if child.exp <= child.nbf:
        return "ends before it begins"
    if child.nbf < parent.nbf or child.exp > parent.exp:
        return f"reaches beyond the dates of {parent.name}"
    if child.delegate >= parent.delegate:
        return "may make further issuers, and a reseller may not"
    if child.max_seats > parent.max_seats:
        return f"allows {child.max_seats} seats, and {parent.name} may allow {parent.max_seats}"
    if child.max_term_s > parent.max_term_s:
        return f"allows longer terms than {parent.name} may"
    if child.perpetual and not parent.perpetual:
        return f"allows perpetual licences, and {parent.name} may not"
    for what, extra in (
        ("products", set(child.products) - set(parent.products)),
        ("features", set(child.features) - set(parent.features)),
    ):
        if extra:
            return f"allows {what} that {parent.name} may not give: {', '.join(sorted(extra))}"
    return None


def _licence(token: str, issuer: Issuer) -> Licence:
    """Steps 4 and 5."""
    parts = split(token)
    if signer(parts) != issuer.key:  # 4
        raise SignatureError(f"the licence is not signed by {issuer.name}, whose certificate comes with it")
    licence = open_token(Licence, parts, keys.verifying_key(issuer.key))
    excess = _excess_of_licence(licence, issuer) or plans.problem(licence)  # 5
    if excess:
        raise ChainError(f"the licence {licence.id} {excess}; ask {issuer.name} for a corrected one")
    if licence.site is not None:
        keys.verifying_key(licence.site)
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
    if plans.is_perpetual(licence) and not issuer.perpetual:
        return f"runs for ever, and its issuer {issuer.name} may not allow that"
    if licence.seats > issuer.max_seats:
        return f"has {licence.seats} seats, and its issuer {issuer.name} may give {issuer.max_seats}"
    extra = set(licence.features) - set(issuer.features)
    return f"has features its issuer {issuer.name} may not give: {', '.join(sorted(extra))}" if extra else None


def _lease(token: str, licence: Licence) -> Lease:
    """Steps 6 and 7. A voucher is bound to nobody, so its leases are signed by whatever site holds it."""
    parts = split(token)
    site = signer(parts)
    if licence.site is not None and site != licence.site:  # 6
        raise OtherSiteError(f"the lease is signed by site {site[:16]}…, the licence {licence.id} is bound to another")
    lease = open_token(Lease, parts, keys.verifying_key(site))
    excess = _excess_of_lease(lease, licence, site)  # 7
    if excess:
        raise ChainError(f"the lease {lease.id} {excess}; restart the hub, and tell the vendor if it stays")
    keys.verifying_key(lease.key)
    return lease


def _excess_of_lease(lease: Lease, licence: Licence, site: str) -> str | None:
    if lease.site != site:
        return "names another site than the one that signed it"
    if (lease.licence, lease.rev) != (licence.id, licence.rev):
        return f"is for licence {lease.licence} rev {lease.rev}, and {licence.id} rev {licence.rev} comes with it"
    end = stage.ends(licence, lease.activated_at, report_by=lease.report_by)
    extended = lease.extended_until or 0
    if extended > lease.iat + plans.EMERGENCY_S:
        return f"takes emergency hours for longer than {plans.EMERGENCY_S // 3600} h"
    if lease.iat < licence.nbf or lease.exp > max(end.restricted_at, extended):
        return f"reaches beyond the dates of its licence {licence.id}"
    if lease.activated_at > lease.iat:
        return "was signed before its licence was activated"
    if len(set(lease.gpus)) != len(lease.gpus):
        return "names a GPU twice"
    longest = plans.BORROW_S if lease.borrowed else licence.lease_s
    if lease.exp - lease.iat > longest:
        return f"runs for {lease.exp - lease.iat} s, and may for {longest} s"
    if len(lease.gpus) > licence.seats + plans.overdraft(licence):
        return f"covers {len(lease.gpus)} GPUs, and its licence {licence.id} has {licence.seats} seats"
    return None
