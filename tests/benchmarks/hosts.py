"""The servers that are compared: how each is installed, started and asked.

A peer lives in a virtual environment of its own under the cache folder, with the versions that stand here. What the
work itself needs (torch, OpenVINO, the models) it borrows from the environment that this runs in, behind its own
packages, so that every server runs the very same build of it.
"""

import asyncio
import os
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import processes
from callers import WAYS
from cases import CASES
from processes import Running

from regard_server.frontend.polling import BY_ITSELF, VARIABLE

Mode = Literal["default", "same"]

SCRIPTS = Path(__file__).parent / "peers"
# The mode that regard chooses on this processor for trained weights; see the profile benchmark for its accuracy.
SAME = ("--engine", "openvino", "--dtype", "bfloat16")
_START_S = 120.0


@dataclass(frozen=True)
class Host:
    """A server.

    Attributes:
        about: what it is, for the table's reader.
        ways: how it is asked, see callers.py.
        packages: what its environment holds, with versions; none: the environment that this runs in.
        path: of its URL, where it has one.
        mode: "default": as its users would run the model, eagerly in float32 (regard: engine auto); "same": by
            the same class in the same arithmetic as regard.
    """

    name: str
    about: str
    ways: tuple[str, ...]
    packages: tuple[str, ...] = ()
    path: str = ""
    mode: Mode = "default"

    def in_mode(self, mode: Mode) -> "Host":
        return replace(self, mode=mode)

    @property
    def environment(self) -> Path:
        """The folder of its virtual environment."""
        cache = os.environ.get("XDG_CACHE_HOME")
        base = Path(cache) / "regard" if cache else Path(".cache")
        return base.resolve() / "peers" / self.name

    @property
    def python(self) -> str:
        return str(self.environment / "bin" / "python") if self.packages else sys.executable

    @property
    def is_installed(self) -> bool:
        return not self.packages or (self.environment / ".ready").is_file()

    def install(self, interpreter: str = sys.executable) -> None:
        """Make the virtual environment.

        Raises:
            CalledProcessError: a package cannot be installed.
        """
        if self.is_installed:
            return
        subprocess.run([interpreter, "-m", "venv", "--clear", str(self.environment)], check=True)
        pip = [self.python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        subprocess.run([*pip, *self.packages], check=True)
        find = [self.python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
        site = Path(subprocess.run(find, stdout=subprocess.PIPE, text=True, check=True).stdout.strip())
        ours = sysconfig.get_path("purelib")
        (site / "zz_borrowed.pth").write_text(f"import site; site.addsitedir({ours!r})\n")
        (self.environment / ".ready").touch()

    @contextmanager
    def start(self, case: str, model: Path) -> Iterator[Running]:
        """Serve a case's model; ready when it has answered once.

        Raises:
            RuntimeError: it is not installed, or does not start.
        """
        if not self.is_installed:
            raise RuntimeError(f"{self.name} is not installed; see peers.py --install")
        if self.name == "regard" and case != "null":
            options = SAME if self.mode == "same" else ()
            with processes.regard(f"model={model}", *options) as server:
                yield server
            return
        port = _free_port()
        environment = {
            "PEER_CASE": case,
            "PEER_MODEL": str(model),
            "PEER_MODE": self.mode,
            "PEER_PORT": str(port),
            "PATH": f"{Path(self.python).parent}:{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(filter(None, [str(SCRIPTS), os.environ.get("PYTHONPATH")])),
            "OMP_WAIT_POLICY": "PASSIVE",  # as regard has it: threads that spin would take the client's core
        }
        if self.name == "regard":
            environment[VARIABLE] = BY_ITSELF  # as `regard serve` has it
        target = f"127.0.0.1:{port}{self.path}"
        command = [self.python, str(SCRIPTS / f"serve_{self.name}.py")]

        def answers() -> bool:
            return asyncio.run(_answers(self.ways[0], target, case))

        log = self.environment.with_suffix(".log")
        log.parent.mkdir(parents=True, exist_ok=True)
        with processes.running(
            command, environment=environment, target=target, answers=answers, log=log
        ) as server:
            yield server


def in_turns(
    about: str,
    hosts: list[Host],
    rounds: int,
    measure: Callable[[Host], dict[tuple, dict]],
    failures: tuple[type[Exception], ...],
) -> dict[tuple, list[dict]]:
    """Measure every server in every round; return each round's figures by what `measure` names them.

    Whoever fails is left out from then on, and taken out of `hosts`; but regard's failure ends the run.
    """
    found: dict[tuple, list[dict]] = {}
    for number in range(1, rounds + 1):
        for host in list(hosts):
            print(f"{about}: {host.name}, round {number} of {rounds}", file=sys.stderr)
            try:
                figures = measure(host)
            except failures as error:
                if host.name == "regard":
                    raise
                print(f"{host.name} is left out: {error}", file=sys.stderr)
                hosts.remove(host)
                continue
            for key, each in figures.items():
                found.setdefault(key, []).append(each)
    return found


HOSTS = {
    host.name: host
    for host in (
        Host("regard", "this project", ("client", "stub")),
        Host("mosec", "HTTP, a front end in Rust", ("http",), ("mosec==0.9.8",), path="/inference"),
        Host("grpc_aio", "grpc.aio with an obvious batcher", ("grpc",)),
        Host("grpc_sync", "grpcio's threads, no batching", ("grpc",)),
        Host("triton", "PyTriton, Triton's front end", ("triton",), ("nvidia-pytriton==0.7.0",)),
        Host("litserve", "FastAPI", ("json",), ("litserve==0.2.19",), path="/predict"),
        Host("bentoml", "Starlette", ("json",), ("bentoml==1.4.38",), path="/embed"),
        Host("ray", "Ray Serve, its gRPC proxy", ("ray",), ("ray[serve]==2.60.0",)),
        Host(
            "torchserve",
            "HTTP, a front end in Java",
            ("http",),
            ("torchserve==0.12.0", "torch-model-archiver==0.12.0", "pyyaml==6.0.2", "setuptools==75.8.0"),
            path="/predictions/peer",
        ),
    )
}


async def _answers(way: str, target: str, case: str) -> bool:
    try:
        async with asyncio.timeout(_START_S), WAYS[way](target, CASES[case].image()) as call:
            await call(_START_S)
    except Exception:  # noqa: BLE001 - whatever it is, it is not ready yet; a server that never is ends the wait
        time.sleep(0.2)  # noqa: ASYNC251 - nothing else runs in this loop
        return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
