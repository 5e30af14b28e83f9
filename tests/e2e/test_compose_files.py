"""What docker-compose.yml promises, read from it: pins, limits, times that fit each other, files that are there."""

import json
import re

import pytest
import yaml
from processes import ENVOY, TOP

from regard_server.settings import Settings

SERVICES = yaml.safe_load((TOP / "docker-compose.yml").read_text())["services"]
GRAFANA = TOP / "deploy" / "grafana"


def seconds(text):
    return float(re.fullmatch(r"(\d+)s", text)[1])


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_pinned_bounded_and_private(name):
    """A version, a restart policy, limits, a read-only file system, no privileges; ports on loopback alone."""
    service = SERVICES[name]
    assert re.search(r":[^:]+$", service["image"])
    assert not service["image"].endswith(":latest")
    assert service["restart"] == "unless-stopped"
    assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
    assert {"mem_limit", "pids_limit", "logging", "stop_grace_period"} <= service.keys()
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))


@pytest.mark.parametrize("name", SERVICES)
def test_what_is_mounted_is_there(name):
    """Docker would make folders of root's in place of missing files."""
    for volume in SERVICES[name].get("volumes", ()):
        source = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", volume).partition(":")[0]
        assert not source.startswith("./") or (TOP / source).exists(), source


def test_workers_can_be_many():
    """No port of the host, which only one could have, and no name of a container."""
    assert not {"ports", "container_name"} & SERVICES["worker"].keys()


def test_nobody_is_killed_while_it_drains():
    """Docker waits longer than a worker's delay and drain, and than Envoy's goodbye."""
    worker, script = SERVICES["worker"], (ENVOY / "envoy.sh").read_text()
    drain_s = float(worker["environment"]["REGARD_DRAIN_DELAY_S"]) + Settings().drain_timeout_s
    goodbye_s = sum(float(re.search(rf"{name}:-(\d+)", script)[1]) for name in ("DRAIN_S", "LAST_CALLS_S"))
    assert seconds(worker["stop_grace_period"]) > drain_s
    assert seconds(SERVICES["envoy"]["stop_grace_period"]) > goodbye_s


def test_envoy_has_patience_while_workers_start_anew():
    """`docker compose up --wait` gives up on a container that is ill, and a change of settings replaces all workers."""
    image = (TOP / "deploy" / "Dockerfile").read_text()
    check = SERVICES["envoy"]["healthcheck"]
    patience_s = seconds(check["interval"]) * check["retries"]
    assert patience_s >= float(re.search(r"--start-period=(\d+)s", image)[1])


def test_grafana_finds_its_dashboards_and_they_their_source():
    """The provisioned folder is the mounted one, and every panel asks the provisioned Prometheus."""
    (provider,) = yaml.safe_load((GRAFANA / "provisioning/dashboards/regard.yml").read_text())["providers"]
    (source,) = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text())[
        "datasources"
    ]
    assert f"./deploy/grafana/dashboards:{provider['options']['path']}:ro" in SERVICES["grafana"]["volumes"]
    assert (source["type"], source["url"]) == ("prometheus", "http://prometheus:9090")
    dashboards = sorted((GRAFANA / "dashboards").glob("*.json"))
    assert dashboards
    for path in dashboards:
        for panel in json.loads(path.read_text())["panels"]:
            uid = panel.get("datasource", {}).get("uid", source["uid"])
            assert uid in {source["uid"], "${datasource}"}, (path.name, panel["title"])
