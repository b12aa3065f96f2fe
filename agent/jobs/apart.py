"""Work on `agent.db` and its backup in processes of their own: `python -I -m agent.jobs.apart make|verify PATH`.

make     sqlite-utils and what comes with it take 4 MiB that a daemon would keep until its next start, for tables that
         are made once
verify   reading 100,000 jobs is seconds of Python, in which everything else in the process waits for its turn

What goes wrong in making is met again, and told, when the daemon opens the file itself; so nothing is raised there.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from agent.jobs import backup, dbfile
from agent.jobs.errors import StoreError

_MAKE_S = 60.0
_VERIFY_S = 3600.0
_LOOK_S = 0.1
_DAMAGED = 65
"""`EX_DATAERR` of sysexits.h."""

logger = logging.getLogger(__name__)


def make(path: Path) -> None:
    """Make the database where there is nothing of it, nor a backup of which it is to be made."""
    if dbfile.is_there(path) or backup.backup_path(path).exists():
        return
    try:
        subprocess.run(_command("make", path), check=True, capture_output=True, timeout=_MAKE_S)
    except (OSError, subprocess.SubprocessError) as error:
        logger.warning("%s could not be made beforehand: %s", path, error)


def verify(path: Path, stop: Callable[[], bool]) -> int:
    """`backup.verify`, of a copy that nobody has open; how many jobs it holds.

    Raises:
        DamagedError: it is not sound.
        StoreError: it could not be read, or `stop` gave it up.
    """
    command = _command("verify", path)
    try:
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as child:
            said, why = _heard(child, stop)
    except OSError as error:
        raise StoreError(f"{path} could not be verified: {error}; see the node's limits and load") from error
    if child.returncode == _DAMAGED:
        raise dbfile.DamagedError(why)
    if child.returncode != 0:
        raise StoreError(f"{path} could not be verified, which ended with {child.returncode}: {why[-500:]}")
    return int(said)


def _heard(child: subprocess.Popen[bytes], stop: Callable[[], bool]) -> tuple[str, str]:
    until = time.monotonic() + _VERIFY_S
    while not stop() and time.monotonic() < until:
        try:
            said, why = child.communicate(timeout=_LOOK_S)
        except subprocess.TimeoutExpired:
            continue
        return said.decode(), why.decode("utf-8", "replace").strip()
    child.kill()
    raise StoreError("the backup was given up while it was verified; the last one stands")


def _command(what: str, path: Path) -> list[str]:
    return [sys.executable, "-I", "-m", "agent.jobs.apart", what, str(path)]


def _main(what: str, path: Path) -> int:
    from agent.jobs.schema import SCHEMA

    if what == "make":
        dbfile.open_sound(path, SCHEMA).close()
        return 0
    try:
        print(backup.verify(path, SCHEMA))
    except dbfile.DamagedError as error:
        print(error, file=sys.stderr)
        return _DAMAGED
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1], Path(sys.argv[2])))
