"""All commands in one table: what each is for, and the module that knows its options and does it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import msgspec

from agent import __version__
from agent.api.commandline import Parser
from tui import cli, words

_EXAMPLES = """\
examples:
  stoker                               the screen, on the hub or agent of this machine
  stoker -H alice@head1                the same over ssh
  stoker submit --gres=gpu:2 train.sh --epochs 5
  stoker submit --dry-run --gpus=8 train.sh    when would it start, on which GPUs
  stoker run --gpus=1 -- python train.py       wait, watch, and end with its exit code
  stoker logs -f 17                    follow; n1:17 where two nodes have a 17
  stoker jobs --json | jq '.[] | select(.state == "PENDING") | .id'
  stoker wait 17 && echo trained

Sockets are looked for in $STOKER_SOCKET, /run/stoker, $XDG_RUNTIME_DIR/stoker and ~/.local/state/stoker/run.

exit codes: 0 done, 1 refused or failed, 64 wrong usage, 130 interrupted, 141 the reader of the output has gone;
wait, run and submit --wait end with the job's own. With --json a failure is the last line of stderr:
{"error":{"code":"no_such_job","message":"…","field":null}}; stdout then has nothing that is not whole."""


class Command(msgspec.Struct, frozen=True):
    """One verb of `stoker`."""

    name: str
    module: str
    """Below `tui.verbs`; loaded when the command is named."""
    help: str
    alias: str | None = None


COMMANDS = (
    Command("submit", "handing", "submit a job script, with sbatch's options"),
    Command("run", "handing", "run a script or a command as a job, and wait for it"),
    Command("jobs", "listing", "list the queue, the jobs that ended last, and the history"),
    Command("show", "story", "show everything about a job: why it waits, what it used, its history"),
    Command("logs", "watching", "print what a job wrote"),
    Command("wait", "watching", "wait until jobs have ended; the exit code is the job's"),
    Command("report", "story", "print or write the account of a job: times, GPUs, energy, advice"),
    Command("sweep", "story", "print what each task of an array or a sweep achieved"),
    Command("cancel", "asking", "cancel jobs"),
    Command("hold", "asking", "keep waiting jobs from starting"),
    Command("release", "asking", "let held jobs start again"),
    Command("requeue", "asking", "stop jobs and let them wait again, or run ended ones once more"),
    Command("top", "asking", "put waiting jobs first"),
    Command("nice", "asking", "make waiting jobs wait longer, or less"),
    Command("update", "asking", "change a job in scontrol's words"),
    Command("signal", "asking", "send a running job's processes a signal"),
    Command("cron", "recurring", "list recurring jobs, or remove one"),
    Command("nodes", "looks", "list the nodes and how they are"),
    Command("gpus", "looks", "list the GPUs of all nodes and who uses them"),
    Command("drain", "site", "give a node or a GPU no new job"),
    Command("resume", "site", "undo a drain"),
    Command("drains", "site", "list what is drained, by whom and why"),
    Command("incidents", "health", "list what is wrong with GPUs, or say that you have seen it"),
    Command("inventory", "health", "list the GPUs that the nodes are known to have, or accept what is there"),
    Command("reservation", "site", "list, make and remove reservations and maintenance windows"),
    Command("partitions", "site", "list partitions, QOS, accounts and features that a submit may name"),
    Command("shares", "site", "list who has used how much of the due share"),
    Command("usage", "usage", "sum the GPU time of a month by user, account or model"),
    Command("notices", "site", "list notices that are not delivered, given up or still tried; or try them now"),
    Command("license", "looks", "print how the licence stands", alias="licence"),
)


def read(argv: Sequence[str]) -> argparse.Namespace:
    """Read a command line. One that begins with a command is read by that one's parser alone: all cost 20 ms."""
    first = next((each for each in COMMANDS if argv and argv[0] in (each.name, each.alias)), None)
    if first is None or first.name in cli.VERBS:
        _refuse_slurms(argv)
        return whole(argv).parse_args(argv)
    said = argparse.Namespace(verb=argv[0], job=None, theme=None, host=None, socket=None, json=False)
    return alone(first).parse_args(argv[1:], said)


def alone(command: Command) -> Parser:
    """What reads the words after a command's name; the same as its part of the whole."""
    made = Parser(prog=f"stoker {command.name}", description=_sentence(command), parents=[words.common()])
    _add_options(made, command)
    return made


def whole(said: Sequence[str]) -> Parser:
    """The whole command line; a command has its options where its name is among the words `said`."""
    made = Parser(
        prog="stoker",
        description="Watch and use a GPU cluster. Without a command, on a terminal: the screen.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--version", action="version", version=f"stoker {__version__}")
    made.add_argument("--job", type=words.job, metavar="JOB", help="open the screen on this job")
    made.add_argument("--theme", choices=cli.THEMES, help="of the screen; $STOKER_THEME")
    words.where(made, None)
    _add_all(made, said)
    return made


def _refuse_slurms(argv: Sequence[str]) -> None:
    """Whoever types one of Slurm's commands after `stoker` is told where it is."""
    from tui.slurm.__main__ import NAMES

    if argv and argv[0] in NAMES:
        Parser(prog="stoker").error(f"{argv[0]} is one of Slurm's commands; write: stoker slurm {argv[0]}")


def _add_all(parser: Parser, said: Sequence[str]) -> None:
    commands = parser.add_subparsers(dest="verb", metavar="COMMAND", prog=parser.prog)
    common = words.common()
    for each in COMMANDS:
        if each.name in cli.VERBS:
            # No prefix character: every word is passed on as it is, because up to the script they are sbatch's options.
            own = commands.add_parser(each.name, help=each.help, prefix_chars="\0", add_help=False)
            own.add_argument("words", nargs="...")
            continue
        names = [each.alias] if each.alias else []
        made = commands.add_parser(
            each.name, help=each.help, description=_sentence(each), parents=[common], aliases=names
        )
        if each.name in said or each.alias in said:
            _add_options(made, each)


def _add_options(parser: Parser, command: Command) -> None:
    import importlib

    importlib.import_module(f"tui.verbs.{command.module}").options(parser, command.name)


def _sentence(command: Command) -> str:
    return command.help[:1].upper() + command.help[1:] + "."
