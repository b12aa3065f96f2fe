"""Values of options that are lists of words: mail types, licences, features, partitions, nodes.

Rules kept here: what sbatch takes is taken with the same meaning; a word that nobody knows, and a way of joining words
that one node cannot honour, are refused by name.
"""

from __future__ import annotations

import re

from agent.jobs import grammar
from agent.jobs.grammar import GrammarError

MAX_NODES = 4096
"""Names that one list of nodes may stand for."""

_MAIL_ALL = ("INVALID_DEPEND", "BEGIN", "END", "FAIL", "REQUEUE", "STAGE_OUT")
_MAIL_TYPES = ("ARRAY_TASKS", *_MAIL_ALL, "TIME_LIMIT", "TIME_LIMIT_50", "TIME_LIMIT_80", "TIME_LIMIT_90")
"""In the order in which Slurm shows them."""

_LICENSE = re.compile(r"([A-Za-z0-9_.@-]{1,64})(?::(\d{1,9}))?", re.ASCII)
_FEATURE = re.compile(r"[A-Za-z0-9_.=/+-]{1,64}", re.ASCII)
_NODE = re.compile(r"[A-Za-z0-9._-]*", re.ASCII)
_NODE_RANGE = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?", re.ASCII)


def mail_types(text: str) -> tuple[str, ...]:
    """Read `--mail-type`: Slurm's words in Slurm's order, with ALL written out; NONE among them means none."""
    words = [word.strip().upper() for word in text.split(",") if word.strip()]
    if not words:
        raise GrammarError(f"names no event; write some of {', '.join(_MAIL_TYPES)}, ALL or NONE")
    unknown = next((word for word in words if word not in (*_MAIL_TYPES, "ALL", "NONE")), None)
    if unknown is not None:
        raise GrammarError(
            f"names {unknown[:40]!r}, of which no mail is sent; known: {', '.join(_MAIL_TYPES)}, ALL, NONE"
        )
    if "NONE" in words:
        return ()
    asked = {*words, *(_MAIL_ALL if "ALL" in words else ())}
    return tuple(word for word in _MAIL_TYPES if word in asked)


def licenses(text: str) -> tuple[tuple[str, int], ...]:
    """Read `--licenses`: `matlab`, `matlab:2,ansys:1`; the same one named twice is added up."""
    asked: dict[str, int] = {}
    for part in filter(None, text.split(",")):
        match = _LICENSE.fullmatch(part)
        if match is None:
            one_of = "; one of several (joined by | or ;) is not for one node" if re.search(r"[;|]", part) else ""
            raise GrammarError(f"is not a list of licences{one_of}; write NAME:COUNT, with commas")
        asked[match[1]] = asked.get(match[1], 0) + int(match[2] or 1)
    return tuple((name, count) for name, count in asked.items() if count)


def features(text: str) -> tuple[str, ...]:
    """Read `--constraint`: `h100`, `h100&nvlink` or `h100,nvlink`, of which the node must have all.

    One of several is a part with bars: `h100|a100`, `[h100|a100]`, and `(h100|a100)&nvlink` with others.
    """
    if not text:
        return ()
    if "*" in text:
        raise GrammarError("asks for a number of nodes with '*'; here a job names features that it needs, joined by &")
    parts = _parts(text)
    return tuple(dict.fromkeys(_either(part, alone=len(parts) == 1) for part in parts))


def _parts(text: str) -> list[str]:
    """What & and , part outside of brackets; in one pass, for to look ahead from each takes seconds of a long text."""
    parts, inside = [""], False
    for piece in re.split(r"([&,()\[\]])", text):
        if piece in ("&", ",") and not inside:
            parts.append("")
            continue
        if piece in ("(", "[", ")", "]"):
            inside = piece in ("(", "[")
        parts[-1] += piece
    return parts


def _either(part: str, *, alone: bool) -> str:
    """A feature, or several with bars; the brackets around these are needed beside others and are left away."""
    grouped = re.fullmatch(r"\((.*)\)|\[(.*)\]", part)
    inside = part if grouped is None else grouped[1] or grouped[2] or ""
    words = inside.rstrip("|").split("|")  # sbatch takes `h100|` for h100
    if re.search(r"[()\[\]&,]", inside):
        raise GrammarError("asks for groups of groups; write features joined by &, and (A|B) for one of two")
    if not alone and grouped is None and len(words) > 1:
        raise GrammarError("joins features by & and by |; write (A|B)&C for one of two and a third")
    if not all(_FEATURE.fullmatch(word) for word in words):
        raise GrammarError("is not a list of features; write NAME, several joined by &, or one of several by |")
    return "|".join(dict.fromkeys(words))


def partitions(text: str) -> tuple[str, ...]:
    """Read `--partition`: a name, or several with commas."""
    names = tuple(dict.fromkeys(part for part in text.split(",") if part))
    if not names:
        raise GrammarError("names no partition")
    return tuple(grammar.name(each) for each in names)


def nodes(text: str) -> tuple[str, ...]:
    """Read a list of nodes: `n1`, `n1,n2`, `n[1-3,7],m[01-04]`; each name once."""
    if "/" in text:
        raise GrammarError("names a file; write the nodes' names")
    names: dict[str, None] = {}
    for part in _split(text):
        names |= dict.fromkeys(_expand(part))
        if len(names) > MAX_NODES:
            raise GrammarError(f"is not a list of at most {MAX_NODES} nodes")
    if not names:
        raise GrammarError("names no node")
    return tuple(names)


def _split(text: str) -> list[str]:
    """Part a list of nodes at the commas outside brackets."""
    parts = re.findall(r"(?:[^,\[\]]|\[[^\[\]]*\])+", text)
    if "".join(parts) != re.sub(r",(?![^\[]*\])", "", text):
        raise GrammarError("is not a list of nodes; write names, such as n1,n2 or n[1-3]")
    return parts


def _expand(part: str) -> list[str]:
    prefix, bracket, rest = part.partition("[")
    numbers, _, suffix = rest.partition("]")
    if not _NODE.fullmatch(prefix) or not _NODE.fullmatch(suffix):
        raise GrammarError("is not a list of nodes; write names, such as n1,n2 or n[1-3]")
    if not bracket:
        return [prefix]
    names: list[str] = []
    for each in numbers.split(","):
        match = _NODE_RANGE.fullmatch(each)
        if match is None:
            raise GrammarError(f"is not a list of nodes: [{each[:20]}] is no range of numbers")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first or last - first + len(names) >= MAX_NODES:
            raise GrammarError(f"is not a list of at most {MAX_NODES} nodes")
        names += [f"{prefix}{number:0{len(match[1])}}{suffix}" for number in range(first, last + 1)]
    return names
