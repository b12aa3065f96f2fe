"""`stoker`: the screen on a terminal, the plain commands otherwise. What the screen needs is imported only for it.

Imports are late: the whole of a short command is its imports, and the garbage collector must be told before them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from agent.api import program

if TYPE_CHECKING:
    from tui import cli


def main(argv: Sequence[str] | None = None) -> int:
    """The `stoker` program; returns its exit code."""
    program.collect_seldom()
    words = sys.argv[1:] if argv is None else list(argv)
    if words[:1] == ["slurm"]:
        from tui.slurm.__main__ import main as slurm

        return slurm(["stoker", *words[1:]])
    return program.run("stoker", lambda: _main(words))


def _main(words: Sequence[str]) -> int:
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # a terminal that is not UTF-8 shows a ?
    from tui import cli

    args = cli.parse(words)
    if args.verb is not None:
        return cli.run(args, os.environ)
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        from tui import plain

        plain.complain("there is no terminal for the screen; name a command, such as: stoker jobs   (stoker --help)")
        return program.USAGE
    if os.environ.get("TERM") == "dumb":
        return cli.run(args, os.environ)
    return _screen(args)


def _screen(args: cli.Args) -> int:
    from agent.api.errors import StokerError
    from tui import cli, endpoint, plain

    theme = args.theme or os.environ.get("STOKER_THEME") or cli.THEMES[0]
    if theme not in cli.THEMES:
        plain.complain(f"STOKER_THEME is {theme!r}, which is no theme; use {' or '.join(cli.THEMES)}")
        return program.USAGE
    try:
        where = endpoint.choose(args.host, args.socket, os.environ)
    except StokerError as error:
        plain.complain(str(error))
        return 1
    _quiet_logs()
    from tui.app import StokerApp

    app = StokerApp(where.open, str(where), theme=theme, job=args.job)
    app.run()
    return app.return_code or 0


def _quiet_logs() -> None:
    """Nothing may be written to the terminal behind the screen's back; `$STOKER_LOG` names a file that takes it."""
    import logging  # for the screen alone: it costs every start 10 ms

    logging.basicConfig(
        filename=os.environ.get("STOKER_LOG") or os.devnull,
        level=logging.DEBUG,
        format="%(asctime)s %(threadName)s %(name)s %(levelname)s %(message)s",
    )


if __name__ == "__main__":
    sys.exit(main())
