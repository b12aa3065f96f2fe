"""The verbs that concern one machine: run a daemon, bridge stdio to its socket, check the configuration, inject faults.

Everything about jobs and nodes is in `stoker`, over the wire; nothing here opens the daemon's files while it runs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agent import __version__
from agent.api import program
from agent.api.commandline import Parser
from agent.api.errors import StokerError
from agent.config import Config, load

Run = Callable[[Config], int]

_OWN_STREAMS = ("run", "dial-stdio")
"""Verbs that are no short print: the daemon, and the one whose streams are a connection."""


def agent(argv: Sequence[str], *, run: Run) -> int:
    """`stoker-agent`; `run` starts the daemon."""
    parser, verbs = _parser("stoker-agent", "The Stoker service of one node.")
    _common_verbs(verbs, "agent")
    from agent.gpu.simulated_faults import described

    simulate = _verb(verbs, "simulate", "inject a fault into the simulated GPUs")
    simulate.formatter_class = argparse.RawDescriptionHelpFormatter
    simulate.epilog = f"faults:\n{described()}"
    simulate.add_argument("what", choices=["gpu"])
    simulate.add_argument("index", help="the GPU's index, from 0; several: 0,2,3; all")
    simulate.add_argument("fault", help="one of those below")
    from agent.selftest import options

    options.add_options(_verb(verbs, "selftest", "test this machine's GPUs against the order and their data sheets"))
    metrics = _verb(verbs, "metrics", "print the metrics of this node, or let Prometheus read them on this machine")
    metrics.add_argument("--hub", action="store_true", help="the hub's, and through it every node's")
    metrics.add_argument(
        "--listen", metavar="ADDRESS:PORT", help="answer there until ended: 127.0.0.1:9402 or [::1]:9402"
    )
    return _main(parser, argv, lambda args, config: _agent_verb(args, config, run))


def hub(argv: Sequence[str], *, run: Run) -> int:
    """`stoker-hub`; `run` starts the daemon."""
    parser, verbs = _parser("stoker-hub", "The Stoker hub: all nodes in one place, and the licence's seats.")
    _common_verbs(verbs, "hub")
    _verb(verbs, "hardware", "note what only root can read of this machine and its licence is bound to (the unit does)")
    return _main(parser, argv, lambda args, config: _hub_verb(args, config, run))


class HubLicenceCalls:
    """The hub as `stoker-license` needs it: calls over its socket, answers as plain JSON values.

    `config` is the file that names the socket; `None` finds it as the daemons do, `$STOKER_CONFIG` included.
    """

    def licence(self, config: Path | None = None) -> dict[str, Any]:
        """What `GET /v1/licence` says."""
        import msgspec

        with _as_licensing(), _hub_client(config) as client:
            return dict(msgspec.to_builtins(client.licence()))

    def activate(self, document: str, config: Path | None = None) -> dict[str, Any]:
        """Hand a voucher or licence to the hub; its answer is the licence that holds from now on."""
        import msgspec

        with _as_licensing(), _hub_client(config) as client:
            return dict(msgspec.to_builtins(client.activate(document)))

    def state_dir(self, config: Path | None = None) -> Path:
        """Where the hub keeps its ledger on this machine."""
        with _as_licensing():
            return load(config).hub_state_dir

    def export_usage(self, month: str | None, *, rows: bool, config: Path | None = None) -> tuple[str, str]:
        """Have the hub close and sign a month's usage; the name of the file, and its text."""
        with _as_licensing(), _hub_client(config) as client:
            made = client.export_usage(month, rows=rows)
            return made.name, made.text

    def request(self, want: str, config: Path | None = None) -> dict[str, Any]:
        """Have the hub make a request to the vendor."""
        import msgspec

        with _as_licensing(), _hub_client(config) as client:
            return dict(msgspec.to_builtins(client.licence_request(want)))

    def release(self, to: str | None, config: Path | None = None) -> dict[str, Any]:
        """Have the hub give its licence back; `to` is another site's request."""
        import msgspec

        with _as_licensing(), _hub_client(config) as client:
            return dict(msgspec.to_builtins(client.licence_release(to)))

    def order(
        self, verb: str, subject: str, *, days: int = 0, force: bool = False, config: Path | None = None
    ) -> dict[str, Any]:
        """Have the hub do something about a node's seats, or a GPU's; its answer is how the licence stands then."""
        import msgspec

        from agent.api.types import LicenceOrder

        with _as_licensing(), _hub_client(config) as client:
            order = LicenceOrder(order=verb, subject=subject, days=days, force=force)
            return dict(msgspec.to_builtins(client.licence_order(order)))

    def metrics(self, config: Path | None = None) -> str:
        """The licence's part of the hub's OpenMetrics page."""
        from agent.hub.metrics import of_licence

        with _as_licensing(), _hub_client(config) as client:
            return of_licence(client.licence())


@contextmanager
def _as_licensing() -> Iterator[None]:
    """What the hub's client raises, as `stoker-license` understands it; the gate is imported only then."""
    try:
        yield
    except StokerError:
        from agent.gate import as_licence_errors

        with as_licence_errors():
            raise


def _hub_client(config: Path | None) -> Any:
    from agent.api.client import Client
    from agent.api.unix import UnixTransport

    return Client(UnixTransport(load(config).hub_socket))


def _parser(program: str, description: str) -> tuple[argparse.ArgumentParser, Any]:
    parser = Parser(prog=program, description=description)
    parser.add_argument("--version", action="version", version=f"{program} {__version__}")
    _add_config(parser)
    return parser, parser.add_subparsers(dest="verb", required=True, metavar="VERB")


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", type=Path, default=argparse.SUPPRESS, metavar="FILE", help="the configuration to use"
    )


def _verb(verbs: Any, name: str, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=f"{text[:1].upper()}{text[1:]}.")
    _add_config(parser)
    return parser


def _common_verbs(verbs: Any, what: str) -> None:
    _verb(verbs, "run", f"run the {what} in the foreground")
    _verb(verbs, "dial-stdio", f"connect stdin and stdout with the {what}'s socket (what ssh runs)")
    config = _verb(verbs, "config", "check the configuration and print what holds")
    config.add_argument("action", choices=["check"])


def _main(parser: argparse.ArgumentParser, argv: Sequence[str], act: Callable[[Any, Config], int]) -> int:
    args = parser.parse_args(argv)
    try:
        config = load(getattr(args, "config", None))
    except StokerError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return program.CONFIG

    def work() -> int:
        try:
            return act(args, config)
        except StokerError as error:
            print(f"{parser.prog}: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return program.INTERRUPTED

    return work() if args.verb in _OWN_STREAMS else program.run(parser.prog, work)


def _agent_verb(args: Any, config: Config, run: Run) -> int:
    if args.verb == "simulate":
        from agent.gpu.simulated import WordError, inject

        count = config.gpu.simulated_count if config.gpu.source == "simulated" else 0
        try:
            print(inject(config.state_dir, args.index, args.fault, count=count))
        except WordError as error:
            print(f"stoker-agent: {error}", file=sys.stderr)
            return program.USAGE
        return 0
    if args.verb == "selftest":
        from agent.selftest import command

        return command.run(args, config)
    if args.verb == "metrics":
        from agent import exporter

        return exporter.run(config.hub_socket if args.hub else config.agent_socket, args.listen, hub=args.hub)
    return _common_verb(args, config, config.agent_socket, "stoker-agent", run)


def _hub_verb(args: Any, config: Config, run: Run) -> int:
    if args.verb != "hardware":
        return _common_verb(args, config, config.hub_socket, "stoker-hub", run)
    from agent.gate import collect_hardware

    try:
        path, marks = collect_hardware(config.run_dir, config.hub_state_dir.stat().st_uid)
    except OSError as error:
        print(f"stoker-hub: cannot write what was read of the hardware: {error}", file=sys.stderr)
        return 1
    print(f"{path}: {marks} marks of the platform")
    return 0


def _common_verb(args: Any, config: Config, socket: Path, program: str, run: Run) -> int:
    if args.verb == "dial-stdio":
        from agent.api.bridge import dial_stdio

        return dial_stdio(socket)
    if args.verb == "config":
        _print_config(config)
        return 0
    return run(config)


def _print_config(config: Config) -> None:
    print(f"configuration: {config.path or 'none, defaults hold'}")
    print(f"node:          {config.name} ({config.mode} mode)")
    print(f"state:         {config.state_dir}")
    print(f"sockets:       {config.agent_socket}, {config.hub_socket}")
    print(f"gpu source:    {config.gpu.source}")
    print(f"cluster:       {config.cluster}: {', '.join(node.name for node in config.hub_nodes)}")
