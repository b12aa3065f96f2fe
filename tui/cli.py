"""The headless twin of the screen: `stoker VERB …`, and `stoker` where there is no terminal.

Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 130 interrupted, 141 when whoever read our output has gone;
`wait` and `submit --wait` end with the job's own. Results on stdout, words about trouble on stderr, where `--json`
makes the refusal one JSON line too. No Textual in here, and no ssh code unless a host is named.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from agent import __version__
from agent.api.commandline import Parser
from agent.api.errors import StokerError
from agent.api.hostkeys import UnknownHostError, remember
from agent.api.options import OPTIONS
from agent.api.refs import JobRef
from tui import endpoint, plain, safe, verbs
from tui.submitargs import SubmitWords

USAGE = 2
THEMES = ("dark", "light")

_EXAMPLES = """\
examples:
  stoker                               the screen, on the hub or agent of this machine
  stoker -H alice@head1                the same over ssh
  stoker submit --gres=gpu:2 train.sh --epochs 5
  stoker logs -f 17                    follow; n1:17 where two nodes have a 17
  stoker jobs --json | jq '.[] | select(.state == "PENDING") | .id'
  stoker wait 17 && echo trained

Sockets are looked for in $STOKER_SOCKET, /run/stoker, $XDG_RUNTIME_DIR/stoker and ~/.local/state/stoker/run.

exit codes: 0 done, 1 refused or failed, 2 wrong usage, 130 interrupted, 141 the reader of the output has gone;
wait and submit --wait end with the job's own. With --json a failure is the last line of stderr:
{"error":{"code":"no_such_job","message":"…","field":null}}; stdout then has nothing that is not whole."""


def run(args: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Run the command that `parse` read; its exit code."""
    try:
        return _with_questions(args, environ)
    except StokerError as error:
        plain.refuse(error, json=args.json)
        return 1


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line; wrong usage ends the program with 2, `--help` and `--version` with 0."""
    args = _parser().parse_args(argv)
    if args.verb == "submit":
        _read_submit(args)
    return args


def _read_submit(args: argparse.Namespace) -> None:
    """Read the words after `submit`, and let what they say of host, socket and output hold for the command."""
    try:
        words = SubmitWords.read(args.words)
    except StokerError as error:
        plain.complain(f"submit: {error}   (stoker submit --help)")
        raise SystemExit(USAGE) from error
    if words.help:
        print(_submit_help(), end="")
        raise SystemExit(0)
    args.submit = words
    args.host, args.socket = words.host or args.host, words.socket or args.socket
    args.json = args.json or words.json


def _with_questions(args: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Run the verb; over ssh to a host never seen, ask about its key first and run it then.

    An unknown host is refused before anything was sent, so running again repeats nothing.
    """
    while True:
        try:
            return _run(args, environ)
        except UnknownHostError as error:
            if not _trusted(error):
                return 1


def _run(args: argparse.Namespace, environ: Mapping[str, str]) -> int:
    client = endpoint.choose(args.host, Path(args.socket) if args.socket else None, environ).open()
    try:
        return _run_verb(args, verbs.Call(client=client, json=args.json))
    finally:
        client.close()


def _run_verb(args: argparse.Namespace, call: verbs.Call) -> int:
    match args.verb:
        case None:
            return verbs.show(call, args.job) if args.job else verbs.overview(call)
        case "submit":
            words = args.submit
            return verbs.submit_job(call, words.rest, node=words.node, key=words.key, wait=words.wait)
        case "nodes":
            return verbs.nodes(call)
        case "gpus":
            return verbs.gpus(call)
        case "jobs":
            return verbs.jobs(call, state=args.state, user=args.user, limit=args.limit)
        case "show":
            return verbs.show(call, args.job_ref)
        case "logs":
            return verbs.logs(call, args.job_ref, follow_on=args.follow)
        case "cancel":
            return verbs.cancel(call, args.job_refs)
        case "wait":
            return verbs.wait_for(call, args.job_refs)
        case _:
            return verbs.licence(call)


def _trusted(error: UnknownHostError) -> bool:
    """Ask the operator about a host key; without a terminal the answer is no, with what to do."""
    plain.complain(str(error))
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        plain.complain(
            f"there is no terminal to ask on; run a stoker -H command on one, or add the key to {error.file}"
        )
        return False
    print(f"Type yes to trust it and save it in {safe.text(str(error.file))}: ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() != "yes":
        plain.complain("not trusted; nothing was sent")
        return False
    remember(error)
    return True


# --- the command line -------------------------------------------------------------------------------------------------


def _parser() -> Parser:
    parser = Parser(
        prog="stoker",
        description="Watch and use a GPU cluster. Without a command, on a terminal: the screen.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"stoker {__version__}")
    parser.add_argument("--job", type=_job, metavar="JOB", help="open the screen on this job")
    parser.add_argument("--theme", choices=THEMES, help="of the screen; $STOKER_THEME")
    _where(parser, None)
    commands = parser.add_subparsers(dest="verb", metavar="COMMAND")
    common = Parser(add_help=False)
    _where(common, argparse.SUPPRESS)

    def add(name: str, text: str, **more: object) -> Parser:
        return commands.add_parser(name, help=text, description=text.capitalize() + ".", parents=[common], **more)  # type: ignore[arg-type]

    add("nodes", "list the nodes and how they are")
    add("gpus", "list the GPUs of all nodes and who uses them")
    listing = add("jobs", "list the queue, and the jobs that ended last")
    listing.add_argument("-u", "--user", help="only this user's")
    listing.add_argument("-t", "--state", metavar="STATES", help="only these, joined by commas: PENDING,RUNNING")
    listing.add_argument(
        "-n", "--limit", type=_count, default=verbs.ENDED_SHOWN, help="ended jobs to list (%(default)s)"
    )
    add("show", "show everything about a job").add_argument("job_ref", type=_job, metavar="JOB")
    _add_submit(commands)
    logs = add("logs", "print what a job wrote")
    logs.add_argument("-f", "--follow", action="store_true", help="go on until the job ends")
    logs.add_argument("job_ref", type=_job, metavar="JOB")
    add("cancel", "cancel jobs").add_argument("job_refs", type=_job, metavar="JOB", nargs="+")
    add("wait", "wait until jobs have ended; the exit code is the job's").add_argument(
        "job_refs", type=_job, metavar="JOB", nargs="+"
    )
    add("license", "print the licence in a line", aliases=["licence"])
    return parser


def _where(parser: argparse.ArgumentParser, default: object) -> None:
    """The options that every command has, before and after its name."""
    parser.add_argument(
        "-H", "--host", type=_said, metavar="HOST", default=default, help="reach the cluster by ssh: user@host[:port]"
    )
    parser.add_argument(
        "--socket", type=_said, metavar="PATH", default=default, help="of the hub or agent on this machine"
    )
    parser.add_argument("--json", action="store_true", default=default or False, help="print JSON")


def _add_submit(commands: argparse._SubParsersAction[Parser]) -> None:
    # No prefix character: every word is passed on as it is, because up to the script they are sbatch's options.
    submit = commands.add_parser(
        "submit", help="submit a job script, with sbatch's options", prefix_chars="\0", add_help=False
    )
    submit.add_argument("words", nargs=argparse.REMAINDER)


def _said(text: str) -> str:
    if not text.strip():  # `-H "$HEAD"` with HEAD unset must not go to the cluster of this machine
        raise argparse.ArgumentTypeError("is empty; is a variable not set?")
    return text


def _job(text: str) -> JobRef:
    try:
        return JobRef.parse(text)
    except StokerError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _count(text: str) -> int:
    if not text.isdecimal() or len(text) > 9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a count; write 0 or more")
    return int(text)


def _submit_help() -> str:
    names = (f"-{each.short}/{each}" if each.short else str(each) for each in OPTIONS if each.honoured)
    listed = textwrap.fill("  ".join(names), 78, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
    return _SUBMIT_HELP.format(honoured=listed)


_SUBMIT_HELP = """\
usage: stoker submit [options] [sbatch options] SCRIPT [ARGS...]

Submit a job script. Options before SCRIPT are sbatch's and win over its #SBATCH lines; words after it are its own.
SCRIPT may be - for standard input. Printed is the job's number; the job runs in the present folder as you.

options of ours, before SCRIPT:
  --node NAME        run on this node; else the server chooses
  --key KEY          the same key again gives the same job: for scripts that may be run twice
  -W, --wait         wait until it has ended; the exit code is the job's
  --json             print the job as JSON
  --host HOST        reach the cluster by ssh, user@host[:port] (-H here is sbatch's --hold; stoker -H … submit works)
  --socket PATH      of the hub or agent on this machine

options of sbatch that are honoured, before SCRIPT or in its #SBATCH lines:
{honoured}
-N and -n only with the value 1. All others of sbatch(1) are refused by name; none is ignored.

examples:
  stoker submit train.sh
  stoker submit --gres=gpu:2 --time=2:00:00 train.sh --epochs 5
  stoker submit --json --key nightly-2026-11-22 nightly.sh
"""
