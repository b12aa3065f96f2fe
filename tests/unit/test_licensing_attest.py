"""A node's signature under a report: it holds for what was signed and for nothing else, and says what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from licensing import attest, document, keys, paseto
from licensing.document import Attestation
from licensing.errors import ContentError, FormatError, KeyFileError, LicenceError, SignatureError, TokenError

FIELDS: dict[str, Any] = {
    "verdict": "PASS",
    "node": {"name": "n1", "cpus": 2},
    "checks": [{"found": "8"}],
    "none": None,
}
NOW = 1_800_000_000


@pytest.fixture
def state(tmp_path: Path) -> Path:
    attest.key_of(tmp_path)
    return tmp_path


def signed(state: Path, **changes: Any) -> bytes:
    return attest.sign(state, "selftest", FIELDS | changes, NOW)


def changed(state: Path, **changes: Any) -> bytes:
    return json.dumps(json.loads(signed(state)) | changes).encode()


def test_what_was_signed_is_read_back_whatever_its_layout(state: Path) -> None:
    found = attest.verify("selftest", signed(state))
    assert (found.fields, found.signed_at) == (FIELDS, NOW)
    assert found.key_hex == attest.key_of(state)
    shuffled = dict(reversed(json.loads(signed(state)).items()))
    assert attest.verify("selftest", json.dumps(shuffled, indent=7).encode()).fields == FIELDS


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"verdict": "FAIL"}, "'verdict' was changed"),
        ({"node": {"name": "n2", "cpus": 2}}, "'node' was changed"),
        ({"node": {"name": "n1", "cpus": 2, "more": 1}}, "'node' was changed"),
        ({"checks": []}, "'checks' was changed"),
        ({"none": 0}, "'none' was changed"),
        ({"more": 1}, "'more' was added"),
    ],
)
def test_a_change_is_named(state: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(SignatureError, match=said):
        attest.verify("selftest", changed(state, **changes))


def test_a_field_that_is_taken_out_is_named(state: Path) -> None:
    fields = json.loads(signed(state))
    del fields["checks"]
    with pytest.raises(SignatureError, match="'checks' was taken out"):
        attest.verify("selftest", json.dumps(fields).encode())


def test_a_signature_of_another_report_does_not_pass(state: Path) -> None:
    other = json.loads(signed(state, verdict="FAIL"))["signature"]
    with pytest.raises(SignatureError, match="'verdict' was changed"):
        attest.verify("selftest", changed(state, signature=other))


def test_a_flipped_bit_in_the_signature_is_refused(state: Path) -> None:
    token = json.loads(signed(state))["signature"]
    at = len(token) // 2
    flipped = token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :]
    with pytest.raises(SignatureError, match="does not hold"):
        attest.verify("selftest", changed(state, signature=flipped))


def test_another_key_may_not_take_the_nodes_place(state: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    attest.key_of(other)
    fields = {name: attest.digest(value) for name, value in FIELDS.items()}
    claim = Attestation(id="x", iat=NOW, subject="selftest", key=attest.key_of(state), fields=fields)
    token = document.sign(keys.load(other / "node.key"), claim)
    with pytest.raises(SignatureError, match="two keys"):
        attest.verify("selftest", changed(state, signature=token))
    footer = f'{{"kid":"{attest.key_of(state)}"}}'.encode()
    forged = paseto.sign(
        keys.load(other / "node.key"), document.encode(claim), footer=footer, implicit=Attestation.kind.encode()
    )
    with pytest.raises(SignatureError, match="does not hold"):
        attest.verify("selftest", changed(state, signature=forged))


def test_a_key_of_small_order_proves_nothing(state: Path) -> None:
    weak = "01" + 62 * "0"
    token = json.loads(signed(state))["signature"].rpartition(".")[0]
    footer = paseto._encode(f'{{"kid":"{weak}"}}'.encode())
    with pytest.raises(LicenceError, match="small order"):
        attest.verify("selftest", changed(state, signature=f"{token}.{footer}"))


def test_another_kind_of_report_does_not_pass(state: Path) -> None:
    with pytest.raises(ContentError, match="a report of selftest, not of burn"):
        attest.verify("burn", signed(state))


def test_a_lease_shown_as_a_report_does_not_pass(state: Path) -> None:
    lease = (Path(__file__).parents[1] / "data" / "leases" / "good.lease").read_text().split("~")[-1].strip()
    with pytest.raises(SignatureError, match="does not hold"):
        attest.verify("selftest", changed(state, signature=lease))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "not JSON"),
        (b"\x00\xff\x13", "not UTF-8|not JSON"),
        (b"[1]", "not a JSON object"),
        (b'{"a": 1}', "no signature"),
        (b'{"a": 1, "signature": 5}', "no signature"),
        (b'{"a": 1, "signature": "v4.local.x"}', "not a v4.public token"),
        (b'{"a": 1, "a": 2}', "twice"),
        (b'{"a": 1.5}', "whole numbers"),
        (b"[" * 3000, "nested|not JSON"),
        (b'{"a": "' + b"x" * attest.MAX_BYTES + b'"}', "at most"),
    ],
)
def test_what_is_no_report_is_refused(data: bytes, said: str) -> None:
    with pytest.raises(FormatError, match=said):
        attest.verify("selftest", data)


def test_a_report_cut_short_is_refused(state: Path) -> None:
    whole = signed(state)
    for length in range(0, len(whole) - 2, 97):
        with pytest.raises(FormatError):
            attest.verify("selftest", whole[:length])


def test_what_has_two_spellings_is_not_signed(state: Path) -> None:
    for bad in (1.5, float("nan"), "line\nline", 2**60):
        with pytest.raises(ContentError):
            signed(state, bad=bad)


def test_without_a_key_that_can_be_read_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "node.key").write_text("no key")
    with pytest.raises(KeyFileError, match=r"node\.key is not an Ed25519"):
        attest.key_of(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(KeyFileError, match="cannot create"):
        attest.key_of(tmp_path / "file" / "state")
    with pytest.raises(TokenError):
        attest.verify("selftest", b'{"signature": null}')


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(exclude_categories=("Cc", "Cs"))),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abcé"), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60)
@given(value=_JSON, other=_JSON)
def test_two_values_have_one_digest_only_if_they_are_one(value: object, other: object) -> None:
    same = json.dumps(value, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (attest.digest(value) == attest.digest(other)) == same
