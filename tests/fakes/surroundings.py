"""What the suite runs in, whatever shell it was started from: one time zone, locale, umask, terminal and home.

Settled once, before a test or a worker starts; whoever tests one of these sets it for itself. What is left of the
account is in no variable: a login shell, and bash under sshd, find its files by passwd (`sshd` shows the way out).
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import tempfile
import time
from pathlib import Path

_FOREIGN = re.compile(
    r"(SLURMD?|SBATCH|SALLOC|SRUN|SQUEUE|SINFO|SACCT|SPRIO|SSHARE|SREPORT|SCANCEL|SCONTROL"  # started within a job
    r"|NCCL|GLOO|XDG|LC|GIT|SUDO)_.*|(LOCAL_)?RANK|WORLD_SIZE|MASTER_(ADDR|PORT)"
    r"|STOKER_(?!FORBID_|TEST_|UPDATE_|BENCH_).*"  # what the suite itself is told by stays
    r"|LANGUAGE|COLUMNS|LINES|NO_COLOR|FORCE_COLOR|CLICOLOR(_FORCE)?|COLORTERM|BASH_ENV|ENV|CDPATH|POSIXLY_CORRECT"
    r"|EDITOR|VISUAL|PAGER|SSH_(AUTH_SOCK|CLIENT|CONNECTION|TTY)|NOTIFY_SOCKET|WATCHDOG_(USEC|PID)|LISTEN_(PID|FDS)"
)
"""What Stoker, the programs that it starts, or its libraries act on. Those that say which GPUs are ours stay."""
_HEARD = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM)
"""Ignored by what nohup or a shell's `&` starts, and then by everything below it."""


def settle() -> Path:
    """Make it so, for this process and what it starts; gives the home, which is the caller's to remove."""
    home = Path(tempfile.mkdtemp(prefix="stoker-home-"))
    account = pwd.getpwuid(os.geteuid()).pw_name
    for name in [each for each in os.environ if _FOREIGN.fullmatch(each)]:
        del os.environ[name]
    os.environ |= {"HOME": str(home), "USER": account, "LOGNAME": account, "SHELL": "/bin/sh"}
    os.environ |= {"TZ": "UTC", "LANG": "C.UTF-8", "TERM": "xterm-256color"}
    os.environ |= {"NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost"}
    time.tzset()
    os.umask(0o022)
    for number in _HEARD:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    return home


def leave(home: Path) -> None:
    """Remove what `settle` made."""
    shutil.rmtree(home, ignore_errors=True)
