"""A real server under real load, and a real browser before it; for the tests and for the screenshot."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import which
from typing import Self

from playwright.sync_api import Browser, Page, sync_playwright

from regard_client import Client, RegardError
from regard_models.samples import sample_photographs

MODELS = ("mhsa_mini", "resnet_mini", "ea_mini", "sk_mini")
CHROMIUM = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
PATIENCE_S = 30


@dataclass(frozen=True)
class Stage:
    """A server in a process of its own: where gRPC is, where the page is."""

    target: str
    page: str


@contextmanager
def server(*options: str) -> Iterator[Stage]:
    """Run `regard serve` on free ports, with models that look in different ways."""
    command = [str(Path(sys.executable).with_name("regard")), "serve", "--models", ",".join(MODELS)]
    command += ["--address", "127.0.0.1:0", "--metrics-address", "127.0.0.1:0", "--log-level", "warning"]
    command += ["--engine", "folded", "--dtype", "float32", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        said: dict[str, str] = {}
        try:
            for line in process.stdout or ():
                said[line.split()[0]] = line.split()[-1]
                if line.startswith("page:"):
                    break
            yield Stage(said["regard"], said["page:"])
        finally:
            process.terminate()
            process.communicate()


class Load:
    """Callers in closed loops, until they are told to stop."""

    def __init__(self, target: str, models: Sequence[str], callers: int) -> None:
        self._client = Client(target, timeout_s=10)
        self._photographs = [path.read_bytes() for path in sample_photographs()]
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._call, args=(number, models[number % len(models)]))
            for number in range(callers)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._client.close()

    def stop(self) -> None:
        """Let the calls in flight end."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def spoil(self) -> None:
        """Send one image that is none."""
        try:
            self._client.extract(b"no picture")
        except RegardError:
            return
        raise AssertionError("no picture was taken for one")

    def _call(self, number: int, model: str) -> None:
        while not self._stopping.wait(0.02 + 0.01 * (number % 3)):
            self._client.extract(self._photographs[number % len(self._photographs)], model=model)
            number += 1


@contextmanager
def browser() -> Iterator[Browser]:
    """Start Chromium without a window."""
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=which("chromium"), args=CHROMIUM)
        yield found
        found.close()


def until(page: Page, condition: str, argument: object = None) -> None:
    """Wait until an expression holds; Playwright's own way of waiting needs what the page's policy forbids, eval."""
    give_up = time.monotonic() + PATIENCE_S
    while not page.evaluate(condition, argument):
        assert time.monotonic() < give_up, f"waited in vain for {condition} {argument}"
        page.wait_for_timeout(50)


def until_answer(page: Page, start: str) -> None:
    """Wait until the form says something that begins so."""
    until(page, "(start) => document.querySelector('#answer').textContent.startsWith(start)", start)


def show_photograph(page: Page, photograph: Path, model: str = "mhsa_mini") -> None:
    """Choose a model and a photograph, and wait until it was looked at."""
    page.select_option("#model", model)
    page.set_input_files("#file", photograph)
    until_answer(page, f"{photograph.name}: nearest")
