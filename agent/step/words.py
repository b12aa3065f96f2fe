"""What `srun` is asked to do: its options, and Slurm's variables behind them.

Rules kept here: words are read as getopt_long(3) does up to the command; an option wins over its variable; every
option of srun(1) is known: one that changes nothing on a single node is taken and changes nothing, one that we cannot
honour is refused by name. Cheap imports only: a step starts for every `srun` in a job.
"""

from __future__ import annotations

USAGE = 1
NO_GRES = "Invalid generic resource (gres) specification"


class StepError(Exception):
    """The step cannot be made; the message is what Slurm says after `srun: error: `, the code what srun exits with."""

    def __init__(self, message: str, code: int = USAGE) -> None:
        super().__init__(message)
        self.message = message
        self.code = code


_VALUED = {
    "ntasks": "n",
    "cpus-per-task": "c",
    "gpus-per-task": "",
    "gpus": "G",
    "gpus-per-node": "",
    "gres": "",
    "gpu-bind": "",
    "output": "o",
    "error": "e",
    "input": "i",
    "open-mode": "",
    "wait": "W",
    "time": "t",
    "chdir": "D",
    "nodes": "N",
    "job-name": "J",
    "jobid": "",
    "mpi": "",
    "ntasks-per-node": "",
    "export": "",
}
"""Honoured, with a value."""

_FLAGS = {
    "label": "l",
    "unbuffered": "u",
    "overcommit": "O",
    "quiet": "Q",
    "help": "h",
    "version": "V",
    "pty": "",
    "multi-prog": "",
    "disable-status": "X",
    "exact": "",
    "overlap": "",
}
_MAYBE = {"kill-on-bad-exit": "K", "exclusive": ""}
"""With a value only when attached: `-K0`, `--kill-on-bad-exit=0`."""

_HARMLESS = {
    "account": "A",
    "acctg-freq": "",
    "bcast": "",
    "comment": "",
    "constraint": "C",
    "cpu-bind": "",
    "cpu-freq": "",
    "cpus-per-gpu": "",
    "deadline": "",
    "distribution": "m",
    "gpu-freq": "",
    "gres-flags": "",
    "hint": "",
    "mail-type": "",
    "mail-user": "",
    "mem": "",
    "mem-bind": "",
    "mem-per-cpu": "",
    "mem-per-gpu": "",
    "msg-timeout": "T",
    "nodelist": "w",
    "ntasks-per-core": "",
    "ntasks-per-socket": "",
    "partition": "p",
    "profile": "",
    "propagate": "",
    "qos": "q",
    "reservation": "",
    "signal": "",
    "slurmd-debug": "",
    "threads": "",
    "threads-per-core": "",
    "tres-bind": "",
    "wckey": "",
}
"""Of the job, which has them already, or of where a rank sits within one node: taken, and nothing changes."""

_HARMLESS_FLAGS = {
    "contiguous": "",
    "interactive": "",
    "no-allocate": "Z",
    "oversubscribe": "s",
    "preserve-env": "E",
    "verbose": "v",
    "spread-job": "",
    "use-min-nodes": "",
    "whole": "",
}
_HARMLESS_MAYBE = {"no-kill": "k", "resv-ports": "", "oom-kill-step": "", "get-user-env": ""}

_REFUSED = {
    "het-group": "heterogeneous jobs need the cluster engine",
    "relative": "there is one node",
    "container": "start the container's own command",
    "task-prolog": "put it into the command",
    "task-epilog": "put it into the command",
    "prolog": "an admin sets one for all jobs",
    "epilog": "an admin sets one for all jobs",
    "dependency": "use sbatch",
    "begin": "use sbatch",
    "array": "use sbatch",
    "exclude": "there is one node",
    "clusters": "there is one cluster",
    "test-only": "this is inside of a job",
    "licenses": "the job has them already; ask with sbatch",
    "uid": "a step runs as the job's user",
    "gid": "a step runs as the job's user",
    "x11": "not offered",
}
_SHORT_REFUSED = {"r": "relative", "d": "dependency", "b": "begin", "x": "exclude", "M": "clusters", "L": "licenses"}

_VARIABLES = {
    "cpus-per-task": "SRUN_CPUS_PER_TASK",
    "ntasks": "SLURM_NTASKS",
    "gpus-per-task": "SLURM_GPUS_PER_TASK",
    "gpu-bind": "SLURM_GPU_BIND",
    "output": "SLURM_STDOUTMODE",
    "error": "SLURM_STDERRMODE",
    "input": "SLURM_STDINMODE",
    "open-mode": "SLURM_OPEN_MODE",
    "label": "SLURM_LABELIO",
    "unbuffered": "SLURM_UNBUFFEREDIO",
    "wait": "SLURM_WAIT",
    "kill-on-bad-exit": "SLURM_KILL_BAD_EXIT",
    "chdir": "SLURM_WORKING_DIR",
    "exact": "SLURM_EXACT",
    "exclusive": "SLURM_EXCLUSIVE",
    "overlap": "SLURM_OVERLAP",
}
"""srun(1), INPUT ENVIRONMENT VARIABLES."""

_TAKES_VALUE = {**_VALUED, **_HARMLESS}
_TAKES_NONE = {**_FLAGS, **_HARMLESS_FLAGS}
_TAKES_MAYBE = {**_MAYBE, **_HARMLESS_MAYBE}
_ALIASES = {"tasks": "ntasks", "mem-per-node": "mem", "cpu_bind": "cpu-bind", "share": "oversubscribe"}
_KNOWN = [*_TAKES_VALUE, *_TAKES_NONE, *_TAKES_MAYBE, *_REFUSED, *_ALIASES]


class Words:
    """Options by long name, and the command."""

    def __init__(self, said: dict[str, str], command: list[str]) -> None:
        self.said = said
        self.command = command

    def text(self, name: str) -> str | None:
        """An option's value; `None` when it was not said."""
        return self.said.get(name)

    def flag(self, name: str) -> bool:
        """Whether a switch is on. `--kill-on-bad-exit` alone means 1, `=0` switches it off."""
        return self.said.get(name, "0") not in ("0", "no")

    def number(self, name: str, default: int | None = None, least: int = 1) -> int | None:
        """A count.

        Raises:
            StepError: it is none.
        """
        value = self.said.get(name)
        if value is None:
            return default
        if not (value.isascii() and value.isdigit() and len(value) < 10 and int(value) >= least):
            raise StepError(f'Invalid numeric value "{shown(value)}" for --{name}.')
        return int(value)


def read(argv: list[str], env: dict[str, str]) -> Words:
    """Read a command line.

    Raises:
        StepError: a word is no option of srun's, lacks its value, or cannot be honoured.
    """
    said = {name: env[key] for name, key in _VARIABLES.items() if env.get(key)}
    index = 0
    while index < len(argv):
        word = argv[index]
        if word == "--":
            index += 1
            break
        if not word.startswith("-") or word == "-":
            break
        following = argv[index + 1] if index + 1 < len(argv) else None
        index += _long(word, following, said) if word.startswith("--") else _short(word, following, said)
    if said.get("jobid", env.get("SLURM_JOB_ID")) != env.get("SLURM_JOB_ID"):
        raise StepError(f"--jobid={shown(said['jobid'])}: from inside of a job only its own; call srun outside of jobs")
    if said.get("mpi", "none") not in ("none", "openmpi"):
        raise StepError(f"--mpi={shown(said['mpi'])} is not offered here: use torchrun, or mpirun inside of the job")
    return Words(said, argv[index:])


def shown(text: str) -> str:
    """A user's word in a sentence: short, and nothing in it that acts on a terminal."""
    short = text if len(text) <= 60 else text[:57] + "..."
    return "".join(char if char.isprintable() else "?" for char in short)


def _long(word: str, following: str | None, said: dict[str, str]) -> int:
    given, equals, attached = word[2:].partition("=")
    name = _find(given)
    if name in _REFUSED:
        raise StepError(f"--{name} is not offered here: {_REFUSED[name]}")
    if name in _TAKES_VALUE:
        if not equals and following is None:
            raise StepError(f"option '--{name}' requires an argument", 255)
        said[name] = attached if equals else following or ""
        return 1 if equals else 2
    if equals and name in _TAKES_NONE:
        raise StepError(f"option '--{name}' doesn't allow an argument", 255)
    said[name] = attached if equals else "1"
    return 1


def _find(given: str) -> str:
    if given in _KNOWN:
        return _ALIASES.get(given, given)
    starting = {_ALIASES.get(each, each) for each in _KNOWN if given and each.startswith(given)}
    if len(starting) == 1:
        return starting.pop()
    if starting:
        several = " ".join(f"'--{each}'" for each in sorted(starting))
        raise StepError(f"option '--{shown(given)}' is ambiguous; possibilities: {several}", 255)
    raise StepError(f"unrecognized option '--{shown(given)}'", 255)


def _short(word: str, following: str | None, said: dict[str, str]) -> int:
    for place, letter in enumerate(word[1:], start=2):
        name, rest = _of_letter(letter), word[place:]
        if name in _REFUSED:
            raise StepError(f"--{name} is not offered here: {_REFUSED[name]}")
        if name in _TAKES_VALUE:
            if not rest and following is None:
                raise StepError(f"option requires an argument -- '{letter}'", 255)
            said[name] = rest or following or ""
            return 1 if rest else 2
        if name in _TAKES_MAYBE:
            said[name] = rest or "1"
            return 1
        said[name] = "1"
    return 1


def _of_letter(letter: str) -> str:
    for table in (_TAKES_VALUE, _TAKES_NONE, _TAKES_MAYBE):
        for name, short in table.items():
            if short == letter:
                return name
    if letter in _SHORT_REFUSED:
        return _SHORT_REFUSED[letter]
    raise StepError(f"invalid option -- '{shown(letter)}'", 255)


def limit_s(words: Words) -> int | None:
    """`--time` in seconds: `M`, `M:S`, `H:M:S`, `D-H[:M[:S]]`; `None`: no limit.

    Raises:
        StepError: it is no time.
    """
    text = words.text("time")
    if text is None or text.lower() in ("unlimited", "infinite", "-1", "0"):
        return None
    days, dash, rest = text.rpartition("-")
    parts = rest.split(":")
    numbers = [days, *parts] if dash else parts
    if not all(each.isascii() and each.isdigit() and len(each) < 9 for each in numbers) or len(parts) > 3:
        raise StepError("Invalid --time specification")
    values = [int(each) for each in parts]
    if dash:
        return int(days) * 86400 + sum(each * unit for each, unit in zip(values, (3600, 60, 1), strict=False))
    units = ((60,), (60, 1), (3600, 60, 1))[len(values) - 1]
    return sum(each * unit for each, unit in zip(values, units, strict=True))


HELP = """\
usage: srun [OPTIONS] COMMAND [ARGS]

Inside of a job: starts COMMAND as the ranks of a step on this node.

  -n, --ntasks=N               ranks (the job's --ntasks)
  -c, --cpus-per-task=N        counted against the job's CPUs
      --exact, --exclusive     CPUs of its own: it waits until enough are in no other such step; --overlap: does not
      --gpus-per-task=N        each rank sees its own; --gpu-bind=single:N, per_task:N, map_gpu:0,1
  -G, --gpus=N, --gres=gpu:N   the step sees N; steps side by side get different ones
  -l, --label                  the rank's number before each line
  -u, --unbuffered             do not put lines together
  -o, -e, -i FILE              files; %t is the rank, %j the job, %s the step
  -K, --kill-on-bad-exit       when one fails, all end
  -W, --wait=SECONDS           when one has ended, the others have so long
  -Q, --quiet                  errors only
  -X, --disable-status         the first Ctrl-C goes to the ranks, else it tells how they stand; a second ends the step
      --multi-prog             COMMAND is a file of lines RANKS COMMAND: 0-2,5 ./worker %t; * for the rest
  -t, --time=TIME              the step ends then
  -D, --chdir=FOLDER   -O, --overcommit   --export=ALL|NONE|NAMES   --open-mode=append|truncate   --pty

Options of sbatch that are the job's own are taken and change nothing; what cannot be honoured is refused by name.
"""
"""What `srun --help` prints."""
