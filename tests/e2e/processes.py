"""The real Envoy with our configuration in front of real servers, on free ports of loopback."""

import contextlib
import json
import os
import socket
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import yaml
from process import BIN, PATIENCE_S, Process

TOP = Path(__file__).resolve().parents[2]
ENVOY = TOP / "deploy" / "envoy"


class Worker(Process):
    """A server on a port of its own."""

    def __init__(self, port, *options):
        self.port = port
        address = ("--address", f"127.0.0.1:{port}", "--metrics-address", "127.0.0.1:0")
        # The engine that needs no measuring and writes no profile.
        plain = ("--engine", "eager", "--dtype", "float32", "--threads", "1")
        leaving = ("--drain-delay-s", "3")
        command = [BIN / "regard", "serve", "--models", "resnet_tiny", *address, *plain, *leaving, *options]
        super().__init__(command)

    def ready(self):
        self.until("try:")
        return self


class Envoy(Process):
    """Our Envoy in front of workers on these ports of loopback."""

    def __init__(self, folder, ports, **environment):
        self.grpc_port, self.http_port, self.observe_port, self.admin_port = free_ports(4)
        settings = settled(self, ports)
        config = folder / "envoy.yaml"
        config.write_text(yaml.safe_dump(settings, sort_keys=False))
        self._script = ENVOY / "envoy.sh"
        self._environment = {
            "CONFIG": str(config),
            "SETTLED": str(folder / "settled.yaml"),
            "ADMIN_PORT": str(self.admin_port),
            "OBSERVE_PORT": str(self.observe_port),
            "DRAIN_S": "1",
            **environment,
        }
        super().__init__([self._script, "serve", "--concurrency", "2"], **self._environment)

    @property
    def target(self):
        return f"127.0.0.1:{self.grpc_port}"

    def ready(self, workers):
        """Wait until so many workers are healthy, by its own log."""
        self.until('"add_healthy_event"', workers)
        return self

    def is_ready(self):
        """Ask as the container's health check does."""
        done = subprocess.run(
            [self._script, "ready"],
            env={**os.environ, **self._environment},
            check=False,
            capture_output=True,
            timeout=PATIENCE_S,
        )
        return done.returncode == 0

    def http(self, path, body=None, *, port=None, method=None, **headers):
        """Ask the second listener; return (status, headers, body)."""
        data = json.dumps(body).encode() if isinstance(body, dict | list) else body
        given = {"Content-Type": "application/json"} if data is not None else {}
        request = urllib.request.Request(
            f"http://127.0.0.1:{port or self.http_port}{path}",
            data,
            {**given, **{name.replace("_", "-"): value for name, value in headers.items()}},
            method=method,
        )
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
                return answer.status, answer.headers, answer.read()
        except urllib.error.HTTPError as answer:
            with answer:
                return answer.code, answer.headers, answer.read()


def settled(envoy, ports):
    """Return our configuration for these ports of loopback; nothing but addresses and paths is changed."""
    text = (ENVOY / "envoy.yaml").read_text().replace("/etc/envoy/", f"{ENVOY}/")
    settings = yaml.safe_load(text)
    own = {50051: envoy.grpc_port, 8080: envoy.http_port, 9902: envoy.observe_port, 9901: envoy.admin_port}
    clusters = {cluster["name"]: cluster for cluster in settings["static_resources"]["clusters"]}
    (endpoint,) = clusters["admin"]["load_assignment"]["endpoints"][0]["lb_endpoints"]
    sites = [listener["address"] for listener in settings["static_resources"]["listeners"]]
    for address in [*sites, settings["admin"]["address"], endpoint["endpoint"]["address"]]:
        site = address["socket_address"]
        site["address"], site["port_value"] = "127.0.0.1", own[site["port_value"]]
    clusters["workers"]["load_assignment"]["endpoints"][0]["lb_endpoints"] = [
        {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}}
        for port in ports
    ]
    return settings


def free_ports(count):
    with contextlib.ExitStack() as cleanup:
        sockets = [cleanup.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
