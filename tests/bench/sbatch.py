"""Ask a real sbatch again what `tests/data/sbatch-asked.jsonl` has recorded: `python -m tests.bench.sbatch [--write]`.

By hand, where Slurm's commands are on PATH and a slurmctld answers. The recorded one was Slurm 22.05 with three nodes
n1 to n3 (16 CPUs, features h100 and nvlink), the partitions gpu (default, DefaultTime=10) and debug (on n1, MaxTime=60,
DefaultTime=5), DefMemPerCPU=100, Licenses=matlab:4,seat:32, MaxArraySize=10001, and FirstJobId=70000, so that no id is
found within another number; zone UTC. `--write` replaces the recording by the new answers.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ASKED = Path(__file__).parents[1] / "data" / "sbatch-asked.jsonl"
_ALWAYS = ("JobName", "TimeLimit", "NumNodes", "NumTasks", "CPUs/Task")
_FIELDS = (
    *(*_ALWAYS, "NumCPUs", "MinMemoryCPU", "MinMemoryNode", "ArrayTaskId", "ArrayTaskThrottle", "Dependency"),
    *("Licenses", "StdOut", "StdErr", "StdIn", "Requeue", "Nice", "Partition", "Account", "MailUser", "MailType"),
    *("WorkDir", "EligibleTime", "Deadline", "Features", "Comment", "ReqNodeList", "ExcNodeList", "OverSubscribe"),
    *("NtasksPerN:B:S:C", "KillOInInvalidDependent", "Contiguous"),
)


def main() -> int:
    """Returns how many answers differ."""
    held = _run("sbatch", "--parsable", "--hold", "-t", "100", "--wrap", "true").stdout.strip()
    plain = ask({"case": "", "cli": [], "script": "#!/bin/bash\ntrue\n"}, held, {})["job"]
    old = [json.loads(line) for line in ASKED.read_text().splitlines()]
    new = [ask(case, held, plain) for case in old]
    _run("scancel", held)
    changed = [(was, now) for was, now in zip(old, new, strict=True) if _answer(was) != _answer(now)]
    for was, now in changed:
        print(f"{was['case']}\n  was {_answer(was)}\n  now {_answer(now)}")
    if "--write" in sys.argv[1:]:
        ASKED.write_text("".join(json.dumps(case) + "\n" for case in new))
    return len(changed)


def ask(case: dict[str, Any], held: str, plain: dict[str, str]) -> dict[str, Any]:
    """The case with sbatch's answer of now; fields that a plain job has too are left out."""
    asked: dict[str, Any] = {key: case[key] for key in ("case", "cli", "script", "env") if key in case}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "s.sh").write_text(re.sub(r"(?<![A-Z_])ID\b", held, case["script"]), newline="")
        asked["now"] = int(time.time())
        told = _run("sbatch", *case["cli"], "s.sh", cwd=folder, env=case.get("env", {}))
        found = re.search(r"Submitted batch job (\d+)", told.stdout)
        if found is None:
            return asked | {"ok": False, "error": (told.stdout + told.stderr).replace("\n", " ").strip()}
        shown = _run("scontrol", "show", "job", found[1]).stdout.split("\n\n")[0]
        _run("scancel", found[1])
    fields = re.findall(r"(\S+?)=(.*?)(?=\s+[A-Z][\w/:]*=|\n|$)", shown)
    job = {key: _placed(key, value.strip(), folder, found[1], held) for key, value in fields if key in _FIELDS}
    return asked | {"ok": True, "job": _telling(job, plain, case)}


def _placed(key: str, value: str, folder: str, new: str, held: str) -> str:
    value = value.replace(folder, "DIR")
    return value.replace(new, "JOBID") if key.startswith("Std") else re.sub(rf"\b{held}\b", "ID", value)


def _telling(job: dict[str, str], plain: dict[str, str], case: dict[str, Any]) -> dict[str, str]:
    if not any("begin" in text for text in (case["script"], *case["cli"])):
        job.pop("EligibleTime", None)
    return {key: value for key, value in job.items() if key in _ALWAYS or plain.get(key) != value}


def _answer(case: dict[str, Any]) -> dict[str, str] | str:
    """What is compared: times counted from the moment of asking are not the same twice."""
    if not case["ok"]:
        return "refused"
    return {key: value for key, value in case["job"].items() if key not in ("EligibleTime", "Deadline")}


def _run(*words: str, cwd: str = "/tmp", env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SBATCH_", "SLURM_NTASKS"))}
    return subprocess.run(
        words, cwd=cwd, env=kept | (env or {}), capture_output=True, text=True, check=False, timeout=60
    )


if __name__ == "__main__":
    raise SystemExit(min(main(), 100))
