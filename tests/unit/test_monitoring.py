"""What is shipped for Prometheus and Grafana: rules that promtool accepts and tries, and no metric that is not ours."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

from agent.api.types import Licence, LicenceStage
from agent.hub import metrics
from agent.telemetry.metrictext import Family
from agent.telemetry.openmetrics import families
from tests.fakes.prometheus import DATA, promtool
from tests.unit.test_openmetrics import node

RULES = DATA / "stoker-rules.yml"
TESTS = Path(__file__).parents[1] / "data" / "prometheus" / "rules-test.yml"
DASHBOARD: dict[str, Any] = json.loads((DATA / "stoker-dashboard.json").read_text(encoding="utf-8"))


def known() -> list[Family]:
    """Every metric of agent and hub, those that have nothing to show too."""
    licence = Licence(stage=LicenceStage.ACTIVE, message="m", licence_id="L")
    return [*families(node(), [], {}), *metrics.families([], licence, "lab", 0.0)]


def expressions() -> list[str]:
    """Of all panels of the dashboard, with its variables filled in."""
    found = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]
    for name, value in (("$__rate_interval", "1m"), ("$instance", ".*"), ("$gpu", ".*")):
        found = [each.replace(name, value) for each in found]
    return found


def metrics_in(expression: str) -> set[str]:
    return set(re.findall(r"\b(?:stoker|lic)_[a-z0-9_]+", expression))


def test_promtool_accepts_the_rules() -> None:
    assert "SUCCESS" in promtool("check", "rules", str(RULES))


def test_prometheus_accepts_its_configuration_where_it_lies_and_finds_the_rules(tmp_path: Path) -> None:
    """In a checkout, and installed: a copy, which a link leads to."""
    shutil.copytree(DATA, tmp_path / "1.2.3" / "monitoring")
    (tmp_path / "current").symlink_to("1.2.3")
    for folder in (DATA, tmp_path / "current" / "monitoring"):
        said = promtool("check", "config", str(folder / "prometheus.yml"))
        assert "1 rule files found" in said
        assert f"Checking {folder / RULES.name}" in said


def test_each_alert_fires_on_its_fault_and_on_nothing_else() -> None:
    assert "SUCCESS" in promtool("test", "rules", str(TESTS))
    alerts = set(re.findall(r"- alert: (\w+)", RULES.read_text()))
    tried = set(re.findall(r"^        alertname: (\w+)", TESTS.read_text(), re.MULTILINE))
    assert alerts == tried, "each has its example"


def test_rules_and_dashboard_name_only_metrics_that_there_are() -> None:
    names = {family.sample_name for family in known()}
    expr = re.findall(r"expr: (?:>-\n)?((?:.*\n)+?)(?=        \w|      -|\n|$)", RULES.read_text())
    assert metrics_in("\n".join(expr)) <= names
    assert len(expressions()) > 50
    assert metrics_in("\n".join(expressions())) <= names
    asked = [each["definition"] for each in DASHBOARD["templating"]["list"] if each["type"] == "query"]
    assert metrics_in("\n".join(asked)) <= names


def test_the_dashboard_is_one_that_grafana_can_lay_out() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    rows = [panel["title"] for panel in panels if panel["type"] == "row"]
    assert rows == ["Nodes", "GPUs", "Jobs", "Incidents", "Seats"]
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
        refs = [target["refId"] for target in panel.get("targets", ())]
        assert len(set(refs)) == len(refs)


def test_names_keep_the_rules_of_the_standard() -> None:
    for family in known():
        assert re.fullmatch(r"(stoker|lic)_[a-z][a-z0-9_]*", family.name)
        assert not family.name.endswith(("_total", "_info", "_count", "_sum", "_bucket"))
        assert not family.unit or family.name.endswith(f"_{family.unit}")
        assert family.help.endswith((".", "it.")), family.name
    names = [family.name for family in known()]
    assert len(set(names)) == len(names)
