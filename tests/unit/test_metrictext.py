"""The two formats of a page, read back by Prometheus's own parsers, and which of them a reader gets."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from agent.telemetry.metrictext import OPENMETRICS, PLAIN, Family, counter, gauge, info, openmetrics, plain, written_for
from agent.telemetry.openmetrics import families
from tests.fakes.openmetrics import parsed
from tests.fakes.prometheus import promtool
from tests.unit.test_healthmetrics import xid
from tests.unit.test_openmetrics import FULL, gpu, job, node

PAGE = [
    gauge("power_watts", "Power.", [({"gpu": "0"}, 1.5), ({"gpu": "1"}, None)], "watts"),
    counter("energy_joules", "Energy.", [({}, 7)], "joules"),
    info("build", "Build.", [{"version": "1"}]),
    gauge("absent", "Nothing.", [({}, None)]),
]


def test_openmetrics_says_types_units_and_the_end() -> None:
    assert openmetrics(PAGE) == (
        "# TYPE power_watts gauge\n# UNIT power_watts watts\n# HELP power_watts Power.\n"
        'power_watts{gpu="0"} 1.5\n'
        "# TYPE energy_joules counter\n# UNIT energy_joules joules\n# HELP energy_joules Energy.\n"
        "energy_joules_total 7\n"
        '# TYPE build info\n# HELP build Build.\nbuild_info{version="1"} 1\n'
        "# EOF\n"
    )


def test_the_older_format_names_a_counter_as_its_sample_and_has_no_info_and_no_unit() -> None:
    assert plain(PAGE) == (
        '# TYPE power_watts gauge\n# HELP power_watts Power.\npower_watts{gpu="0"} 1.5\n'
        "# TYPE energy_joules_total counter\n# HELP energy_joules_total Energy.\nenergy_joules_total 7\n"
        '# TYPE build_info gauge\n# HELP build_info Build.\nbuild_info{version="1"} 1\n'
    )


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
            "text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            OPENMETRICS,
        ),  # Prometheus
        ("text/plain;version=0.0.4;q=1,*/*;q=0.1", PLAIN),  # a scraper that knows the older one alone
        ("application/openmetrics-text;q=0.2, text/plain", PLAIN),
        ("application/openmetrics-text;q=0", PLAIN),
        ("application/openmetrics-text; q=nonsense", PLAIN),
        ("APPLICATION/OpenMetrics-Text", OPENMETRICS),
        ("*/*", PLAIN),  # curl
        ("", PLAIN),
        ("text/html,,;;q", PLAIN),
    ],
)
def test_a_reader_gets_what_it_asks_for(accept: str, kind: str) -> None:
    text, found = written_for(accept, PAGE)
    assert found == kind
    assert text == (openmetrics(PAGE) if kind == OPENMETRICS else plain(PAGE))


def full() -> list[Family]:
    told = node(gpu(0, job_id=17, job_ids=(17,), **FULL), gpu(1))
    return list(families(told, [job(name='evil"}\n1')], {}, xid()))


def test_both_formats_of_a_full_page_tell_the_same() -> None:
    old = {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(plain(full()))
        for sample in family.samples
    }
    assert old == parsed(openmetrics(full()))


def test_promtool_has_nothing_to_say_against_a_full_page() -> None:
    assert promtool("check", "metrics", given=plain(full())) == ""
