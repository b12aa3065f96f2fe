"""How a target becomes a host: by `ssh -G` where there is an ssh client, by the other parser where there is none."""

from __future__ import annotations

import os
import pwd
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.api.errors import StokerError
from agent.api.ssh import SshTransport, _look_up
from agent.api.sshconfig import HostConfig, Target, refuse_unreadable, resolve

ME = pwd.getpwuid(os.geteuid()).pw_name


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("head1", Target(host="head1")),
        ("alice@head1", Target(host="head1", user="alice")),
        ("alice@head1:2222", Target(host="head1", user="alice", port=2222)),
        ("ssh://alice@head1:2222/", Target(host="head1", user="alice", port=2222)),
        ("[fe80::1%eth0]:22", Target(host="fe80::1%eth0", port=22)),
        ("10.0.0.7", Target(host="10.0.0.7")),
    ],
)
def test_targets(text: str, target: Target) -> None:
    assert Target.parse(text) == target


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-oProxyCommand=reboot",
        "a@-oProxyCommand=x",
        "-l@host",
        "h:0",
        "h:65536",
        "h:x",
        "a b",
        "h\n",
        "a@b@c",
        "h;id",
        "h`id`",
        "/x",
        "h:22:22",
    ],
)
def test_what_is_no_target_is_refused(text: str) -> None:
    with pytest.raises(StokerError, match="is not a host"):
        Target.parse(text)


@given(st.text(max_size=40))
def test_a_target_never_carries_an_option_or_a_space(text: str) -> None:
    try:
        target = Target.parse(text)
    except StokerError:
        return
    for part in (target.host, target.user or "x"):
        assert not part.startswith("-")
        assert not any(character.isspace() for character in part)


def with_config(tmp_path: Path, text: str, target: str, client: bool) -> HostConfig:
    if client and not shutil.which("ssh"):
        pytest.skip("needs ssh: install openssh-client")
    (tmp_path / ".ssh").mkdir(exist_ok=True)
    (tmp_path / ".ssh" / "config").write_text(text)
    path = os.environ["PATH"] if client else str(tmp_path / "empty")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path))  # as it is in a real run: `~` is filled in by libraries too
        return resolve(Target.parse(target), {"HOME": str(tmp_path), "PATH": path}, _look_up)


@pytest.mark.parametrize("client", [True, False])
class TestResolve:
    def test_a_host_that_is_not_mentioned(self, tmp_path: Path, client: bool) -> None:
        host = with_config(tmp_path, "", "node7", client)
        assert (host.host, host.port, host.user, host.key_name) == ("node7", 22, ME, "node7")
        assert tmp_path / ".ssh" / "id_ed25519" in host.identity_files
        assert host.known_hosts[0] == tmp_path / ".ssh" / "known_hosts"
        assert host.proxy == ()

    def test_what_the_configuration_says(self, tmp_path: Path, client: bool) -> None:
        text = (
            "Host head\n HostName 10.0.0.7\n Port 2222\n User alice\n IdentityFile ~/.ssh/work_%r\n"
            " IdentitiesOnly yes\n HostKeyAlias cluster\n UserKnownHostsFile ~/.ssh/kh\nHost *\n Port 99\n"
        )
        host = with_config(tmp_path, text, "head", client)
        assert (host.host, host.port, host.user) == ("10.0.0.7", 2222, "alice")
        assert (host.key_name, host.has_alias) == ("cluster", True)
        assert host.identity_files == (tmp_path / ".ssh" / "work_alice",)
        assert host.identities_only
        assert host.known_hosts[0] == tmp_path / ".ssh" / "kh"

    def test_what_was_typed_wins(self, tmp_path: Path, client: bool) -> None:
        host = with_config(tmp_path, "Host *\n Port 99\n User bob\n", "alice@head:2222", client)
        assert (host.user, host.port) == ("alice", 2222)

    def test_a_proxy_command_gets_its_tokens(self, tmp_path: Path, client: bool) -> None:
        host = with_config(tmp_path, "Host h\n ProxyCommand way %h %p %% %r\n User u\n", "h", client)
        assert host.proxy[1:] == ("-c", "exec way h 22 % u")


def test_a_jump_becomes_a_forwarding_ssh(tmp_path: Path) -> None:
    host = with_config(tmp_path, "Host h\n HostName 10.0.0.7\n ProxyJump first,bob@last:2222\n", "h", client=True)
    assert host.proxy[1:] == (
        *("-o", "BatchMode=yes", "-J", "first", "-l", "bob", "-p", "2222", "-W", "[10.0.0.7]:22", "--", "last"),
    )


def test_a_jump_without_an_ssh_client_says_so(tmp_path: Path) -> None:
    with pytest.raises(StokerError, match="install openssh-client"):
        with_config(tmp_path, "Host h\n ProxyJump first\n", "h", client=False)


def test_a_configuration_that_ssh_refuses(tmp_path: Path) -> None:
    with pytest.raises(StokerError, match="ssh does not accept its configuration for h"):
        with_config(tmp_path, "Host h\n Porrt 22\n", "h", client=True)


@pytest.mark.parametrize(
    "line", ["Include more", "include=more", "Match tagged work", "Match !localnetwork 10.0.0.0/8"]
)
def test_without_an_ssh_client_what_would_be_misread_is_refused(tmp_path: Path, line: str) -> None:
    with pytest.raises(StokerError, match=r"config:2: .*install openssh-client"):
        with_config(tmp_path, f"# first\n{line}\n", "h", client=False)


@pytest.mark.parametrize(
    "line", ["Match all", "Match host a,b user c", "Match !exec true", "Match final all", "", "Host *"]
)
def test_what_can_be_read_is_not_refused(line: str) -> None:
    refuse_unreadable(line, "config")


def test_the_users_own_target_is_described_as_resolved(tmp_path: Path) -> None:
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "config").write_text("Host h\n User alice\n Port 2222\n")
    way = SshTransport.for_user("h", environ={"HOME": str(tmp_path), "PATH": os.environ["PATH"]})
    assert way.describe() == "alice@[h]:2222"
