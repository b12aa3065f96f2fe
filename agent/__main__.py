"""The composition root: the three programs `stoker-agent`, `stoker-hub` and `stoker-license`.

Parts are wired together here and nowhere else. Imports are late, because `dial-stdio` is paid for by every ssh channel
and the sampler's memory by every node.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agent.config import Config

_INTERRUPTED = 130
"""Ctrl-C among the imports, which are most of a short command: no traceback either."""


def agent_main(argv: Sequence[str] | None = None) -> int:
    """`stoker-agent`: the daemon of a node, and the verbs that concern only this node."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["sampler"]:
        from agent.gpu import sampler_child

        return sampler_child.main(words[1:])
    if words[:1] == ["inspect"]:
        from agent.gpu import inspect_child

        return inspect_child.main(words[1:])
    try:
        from agent import cli
    except KeyboardInterrupt:
        return _INTERRUPTED
    return cli.agent(words, run=_run_agent)


def hub_main(argv: Sequence[str] | None = None) -> int:
    """`stoker-hub`: the daemon that sees every node and holds the licence."""
    try:
        from agent import cli
    except KeyboardInterrupt:
        return _INTERRUPTED
    return cli.hub(list(sys.argv[1:] if argv is None else argv), run=_run_hub)


def license_main(argv: Sequence[str] | None = None) -> int:
    """`stoker-license`: the buyer's and the vendor's licence verbs; the hub is handed in."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        from agent.api import program
    except KeyboardInterrupt:
        return _INTERRUPTED
    return program.run("stoker-license", lambda: _license(words))


def _license(words: list[str]) -> int:
    from agent import __version__
    from agent.cli import HubLicenceCalls
    from licensing import cli

    hub = HubLicenceCalls()
    return cli.main(words, hub, version=__version__, export=hub.export_usage)


def _run_agent(config: Config) -> int:
    from agent import daemon

    return daemon.run_agent(config)


def _run_hub(config: Config) -> int:
    from agent import daemon

    return daemon.run_hub(config)


if __name__ == "__main__":
    sys.exit(agent_main())
