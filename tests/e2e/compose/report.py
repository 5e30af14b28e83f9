"""What the run says on the terminal: steps with their time, what is seen, and what had to hold."""

# ruff: noqa: T201 - it reports on the terminal

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def step(what: str) -> Iterator[None]:
    """Name a step, and say how long it took."""
    print(f"==> {what}", flush=True)
    began = time.monotonic()
    yield
    see(f"{time.monotonic() - began:.1f} s")


def see(what: str) -> None:
    """Say something that was seen."""
    print(f"    {what}", flush=True)


def check(claim: str, holds: bool, saw: object) -> None:  # noqa: FBT001 - reads as a sentence
    """End the run unless a claim holds; say it if it does."""
    if not holds:
        raise SystemExit(f"not so: {claim}; saw {saw}")
    see(claim)


def until(claim: str, look: Callable[[], object], wanted: object, timeout_s: float) -> None:
    """Look again and again until the wanted thing is seen; end the run if it is not within the time."""
    began = time.monotonic()
    while (saw := look()) != wanted:
        if time.monotonic() - began > timeout_s:
            raise SystemExit(f"not so within {timeout_s:g} s: {claim}; saw {saw}, expected {wanted}")
        time.sleep(0.5)  # there is nothing to wait on
    see(f"{claim} ({time.monotonic() - began:.1f} s)")
