"""The OpenMetrics text format: families of samples put together to a page.

Labels hold foreign text: what is not printable is replaced, so that the page is harmless in a terminal too.

Specification: https://prometheus.io/docs/specs/om/open_metrics_spec/
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

CONTENT_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"

Labels = Mapping[str, str]
Value = int | float | None
Samples = Sequence[tuple[Labels, Value]]
"""Labels and value; `None` where there is no value to show."""


def page(*parts: Iterable[str]) -> str:
    """Lines put together to a page."""
    return "\n".join([*(line for part in parts for line in part), "# EOF", ""])


def gauge(name: str, text: str, samples: Samples, unit: str = "") -> Iterator[str]:
    """The lines of a family, with those samples that have a value; nothing if none has.

    Args:
        name: ends with `unit` where there is one.
        text: what it is, in a sentence.
        samples: no two with the same labels.
        unit: a base unit.
    """
    yield from _family(name, "gauge", text, samples, unit)


def counter(name: str, text: str, samples: Samples, unit: str = "") -> Iterator[str]:
    """As `gauge`, of sums that only grow while what they belong to lives.

    Args:
        name: as in a query but without its `_total`.
        text: what it is, in a sentence.
        samples: no two with the same labels.
        unit: a base unit.
    """
    yield from _family(name, "counter", text, samples, unit, end="_total")


def info(name: str, text: str, labels: Iterable[Labels]) -> Iterator[str]:
    """What something is, in labels: a family whose samples are all 1.

    Args:
        name: as in a query but without its `_info`.
        text: what it is, in a sentence.
        labels: of each sample.
    """
    yield from _head(name, "info", text, "")
    for each in labels:
        yield _sample(f"{name}_info", each, 1)


def scaled(value: float | None, factor: float) -> float | None:
    """`value` in the base unit, without the digits that binary fractions add."""
    return None if value is None else round(value * factor, 6)


def _family(name: str, kind: str, text: str, samples: Samples, unit: str, end: str = "") -> Iterator[str]:
    known = [(labels, value) for labels, value in samples if value is not None]
    if not known:
        return
    yield from _head(name, kind, text, unit)
    for labels, value in known:
        yield _sample(name + end, labels, value)


def _head(name: str, kind: str, text: str, unit: str) -> Iterator[str]:
    yield f"# TYPE {name} {kind}"
    if unit:
        yield f"# UNIT {name} {unit}"
    yield f"# HELP {name} {text}"


def _sample(name: str, labels: Labels, value: float) -> str:
    inside = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
    return f"{name}{{{inside}}} {value}" if inside else f"{name} {value}"


def _escaped(text: str) -> str:
    """Foreign text for a label: printable, and unable to end the label or the line."""
    printable = "".join(each if each.isprintable() else "\ufffd" for each in text)
    return printable.replace("\\", "\\\\").replace('"', '\\"')
