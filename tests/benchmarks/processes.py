"""Servers in processes of their own: started, waited for, looked at, and stopped by their own ids."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

REGARD = str(Path(sys.executable).with_name("regard"))
READY = "regard is ready on "
MIB = 1 << 20
_START_S = 120
_STOP_S = 60


@dataclass(frozen=True)
class Running:
    """A server that is ready, with whatever processes it has started.

    Attributes:
        target: its address.
        process: the one that was started here.
        ready_s: how long that took.
    """

    target: str
    process: psutil.Process
    ready_s: float

    def family(self) -> list[psutil.Process]:
        return [self.process, *self.process.children(recursive=True)]

    def cpu_s(self) -> float:
        """Return the processor seconds that it and its children have taken so far."""
        total = 0.0
        for each in self.family():
            with suppress(psutil.NoSuchProcess):
                times = each.cpu_times()
                total += times.user + times.system
        return total

    def rss_mib(self) -> float:
        """Return the resident memory; pages that its processes share count for each."""
        total = 0
        for each in self.family():
            with suppress(psutil.NoSuchProcess):
                total += each.memory_info().rss
        return total / MIB


@contextmanager
def running(
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    target: str = "",
    answers: Callable[[], bool] | None = None,
    log: Path = Path(os.devnull),
) -> Iterator[Running]:
    """Start a server and stop it at the end.

    Args:
        command: how.
        environment: variables besides those of this process.
        target: its address; empty if the line that says it is ready tells.
        answers: asks whether it is ready; None if it says so itself.
        log: where its standard error goes.

    Raises:
        RuntimeError: it ended, or is not ready after two minutes.
    """
    began = time.perf_counter()
    with (
        log.open("w") as errors,
        subprocess.Popen(
            command,
            stdout=errors if answers else subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        ) as process,
    ):
        try:
            if answers:
                _wait_until(answers, process)
            else:
                target = _read_target(process)
            yield Running(target, psutil.Process(process.pid), time.perf_counter() - began)
        finally:
            _stop(process)


def regard(models: str, *options: str, wait_policy: str = "PASSIVE") -> AbstractContextManager[Running]:
    """Serve models by `regard serve` with its defaults, on a free port of loopback.

    Args:
        models: as its option takes them.
        options: others.
        wait_policy: OpenMP's; the server's own choice unless another is given.
    """
    quiet = ("--address", "127.0.0.1:0", "--metrics-address", "", "--log-level", "warning")
    command = [REGARD, "serve", *quiet, "--models", models, *options]
    return running(command, environment={"OMP_WAIT_POLICY": wait_policy})


def _wait_until(answers: Callable[[], bool], process: subprocess.Popen) -> None:
    give_up = time.perf_counter() + _START_S
    while not answers():
        if process.poll() is not None or time.perf_counter() > give_up:
            raise RuntimeError(f"it did not start: {' '.join(process.args)}")


def _read_target(process: subprocess.Popen) -> str:
    for line in process.stdout:
        if line.startswith(READY):
            # Whatever else it says goes nowhere: a pipe that nobody reads would hold it up.
            threading.Thread(target=process.stdout.read, daemon=True).start()
            return line.removeprefix(READY).strip()
    raise RuntimeError(f"it did not start: {' '.join(process.args)}")


def _stop(process: subprocess.Popen) -> None:
    family = []
    with suppress(psutil.NoSuchProcess):
        family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
    for each in family:
        with suppress(psutil.NoSuchProcess):
            each.kill()
