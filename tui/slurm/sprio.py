"""`sprio`: the terms of waiting jobs' priority. sprio(1)."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from agent.api import program
from agent.api.queue import PriorityParts
from agent.api.types import JobState
from tui.slurm import ask, columns
from tui.slurm import job as jobs_as
from tui.slurm.argv import Options, ToolError
from tui.slurm.job import View

HELP = "Usage: sprio [-j IDS] [-u USERS] [-p PARTITIONS] [-l] [-h] [-o FORMAT] [-S FIELDS]\n"
OPTIONS = Options(
    "cluster:M=! clusters=! federation! format:o= help jobs:j= local long:l noheader:h norm:n! partition:p= sib "
    "sort:S= usage user:u= verbose:v version:V weights:w!"
)
DEFAULT = "%.15i %9r %.10Y %.10S %.10A %.10F %.10J %.10P %.10Q"
LONG = "%.15i %9r %.8u %.10Y %.10S %.10A %.10F %.10J %.10P %.10Q %.11N"


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """The command; its exit code."""
    words = OPTIONS.read(argv)
    if words.rest:
        raise ToolError(f"Unrecognized option: {program.printable(words.rest[0])}")
    queue = ask.Queue.open(environ)
    if "jobs" in words:
        found = queue.named_all(words.said["jobs"], "Invalid job id:")
    else:
        found = queue.jobs([JobState.PENDING])
    default = queue.default_partition()
    users, partitions = ask.users(words.listed("user")), words.listed("partition")
    kept = [
        each
        for each in found
        if each.state is JobState.PENDING
        and not each.held
        and each.reason not in ("BeginTime", "Dependency")
        and (not users or each.user in users)
        and (not partitions or any(name in partitions for name in (each.partition or default).split(",")))
    ]
    views = jobs_as.views(kept, time.time(), default)
    views.sort(key=lambda view: (-(view.job.priority or 0), view.job.id))
    plain = LONG if "long" in words else DEFAULT
    shown = columns.by_letters("sprio", words.last("format") or plain, LETTERS)
    for line in columns.lines(shown, views, header="noheader" not in words):
        print(line)
    return 0


def _parts(view: View) -> PriorityParts:
    return view.job.priority_parts or PriorityParts(total=view.job.priority or 0)


LETTERS: columns.Fields[View] = {
    "A": ("AGE", lambda view: str(_parts(view).age)),
    "F": ("FAIRSHARE", lambda view: str(_parts(view).fairshare)),
    "i": ("JOBID", lambda view: view.id),
    "J": ("JOBSIZE", lambda view: str(_parts(view).jobsize)),
    "N": ("NICE", lambda view: str(_parts(view).nice)),
    "P": ("PARTITION", lambda view: str(_parts(view).partition)),
    "Q": ("QOS", lambda view: str(_parts(view).qos)),
    "r": ("PARTITION", lambda view: view.partition_name),
    "S": ("SITE", lambda view: str(_parts(view).site)),
    "u": ("USER", lambda view: view.job.user),
    "Y": ("PRIORITY", lambda view: str(_parts(view).total)),
}
