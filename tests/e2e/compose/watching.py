"""What Prometheus and Grafana see of the stack."""

import json
import urllib.parse
import urllib.request
from typing import Any

from report import check, until
from stack import Stack

# A start on a busy machine, and several scrapes and looks at DNS, every 5 s each.
NOTICE_TIMEOUT_S = 180


def fetch(url: str) -> Any:
    """Return what a page of JSON says."""
    with urllib.request.urlopen(url, timeout=10) as response:
        return json.load(response)


def query(stack: Stack, expression: str) -> dict[str, float]:
    """Return an expression's values by the label `instance`; "" where a series has none."""
    arguments = urllib.parse.urlencode({"query": expression})
    series = fetch(stack.url("PROMETHEUS_PORT", f"/api/v1/query?{arguments}"))["data"]["result"]
    return {each["metric"].get("instance", ""): float(each["value"][1]) for each in series}


def value(stack: Stack, expression: str) -> float:
    """Return the value of an expression of one series; 0 where there is none."""
    return sum(query(stack, expression).values())


def expect_workers(stack: Stack, count: int) -> None:
    """Wait until Prometheus scrapes so many workers and no others, and Envoy has as many that are healthy."""
    until(
        f"Prometheus sees {count} workers, and nothing of others",
        lambda: (value(stack, 'count(up{job="regard"})'), value(stack, "sum(regard_ready)")),
        (count, count),
        NOTICE_TIMEOUT_S,
    )
    until(
        f"Envoy says that {count} are healthy",
        lambda: value(stack, 'envoy_cluster_membership_healthy{envoy_cluster_name="workers"}'),
        count,
        NOTICE_TIMEOUT_S,
    )


def check_watchers(stack: Stack) -> None:
    """Check that everything is scraped, that the rules are read, and that Grafana has what it needs."""
    jobs = ("regard", "envoy", "prometheus")
    until(
        f"Prometheus scrapes {', '.join(jobs)}",
        lambda: [value(stack, f'sum(up{{job="{job}"}})') for job in jobs],
        [1, 1, 1],
        NOTICE_TIMEOUT_S,
    )
    compiled = stack.environment.get("REGARD_COMPILED", "true")
    until(
        f"the worker says that its Python is {'machine code' if compiled == 'true' else 'not compiled'}",
        lambda: value(stack, f'sum(regard_build_info{{compiled="{compiled}",frontend="direct"}})'),
        1,
        NOTICE_TIMEOUT_S,
    )
    groups = fetch(stack.url("PROMETHEUS_PORT", "/api/v1/rules"))["data"]["groups"]
    wrong = [rule["name"] for group in groups for rule in group["rules"] if rule["health"] == "err"]
    check(f"it has read {len(groups)} groups of rules, and none fails", not wrong, wrong)
    health = fetch(stack.url("GRAFANA_PORT", "/api/health"))
    check(f"Grafana is well, version {health['version']}", health["database"] == "ok", health)
    (grafana,) = stack.containers("grafana")
    found = stack.docker(
        "exec", grafana, "find", "/etc/grafana/provisioning", "/etc/grafana/dashboards", "-type", "f"
    )
    files = [line.rpartition("/")[2] for line in found.splitlines()]
    kinds = {name.rpartition(".")[2] for name in files}
    check(f"it can read {len(files)} provisioned files", {"yml", "json"} <= kinds, files)
