"""What the dashboards and the rules ask, asked of a Prometheus that has watched real servers under load."""

import json
import math
import re
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from regard_server.metrics import OUTCOMES

# The first test waits for the servers, Prometheus and a good deal of load.
pytestmark = pytest.mark.timeout(300)

TOP = Path(__file__).parents[3]
# What only a GPU tells. Here the names are known to Prometheus, and there are no samples.
NEED_A_GPU = {"GPU utilisation", "GPU memory"}
NO_SAMPLES = {
    "regard_device_memory_bytes",
    "regard_device_memory_used_bytes",
    "regard_device_utilization_ratio",
}
# Shares of something that may be smaller than the part.
ABOVE_ONE = {"Share of the even load", "Variety"}
VARIABLES = {"$job": "regard", "$model": ".*", "$instance": ".*", "$__rate_interval": "20s"}


def queries():
    """Every panel's every query, as (dashboard, panel, expression, legend, unit)."""
    for path in sorted((TOP / "deploy/grafana/dashboards").glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel.get("targets", ()):
                unit = panel.get("fieldConfig", {}).get("defaults", {}).get("unit")
                name = f"{path.stem}: {panel['title']}, {target['refId']}"
                yield pytest.param(panel, target, unit, id=name)


def filled_in(expr):
    """Return an expression as Grafana sends it."""
    for name, value in VARIABLES.items():
        expr = expr.replace(name, value)
    assert "$" not in expr
    return expr


@pytest.mark.parametrize(("panel", "target", "unit"), list(queries()))
def test_every_panel_has_data(watched, panel, target, unit):
    """Each query gives lines that its legend tells apart, of numbers that its unit can be of."""
    expr = filled_in(target["expr"])
    found = watched.prometheus.query(expr, watched.loaded_at)
    if panel["title"] in NEED_A_GPU:
        assert found == []
        names = set(re.findall(r"regard_device\w+", expr))
        assert names
        assert all(f"# TYPE {name} gauge" in watched.replicas[0].scrape() for name in names)
        return
    assert found, expr
    wanted = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
    for labels, value in found:
        assert wanted <= set(labels), (expr, labels)
        assert math.isfinite(value), (expr, labels, value)
        assert value >= 0, (expr, labels, value)
        if unit == "percentunit" and panel["title"] not in ABOVE_ONE:
            assert value <= 1 + 1e-9, (expr, labels, value)
    if panel["type"] == "table":
        columns = panel["transformations"][0]["options"]["indexByName"]
        assert all(set(columns) == set(labels) for labels, _ in found)
    else:
        lines = [tuple(labels[name] for name in sorted(wanted)) for labels, _ in found]
        assert len(set(lines)) == len(lines), (expr, found)
    for label, several in (("instance", 2), ("model", 2), ("method", 4)):
        if label in wanted:
            assert len({labels[label] for labels, _ in found}) == several, (expr, found)


def test_panels_draw_lines_and_not_points(watched):
    """Over a range, too, each query gives a value for more than one moment."""
    for each in queries():
        panel, target, _ = each.values
        if panel["type"] == "table" or panel["title"] in NEED_A_GPU:
            continue
        drawn = watched.prometheus.get(
            "query_range",
            query=filled_in(target["expr"]),
            start=watched.loaded_at - 3,
            end=watched.loaded_at,
            step=1,
        )
        assert all(len(line["values"]) > 1 for line in drawn["result"]), target["expr"]


def documented():
    """The queries of the table of metrics, by metric."""
    rows = (TOP / "deploy/METRICS.md").read_text().splitlines()
    return [
        pytest.param(line.split("`")[1], line.split("`")[-2], id=line.split("`")[1])
        for line in rows
        if line.startswith("| `")
    ]


@pytest.mark.parametrize(("metric", "expr"), documented())
def test_every_documented_query_has_an_answer(watched, metric, expr):
    """What the table of metrics tells operators to ask about a metric asks about it, and is answered."""
    found = watched.prometheus.query(expr, watched.loaded_at)
    assert metric in expr
    if metric in NO_SAMPLES:
        assert found == []
    else:
        assert found
        assert all(math.isfinite(value) and value >= 0 for _, value in found), found


def test_every_variable_has_values(watched):
    """What viewers choose from is there."""
    for path in sorted((TOP / "deploy/grafana/dashboards").glob("*.json")):
        for variable in json.loads(path.read_text())["templating"]["list"]:
            if variable["type"] == "query":
                selector, label = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]).groups()
                found = watched.prometheus.query(filled_in(selector), watched.loaded_at)
                assert {labels[label] for labels, _ in found}, variable


def rules(watched, kind):
    groups = watched.prometheus.get("rules")["groups"]
    return [rule for group in groups for rule in group["rules"] if rule["type"] == kind]


def test_every_recording_rule_records(watched):
    """Each is evaluated without an error and gives a finite number."""
    recorded = rules(watched, "recording")
    assert len(recorded) == 15
    for rule in recorded:
        assert (rule["health"], rule.get("lastError", "")) == ("ok", "")
        found = watched.prometheus.query(rule["name"], watched.loaded_at)
        assert found, rule["name"]
        assert all(math.isfinite(value) for _, value in found), (rule["name"], found)
        levels = set(rule["name"].partition(":")[0].split("_"))
        assert all(set(labels) - {"__name__"} == levels for labels, _ in found), (rule["name"], found)


def test_every_alert_has_something_to_look_at(watched):
    """Each is evaluated, and with its comparisons as numbers instead of filters it says 0 or 1 of something."""
    alerts = rules(watched, "alerting")
    assert len(alerts) == 18
    for rule in alerts:
        assert (rule["health"], rule.get("lastError", "")) == ("ok", "")
        expr = re.sub(r"(?<![=!<>])(==|!=|>=|<=|>|<)(?![=~])", r"\1 bool", without_matchers(rule["query"]))
        found = watched.prometheus.query(with_matchers(expr, rule["query"]), watched.loaded_at)
        if rule["name"] == "RegardAbsent":
            assert found == []
            assert len(watched.prometheus.query('up{job="regard"}', watched.loaded_at)) == 2
        elif rule["name"] == "RegardDeviceMemory":
            assert found == []
        else:
            assert found, expr
            assert {value for _, value in found} <= {0.0, 1.0}, (expr, found)
            assert all(labels for labels, _ in found)


def without_matchers(expr):
    """Return an expression with its label matchers out of the way."""
    return re.sub(r"{[^}]*}", "{}", expr)


def with_matchers(expr, original):
    """Put them back."""
    matchers = iter(re.findall(r"{[^}]*}", original))
    return re.sub(r"{}", lambda _: next(matchers), expr)


def test_the_alerts_saw_what_was_wrong(watched):
    """Callers sent what gives NaN and more than there is room for: the alerts of both are on their way."""
    alerts = {
        each["labels"]["alertname"]: each["state"] for each in watched.prometheus.get("alerts")["alerts"]
    }
    assert alerts["RegardNotFinite"] == "firing"
    assert alerts["RegardOverloaded"] == "pending"
    quiet = {
        "RegardNoneReady",
        "RegardNotReady",
        "RegardReplicaDown",
        "RegardAbsent",
        "RegardFingerprintsDiffer",
    }
    assert not quiet & set(alerts)


def test_replicas_add_up_to_what_callers_counted(watched, until):
    """The sum over both servers is every image that was answered, whoever asked, and every kind of end was seen."""
    answered = sum((each.answered for each in watched.callers), Counter())
    for model in ("resnet_tiny", "ea_mini"):
        series = f'regard_items_total{{model="{model}",outcome="ok"}}'
        told = sum(each.read(series) for each in watched.replicas)
        until(lambda series=series, told=told: watched.prometheus.value(f"sum({series})") == told, series)
        # Those who left may have been answered nonetheless, all images of a call or none.
        unheard = told - answered[model, "features"]
        assert unheard in range(0, answered[model, "left"] + 1, watched.callers[0].CALL)
        failed = f'sum(regard_items_total{{model="{model}",outcome=~"invalid|failed"}})'
        assert watched.prometheus.value(failed) == answered[model, "error"]
    refused = watched.prometheus.value(
        'sum(regard_requests_total{code="RESOURCE_EXHAUSTED",method="Extract"})'
    )
    # Those who left did not hear of it, and the library tries again by itself.
    assert refused >= answered["RESOURCE_EXHAUSTED"] > 0
    seen = watched.prometheus.query("sum by (outcome) (regard_items_total) > 0")
    assert {labels["outcome"] for labels, _ in seen} >= set(OUTCOMES) - {"late"}


def test_no_scrape_failed_under_load(watched):
    """Overloaded servers are the ones that must be seen."""
    assert watched.prometheus.value("min(min_over_time(up[1m]))", watched.loaded_at) == 1


def test_scrapes_are_what_promtool_likes(watched, promtool):
    """The text of a loaded server passes its linter without a remark."""
    linted = subprocess.run(
        [promtool, "check", "metrics"],
        input=watched.replicas[0].scrape(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (linted.returncode, linted.stdout, linted.stderr) == (0, "", "")


def test_a_restart_shows_and_costs_no_history(watched, until):
    """A replica that begins again at 0 makes no rate negative or huge, and finds its reference where it left it."""
    prometheus, replica = watched.prometheus, watched.replicas[1]
    instance = f'instance="{replica.metrics}"'
    before = prometheus.value(f'sum(regard_items_total{{{instance},outcome="ok"}})')
    replica.stop()
    again = type(replica)(watched.folder, address=replica.address, metrics=replica.metrics).ready()
    watched.replicas[1] = again
    until(
        lambda: prometheus.query(f"changes(process_start_time_seconds{{{instance}}}[5m]) == 1"), "the restart"
    )
    until(
        lambda: prometheus.query(f'sum(regard_items_total{{{instance},outcome="ok"}}) == 0'),
        "the new counter",
    )
    grown = prometheus.value(f'sum(increase(regard_items_total{{{instance},outcome="ok"}}[5m]))')
    assert 0 <= grown <= before * 1.5
    reference = f"count(regard_embedding_reference_similarity{{{instance}}}) == 2"
    until(lambda: prometheus.query(reference), reference)
