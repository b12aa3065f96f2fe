"""The questions about incidents and inventories, and how an answer is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from textual.app import App

from agent.api.health import Incident
from tui import incidents, safe, units
from tui.client import ClusterClient
from tui.incidents import Told
from tui.screens.dialogs import Question
from tui.spans import Role, Span, folded

_LISTED = 12
"""Incidents named one by one in a question; the rest is counted."""
_WIDTH = 70
"""Of a question's lines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verb:
    """What may be said of incidents."""

    title: str
    done: str
    yes: str
    effect: str
    ask: Callable[[ClusterClient, int, str], Incident]


ACKNOWLEDGE = Verb(
    title="Acknowledge",
    done="Acknowledged",
    yes="I have seen",
    effect="Each stays open until it is over, and is not told of again.",
    ask=lambda client, number, node: client.acknowledge(number, node),
)
CLEAR = Verb(
    title="Clear",
    done="Cleared",
    yes="Clear",
    effect="What is still wrong is opened again. A GPU held for it stays drained until U resumes it.",
    ask=lambda client, number, node: client.clear_incident(number, node),
)


def ask_of_incidents(chosen: Sequence[Told], verb: Verb) -> Question:
    """Before something is said of incidents: of which."""
    lines: list[list[Span]] = [[]]
    for each in chosen[:_LISTED]:
        label = safe.fit(f"{each.key[0]}:{each.key[1]}", 14)
        lines.append([(f"  {label} ", Role.STRONG), *incidents.severity(each.incident)])
        lines[-1].append((f"  {each.incident.what}", Role.TEXT))
    if len(chosen) > _LISTED:
        lines.append([(f"  and {len(chosen) - _LISTED} more", Role.STRONG)])
    what = units.count(len(chosen), "incident")
    effect = [[(f"  {line}", Role.WARN)] for line in folded(verb.effect, _WIDTH)]
    return Question(f"{verb.title} {what}?", [*lines, [], *effect, []], yes=f"{verb.yes} {what}", no="Leave as it is")


def ask_accept(node: str, differences: Sequence[str]) -> Question:
    """Before what is there is taken for right: what it differs in."""
    lines: list[list[Span]] = [[]]
    lines += [[(f"  {each}", Role.TEXT)] for each in differences[:_LISTED]]
    if len(differences) > _LISTED:
        lines.append([(f"  and {len(differences) - _LISTED} more", Role.STRONG)])
    if not differences:
        lines.append([("  Nothing differs now.", Role.TEXT)])
    lines += [[], [("  What is there now is what will be missed from now on.", Role.WARN)], []]
    return Question(f"Take the GPUs of {node} as they are for right?", lines, yes="Accept what is there", no="Leave it")


def tell(app: App[None], sentence: str, *, bad: bool) -> None:
    """A notice at the edge. Never markup: the sentence may hold foreign text."""
    if bad:
        app.notify(safe.text(sentence), severity="error", timeout=10, markup=False)
    else:
        app.notify(safe.text(sentence), timeout=4, markup=False)
