"""What the hub believes of a node's usage."""

from __future__ import annotations

from agent.api.usage import UsageRows
from agent.hub.metering import ADMINS_AT_ONCE, admins_of


def test_only_what_can_be_an_accounts_name_is_counted_and_not_without_end() -> None:
    hostile = ("", "a b", "-x", "x" * 257, "a" * 100_000, "\x1b[31mred", "ada\n", "ада")
    told = UsageRows(heads=(), chain="c", admins=(*hostile, "ada", "LAB\\\\bob", "eve@lab.example"))
    assert admins_of(told) == [("ada", 0), ("LAB\\\\bob", 0), ("eve@lab.example", 0)]
    many = UsageRows(heads=(), chain="c", admins=tuple(f"user{number}" for number in range(10_000)))
    assert admins_of(many) == [(f"user{number}", 0) for number in range(ADMINS_AT_ONCE)]


def test_a_node_tells_how_long_ago_its_admins_were_and_never_of_the_future() -> None:
    told = UsageRows(heads=(), chain="c", admins=("ada", "a b", "bob", "cy"), admins_ago_s=(5, 6, -7))
    assert admins_of(told) == [("ada", 5), ("bob", 0), ("cy", 0)]
    more = UsageRows(heads=(), chain="c", admins=("ada",), admins_ago_s=(5, 6, 7))
    assert admins_of(more) == [("ada", 5)]
