"""A new `agent.db` made in a process of its own: `python -I -m agent.jobs.making PATH`.

sqlite-utils and what comes with it take 4 MiB that a daemon would keep until its next start, for tables that are made
once. What goes wrong here is met again, and told, when the daemon opens the file itself; so nothing is raised.
"""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

from agent.jobs.backup import backup_path
from agent.jobs.dbfile import is_there, open_sound

_TIME_S = 60.0

logger = logging.getLogger(__name__)


def make_apart(path: Path) -> None:
    """Make the file where there is nothing of it, nor a backup of which it is to be made."""
    if is_there(path) or backup_path(path).exists():
        return
    command = [sys.executable, "-I", "-m", "agent.jobs.making", str(path)]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=_TIME_S, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.SubprocessError) as error:
        logger.warning("%s could not be made beforehand: %s", path, error)


if __name__ == "__main__":
    from agent.jobs.schema import SCHEMA

    open_sound(Path(sys.argv[1]), SCHEMA).close()
