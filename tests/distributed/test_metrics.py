"""The metrics of replicas as Ray hands them to Prometheus, and the Grafana dashboard that shows them."""

from __future__ import annotations

import json
import re
import time
import urllib.request

import pytest

from harness.cluster.metrics import TAGS
from harness.results.schema import UnitStatistics
from tests.conftest import REPO

DASHBOARD = json.loads((REPO / "clusters" / "grafana_dashboard.json").read_text(encoding="utf-8"))
UNITS = [UnitStatistics(8, 2, 6, 90, 40, 0.7, 0.5), UnitStatistics(8, 0, 8, 110, 60, 3.0, 2.0)]
# What a panel of Grafana 11 is made of here, and the functions of PromQL that its queries may use.
PANEL = {"id", "type", "title", "description", "datasource", "gridPos", "fieldConfig", "targets"}
TARGET = {"datasource", "expr", "legendFormat", "refId"}
FUNCTIONS = {"sum", "by", "rate", "increase", "count", "histogram_quantile"}


@pytest.fixture(scope="module")
def exported(shared_ray) -> dict[str, list[tuple[dict[str, str], float]]]:
    """Name to (labels, value) of what Prometheus would read from this node."""
    import ray

    class Counting:
        def work(self) -> None:
            from harness.cluster.metrics import ReplicaMetrics

            self.metrics = ReplicaMetrics("models/small", "replica 0 of models/small")
            for unit in UNITS:
                self.metrics.count(unit)

    actor = ray.remote(num_cpus=0)(Counting).remote()
    ray.get(actor.work.remote())
    node = next(n for n in ray.nodes() if n["Alive"])
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    deadline = time.monotonic() + 60
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    while len(found) < 7 and time.monotonic() < deadline:
        time.sleep(0.5)
        with urllib.request.urlopen(url, timeout=10) as answer:
            text = answer.read().decode()
        for name, labels, value in re.findall(r"^(ray_harness_\w+)\{(.*)\} (\S+)$", text, flags=re.MULTILINE):
            tags = dict(re.findall(r'(\w+)="([^"]*)"', labels))
            if tags.get("replica") == "replica 0 of models/small":
                found.setdefault(name, []).append((tags, float(value)))
    ray.kill(actor)
    return found


def test_counters_are_exported_with_model_and_replica(exported):
    totals = {name: rows[0][1] for name, rows in exported.items() if name.endswith("_total")}
    assert totals == {
        "ray_harness_prompts_total": 14,
        "ray_harness_unique_tokens_total": 100,
        "ray_harness_units_total": 2,
        "ray_harness_failures_total": 2,
    }
    assert all(tags["model"] == "models/small" for rows in exported.values() for tags, _ in rows)
    assert exported["ray_harness_unit_seconds_count"][0][1] == 2


def queries() -> list[str]:
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


def names_in(query: str) -> set[str]:
    return set(re.findall(r"\b[a-z_]{2,}\b", re.sub(r"\{.*?\}|\[.*?\]|by \(.*?\)", "", query))) - FUNCTIONS


def test_each_panel_asks_for_metrics_that_a_replica_exports(exported):
    assert len(queries()) >= 8
    assert [query for query in queries() if not names_in(query) or names_in(query) - exported.keys()] == []


def test_each_panel_groups_by_labels_that_the_metrics_have(exported):
    labels = set().union(*(tags for rows in exported.values() for tags, _ in rows))
    assert set(TAGS) <= labels
    used = {name for query in queries() for group in re.findall(r"by \((.*?)\)", query) for name in group.split(", ")}
    used |= {name for query in queries() for name in re.findall(r"\{(\w+)=~", query)}
    assert used == {"model", "replica", "le"}
    assert used <= labels


def dashboard_problems(dashboard, exported_names) -> list[str]:
    """Keys that Grafana would drop, and names that Prometheus would not know."""
    found = []
    for panel in dashboard["panels"]:
        found += sorted(panel.keys() ^ PANEL)
        for target in panel.get("targets", []):
            found += sorted(target.keys() ^ TARGET)
            found += sorted(names_in(target.get("expr", "")) - exported_names)
    return found


@pytest.mark.parametrize("place", range(len(DASHBOARD["panels"])))
def test_a_misspelt_key_or_metric_of_a_panel_is_noticed(exported, place):
    assert dashboard_problems(DASHBOARD, exported.keys()) == []
    for key in PANEL:
        broken = json.loads(json.dumps(DASHBOARD))
        panel = broken["panels"][place]
        panel[key + key[-1]] = panel.pop(key)
        assert dashboard_problems(broken, exported.keys())
    for name in names_in(DASHBOARD["panels"][place]["targets"][0]["expr"]):
        broken = json.loads(json.dumps(DASHBOARD).replace(name, name + name[-1]))
        assert dashboard_problems(broken, exported.keys())


def test_panels_do_not_cover_each_other():
    places = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in DASHBOARD["panels"]]
    assert len(set(places)) == len(places)
    assert len({p["id"] for p in DASHBOARD["panels"]}) == len(places)
    assert all(p["gridPos"]["x"] + p["gridPos"]["w"] <= 24 for p in DASHBOARD["panels"])
