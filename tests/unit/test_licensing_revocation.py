"""Which list counts, and whom it reaches."""

from __future__ import annotations

import pytest

from licensing import armour, keys, revocation, verify
from licensing.armour import Label
from licensing.document import sign
from licensing.errors import LicenceError, ReplayError, RevokedError
from licensing.exchange import Crl, RevokedKey
from licensing.revocation import Revocations
from licensing.verify import CrlChain
from tests.fakes import papers, vendor
from tests.fakes.papers import CRL, RESELLER, RESELLER_TERMS
from tests.fakes.vendor import DAY, ISSUER, NOW, ROOT, ROOTS, VOUCHER, changed

EMPTY = changed(CRL, licences=(), keys=())
OTHER = changed(VOUCHER, id="lic-other")
TRUE = changed(VOUCHER, id="lic-true")


def root_list(crl: Crl = CRL) -> CrlChain:
    return verify.crl_chain(sign(ROOT, crl), ROOTS)


def issuer_list(crl: Crl) -> CrlChain:
    return verify.crl_chain(papers.issuer_list(crl), ROOTS)


def reseller_list(crl: Crl) -> CrlChain:
    return verify.crl_chain(papers.reseller_chain(crl), ROOTS)


def known(*lists: CrlChain) -> Revocations:
    found = Revocations()
    for each in lists:
        found = found.with_list(each)
    return found


def passes(revocations: Revocations, licence: str) -> bool:
    try:
        revocations.refuse(verify.licence_file(licence, ROOTS))
    except RevokedError:
        return False
    return True


def key_entry(key: object, *allow: str) -> tuple[RevokedKey, ...]:
    return (RevokedKey(key=keys.public_hex(key), at=NOW, allow=allow),)  # type: ignore[arg-type]


def test_the_highest_number_counts() -> None:
    seven, nine = root_list(), root_list(changed(EMPTY, number=9))
    assert known(seven, nine).lists == known(nine, seven).lists
    assert known(nine, seven).number == 9
    assert passes(known(nine, seven), vendor.file())


def test_a_lower_number_is_refused_on_its_own_and_the_same_is_not() -> None:
    nine = known(root_list(changed(EMPTY, number=9)))
    with pytest.raises(ReplayError, match="number 7 is older than number 9"):
        nine.refuse_older(root_list())
    nine.refuse_older(root_list(changed(EMPTY, number=9)))


def test_a_revoked_licence_says_by_whom_when_and_why() -> None:
    with pytest.raises(RevokedError, match=r"lic-test was revoked by the vendor on 2027-01-15 08:00 UTC \(unpaid\)"):
        known(root_list(changed(CRL, keys=()))).refuse(verify.licence_file(vendor.file(), ROOTS))


def test_of_a_stolen_key_only_what_its_owner_issued_lives() -> None:
    stolen = known(root_list(changed(CRL, licences=())))
    assert passes(stolen, vendor.file(TRUE))
    assert not passes(stolen, vendor.file(OTHER))
    assert not passes(stolen, papers.reseller_file(OTHER)), "what stands below the stolen key falls with it"


def test_an_issuer_reaches_what_stands_below_it() -> None:
    by_issuer = known(issuer_list(changed(CRL, keys=())))
    assert not passes(by_issuer, papers.reseller_file(VOUCHER))
    assert not passes(by_issuer, vendor.file(issuer=papers.DELEGATING))
    assert passes(by_issuer, papers.reseller_file(OTHER))
    resellers_key = known(issuer_list(changed(EMPTY, keys=key_entry(RESELLER, "lic-true"))))
    assert not passes(resellers_key, papers.reseller_file(OTHER))
    assert passes(resellers_key, papers.reseller_file(TRUE))


def test_and_nothing_beside_or_above_it() -> None:
    by_reseller = known(reseller_list(changed(CRL, keys=key_entry(ISSUER))))
    assert passes(by_reseller, vendor.file()), "a licence of the vendor itself"
    assert not passes(by_reseller, papers.reseller_file(VOUCHER)), "its own licence"
    assert passes(by_reseller, papers.reseller_file(OTHER)), "the key above it stays good"
    own = known(reseller_list(changed(EMPTY, keys=key_entry(RESELLER))))
    assert passes(own, papers.reseller_file(OTHER)), "nor can it void its own key"


def test_the_lists_of_a_stolen_key_are_void() -> None:
    thief = changed(CRL, number=2**40, keys=())
    both = known(issuer_list(thief), root_list(changed(EMPTY, keys=key_entry(ISSUER, "lic-test"))))
    assert passes(both, vendor.file())
    assert not passes(known(issuer_list(thief)), vendor.file())


def test_a_receipt_of_a_stolen_key_is_refused() -> None:
    chain = verify.receipt_chain(armour.unwrap(Label.RECEIPT, papers.receipt()), ROOTS)
    Revocations().refuse_receipt(chain)
    with pytest.raises(RevokedError):
        known(root_list()).refuse_receipt(chain)


def test_a_list_rides_in_a_vendors_file_and_never_spoils_it() -> None:
    chain = vendor.chain()
    text = armour.wrap(Label.LICENCE, chain, (sign(ROOT, CRL), papers.issuer_list()))
    assert verify.licence_file(text, ROOTS).licence == VOUCHER
    assert [each.crl.number for each in revocation.lists_in(text, ROOTS)] == [7, 7]
    spoilt = armour.wrap(Label.LICENCE, chain, (sign(vendor.seeded("x"), CRL),))
    assert verify.licence_file(spoilt, ROOTS).licence == VOUCHER
    assert revocation.lists_in(spoilt, ROOTS) == []


def test_a_list_on_its_own_must_be_genuine() -> None:
    with pytest.raises(LicenceError):
        revocation.lists_in(armour.wrap(Label.CRL, sign(vendor.seeded("x"), CRL)), ROOTS)


def test_the_reseller_of_another_issuer_is_none_of_ones_own() -> None:
    stranger = changed(RESELLER_TERMS, exp=NOW + 400 * DAY)
    assert passes(known(reseller_list(EMPTY)), papers.reseller_file(OTHER, stranger))
