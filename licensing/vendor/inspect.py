"""What a file says, in lines: of any kind, verified first."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from licensing import armour, plans, revocation, roots, usage_check, verify
from licensing.armour import Label
from licensing.document import Issuer, Licence
from licensing.exchange import Crl, Release, Request
from licensing.moments import when
from licensing.vendor.sign import read_text


def lines(text: str, roots_file: Path | None) -> Iterator[str]:
    """Verify the file against the roots of this build, or of a roots file, and tell what it says.

    Raises:
        LicenceError: it is not genuine.
    """
    trusted = roots.parse(read_text(roots_file).encode(), str(roots_file)) if roots_file else roots.pinned()
    bare = "".join(text.split()).startswith("v4.public.")
    label = Label.REQUEST if bare else armour.read(text).label
    if label is Label.ISSUER:
        yield from _issuers(verify.issuer_file(text, trusted).path)
    elif label is Label.LICENCE:
        chain = verify.licence_file(text, trusted)
        yield from _issuers(chain.path)
        yield from _licence(chain.licence)
    elif label is Label.RECEIPT:
        receipt = verify.receipt_chain(armour.unwrap(label, text), trusted)
        yield from _issuers(receipt.path)
        yield f"receipt   {receipt.receipt.id} for report {receipt.receipt.usage} of {receipt.receipt.licence}"
        yield f"          the next report is due {when(receipt.receipt.report_by)}"
    elif label is Label.REQUEST:
        yield from _request(verify.site_paper(Request, armour.bare(label, text)))
    elif label is Label.RELEASE:
        yield from _release(armour.unwrap(label, text))
    elif label is Label.USAGE:
        yield from _usage(text)
    if label is not Label.REQUEST:
        for crl in revocation.lists_in(text, trusted):
            yield from _crl(crl.crl, crl.path[-1].name if crl.path else "a root")


def _issuers(path: tuple[Issuer, ...]) -> Iterator[str]:
    for at, issuer in enumerate(path):
        yield f"{'issuer' if at == 0 else 'reseller':<10}{issuer.name} ({issuer.id}), key {issuer.key}"
        more = "".join((", may make resellers" * issuer.delegate, ", perpetual too" * issuer.perpetual))
        yield f"          {when(issuer.nbf)} to {when(issuer.exp)}, at most {issuer.max_seats} seats{more}"
        yield f"          may give {', '.join(issuer.features) or 'no features'}"


def _licence(licence: Licence) -> Iterator[str]:
    yield f"licence   {licence.id} rev {licence.rev}, {licence.plan}, {licence.seats} GPU seats, for {licence.customer}"
    yield f"          {when(licence.nbf)} to {when(licence.exp)}"
    if plans.is_perpetual(licence):
        yield f"updates   until {when(licence.updates_until or licence.exp)}; what was built by then runs for ever"
    if licence.term_s is not None:
        yield f"term      {licence.term_s // plans.DAY_S} days from activation"
    if licence.gpu_hours is not None:
        yield f"prepaid   {licence.gpu_hours} GPU-hours"
    limits = [
        f"{limit} {unit}" for limit, unit in ((licence.max_nodes, "nodes"), (licence.max_admins, "admins")) if limit
    ]
    if limits:
        yield f"for       {', '.join(limits)}; told beyond it, never refused"
    if licence.report_by is not None:
        yield f"report    first due {when(licence.report_by)}"
    yield from _features(licence)
    if licence.reseller or licence.brand:
        yield f"sold by   {licence.brand or licence.reseller} ({licence.reseller or 'no id'})"
    yield f"site      {licence.site or 'none: a voucher, good for 14 days anywhere'}"
    if licence.site:
        hardware = f"hardware {licence.fingerprint}" if licence.fingerprint else "no hardware"
        yield f"          generation {licence.generation}, {hardware}, answers {licence.request or 'no request'}"


def _features(licence: Licence) -> Iterator[str]:
    """What it opens; where it is sold under a name, whether that is what the name means here."""
    yield f"edition   {licence.edition or 'none'}: {', '.join(licence.features) or 'no further features'}"
    unknown = sorted(set(licence.features) - set(plans.FEATURES))
    if unknown:
        yield f"          {', '.join(unknown)}: no feature of this version"
    if licence.edition is None:
        return
    sold = plans.edition(licence.edition)
    if sold is None:
        known = ", ".join(each.name for each in plans.EDITIONS)
        yield f"          {licence.edition}: no edition of this version, which knows {known}; its features count"
    elif short := [each for each in sold.features if each not in licence.features]:
        yield f"          without {', '.join(short)}, which edition {sold.name} has in this version"


def _request(found: verify.SiteToken[Request]) -> Iterator[str]:
    request = found.paper
    yield f"request   {request.id}: {request.want} {request.licence or 'any licence'}, made {when(request.iat)}"
    yield f"site      {found.key}"
    hardware = request.fingerprint or "none named"
    yield f"          generation {request.generation}, row {request.counter}, hardware {hardware}, list {request.crl}"


def _release(chain: str) -> Iterator[str]:
    first, *rest = chain.split(armour.LINK)
    stone = verify.site_paper(Release, first).paper
    of = f"node {stone.node} of site" if stone.node else "site"
    yield f"release   {stone.id}: {stone.licence} rev {stone.rev}, generation {stone.generation}, {when(stone.iat)}"
    yield f"by        {of} {stone.site}"
    for token in rest:
        yield from _request(verify.site_paper(Request, token))


def _usage(text: str) -> Iterator[str]:
    report = usage_check.read(text)
    usage = report.paper
    yield f"usage     {usage.id}: number {usage.number} of {usage.licence}, {when(usage.begins)} to {when(usage.ends)}"
    now, total = usage.gpu_ms / plans.MS_PER_HOUR, usage.cumulative_gpu_ms / plans.MS_PER_HOUR
    yield f"          {now:.2f} GPU-hours, {total:.2f} in all"
    yield f"site      {usage.site}"
    yield f"digest    {usage_check.digest(report)}, after {usage.prev or 'none'}"


def _crl(crl: Crl, by: str) -> Iterator[str]:
    yield f"revoked   list number {crl.number} of {by}, {when(crl.iat)}"
    for entry in crl.licences:
        yield f"          licence {entry.id}, {when(entry.at)}: {entry.reason or 'no reason given'}"
    for key in crl.keys:
        yield f"          key {key.key}, {when(key.at)}; still good: {', '.join(key.allow) or 'nothing'}"
