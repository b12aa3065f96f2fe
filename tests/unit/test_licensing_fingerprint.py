"""The matching rule over every combination of groups, the junk rule, and what a commitment tells."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from licensing import fingerprint
from licensing.fingerprint import LEAST, Group, Kind, Mark, Print, Verdict

SALT = b"s" * 32
ALL = tuple(Group)
UUID = "3f1c9a52-7d0e-4b7c-9a11-0c8d5e6f7a8b"


def of(**marks: str) -> Print:
    return under(SALT, **marks)


def under(salt: bytes, /, **marks: str) -> Print:
    return fingerprint.salted([(Kind[name.upper()], value) for name, value in marks.items()], salt)


def made(groups: frozenset[Group], who: str) -> Print:
    """One mark a group that is `who`'s own; two for the platform, which needs them."""
    kinds = {Group.PLATFORM: ("uuid", "board"), Group.NETWORK: ("mac",), Group.GPUS: ("gpu",), Group.DISK: ("disk",)}
    return {group: frozenset(f"{kind}:{who}" for kind in kinds.get(group, ("id",))) for group in groups}


some_groups = st.frozensets(st.sampled_from(ALL))


@given(enrolled=st.frozensets(st.sampled_from(ALL), min_size=LEAST), same=some_groups, other=some_groups)
def test_sixty_percent_of_the_enrolled_groups_must_match(
    enrolled: frozenset[Group], same: frozenset[Group], other: frozenset[Group]
) -> None:
    seen = {**made(other, "other"), **made(same, "own")}
    found = fingerprint.compare(made(enrolled, "own"), seen)
    assert found.matching == enrolled & same
    matched = len(found.matching)
    if matched >= math.ceil(len(enrolled) * 0.6):
        assert found.verdict is Verdict.MATCH
    elif matched == 2:
        assert found.verdict is Verdict.SHORT
    else:
        assert found.verdict is Verdict.OTHER
    assert found.changed == (other - same) | (same - enrolled)


@given(enrolled=st.frozensets(st.sampled_from(ALL), min_size=LEAST), same=some_groups, other=some_groups)
def test_what_is_enrolled_anew_matches_and_loses_no_group(
    enrolled: frozenset[Group], same: frozenset[Group], other: frozenset[Group]
) -> None:
    before, seen = made(enrolled, "own"), {**made(other, "other"), **made(same, "own")}
    after = fingerprint.renewed(before, seen)
    assert set(after) == enrolled | same | other
    assert fingerprint.compare(after, seen).changed == frozenset()
    assert {group: after[group] for group in enrolled - same - other} == {
        group: before[group] for group in enrolled - same - other
    }


@pytest.mark.parametrize(("groups", "needed"), [(3, 2), (4, 3), (5, 3)])
def test_how_many_must_match(groups: int, needed: int) -> None:
    assert fingerprint.needed(groups) == needed


@pytest.mark.parametrize(("seen", "matches"), [(4, True), (2, True), (1, False), (0, False)])
def test_half_of_the_enrolled_nics_will_do(seen: int, matches: bool) -> None:
    macs: list[Mark] = [(Kind.MAC, f"3c:ec:ef:12:34:5{n}") for n in range(4)]
    before = fingerprint.salted(macs, SALT)
    found = fingerprint.compare(before, fingerprint.salted(macs[:seen], SALT))
    assert (Group.NETWORK in found.matching) is matches


@pytest.mark.parametrize(
    ("now", "matches"),
    [
        ({}, True),
        ({"board": "NEW-0001"}, True),
        ({"board": "NEW-0001", "chassis": "NEW-0002"}, False),
        ({"board": "NEW-0001", "chassis": "NEW-0002", "uuid": UUID.replace("3f", "4f")}, False),
    ],
)
def test_two_serial_numbers_of_three_are_the_platform(now: dict[str, str], matches: bool) -> None:
    parts = {"uuid": UUID, "board": "OM21BS001234", "chassis": "S482103X0A12345"}
    assert (Group.PLATFORM in fingerprint.compare(of(**parts), of(**{**parts, **now})).matching) is matches


def test_an_equal_endorsement_key_is_the_platform_whatever_the_board_says() -> None:
    before = of(tpm="a1b2c3d4", uuid=UUID, board="OM21BS001234")
    assert Group.PLATFORM in fingerprint.compare(before, of(tpm="a1b2c3d4", board="NEW-0001")).matching
    assert Group.PLATFORM in fingerprint.compare(before, of(uuid=UUID, board="OM21BS001234")).matching


def test_one_serial_number_alone_is_no_platform() -> None:
    assert of(uuid=UUID) == {}
    assert set(of(uuid=UUID, board="OM21BS001234")) == {Group.PLATFORM}


def test_a_serial_number_that_is_only_unreadable_stays_enrolled() -> None:
    before = of(uuid=UUID, board="OM21BS001234", chassis="S482103X0A12345")
    after = fingerprint.renewed(before, of(uuid=UUID, board="NEW-0001"))
    assert after == of(uuid=UUID, board="NEW-0001", chassis="S482103X0A12345")


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        *[
            (Kind.BOARD, value)
            for value in (
                *("", "   ", "0", "00000000", "FFFFFFFF", "To be filled by O.E.M.", "Default string", "N/A", "None"),
                *("Not Specified", "Base Board Serial Number", "0123456789", "123456789", "........", "x" * 200),
                *("serial\x1b[2J", "Unknown", "............", "System Serial Number", "xxxxxxxxxx", "OEM"),
            )
        ],
        (Kind.UUID, "00000000-0000-0000-0000-000000000000"),
        (Kind.UUID, "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF"),
        (Kind.UUID, "03000200-0400-0500-0006-000700080009"),
        (Kind.UUID, "not a uuid"),
        (Kind.MAC, "00:00:00:00:00:00"),
        (Kind.MAC, "ff:ff:ff:ff:ff:ff"),
        (Kind.MAC, "02:42:ac:11:00:02"),
        (Kind.MAC, "52:54:00:12:34:56"),
        (Kind.MAC, "01:00:5e:00:00:01"),
        (Kind.MAC, "3c:ec:ef:12:34"),
        (Kind.GPU, "GPU-????????-????-????-????-????????????"),
        (Kind.GPU, "GPU-00000000-0000-0000-0000-000000000000"),
        (Kind.DISK, "eui.0000000000000000"),
        (Kind.DISK, "t10.ATA     QEMU HARDDISK                           QM00001             "),
        (Kind.DISK, "QM00013"),
        (Kind.MACHINE_ID, "uninitialized"),
        (Kind.MACHINE_ID, "0" * 32),
    ],
)
def test_what_many_machines_share_is_absent(kind: Kind, value: str) -> None:
    assert fingerprint.cleaned(kind, value) is None


@pytest.mark.parametrize(
    ("kind", "value", "clean"),
    [
        (Kind.BOARD, " OM21BS001234 \n", "om21bs001234"),
        (Kind.UUID, UUID.upper(), UUID),
        (Kind.MAC, "3C:EC:EF:12:34:56", "3c:ec:ef:12:34:56"),
        (Kind.GPU, "GPU-6ee19c2d-1111-2222-3333-444455556666", "gpu-6ee19c2d-1111-2222-3333-444455556666"),
        (Kind.DISK, "t10.ATA     INTEL SSDSC2KB960G8   BTYF1234", "t10.ata intel ssdsc2kb960g8 btyf1234"),
        (Kind.DISK, "naa.5000c500a1b2c3d4", "naa.5000c500a1b2c3d4"),
    ],
)
def test_a_mark_has_one_spelling(kind: Kind, value: str, clean: str) -> None:
    assert fingerprint.cleaned(kind, value) == clean


@given(st.sampled_from(list(Kind)), st.text(max_size=300))
def test_any_text_is_cleaned_or_absent_and_clean_text_stays(kind: Kind, value: str) -> None:
    clean = fingerprint.cleaned(kind, value)
    assert clean is None or fingerprint.cleaned(kind, clean) == clean


def test_a_commitment_tells_nothing_without_the_salt() -> None:
    parts = {"uuid": UUID, "board": "OM21BS001234", "disk": "eui.0025385b11234567"}
    first, second = of(**parts), under(b"t" * 32, **parts)
    assert fingerprint.commitment(first) != fingerprint.commitment(second)
    assert fingerprint.compare(first, second).matching == frozenset()
    assert UUID not in fingerprint.dump(first)
    assert len(fingerprint.commitment(first)) == 22


@given(some_groups)
def test_what_is_stored_is_read_again(groups: frozenset[Group]) -> None:
    print_ = made(groups, "own")
    assert fingerprint.load(fingerprint.dump(print_)) == print_


@pytest.mark.parametrize("text", ["[]", "nothing", "1", '{"disk": 1}'])
def test_what_is_no_fingerprint_is_told(text: str) -> None:
    with pytest.raises((ValueError, TypeError)):
        fingerprint.load(text)
