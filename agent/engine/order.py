"""The claim in the shim's words: what to run, for whom, for how long, and where its output goes.

The agent wrote and checked it (`records.Claim`); a claim that makes no sense here is damage, and is refused before
anything is started. What a claim of an older agent does not have is as if it were not asked for. Cheap imports only
(see `lean`).
"""

from __future__ import annotations

from agent.engine.folder import EXIT_BAD_CLAIM, EXIT_NO_RECORDS, Folder, Refused
from agent.engine.jobproc import Account, Program, Surroundings


class Order:
    """The claim in the shim's words."""

    def __init__(self, claim: dict[str, object]) -> None:
        """Take the claim apart.

        Raises:
            KeyError, TypeError, ValueError: something is missing or is not what it should be.
        """
        get, may = claim.__getitem__, claim.get
        self.account = Account(get("uid"), get("gid"), get("groups"))  # type: ignore[arg-type]
        self.program = Program(get("argv"), get("env"), get("work_dir"), get("umask"))  # type: ignore[arg-type]
        self.limit_s: float | None = _seconds(get("time_limit_s"))
        self.grace_s: float = _seconds(get("grace_s")) or 0.0
        self.warn = WarnOrder(may("warn_signal"), may("warn_before_s"), may("warn_batch_only"))
        self.job_dir = _path(may("job_dir"))
        self.tmp_dir = _path(may("tmp_dir"))
        self.input_path = _path(may("input_path"))
        self.output_path = _path(get("output_path"))
        self.error_path = _path(get("error_path"))
        self.append = get("open_mode") == "append"
        self.log_head_bytes, self.log_tail_bytes, self.output_max_bytes = (
            int(str(get(name))) for name in ("log_head_bytes", "log_tail_bytes", "output_max_bytes")
        )
        self.memory_bytes, self.cpus = _number(may("memory_bytes")), _number(may("cpus"))
        hooks = may("hooks") or {}
        self.hooks = HookOrder(hooks)  # type: ignore[arg-type]
        self.surroundings = Surroundings(
            hidden=_paths(may("hidden_devices") or []),
            must_hide=may("confine") == "on",
            tasks_max=_number(may("tasks_max")),
            task_prolog=self.hooks.task_prolog,
            hook_timeout_s=self.hooks.timeout_s,
        )


class WarnOrder:
    """`--signal`: which signal, how long before the end, and to whom."""

    def __init__(self, number: object, before_s: object, batch_only: object) -> None:
        self.number = _number(number)
        """`None`: none was asked for."""
        self.before_s = _seconds(before_s) or 0.0
        self.batch_only = bool(batch_only)


class HookOrder:
    """The site's programs around the job; `None` for each that there is not."""

    def __init__(self, hooks: dict[str, object]) -> None:
        self.prolog, self.epilog, self.task_prolog, self.task_epilog = (
            _path(hooks.get(name)) for name in ("prolog", "epilog", "task_prolog", "task_epilog")
        )
        self.env: dict[str, str] = dict(hooks.get("env") or {})  # type: ignore[call-overload]
        self.timeout_s = _seconds(hooks.get("timeout_s")) or 60.0


def read_order(folder: Folder) -> Order:
    """The order that the folder's claim gives.

    Raises:
        Refused: there is none, or it is damaged.
    """
    try:
        claim = folder.read("claim")
        if claim is None:
            raise Refused(EXIT_BAD_CLAIM, f"{folder.path}: there is no claim to run")
        return Order(claim)
    except OSError as error:
        raise Refused(EXIT_NO_RECORDS, f"{folder.path}/claim: {error.strerror}; see the disk of the state") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Refused(
            EXIT_BAD_CLAIM, f"{folder.path}/claim is damaged: {error!r}; keep the folder for support"
        ) from error


def _seconds(value: object) -> float | None:
    return None if value is None else float(str(value))


def _number(value: object) -> int | None:
    return None if value is None else int(str(value))


def _path(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise TypeError(f"{value!r} is not a path")


def _paths(value: object) -> list[str]:
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return value
    raise TypeError(f"{value!r} is no list of paths")
