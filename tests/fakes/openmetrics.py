"""Reads a metrics page with Prometheus's own parser, which raises on whatever the standard forbids."""

from __future__ import annotations

from prometheus_client.openmetrics.parser import text_string_to_metric_families

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def parsed(text: str) -> Series:
    """Every sample by name and labels."""
    series: Series = {}
    for family in text_string_to_metric_families(text):  # type: ignore[no-untyped-call]  # theirs has no annotations
        for sample in family.samples:
            key = sample.name, frozenset(sample.labels.items())
            assert key not in series, f"twice: {key}"
            series[key] = sample.value
    return series


def value(series: Series, name: str, /, **labels: str) -> float:
    return series[name, frozenset(labels.items())]


def names(series: Series) -> set[str]:
    return {name for name, _ in series}
