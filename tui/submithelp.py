"""What `stoker submit --help` and `stoker run --help` print."""

from __future__ import annotations

import textwrap

from agent.api.options import OPTIONS


def text(verb: str) -> str:
    """The help of one of the two."""
    names = (f"-{each.short}/{each}" if each.short else str(each) for each in OPTIONS if each.honoured)
    listed = textwrap.fill("  ".join(names), 78, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
    return {"submit": _SUBMIT, "run": _RUN}[verb].format(honoured=listed)


_SUBMIT = """\
usage: stoker submit [options] [sbatch options] SCRIPT [ARGS...]
       stoker submit [options] [sbatch options] --wrap 'COMMANDS'

Submit a job script. Options before SCRIPT are sbatch's and win over its #SBATCH lines; words after it are its own.
SCRIPT may be - for standard input. Printed is the job's number; the job runs in the present folder as you.

options of ours, before SCRIPT:
  --wrap 'COMMANDS'  commands for a shell in the place of a script, as sbatch has it
  --dry-run          store nothing; say what would happen, when, and on which GPUs
  --sweep NAME=A,B   an array with a task for each value, told as the variable NAME; again for further parameters,
                     one task for each combination; a value with a comma is quoted: 'NAME="a,b",c'
  --cron TIMES       a recurring job, in crontab's five fields: --cron "0 3 * * 1"; stoker cron lists them
  --missed run|skip  its times while the node was off: run once when it is back, or skip them (skip)
  --overlap          start it although the one before still waits or runs
  --node NAME        run on this node; else the server chooses
  --key KEY          the same key again gives the same job: for scripts that may be run twice
  -W, --wait         wait until it has ended; the exit code is the job's
  --json             print the job as JSON
  --host HOST        reach the cluster by ssh, user@host[:port] (-H here is sbatch's --hold; stoker -H … submit works)
  --socket PATH      of the hub or agent on this machine

options of sbatch that are honoured, before SCRIPT or in its #SBATCH lines:
{honoured}
All others of sbatch(1) are refused by name; none is ignored.

examples:
  stoker submit train.sh
  stoker submit --gres=gpu:2 --time=2:00:00 train.sh --epochs 5
  stoker submit --gpus=1 --sweep lr=1e-3,1e-4 --sweep bs=16,32 train.sh     then: stoker sweep JOB --sort loss
  stoker submit --dry-run --gpus=8 --time=1:00:00 train.sh
  stoker submit --cron "0 3 * * 1" --missed run nightly.sh
  stoker submit --json --key nightly-2026-11-22 nightly.sh
"""

_RUN = """\
usage: stoker run [options] [sbatch options] SCRIPT [ARGS...]
       stoker run [options] [sbatch options] -- CMD [ARGS...]
       stoker run [options] [sbatch options] --wrap 'COMMANDS'

Run a script or a command as a job and wait for it: the reason is told while it waits, its output is shown as it comes,
and the exit code is the job's own, 128 and the number where a signal ended it. The first Ctrl-C asks the job to end,
the second one stops waiting and leaves it alone. SIGTERM, and SIGHUP as of a terminal or an ssh session that closes,
cancel the job, and the exit code is 143 or 129; under nohup SIGHUP does not. The job outlives a lost link to the server
and a restart of it. For a job that outlives its terminal: stoker submit, then stoker logs -f.

options of ours:
  --wrap 'COMMANDS'  commands for a shell in the place of a script
  --node NAME        run on this node; else the server chooses
  --key KEY          the same key again gives the same job
  --json             print the log as JSON lines
  --host HOST        reach the cluster by ssh, user@host[:port]
  --socket PATH      of the hub or agent on this machine

options of sbatch that are honoured:
{honoured}
All others of sbatch(1) are refused by name; none is ignored.

examples:
  stoker run --gpus=1 -- python train.py --epochs 5
  stoker run --gres=gpu:2 train.sh && echo trained
  stoker run --wrap 'nvidia-smi; sleep 5'
"""
