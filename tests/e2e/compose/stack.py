"""The stack of docker-compose.yml in a Docker engine, to be driven and asked."""

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

TOP = Path(__file__).resolve().parents[3]
ENGINE = Path(__file__).with_name("engine.sh")
ENGINE_TIMEOUT_S = 600
PROJECT = "regard-smoke"


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
        self.grpc_port, self.prometheus_port = free_ports(2)
        ports = {"GRPC_PORT": str(self.grpc_port), "PROMETHEUS_PORT": str(self.prometheus_port)}
        self._environment = {**os.environ, **engine, **ports}

    def compose(self, *arguments: str, timeout_s: float = 30) -> str:
        """Run `docker compose` and return its standard output."""
        plain = ("--ansi", "never", "--progress", "quiet")
        return self.docker("compose", "--project-name", PROJECT, *plain, *arguments, timeout_s=timeout_s)

    def docker(self, *arguments: str, timeout_s: float = 30) -> str:
        """Run `docker` and return its standard output; what it has to say otherwise goes to the terminal."""
        command = ["docker", *arguments]
        done = subprocess.run(
            command,
            cwd=TOP,
            env=self._environment,
            stdout=subprocess.PIPE,
            text=True,
            timeout=timeout_s,
            check=True,
        )
        return done.stdout.strip()

    def state(self, service: str) -> dict[str, Any]:
        """Return what `docker inspect` says about the state of a service's container."""
        container = self.compose("ps", "--all", "--quiet", service)
        state: dict[str, Any] = json.loads(self.docker("inspect", "--format", "{{json .State}}", container))
        return state


def free_ports(count: int) -> list[int]:
    with ExitStack() as cleanup:
        sockets = [cleanup.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
