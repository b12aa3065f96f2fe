"""Which keys are offered to an ssh server, and in which order: OpenSSH's, the agent's first, then the identity files.

Rules kept here: only keys authenticate, never a password; an ssh-agent that hangs is left out after 3 s; where none is
accepted, what was tried and what could not be is said. With `ssh` the door to paramiko.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import paramiko
from paramiko.agent import AgentKey

from agent.api.errors import AuthError, DeadlineError, TransportError
from agent.api.hostkeys import HostKey
from agent.api.reach import left_s
from agent.api.sshconfig import HostConfig

_AGENT_TIMEOUT_S = 3.0

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Offer:
    key: paramiko.PKey
    label: str


def authenticate(link: paramiko.Transport, host: HostConfig, where: str, deadline: float) -> None:
    """Offer keys until one is accepted; `where` names the server in what is raised.

    Raises:
        AuthError: none was, or a key is not enough there.
        DeadlineError: no answer in time.
    """
    notes: list[str] = []
    tried: list[str] = []
    for offer in _offers(host, notes):
        link.auth_timeout = left_s(deadline)
        try:
            needs = link.auth_publickey(host.user, offer.key)
        except paramiko.BadAuthenticationType as error:
            raise AuthError(
                f"{where} does not take keys, only {', '.join(error.allowed_types)}; allow publickey"
            ) from error
        except (paramiko.SSHException, OSError, EOFError) as error:
            tried.append(offer.label)
            if left_s(deadline) < 0.05:
                raise DeadlineError(f"{where} does not answer while it checks our keys; try again") from error
            if not link.is_active():
                notes.append("the server then ended the connection")
                break
            continue
        if needs:
            raise AuthError(f"{where} asks for {', '.join(needs)} beside the key, which Stoker does not offer")
        return
    raise AuthError(_explain_refused(host, where, tried, notes))


def _offers(host: HostConfig, notes: list[str]) -> Iterator[_Offer]:
    """Keys in OpenSSH's order: the agent's first, then the identity files."""
    named = {blob for file in host.identity_files if (blob := _public_blob(file)) is not None}
    for key in _agent_keys(notes):
        if key.get_name().startswith("sk-"):
            notes.append("a security key in the agent cannot be used")
        elif not host.identities_only or key.asbytes() in named:
            yield _Offer(key=key, label=f"{key.get_name()} {key.comment or ''} of the ssh-agent".replace("  ", " "))
    for file in host.identity_files:
        if not file.exists():
            continue
        try:
            yield _Offer(key=paramiko.PKey.from_path(file), label=str(file))
        except (paramiko.PasswordRequiredException, TypeError):
            notes.append(f"{file} has a passphrase: ssh-add {file}")
        except (paramiko.SSHException, ValueError, OSError) as error:
            notes.append(f"{file} cannot be used: {error}")


def _agent_keys(notes: list[str]) -> Sequence[AgentKey]:
    if not os.environ.get("SSH_AUTH_SOCK"):
        return ()
    found = _within(_AGENT_TIMEOUT_S, lambda: paramiko.Agent().get_keys())
    if found is None:
        notes.append("the ssh-agent at SSH_AUTH_SOCK does not answer")
    return found or ()


def _public_blob(file: Path) -> bytes | None:
    try:
        return HostKey.parse(file.with_name(file.name + ".pub").read_text(encoding="utf-8")).blob
    except (OSError, UnicodeDecodeError, TransportError):
        return None


def _explain_refused(host: HostConfig, where: str, tried: Sequence[str], notes: Sequence[str]) -> str:
    also = f" ({'; '.join(notes)})" if notes else ""
    if not tried:
        looked = ", ".join(str(file) for file in host.identity_files) or "nowhere"
        return f"there is no key to offer to {where}: no ssh-agent key, and none of {looked} can be used{also}"
    return (
        f"{where} accepted none of our keys; tried: {', '.join(tried)}{also}; "
        f"add a public key to the authorized keys of {host.user} there"
    )


def _within(timeout_s: float, work: Callable[[], _T]) -> _T | None:
    """The result of a call that takes no timeout, or None when it takes too long or fails."""
    results: list[_T] = []

    def run() -> None:
        with contextlib.suppress(paramiko.SSHException, OSError, EOFError):
            results.append(work())

    thread = threading.Thread(target=run, name="ssh-agent keys", daemon=True)
    thread.start()
    thread.join(timeout_s)
    return results[0] if results else None
