"""Reading known_hosts: what matches, who wins, and that no line, however odd, is fatal."""

from __future__ import annotations

import base64
import hashlib
import hmac
import stat
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.api.errors import HostKeyError, StokerError
from agent.api.hostkeys import HostKey, KnownHosts, UnknownHostError, host_name, remember


def key(seed: str, kind: str = "ssh-ed25519") -> HostKey:
    name = kind.encode()
    secret = hashlib.sha256(seed.encode()).digest()
    return HostKey(type=kind, blob=len(name).to_bytes(4, "big") + name + len(secret).to_bytes(4, "big") + secret)


A, B = key("a"), key("b")


def known(tmp_path: Path, *lines: str) -> KnownHosts:
    file = tmp_path / "known_hosts"
    file.write_bytes("\n".join(lines).encode("utf-8", "surrogateescape"))
    return KnownHosts([tmp_path / "missing", file])


def hashed(name: str, salt: bytes = b"0123456789abcdefghij") -> str:
    digest = hmac.new(salt, name.encode(), hashlib.sha1).digest()
    return f"|1|{base64.b64encode(salt).decode()}|{base64.b64encode(digest).decode()}"


@pytest.mark.parametrize(
    ("names", "name"),
    [
        ("head1", "head1"),
        ("HEAD1.Example", "head1.example"),
        ("a,head1,b", "head1"),
        ("head?", "head1"),
        ("*.example", "head1.example"),
        ("[head1]:2222", "[head1]:2222"),
        ("[*]:2222", "[head1]:2222"),
        ("[10.0.0.?]:22022", "[10.0.0.7]:22022"),
        (hashed("head1"), "head1"),
        (hashed("[head1]:2222"), "[head1]:2222"),
    ],
)
def test_names_that_match(tmp_path: Path, names: str, name: str) -> None:
    known(tmp_path, f"{names} {A} a comment").check(name, A)


@pytest.mark.parametrize(
    ("names", "name"),
    [
        ("head1", "head10"),
        ("head1", "[head1]:2222"),
        ("[head1]:2222", "head1"),
        ("*.example,!head1.example", "head1.example"),
        ("!head1.example,*.example", "head1.example"),
        ("head[12]", "head1"),
        (hashed("head2"), "head1"),
        ("|1|xx|yy", "head1"),
        ("|1|" + "A" * 27 + "=", "head1"),
        ("|1||", "head1"),
    ],
)
def test_names_that_do_not_match(tmp_path: Path, names: str, name: str) -> None:
    with pytest.raises(UnknownHostError):
        known(tmp_path, f"{names} {A}").check(name, A)


def test_a_host_may_have_several_keys(tmp_path: Path) -> None:
    hosts = known(tmp_path, f"h {A}", f"h {B}", f"h {key('c', 'ssh-rsa')}")
    hosts.check("h", A)
    hosts.check("h", B)
    assert hosts.types("h") == ("ssh-ed25519", "ssh-rsa")


def test_a_key_of_another_type_is_a_changed_host_not_a_new_one(tmp_path: Path) -> None:
    with pytest.raises(HostKeyError) as caught:
        known(tmp_path, f"h {A}").check("h", key("c", "ssh-rsa"))
    assert caught.value.known


@pytest.mark.parametrize("order", [0, 1])
def test_revoked_wins_over_known_in_any_order(tmp_path: Path, order: int) -> None:
    lines = [f"h {A}", f"@revoked * {A}"]
    with pytest.raises(HostKeyError, match=r"revoked by .*known_hosts:"):
        known(tmp_path, *(lines if order else reversed(lines))).check("h", A)


def test_a_revoked_key_does_not_make_the_host_known_or_changed(tmp_path: Path) -> None:
    hosts = known(tmp_path, f"@revoked h {A}")
    with pytest.raises(UnknownHostError):
        hosts.check("h", B)
    assert hosts.types("h") == ()


def test_an_authority_vouches_for_no_plain_key(tmp_path: Path) -> None:
    with pytest.raises(UnknownHostError):
        known(tmp_path, f"@cert-authority * {A}").check("h", A)


def test_odd_lines_are_skipped(tmp_path: Path) -> None:
    odd = [
        "",
        "   ",
        "#h x",
        "h",
        "h ssh-ed25519",
        "h ssh-ed25519 !!!",
        "@",
        "@revoked",
        "@new h k v",
        "h ssh-rsa AAAA",
        "\udcff\x00",
    ]
    odd.append(f"h ssh-rsa {base64.b64encode(A.blob).decode()}")  # says rsa, is ed25519
    known(tmp_path, *odd, f"h {A}").check("h", A)


@given(st.binary(max_size=300))
def test_no_content_of_the_file_is_fatal(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    file = tmp_path_factory.mktemp("k") / "known_hosts"
    file.write_bytes(data + f"\nh {A}\n".encode())
    KnownHosts([file]).check("h", A)


@pytest.mark.parametrize("before", ["", f"x {B}\n", f"x {B}"])
def test_remember_appends_a_line_of_its_own(tmp_path: Path, before: str) -> None:
    file = tmp_path / "new" / "known_hosts"
    if before:
        file.parent.mkdir()
        file.write_text(before)
    remember(UnknownHostError(host="[h]:2222", key=A, file=file))
    assert file.read_text() == (before.rstrip("\n") + "\n" if before else "") + f"[h]:2222 {A}\n"
    KnownHosts([file]).check("[h]:2222", A)
    if not before:
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_remember_follows_a_link_and_keeps_it(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("")
    (tmp_path / "link").symlink_to("real")
    remember(UnknownHostError(host="h", key=A, file=tmp_path / "link"))
    assert (tmp_path / "link").is_symlink()
    KnownHosts([tmp_path / "real"]).check("h", A)


def test_remember_says_when_it_cannot(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StokerError, match="cannot remember"):
        remember(UnknownHostError(host="h", key=A, file=tmp_path / "file" / "known_hosts"))


def test_ssh_keygen_reads_what_we_write_and_we_what_it_hashes(tmp_path: Path) -> None:
    file = tmp_path / "known_hosts"
    try:
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "k"], check=True, timeout=30)
    except FileNotFoundError:
        pytest.skip("needs ssh-keygen: install openssh-client")
    real = HostKey.parse((tmp_path / "k.pub").read_text())
    remember(UnknownHostError(host="[h]:2222", key=real, file=file))
    found = subprocess.run(
        ["ssh-keygen", "-F", "[h]:2222", "-l", "-f", file], capture_output=True, text=True, timeout=30
    )
    assert real.fingerprint in found.stdout
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", file], check=True, capture_output=True, timeout=30)
    assert "[h]" not in file.read_text()
    KnownHosts([file]).check("[h]:2222", real)


@pytest.mark.parametrize("text", ["", "ssh-ed25519", "ssh-ed25519 AAAA", "x y", "ssh-ed25519 " + "A" * 1000])
def test_a_pin_that_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(StokerError, match="is not a public key"):
        HostKey.parse(text)


def test_the_port_is_part_of_the_name_unless_it_is_22() -> None:
    assert (host_name("H", 22), host_name("H", 2222)) == ("h", "[h]:2222")


def test_a_file_that_cannot_be_read_knows_nobody(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(UnknownHostError):
        KnownHosts([tmp_path / "folder"]).check("h", A)
