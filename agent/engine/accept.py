"""Whether a submission can be taken: the account, the script, the node, the length of the queue. Stores nothing."""

from __future__ import annotations

import grp
import logging
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Protocol

from agent.api.errors import ApiError, StokerError
from agent.api.types import SubmitRequest
from agent.config import Config, Mode
from agent.engine.claims import AccountError, account_of
from agent.jobs import parse, rules, schedule
from agent.jobs.errors import IllegalMoveError, KeyConflictError, NoSuchJobError, SpecError, StaleJobError
from agent.jobs.meter import Metered
from agent.jobs.spec import JobSpec

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What the node can give at one moment."""

    gpus: tuple[schedule.GpuFacts, ...]
    """All GPUs, lost ones too; who holds one is the engine's knowledge."""
    no_gpus: str | None
    """Why there are none."""
    simulated: bool
    cpu_count: int
    memory_total_bytes: int
    licence_hold: str | None
    """Why no new job may start at all, with the command that helps."""
    locked: Mapping[str, str] = field(default_factory=dict)
    """Feature of the licence → why a new job that needs it may not start, with the command that helps."""
    minors: Mapping[str, int] = field(default_factory=dict)
    """UUID → N of `/dev/nvidiaN`, where the driver tells; of a MIG instance its parent's."""
    mig_ids: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """UUID of a MIG instance → ids of its GPU instance and compute instance, where the driver tells."""
    metered: Mapping[str, Metered] = field(default_factory=dict)
    """UUID of a MIG instance → the GPU that it is a part of, and what it is counted as."""


class ResourceView(Protocol):
    """The node's GPUs, CPUs and seats, as the engine is to see them."""

    def resources(self) -> Resources:
        """What there is now; never blocks."""
        ...

    def hold(self, uuids: Collection[str]) -> None:
        """Learn which GPUs running jobs hold."""
        ...


def check_account(config: Config, uid: int) -> tuple[int, int] | None:
    """Whether `uid` may own a job here; uid and gid that its files shall have, `None` for the agent's own.

    Asks the account database: call it in a thread.

    Raises:
        ApiError: 403, saying who may.
        AccountError: no such account.
    """
    if uid == 0 and not config.allow_root_jobs:
        raise ApiError(
            403,
            "root_job",
            "root may not own a job; submit as an ordinary user (in a container whose only user is root, set "
            "node.allow_root_jobs = true)",
        )
    account = account_of(uid)
    if config.mode is Mode.SYSTEM:
        return account.uid, account.gid
    if uid != os.geteuid():
        own = account_of(os.geteuid()).name
        raise ApiError(403, "forbidden", f"this user-mode agent runs jobs of {own} only; submit as {own}")
    return None


def groups_of(uid: int) -> frozenset[str]:
    """Names of all Unix groups of an account. Asks the account database: call it in a thread.

    Raises:
        AccountError: no such account.
    """
    names = set()
    for gid in account_of(uid).groups:
        with suppress(KeyError):
            names.add(grp.getgrgid(gid).gr_name)
    return frozenset(names)


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What an account may own here, and whose member it is."""

    owner: tuple[int, int] | None
    """uid and gid that its files shall have; `None`: the agent's own."""
    groups: frozenset[str]


def identify(config: Config, uid: int) -> Identity:
    """See `check_account` and `groups_of`."""
    return Identity(owner=check_account(config, uid), groups=groups_of(uid))


def accept(
    config: Config,
    request: SubmitRequest,
    resources: Resources,
    *,
    user: str,
    groups: Collection[str],
    now: int,
    admin: bool = False,
) -> JobSpec:
    """Parse a submission, apply the site's rules, and refuse what no waiting could help.

    Raises:
        SpecError: script or flags cannot be honoured.
        ApiError: 400 when the node can never run it.
    """
    parsed = parse.parse(request, now=now, default_time_s=None)
    spec = apply_rules(config, parsed, resources, user=user, groups=groups, admin=admin)
    gpus = [(gpu.uuid, gpu.name) for gpu in resources.gpus]
    unfit = parse.check_fits(
        spec, gpus, config.name, cpu_count=resources.cpu_count, memory_total_bytes=resources.memory_total_bytes
    )
    if unfit is not None:
        why = f" ({resources.no_gpus})" if spec.gpus and not gpus and resources.no_gpus else ""
        raise ApiError(400, "cannot_run", f"{request.script_name} {unfit}{why}; ask for what the node has", "$.script")
    return spec


def apply_rules(
    config: Config, spec: JobSpec, resources: Resources, *, user: str, groups: Collection[str], admin: bool
) -> JobSpec:
    """See `rules.apply`.

    Raises:
        SpecError: the site does not have or allow it.
    """
    names = sorted({gpu.name for gpu in resources.gpus})
    return rules.apply(spec, config, user=user, groups=groups, admin=admin, gpu_names=names)


@contextmanager
def as_api_error() -> Iterator[None]:
    """Turn what parser, store and records raise into the API's answers."""
    try:
        yield
    except ApiError:
        raise
    except SpecError as error:
        raise ApiError(400, "bad_option", str(error), error.field) from error
    except NoSuchJobError as error:
        raise ApiError(404, "no_such_job", f"{error}; see stoker jobs") from error
    except KeyConflictError as error:
        raise ApiError(409, "key_conflict", str(error), "Idempotency-Key") from error
    except (StaleJobError, IllegalMoveError) as error:
        raise ApiError(409, "changed", f"{error}; look at the job again") from error
    except AccountError as error:
        raise ApiError(403, "unknown_user", str(error)) from error
    except (StokerError, OSError) as error:
        logger.error("the disk refuses, and so do we: %s", error)
        raise ApiError(503, "not_stored", f"nothing was changed: {_refusal(error)}") from error


def _refusal(error: StokerError | OSError) -> str:
    """The disk's own words, on what, and what to do; a `StokerError` has them."""
    if isinstance(error, StokerError) or error.strerror is None:
        return str(error)
    where = f" ({os.fsdecode(error.filename)})" if isinstance(error.filename, str | bytes) else ""
    return f"the node's disk under its state folder says: {error.strerror}{where}; free or mend it, and try again"
