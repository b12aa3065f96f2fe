"""sbatch's options, and how its command line is read. Shared by the clients and the server's parser.

Rules kept here: every option of sbatch is known, so that one which this version does not honour is refused by name and
never mistaken for a typing error; words are read as getopt_long(3) does in POSIX mode: options end at the first word
that is not one (the script), short ones may be bundled (`-G2`, `-HJ name`), long ones may be cut short while only one
option begins so. Source: sbatch(1) of Slurm 22.05 to 24.11.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum

import msgspec

from agent.api.errors import StokerError


class Takes(StrEnum):
    """Whether an option has a value."""

    NONE = "none"
    REQUIRED = "required"
    OPTIONAL = "optional"
    """Only when attached: `--nice=100`, never `--nice 100`."""


class Option(msgspec.Struct, frozen=True):
    """One option of sbatch."""

    long: str
    short: str | None = None
    takes: Takes = Takes.REQUIRED
    honoured: bool = False
    """This version does what it says. `nodes` is honoured where one node is enough."""
    variable: str | None = None
    """The environment variable that sets it: `SBATCH_TIMELIMIT`."""
    client: bool = False
    """It tells the submitting command what to do, and must stand on its command line."""
    moot: str | None = None
    """Why doing nothing is doing what it says, on one node."""

    def __str__(self) -> str:
        return f"--{self.long}"


class Flag(msgspec.Struct, frozen=True, kw_only=True):
    """An option as somebody wrote it."""

    option: Option
    value: str | None
    word: str
    """The word it was read from, for messages: `-G2`, `--mem`."""


class SplitArgv(msgspec.Struct, frozen=True, kw_only=True):
    """A command line taken apart; `flags` are words as typed, for `SubmitRequest.flags`."""

    flags: tuple[str, ...]
    script: str | None
    """`None` when the words end before one; `-` means standard input."""
    args: tuple[str, ...]


class OptionError(StokerError):
    """A word is not an option of sbatch, or its value is missing or not wanted."""

    def __init__(self, message: str, word: str) -> None:
        super().__init__(message)
        self.message = message
        self.word = word


def wrapped(command: str) -> str:
    """The script that sbatch makes of `--wrap=COMMAND`; its name is `wrap`."""
    return f"#!/bin/sh\n# This script was created by sbatch --wrap.\n\n{command}\n"


def split_argv(words: Sequence[str]) -> SplitArgv:
    """Find the script among the words after `submit`.

    Raises:
        OptionError: a word before the script is not an option of sbatch.
    """
    _, used = scan(words)
    flags = words[:used]
    rest = words[used:]
    if flags and flags[-1] == "--":
        flags = flags[:-1]
    return SplitArgv(flags=tuple(flags), script=rest[0] if rest else None, args=tuple(rest[1:]))


def scan(words: Sequence[str]) -> tuple[list[Flag], int]:
    """Read flags up to the first word that is none; returns them and how many words they took.

    A `--` ends the flags and is counted; `-` alone is a word like any other.

    Raises:
        OptionError: an unknown, ambiguous or unfinished option.
    """
    flags: list[Flag] = []
    index = 0
    while index < len(words):
        word = words[index]
        if word == "--":
            return flags, index + 1
        if not word.startswith("-") or word == "-":
            break
        following = words[index + 1] if index + 1 < len(words) else None
        found, took_next = _read_long(word, following) if word.startswith("--") else _read_short(word, following)
        flags += found
        index += 2 if took_next else 1
    return flags, index


def find(name: str) -> Option:
    """The option called `name`, or the only one that begins so.

    Raises:
        OptionError: none does, or several do.
    """
    exact = _BY_LONG.get(name)
    if exact is not None:
        return exact
    word = f"--{name}"
    starting = [long for long in _BY_LONG if name and long.startswith(name)]
    options = {_BY_LONG[long].long: _BY_LONG[long] for long in starting}
    if len(options) == 1:
        return next(iter(options.values()))
    if options:
        raise OptionError(f"{word!r} could be {_or([f'--{long}' for long in options])}; write it out", word)
    close = _close(name, _BY_LONG, n=1, cutoff=0.6)
    hint = f"; did you mean --{close[0]}?" if close else "; see sbatch(1) for those that are"
    raise OptionError(f"{word!r} is not an option of sbatch{hint}", word)


def _read_long(word: str, following: str | None) -> tuple[list[Flag], bool]:
    name, equals, attached = word[2:].partition("=")
    option = find(name)
    if equals:
        if option.takes is Takes.NONE:
            raise OptionError(f"{option} takes no value, but {word!r} gives one", word)
        return [Flag(option=option, value=attached, word=f"--{name}")], False
    if option.takes is not Takes.REQUIRED:
        return [Flag(option=option, value=None, word=word)], False
    return [Flag(option=option, value=_required(option, word, following), word=word)], True


def _read_short(word: str, following: str | None) -> tuple[list[Flag], bool]:
    """Read `-G2`, `-HJ name`: letters without a value may be followed by more, the first with one takes the rest."""
    flags: list[Flag] = []
    for position, letter in enumerate(word[1:], start=2):
        option = _BY_SHORT.get(letter)
        if option is None:
            raise OptionError(_unknown_letter(word, letter), word)
        attached = word[position:]
        if option.takes is Takes.NONE:
            flags.append(Flag(option=option, value=None, word=f"-{letter}"))
            continue
        if attached or option.takes is Takes.OPTIONAL:
            return [*flags, Flag(option=option, value=attached or None, word=f"-{letter}")], False
        return [*flags, Flag(option=option, value=_required(option, word, following), word=f"-{letter}")], True
    return flags, False


def _unknown_letter(word: str, letter: str) -> str:
    close = _close(word[1:].partition("=")[0], _BY_LONG, n=1, cutoff=0.75)
    hint = f"; did you mean --{close[0]}?" if close and len(word) > 2 else ""
    which = "" if word == f"-{letter}" else f" (in {word!r})"
    return f"'-{letter}'{which} is not an option of sbatch{hint}"


def _required(option: Option, word: str, following: str | None) -> str:
    if following is None:
        raise OptionError(f"{word!r} needs a value: {option}=VALUE", word)
    return following


def _close(word: str, known: Iterable[str], n: int, cutoff: float) -> list[str]:
    import difflib  # only for a mistake: it costs every start 5 ms

    return difflib.get_close_matches(word, list(known), n=n, cutoff=cutoff)


def _or(words: Sequence[str]) -> str:
    shown = list(words[:4]) + ([f"{len(words) - 4} more"] if len(words) > 4 else [])
    return " or ".join([", ".join(shown[:-1]), shown[-1]]) if len(shown) > 1 else shown[0]


_FLAG = Takes.NONE
_MAYBE = Takes.OPTIONAL
_ONE_NODE = "there is one node"

OPTIONS: tuple[Option, ...] = (
    # What this version honours.
    Option("account", "A", honoured=True, variable="SBATCH_ACCOUNT"),
    Option("array", "a", honoured=True, variable="SBATCH_ARRAY_INX"),
    Option("begin", "b", honoured=True),
    Option("chdir", "D", honoured=True),
    Option("comment", honoured=True),
    Option("constraint", "C", honoured=True, variable="SBATCH_CONSTRAINT"),
    Option("cpus-per-gpu", honoured=True, variable="SBATCH_CPUS_PER_GPU"),
    Option("cpus-per-task", "c", honoured=True),
    Option("deadline", honoured=True),
    Option("dependency", "d", honoured=True),
    Option("error", "e", honoured=True, variable="SBATCH_ERROR"),
    Option("exclude", "x", honoured=True),
    Option("exclusive", takes=_MAYBE, honoured=True, variable="SBATCH_EXCLUSIVE"),
    Option("export", honoured=True, variable="SBATCH_EXPORT"),
    Option("gpus", "G", honoured=True, variable="SBATCH_GPUS"),
    Option("gpus-per-node", honoured=True, variable="SBATCH_GPUS_PER_NODE"),
    Option("gpus-per-task", honoured=True, variable="SBATCH_GPUS_PER_TASK"),
    Option("gres", honoured=True, variable="SBATCH_GRES"),
    Option("hold", "H", takes=_FLAG, honoured=True),
    Option("input", "i", honoured=True, variable="SBATCH_INPUT"),
    Option("job-name", "J", honoured=True, variable="SBATCH_JOB_NAME"),
    Option("kill-on-invalid-dep", honoured=True),
    Option("licenses", "L", honoured=True),
    Option("mail-type", honoured=True),
    Option("mail-user", honoured=True),
    Option("mem", honoured=True, variable="SBATCH_MEM_PER_NODE"),
    Option("mem-per-cpu", honoured=True, variable="SBATCH_MEM_PER_CPU"),
    Option("mem-per-gpu", honoured=True, variable="SBATCH_MEM_PER_GPU"),
    Option("nice", takes=_MAYBE, honoured=True),
    Option("no-requeue", takes=_FLAG, honoured=True, variable="SBATCH_NO_REQUEUE"),
    Option("nodelist", "w", honoured=True),
    Option("nodes", "N", honoured=True),
    Option("ntasks", "n", honoured=True),
    Option("ntasks-per-gpu", honoured=True),
    Option("ntasks-per-node", honoured=True),
    Option("open-mode", honoured=True, variable="SBATCH_OPEN_MODE"),
    Option("output", "o", honoured=True, variable="SBATCH_OUTPUT"),
    Option("partition", "p", honoured=True, variable="SBATCH_PARTITION"),
    Option("priority", honoured=True),
    Option("qos", "q", honoured=True, variable="SBATCH_QOS"),
    Option("requeue", takes=_FLAG, honoured=True, variable="SBATCH_REQUEUE"),
    Option("reservation", honoured=True, variable="SBATCH_RESERVATION"),
    Option("signal", honoured=True, variable="SBATCH_SIGNAL"),
    Option("time", "t", honoured=True, variable="SBATCH_TIMELIMIT"),
    Option("wckey", honoured=True, variable="SBATCH_WCKEY"),
    # For the command that submits; the server has nothing to do for them, but for `--test-only`.
    Option("parsable", takes=_MAYBE, honoured=True, client=True),
    Option("quiet", "Q", takes=_FLAG, honoured=True, client=True),
    Option("test-only", takes=_FLAG, honoured=True, client=True),
    Option("verbose", "v", takes=_FLAG, honoured=True, client=True),
    Option("wait", "W", takes=_FLAG, honoured=True, client=True, variable="SBATCH_WAIT"),
    Option("wrap", honoured=True, client=True),
    # Honoured by doing nothing, each for the reason given.
    Option("contiguous", takes=_FLAG, honoured=True, moot=_ONE_NODE),
    Option("delay-boot", honoured=True, moot="the node is up when the job starts", variable="SBATCH_DELAY_BOOT"),
    Option(
        "ignore-pbs",
        takes=_FLAG,
        honoured=True,
        moot="lines of other systems (#PBS, #BSUB) are never read; without it they are refused",
        variable="SBATCH_IGNORE_PBS",
    ),
    Option(
        "no-kill",
        "k",
        takes=_MAYBE,
        honoured=True,
        moot="the one node's failure ends the job either way",
        variable="SBATCH_NO_KILL",
    ),
    Option(
        "oversubscribe",
        "s",
        takes=_FLAG,
        honoured=True,
        moot="as in a partition with OverSubscribe=NO, Slurm's default: what a job is given is its own",
    ),
    Option("spread-job", takes=_FLAG, honoured=True, moot=_ONE_NODE, variable="SBATCH_SPREAD_JOB"),
    Option("switches", honoured=True, moot=_ONE_NODE, variable="SBATCH_REQ_SWITCH"),
    Option("use-min-nodes", takes=_FLAG, honoured=True, moot=_ONE_NODE, variable="SBATCH_USE_MIN_NODES"),
    Option(
        "wait-all-nodes", honoured=True, moot="the node is up when the job starts", variable="SBATCH_WAIT_ALL_NODES"
    ),
    # Known, and refused by name.
    Option("acctg-freq", variable="SBATCH_ACCTG_FREQ"),
    Option("batch", variable="SBATCH_BATCH"),
    Option("bb", variable="SBATCH_BURST_BUFFER"),
    Option("bbf", variable="SBATCH_BURST_BUFFER_FILE"),
    Option("cluster-constraint", variable="SBATCH_CLUSTER_CONSTRAINT"),
    Option("clusters", "M", variable="SBATCH_CLUSTERS"),
    Option("container", variable="SBATCH_CONTAINER"),
    Option("container-id", variable="SBATCH_CONTAINER_ID"),
    Option("core-spec", "S", variable="SBATCH_CORE_SPEC"),
    Option("cores-per-socket"),
    Option("cpu-freq", variable="SBATCH_CPU_FREQ_REQ"),
    Option("distribution", "m", variable="SBATCH_DISTRIBUTION"),
    Option("export-file"),
    Option("extra"),
    Option("extra-node-info", "B"),
    Option("get-user-env", takes=_MAYBE, variable="SBATCH_GET_USER_ENV"),
    Option("gid"),
    Option("gpu-bind", variable="SBATCH_GPU_BIND"),
    Option("gpu-freq", variable="SBATCH_GPU_FREQ"),
    Option("gpus-per-socket"),
    Option("gres-flags", variable="SBATCH_GRES_FLAGS"),
    Option("help", "h", takes=_FLAG),
    Option("hint", variable="SBATCH_HINT"),
    Option("mcs-label"),
    Option("mem-bind", variable="SBATCH_MEM_BIND"),
    Option("mincpus"),
    Option("network", variable="SBATCH_NETWORK"),
    Option("nodefile", "F"),
    Option("ntasks-per-core"),
    Option("ntasks-per-socket"),
    Option("oom-kill-step", takes=_MAYBE, variable="SBATCH_OOM_KILL_STEP"),
    Option("overcommit", "O", takes=_FLAG, variable="SBATCH_OVERCOMMIT"),
    Option("power", variable="SBATCH_POWER"),
    Option("prefer"),
    Option("profile", variable="SBATCH_PROFILE"),
    Option("propagate", takes=_MAYBE),
    Option("reboot", takes=_FLAG),
    Option("resv-ports", takes=_MAYBE),
    Option("segment", variable="SBATCH_SEGMENT_SIZE"),
    Option("sockets-per-node"),
    Option("stepmgr", takes=_FLAG),
    Option("thread-spec", variable="SBATCH_THREAD_SPEC"),
    Option("threads-per-core", variable="SBATCH_THREADS_PER_CORE"),
    Option("time-min"),
    Option("tmp"),
    Option("tres-bind"),
    Option("tres-per-task", variable="SBATCH_TRES_PER_TASK"),
    Option("uid"),
    Option("usage", takes=_FLAG),
    Option("version", "V", takes=_FLAG),
)

_ALIASES = {"share": "oversubscribe", "tasks-per-node": "ntasks-per-node"}

_BY_LONG: dict[str, Option] = {option.long: option for option in OPTIONS}
_BY_LONG |= {alias: _BY_LONG[long] for alias, long in _ALIASES.items()}
_BY_SHORT: dict[str, Option] = {option.short: option for option in OPTIONS if option.short}
