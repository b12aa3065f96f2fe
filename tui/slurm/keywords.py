"""The words that scontrol begins with, whole or as much of them as Slurm takes; and those that are refused by name."""

from __future__ import annotations

from tui.slurm.argv import ToolError

KEYWORDS = (
    "update", "show", "delete", "create", "requeue", "requeuehold", "release", "reconfigure", "hold", "uhold", "top",
    "ping", "version", "help", "write",
)  # fmt: skip
_FIRST = ("update", "show", "delete", "create", "requeue")
"""Taken for a beginning that others share."""
_ALONE = 3
"""Letters that one needs that is not meant for a beginning like `u`."""

REFUSED = {
    "abort": "the agent is a service: systemctl stop stoker-agent; jobs run on",
    "shutdown": "the agent is a service: systemctl stop stoker-agent; jobs run on",
    "takeover": "each node has one agent, and nothing takes its place",
    "suspend": "scancel -s STOP JOB stops its processes, which keep their GPUs; scancel -s CONT lets them go on",
    "resume": "scancel -s CONT JOB lets stopped processes go on",
    "notify": "a batch job has no terminal; scontrol update JobId=JOB Comment=TEXT leaves a word",
    "wait_job": "stoker wait JOB waits for its end",
    "completing": "squeue -t COMPLETING lists them",
    "listpids": "systemctl status stoker-job-JOB-1 lists a job's processes",
    "pidinfo": "systemctl status PID names the unit, and with it the job",
    "reboot": "drain the node (State=DRAIN), wait for its jobs, and reboot it as root",
    "cancel_reboot": "nothing reboots nodes here",
    "setdebug": "journalctl -u stoker-agent is the log, at one level",
    "setdebugflags": "journalctl -u stoker-agent is the log, at one level",
    "schedloglevel": "journalctl -u stoker-agent is the log, at one level",
    "token": "whoever may open the socket is known by the account",
    "power": "nothing switches nodes off here",
}


def keyword(typed: str) -> str:
    """The word that is meant.

    Raises:
        ToolError: there is none, or it is one that we do not have.
    """
    word = typed.lower()
    if word in KEYWORDS:
        return word
    if word in REFUSED:
        raise ToolError(f"{word} is not offered here: {REFUSED[word]}")
    found = [each for each in KEYWORDS if each.startswith(word)]
    if not found or (len(found) > 1 and found[0] not in _FIRST) or (len(word) < _ALONE and found[0] == "requeue"):
        raise ToolError(f"invalid keyword: {typed}", bare=True)
    return found[0]
