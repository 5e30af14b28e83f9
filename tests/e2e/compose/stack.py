"""The stack of docker-compose.yml in a Docker engine, to be driven and asked."""

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

TOP = Path(__file__).resolve().parents[3]
ENGINE = Path(__file__).with_name("engine.sh")
ENGINE_TIMEOUT_S = 600
UP_TIMEOUT_S = 240
PROJECT = "regard-e2e"
PORTS = ("GRPC_PORT", "HTTP_PORT", "PROMETHEUS_PORT", "GRAFANA_PORT")


@contextmanager
def docker_engine(folder: str | None) -> Iterator[dict[str, str]]:
    """Start an engine where none answers, and end it again; yield the variables that lead `docker` to it."""
    where = [folder] if folder else []
    started = subprocess.run(
        [ENGINE, "start", *where], stdout=subprocess.PIPE, text=True, timeout=ENGINE_TIMEOUT_S, check=True
    )
    try:
        yield dict(line.split("=", 1) for line in started.stdout.splitlines())
    finally:
        subprocess.run([ENGINE, "stop", *where], timeout=ENGINE_TIMEOUT_S, check=True)


class Stack:
    """The project of docker-compose.yml, on free ports of this host.

    Args:
        engine: the variables that lead `docker` to the engine.
    """

    def __init__(self, engine: dict[str, str]) -> None:
        self._ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
        ports = {name: str(port) for name, port in self._ports.items()}
        self.environment = {**os.environ, "REGARD_TAG": "e2e", **engine, **ports}
        self.files = ["docker-compose.yml"]

    @property
    def target(self) -> str:
        """Where callers find gRPC."""
        return f"localhost:{self._ports['GRPC_PORT']}"

    def url(self, port: str, path: str, scheme: str = "http") -> str:
        """Return the address of a page behind one of `PORTS`."""
        return f"{scheme}://localhost:{self._ports[port]}{path}"

    def compose(self, *arguments: str, timeout_s: float = 30) -> str:
        """Run `docker compose` and return its standard output."""
        plain = ("--ansi", "never", "--progress", "quiet")
        files = [part for file in self.files for part in ("--file", file)]
        return self.docker(
            "compose", "--project-name", PROJECT, *files, *plain, *arguments, timeout_s=timeout_s
        )

    def scale(self, workers: int) -> None:
        """Have so many workers, and return when all of them are healthy."""
        change = ("--no-recreate", "--detach", "--wait", "--scale", f"worker={workers}")
        self.compose("up", *change, timeout_s=UP_TIMEOUT_S)

    def containers(self, service: str) -> list[str]:
        """Return the running containers of a service."""
        return self.compose("ps", "--quiet", service).split()

    def inspect(self, container: str, part: str) -> Any:
        """Return a part of what `docker inspect` says."""
        return json.loads(self.docker("inspect", "--format", f"{{{{json .{part}}}}}", container))

    def seconds_to_ready(self, container: str) -> float:
        """Return how long after its start a worker said that it is ready."""
        started = datetime.fromisoformat(self.inspect(container, "State.StartedAt"))
        log = self.docker("logs", "--timestamps", "--since", started.isoformat(), container)
        (line,) = (line for line in log.splitlines() if "regard is ready" in line)
        return (datetime.fromisoformat(line.split()[0]) - started).total_seconds()

    def docker(self, *arguments: str, timeout_s: float = 30) -> str:
        """Run `docker` and return its standard output; what it has to say otherwise goes to the terminal."""
        command = ["docker", *arguments]
        done = subprocess.run(
            command,
            cwd=TOP,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=None if arguments[0] != "logs" else subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
            check=True,
        )
        return done.stdout.strip()


def free_ports(count: int) -> list[int]:
    with ExitStack() as cleanup:
        sockets = [cleanup.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
