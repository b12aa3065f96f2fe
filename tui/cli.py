"""The headless twin of the screen: `stoker VERB …`, and `stoker` where there is no terminal.

Exit codes: 0 done, 1 refused or failed, 64 wrong usage, 130 interrupted, 141 when whoever read our output has gone;
`wait`, `run` and `submit --wait` end with the job's own. Results on stdout, words about trouble on stderr, where
`--json` makes the refusal one JSON line too. No Textual in here, and no ssh code unless a host is named.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from agent.api import program
from agent.api.client import Client
from agent.api.errors import HostKeyError, StokerError
from agent.api.patience import Patience
from tui import endpoint, plain, safe
from tui.verbs.call import Call

VERBS = ("submit", "run")
"""Commands whose words are sbatch's up to the script; argparse does not read them."""
THEMES = ("dark", "light")
Args = Any
"""An `argparse.Namespace`, or what stands for one."""


def run(args: Args, environ: Mapping[str, str]) -> int:
    """Run the command that `parse` read; its exit code."""
    try:
        return _with_questions(args, environ)
    except StokerError as error:
        plain.refuse(error, json=args.json)
        return 1


def parse(argv: Sequence[str]) -> Args:
    """Read the command line; wrong usage ends the program with 64, `--help` and `--version` with 0."""
    args = _args(argv)
    if args.verb in VERBS:
        _read_submit(args)
    elif (check := getattr(args, "check", None)) is not None:
        check(args)
    return args


def _args(argv: Sequence[str]) -> Args:
    if argv and argv[0] in VERBS:  # argparse has no word in it, and would be a fifth of what a submit costs
        return SimpleNamespace(verb=argv[0], words=argv[1:], host=None, socket=None, json=False)
    from tui import commands

    return commands.read(argv)


def _read_submit(args: Args) -> None:
    """Read the words after `submit` or `run`, and let what they say of host, socket and output hold for the command."""
    from tui.submitargs import SubmitWords

    try:
        said = SubmitWords.read(args.words, args.verb)
    except StokerError as error:
        plain.complain(f"{args.verb}: {error}   (stoker {args.verb} --help)")
        raise SystemExit(program.USAGE) from error
    if said.help:
        from tui import submithelp

        print(submithelp.text(args.verb), end="")
        raise SystemExit(0)
    args.submit = said
    args.host, args.socket = said.host or args.host, said.socket or args.socket
    args.json = args.json or said.json


def _with_questions(args: Args, environ: Mapping[str, str]) -> int:
    """Run the verb; over ssh to a host never seen, ask about its key first and run it then.

    An unknown host is refused before anything was sent, so running again repeats nothing.
    """
    while True:
        try:
            return _run(args, environ)
        except HostKeyError as error:
            if not _trusted(error):
                return 1


def _run(args: Args, environ: Mapping[str, str]) -> int:
    client = _client(args, environ)
    try:
        return _run_verb(args, Call(client=client, json=args.json))
    finally:
        client.close()


def _client(args: Args, environ: Mapping[str, str]) -> Client:
    """The server's, which is borne with for some seconds while it restarts."""
    patience = Patience(plain.wait_told)
    chosen = patience.over(lambda: endpoint.choose(args.host, args.socket, environ), repeatable=True)
    return chosen.open(patience)


def _run_verb(args: Args, call: Call) -> int:
    if args.verb in VERBS:
        from tui.verbs import handing

        return handing.run(call, args.submit) if args.verb == "run" else handing.submit_job(call, args.submit)
    if args.verb is not None:
        return int(args.work(call, args))
    if args.job:
        from tui.verbs import story

        return story.show(call, args.job)
    from tui.verbs import looks

    return looks.overview(call)


def _trusted(error: HostKeyError) -> bool:
    """Ask the operator about a host's key that was never seen; without a terminal the answer is no, with what to do.

    Raises:
        HostKeyError: the key is another one than is known: nothing to be asked about.
    """
    from agent.api.hostkeys import UnknownHostError, remember  # with ssh alone: it costs every start 10 ms

    if not isinstance(error, UnknownHostError):
        raise error
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
