"""Slurm's host lists: `n[1-3,05],m2` for many names. Standard library only, and cheap: a job's commands read them."""

from __future__ import annotations

MAX_HOSTS = 65536
"""As many as Slurm's own limit for one list; a range is never written out beyond it."""


class HostListError(ValueError):
    """The text is not a host list; the message is the end of a sentence that begins with it."""


def expand(text: str) -> list[str]:
    """Every name of a list, in its order; a leading zero keeps its width.

    Raises:
        HostListError: a bracket is not closed, a range is none, or it means too many.
    """
    names: list[str] = []
    for part in _split(text):
        names += _of_part(part, MAX_HOSTS - len(names))
    return names


def compress(names: list[str]) -> str:
    """The shortest list for names: `n1 n2 n3` is `n[1-3]`. Neighbours only: the order stays."""
    groups: list[tuple[str, list[str]]] = []
    for name in names:
        stem = name.rstrip("0123456789")
        number = name[len(stem) :]
        if number and groups and groups[-1][0] == stem and groups[-1][1]:
            groups[-1][1].append(number)
        else:
            groups.append((stem, [number] if number else []))
    return ",".join(stem + _ranges(numbers) for stem, numbers in groups)


def shown(what: str, text: str) -> str:
    """What `scontrol show WHAT TEXT` prints: `hostnames`, one a line, `hostlist` or `hostlistsorted`.

    Raises:
        HostListError: see `expand`; or the text is empty.
    """
    if not text:
        raise HostListError("host list is empty")
    names = expand(text)
    if what == "hostlistsorted":
        names.sort()
    return "\n".join(names) if what == "hostnames" else compress(names)


def _split(text: str) -> list[str]:
    """The parts between the commas that stand outside of brackets."""
    parts, depth, begin = [], 0, 0
    for place, char in enumerate(text):
        depth += (char == "[") - (char == "]")
        if depth not in (0, 1):
            raise HostListError("has a bracket too many; write for example n[1-3,5]")
        if char == "," and not depth:
            parts.append(text[begin:place])
            begin = place + 1
    if depth:
        raise HostListError("has a bracket that is not closed; write for example n[1-3,5]")
    return [part for part in (*parts, text[begin:]) if part]


def _of_part(part: str, room: int) -> list[str]:
    stems = [""]
    while part:
        plain, opened, rest = part.partition("[")
        inside, _, part = rest.partition("]")
        numbers = _numbers(inside, room) if opened else [""]
        if len(stems) * len(numbers) > room:
            raise HostListError(f"means more than {MAX_HOSTS} hosts")
        stems = [stem + plain + number for stem in stems for number in numbers]
    return stems


def _numbers(inside: str, room: int) -> list[str]:
    numbers: list[str] = []
    for each in inside.split(","):
        low, dash, high = each.partition("-")
        high = high if dash else low
        if not (_is_number(low) and _is_number(high)) or int(low) > int(high):
            raise HostListError(f"has the range {each!r}, which is none; write for example n[1-3,5]")
        if int(high) - int(low) >= room:
            raise HostListError(f"means more than {MAX_HOSTS} hosts")
        numbers += [str(number).zfill(len(low)) for number in range(int(low), int(high) + 1)]
    return numbers


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 18


def _ranges(numbers: list[str]) -> str:
    """`1`, `[1-3,5]`; numbers of different widths never share a range."""
    if len(numbers) < 2:
        return "".join(numbers)
    runs = [[numbers[0], numbers[0]]]
    for number in numbers[1:]:
        follows = int(number) == int(runs[-1][1]) + 1 and str(int(number)).zfill(len(runs[-1][0])) == number
        if follows:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return "[" + ",".join(low if low == high else f"{low}-{high}" for low, high in runs) + "]"
