"""The board, the alerts and the page of metrics name what the code declares, and nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from fedpredict.observe.metrics import METRICS, Metric, MetricKind

ROOT = Path(__file__).parents[2]
BOARD = ROOT / "deploy" / "grafana" / "fedpredict.json"
ALERTS = ROOT / "deploy" / "prometheus" / "fedpredict-alerts.yml"
PAGE = ROOT / "docs" / "observe.md"
OF_EVERY_PROCESS = {"process_resident_memory_bytes", "process_cpu_seconds_total", "up"}
SELECTOR = re.compile(r"\b(fedpredict_\w+|process_\w+|up)\b(?:\{([^}]*)\})?")


def series_of(metric: Metric) -> set[str]:
    """Return the names under which a metric's samples stand on the page."""
    if metric.kind is MetricKind.HISTOGRAM:
        return {f"{metric.name}_{part}" for part in ("bucket", "sum", "count")}
    return {metric.name}


BY_SERIES = {series: metric for metric in METRICS for series in series_of(metric)}


def board() -> dict[str, Any]:
    content = json.loads(BOARD.read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    return content


def expressions() -> list[str]:
    of_board = [target["expr"] for panel in board()["panels"] for target in panel.get("targets", ())]
    of_alerts = re.findall(r"expr: (\|\n(?: {10}.*\n)+|.+)", ALERTS.read_text(encoding="utf-8"))
    return [*of_board, *of_alerts]


@pytest.mark.parametrize("expression", expressions(), ids=lambda each: " ".join(each.split())[:80])
def test_an_expression_asks_for_metrics_and_labels_that_exist(expression: str) -> None:
    found = SELECTOR.findall(expression)
    assert found
    for series, selector in found:
        assert series in BY_SERIES or series in OF_EVERY_PROCESS, series
        given = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector)) - {"instance", "job"}
        assert given <= set(BY_SERIES[series].labels if series in BY_SERIES else ()), series


@pytest.mark.parametrize("expression", expressions(), ids=lambda each: " ".join(each.split())[:80])
def test_an_expression_groups_by_labels_that_exist(expression: str) -> None:
    known = {label for metric in METRICS for label in metric.labels} | {"le", "instance"}
    for names in re.findall(r"\bby \(([^)]*)\)", expression):
        assert {name.strip() for name in names.split(",")} <= known


def test_every_metric_is_on_the_board() -> None:
    asked = {
        BY_SERIES[series].name for text in expressions() for series, _ in SELECTOR.findall(text) if series in BY_SERIES
    }
    assert asked == {metric.name for metric in METRICS}


def test_the_board_has_what_grafana_needs() -> None:
    content = board()
    assert {"uid", "title", "schemaVersion", "panels", "templating", "time"} <= content.keys()
    assert len({panel["id"] for panel in content["panels"]}) == len(content["panels"])
    for panel in content["panels"]:
        assert {"id", "type", "title", "gridPos"} <= panel.keys()
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        if panel["type"] != "row":
            assert panel["targets"]
            assert panel["datasource"]["type"] == "prometheus"
            assert panel["fieldConfig"]["defaults"]["unit"]
            assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    assert [each["name"] for each in content["templating"]["list"]] == ["datasource", "instance", "model"]


def test_the_page_lists_every_metric_as_it_is_declared() -> None:
    rows = re.findall(r"^\| `(fedpredict_\w+)` \| (\w+) \| (.*?) \| (.+?) \|$", PAGE.read_text(encoding="utf-8"), re.M)
    listed = [(name, kind, tuple(re.findall(r"`(\w+)`", labels)), text) for name, kind, labels, text in rows]
    assert listed == [(metric.name, metric.kind.value, metric.labels, metric.text) for metric in METRICS]
