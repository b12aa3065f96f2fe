"""The metrics page as text: families of samples, written as OpenMetrics 1.0 or as Prometheus's older text format.

OpenMetrics says units and ends with a mark, so that a page cut short is noticed. The older format is what
node_exporter's textfile collector, `promtool check metrics` and many a small tool read: no `info`, no unit, a counter
named as its sample.

Labels hold foreign text: what is not printable is replaced, so that the page is harmless in a terminal too.

Specification: https://prometheus.io/docs/specs/om/open_metrics_spec/
https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
PLAIN = "text/plain; version=0.0.4; charset=utf-8"

Labels = Mapping[str, str]
Value = int | float | None
Samples = Sequence[tuple[Labels, Value]]
"""Labels and value; `None` where there is no value to show."""

_ENDS = {"counter": "_total", "info": "_info"}


@dataclass(frozen=True, slots=True)
class Family:
    """A metric with its samples."""

    name: str
    """As OpenMetrics has it: ends with `unit` where there is one, without `_total` and `_info`."""
    kind: str
    """`gauge`, `counter` or `info`."""
    help: str
    """What it is, in a sentence."""
    unit: str
    """A base unit, or nothing."""
    samples: Samples
    """No two with the same labels."""

    @property
    def sample_name(self) -> str:
        """As it is named in a query."""
        return self.name + _ENDS.get(self.kind, "")


def gauge(name: str, text: str, samples: Samples, unit: str = "") -> Family:
    """What goes up and down."""
    return Family(name, "gauge", text, unit, samples)


def counter(name: str, text: str, samples: Samples, unit: str = "") -> Family:
    """A sum that only grows while what it belongs to lives; `name` is without its `_total`."""
    return Family(name, "counter", text, unit, samples)


def info(name: str, text: str, labels: Iterable[Labels]) -> Family:
    """What something is, in labels: all samples are 1; `name` is without its `_info`."""
    return Family(name, "info", text, "", [(each, 1) for each in labels])


def scaled(value: float | None, factor: float) -> float | None:
    """`value` in the base unit, without the digits that binary fractions add."""
    return None if value is None else round(value * factor, 6)


def openmetrics(families: Iterable[Family]) -> str:
    """The page as OpenMetrics."""
    return "\n".join([*(line for family in families for line in _lines(family, strict=True)), "# EOF", ""])


def plain(families: Iterable[Family]) -> str:
    """The page in Prometheus's text format, 0.0.4."""
    return "\n".join([*(line for family in families for line in _lines(family, strict=False)), ""])


def written_for(accept: str, families: Iterable[Family]) -> tuple[str, str]:
    """The page as its reader wants it, and its content type: OpenMetrics for whoever names it, as Prometheus does."""
    if _wants_openmetrics(accept):
        return openmetrics(families), OPENMETRICS
    return plain(families), PLAIN


def _wants_openmetrics(accept: str) -> bool:
    """By RFC 9110's weights; `*/*` alone is no word for OpenMetrics, for who sends it may never have heard of it."""
    weights = {"application/openmetrics-text": 0.0, "text/plain": 0.0}
    for part in accept.split(","):
        kind, *parameters = (word.strip().lower() for word in part.split(";"))
        if kind in weights:
            weights[kind] = max(weights[kind], _weight(parameters))
    return weights["application/openmetrics-text"] > 0 and (
        weights["application/openmetrics-text"] >= weights["text/plain"]
    )


def _weight(parameters: Sequence[str]) -> float:
    for each in parameters:
        name, _, value = each.partition("=")
        if name.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0


def _lines(family: Family, *, strict: bool) -> Iterator[str]:
    """A family with those samples that have a value; nothing if none has."""
    known = [(labels, value) for labels, value in family.samples if value is not None]
    if not known:
        return
    name, kind = (family.name, family.kind) if strict else (family.sample_name, family.kind.replace("info", "gauge"))
    yield f"# TYPE {name} {kind}"
    if family.unit and strict:
        yield f"# UNIT {name} {family.unit}"
    yield f"# HELP {name} {family.help}"
    for labels, value in known:
        yield _sample(family.sample_name, labels, value)


def _sample(name: str, labels: Labels, value: float) -> str:
    inside = ",".join([f'{key}="{_escaped(text)}"' for key, text in labels.items()])
    return f"{name}{{{inside}}} {value}" if inside else f"{name} {value}"


def _escaped(text: str) -> str:
    """Foreign text for a label: printable, and unable to end the label or the line."""
    if text.isalnum():  # most are, and a page has thousands
        return text
    printable = text if text.isprintable() else "".join(each if each.isprintable() else "\ufffd" for each in text)
    return printable.replace("\\", "\\\\").replace('"', '\\"')
