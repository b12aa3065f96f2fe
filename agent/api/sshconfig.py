"""How to reach a host: the target as typed, joined with the user's ssh_config.

Rules kept here: `ssh -G` answers wherever an ssh client is installed, because it alone knows Include and every Match;
without one, a configuration that uses what the other parser gets wrong is refused sooner than read wrongly. `~` is
`$HOME`, also where OpenSSH would ask the password file (only a relative Include is still looked up there).
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from agent.api.errors import StokerError
from agent.api.givenfile import read_given

Fallback = Callable[[str, str], Mapping[str, list[str]]]
"""Looks a host up in ssh_config text: (text, host) -> keyword in lower case -> values."""

_FILE_MAX_BYTES = 4 * 1024 * 1024
_ASK_TIMEOUT_S = 5.0
_MATCH_WORDS = {"all", "host", "originalhost", "user", "localuser", "exec", "canonical", "final"}


@dataclass(frozen=True, slots=True, kw_only=True)
class HostConfig:
    """Everything needed to connect to one host."""

    host: str
    """Name or address to connect to."""
    port: int
    user: str
    key_name: str
    """Name under which known_hosts has its keys: HostKeyAlias, or the host as typed."""
    has_alias: bool = False
    identity_files: tuple[Path, ...] = ()
    identities_only: bool = False
    """Offer of the agent's keys only those named by `identity_files`."""
    known_hosts: tuple[Path, ...] = ()
    proxy: tuple[str, ...] = ()
    """Command whose stdin and stdout are the way to the host; empty means a TCP connection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a user types: `host`, `user@host`, `user@host:port`, `[v6]:port`, `ssh://…`."""

    host: str
    user: str | None = None
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> Target:
        """Read it.

        Raises:
            StokerError: it is not a host.
        """
        pattern = (
            r"(?:ssh://)?(?:([^@/\s]+)@)?(?:\[([0-9A-Fa-f:.%\w]+)\]|([A-Za-z0-9_][A-Za-z0-9._-]*))(?::([0-9]{1,5}))?/?"
        )
        match = re.fullmatch(pattern, text)
        if match is None or (match[1] or "").startswith("-") or not 0 < int(match[4] or 22) < 65536:
            raise StokerError(f"{text!r} is not a host to reach by ssh; write HOST, USER@HOST or USER@HOST:PORT")
        return cls(host=match[2] or match[3], user=match[1], port=int(match[4]) if match[4] else None)


def resolve(target: Target, environ: Mapping[str, str], fallback: Fallback) -> HostConfig:
    """Ask the user's ssh_config about the target.

    Raises:
        StokerError: the configuration is wrong, or cannot be read rightly without an ssh client.
    """
    home = Path(environ.get("HOME") or pwd.getpwuid(os.geteuid()).pw_dir)
    client = shutil.which("ssh", path=environ.get("PATH"))
    values = _ask_client(client, target, home) if client else _ask_files(target, home, fallback)
    return _host_config(target, values, home, client)


def _ask_client(client: str, target: Target, home: Path) -> dict[str, list[str]]:
    argv = [client, "-G"]
    if home != Path(pwd.getpwuid(os.geteuid()).pw_dir):
        # OpenSSH looks into the password file's home; ours may be another one.
        own = home / ".ssh" / "config"
        argv += ["-F", str(own) if own.exists() else "none"]
    argv += ["-l", target.user] if target.user else []
    argv += ["-p", str(target.port)] if target.port else []
    try:
        ran = subprocess.run(
            [*argv, "--", target.host],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_ASK_TIMEOUT_S,
            check=False,
            text=True,
            errors="replace",
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StokerError(f"`ssh -G {target.host}` does not answer ({error}); check your ssh configuration") from error
    if ran.returncode != 0:
        last = (ran.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise StokerError(f"ssh does not accept its configuration for {target.host}: {last}")
    values: dict[str, list[str]] = {}
    for line in ran.stdout.splitlines():
        keyword, _, value = line.partition(" ")
        values.setdefault(keyword, []).append(value)
    return values


def _ask_files(target: Target, home: Path, fallback: Fallback) -> dict[str, list[str]]:
    """Read the user's own file. The system's belongs to the ssh client, and where that is missing it says nothing."""
    file = home / ".ssh" / "config"
    try:
        text = read_given(file, _FILE_MAX_BYTES).decode("utf-8", "replace")
    except OSError:
        text = ""
    refuse_unreadable(text, str(file))
    values = dict(fallback(text, target.host))
    if target.user:
        values["user"] = [target.user]
    if target.port:
        values["port"] = [str(target.port)]
    return values


def refuse_unreadable(text: str, origin: str) -> None:
    """Refuse what the parser at hand would silently read wrongly: it skips Include and takes an unknown Match as true.

    Raises:
        StokerError: names file and line.
    """
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.replace("=", " ").lower().split()
        if not words:
            continue
        unknown = {"include"} & {words[0]} or (
            {word.lstrip("!") for word in words[1::2]} - _MATCH_WORDS if words[0] == "match" else set()
        )
        if unknown and words[1:] != ["all"]:
            raise StokerError(
                f"{origin}:{number}: {sorted(unknown)[0]!r} can only be read by the ssh client; install openssh-client"
            )


def _host_config(target: Target, values: Mapping[str, list[str]], home: Path, client: str | None) -> HostConfig:
    def first(keyword: str, default: str) -> str:
        found = values.get(keyword)
        return found[0] if found and found[0] not in ("", "none") else default

    host = first("hostname", target.host)
    port, user = int(first("port", "22")), first("user", pwd.getpwuid(os.geteuid()).pw_name)
    tokens = {"%h": host, "%p": str(port), "%r": user, "%n": target.host, "%d": str(home), "%%": "%"}
    alias = first("hostkeyalias", "")
    identities = values.get("identityfile") or [f"~/.ssh/id_{kind}" for kind in ("ed25519", "ecdsa", "rsa")]
    known = [name for line in values.get("userknownhostsfile") or ["~/.ssh/known_hosts"] for name in line.split()]
    system = [
        name for line in values.get("globalknownhostsfile") or ["/etc/ssh/ssh_known_hosts"] for name in line.split()
    ]
    return HostConfig(
        host=host,
        port=port,
        user=user,
        key_name=alias or host,
        has_alias=bool(alias),
        identity_files=tuple(_path(each, home, tokens) for each in identities if each != "none"),
        identities_only=first("identitiesonly", "no") in ("yes", "true"),
        known_hosts=tuple(_path(each, home, tokens) for each in (*known, *system) if each != "none"),
        proxy=_proxy(first("proxycommand", ""), first("proxyjump", ""), tokens, client, target.host),
    )


def _path(text: str, home: Path, tokens: Mapping[str, str]) -> Path:
    expanded = _expand(text.strip('"'), tokens)
    account_home = pwd.getpwuid(os.geteuid()).pw_dir
    for prefix in ("~/", f"{account_home}/.ssh/"):
        if expanded.startswith(prefix):
            return home / (".ssh" if prefix != "~/" else "") / expanded.removeprefix(prefix)
    return Path(expanded)


def _expand(text: str, tokens: Mapping[str, str]) -> str:
    return re.sub(r"%.", lambda match: tokens.get(match[0], match[0]), text)


def _proxy(command: str, jump: str, tokens: Mapping[str, str], client: str | None, host: str) -> tuple[str, ...]:
    if jump:
        if client is None:
            raise StokerError(f"the way to {host} has a ProxyJump, which needs the ssh client; install openssh-client")
        # What OpenSSH itself makes of ProxyJump; a chain a,b,c is reached as c through a,b.
        *before, last = jump.split(",")
        hops = ["-J", ",".join(before)] if before else []
        jump_host = Target.parse(last)
        login = [
            *(["-l", jump_host.user] if jump_host.user else []),
            *(["-p", str(jump_host.port)] if jump_host.port else []),
        ]
        way = f"[{tokens['%h']}]:{tokens['%p']}"
        return (client, "-o", "BatchMode=yes", *hops, *login, "-W", way, "--", jump_host.host)
    if command:
        # ssh_config(5): the command is the user's own, and is for the user's shell.
        return (os.environ.get("SHELL") or "/bin/sh", "-c", f"exec {_expand(command, tokens)}")
    return ()
