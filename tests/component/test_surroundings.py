"""The suite's surroundings, settled from the worst that a shell may hand on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ADVERSE = {
    "HOME": "/nonexistent",
    "TZ": "Pacific/Kiritimati",
    "LC_ALL": "tr_TR.UTF-8",
    "TERM": "dumb",
    "NO_COLOR": "1",
    "COLUMNS": "20",
    "BASH_ENV": "/nonexistent",
    "SLURM_JOB_ID": "5",
    "SBATCH_PARTITION": "long",
    "STOKER_SOCKET": "/nonexistent",
    "http_proxy": "http://127.0.0.1:9",
}
ASK = """
import json, os, signal, time
from tests.fakes.surroundings import leave, settle
home = settle()
print(json.dumps({"environ": dict(os.environ), "umask": os.umask(0), "zone": time.localtime(0).tm_gmtoff,
    "home": str(home), "empty": not any(home.iterdir()), "blocked": len(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
    "hup": signal.getsignal(signal.SIGHUP) is signal.SIG_DFL}))
leave(home)
"""


def test_a_shell_hands_on_nothing_of_its_own() -> None:
    env = {**os.environ, **ADVERSE, "STOKER_FORBID_SKIPS": "1", "CUDA_VISIBLE_DEVICES": "1"}
    started = f'umask 077; trap "" HUP; exec {sys.executable} -c "$1"'
    done = subprocess.run(
        ["/bin/sh", "-c", started, "sh", ASK],
        env=env,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    found = json.loads(done.stdout)
    settled = found["environ"]
    assert (settled["TZ"], settled["LANG"], settled["TERM"], found["zone"]) == ("UTC", "C.UTF-8", "xterm-256color", 0)
    assert (found["umask"], found["hup"], found["blocked"]) == (0o022, True, 0)
    assert (settled["HOME"], found["empty"]) == (found["home"], True)
    assert not Path(found["home"]).exists(), "it was left"
    assert set(ADVERSE) & set(settled) == {"HOME", "TZ", "TERM", "http_proxy"}
    assert "127.0.0.1" in settled["no_proxy"], "what the suite serves itself is asked for directly"
    assert (settled["STOKER_FORBID_SKIPS"], settled["CUDA_VISIBLE_DEVICES"]) == ("1", "1"), "meant for the suite"


def test_this_suite_runs_in_them() -> None:
    assert os.environ["TZ"] == "UTC"
    assert Path(os.environ["HOME"]).name.startswith("stoker-home-")
    assert (old := os.umask(0o022)) == 0o022, f"{old:o}"
