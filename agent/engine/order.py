"""The claim in the shim's words: what to run, for whom, for how long, and where its output goes.

The agent wrote and checked it (`records.Claim`); a claim that makes no sense here is damage, and is refused before
anything is started. Cheap imports only (see `lean`).
"""

from __future__ import annotations

from agent.engine.folder import EXIT_BAD_CLAIM, EXIT_NO_RECORDS, Folder, Refused
from agent.engine.jobproc import Account, Program


class Order:
    """The claim in the shim's words."""

    def __init__(self, claim: dict[str, object]) -> None:
        """Take the claim apart.

        Raises:
            KeyError, TypeError, ValueError: something is missing or is not what it should be.
        """
        get = claim.__getitem__
        self.account = Account(get("uid"), get("gid"), get("groups"))  # type: ignore[arg-type]
        self.program = Program(get("argv"), get("env"), get("work_dir"), get("umask"))  # type: ignore[arg-type]
        self.limit_s: float | None = _seconds(get("time_limit_s"))
        self.grace_s: float = _seconds(get("grace_s")) or 0.0
        self.output_path = _path(get("output_path"))
        self.error_path = _path(get("error_path"))
        self.append = get("open_mode") == "append"
        self.log_head_bytes, self.log_tail_bytes, self.output_max_bytes = (
            int(str(get(name))) for name in ("log_head_bytes", "log_tail_bytes", "output_max_bytes")
        )


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


def _path(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise TypeError(f"{value!r} is not a path")
