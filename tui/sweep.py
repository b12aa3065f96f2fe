"""Named parameters of a sweep as one types them: `lr=1e-3,1e-4`, where a value with a comma in it is quoted."""

from __future__ import annotations

from collections.abc import Iterable

from agent.api.errors import StokerError


def read(texts: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The parameters in the order in which they were named.

    Raises:
        StokerError: a text is not `name=v1,v2`, or a name comes twice.
    """
    found: dict[str, tuple[str, ...]] = {}
    for text in texts:
        name, values = _read_one(text)
        if name in found:
            raise StokerError(f"--sweep names {name} twice; give all of its values at once: {name}=v1,v2")
        found[name] = values
    return found


def _read_one(text: str) -> tuple[str, tuple[str, ...]]:
    import csv  # only for a sweep: every other submit would pay for it

    name, equals, values = text.partition("=")
    if not equals or not name.isidentifier() or not name.isascii():
        raise StokerError(f"--sweep {text!r} is not name=v1,v2; a name is letters, digits and _, as in lr=1e-3,1e-4")
    if any(char in values for char in "\r\n\0"):
        raise StokerError(f"--sweep {name}: a value may not hold a line break")
    try:
        found = next(csv.reader([values], strict=True), [])
    except csv.Error as error:
        raise StokerError(f'--sweep {text!r}: {error}; a quoted value is written "a,b", a quote in it twice') from error
    if not values or "" in found:
        raise StokerError(f"--sweep {text!r} has an empty value; leave the comma out, or the parameter")
    return name, tuple(found)
