"""Who is due how much, and who had more: Slurm's classic fair share, 2 ^ -(usage / shares), both as parts of the whole.

Rules kept here, of whose due is not configured:
- a share of (account, "") is the account's, and is divided equally among its users that are known here;
- whoever is left shares equally what the configured shares leave of the whole; with none configured, all are equal.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

Pair = tuple[str, str]
"""Account and user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One user of one account."""

    shares_norm: float
    usage_norm: float
    factor: float
    """1 before any use, 0.5 when exactly the due was used."""


def standings(pairs: Iterable[Pair], usage: Mapping[Pair, float], shares: Mapping[Pair, float]) -> dict[Pair, Standing]:
    """Everybody's standing: of the pairs given, and of those with usage or shares."""
    known = sorted({*pairs, *usage, *(pair for pair in shares if pair[1])})
    due = _due(known, shares)
    whole = sum(max(0.0, used) for used in usage.values())
    found = {}
    for pair in known:
        used = max(0.0, usage.get(pair, 0.0)) / whole if whole > 0 else 0.0
        found[pair] = Standing(shares_norm=due[pair], usage_norm=used, factor=_factor(used, due[pair]))
    return found


def _due(known: list[Pair], shares: Mapping[Pair, float]) -> dict[Pair, float]:
    due = {pair: shares[pair] for pair in known if pair in shares}
    for account, user in shares:
        if not user:
            members = [pair for pair in known if pair[0] == account and pair not in shares]
            due.update({pair: shares[account, user] / len(members) for pair in members})
    rest = [pair for pair in known if pair not in due]
    left = max(0.0, 1.0 - sum(due.values()))
    return {**due, **{pair: left / len(rest) for pair in rest}}


def _factor(used: float, due: float) -> float:
    if used <= 0:
        return 1.0
    return 2.0 ** -(used / due) if due > 0 else 0.0
