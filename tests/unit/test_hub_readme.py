"""What the hub's README tells an operator to write is what the program reads."""

from __future__ import annotations

import re
from pathlib import Path

from agent import config

README = (Path(config.__file__).parents[1] / "hub" / "README.md").read_text(encoding="utf-8")


def test_its_configuration_is_accepted_and_names_what_the_installer_makes() -> None:
    hub, node = (config.parse(text, "README") for text in re.findall(r"```toml\n(.*?)```", README, re.DOTALL))
    own, far = hub.hub.nodes
    assert own.socket == Path("/run/stoker/agent.sock")
    assert far.ssh == "stoker-hub@n2"
    assert far.identity_file == Path("/var/lib/stoker/hub/ssh_key")
    assert node.node.act_for == ("stoker-hub",)
    assert 'restrict,command="/usr/local/bin/stoker-agent dial-stdio" ssh-ed25519' in README
