"""The name of the request that is being served, for logs and answers."""

import contextvars
import random
import re
from collections.abc import Callable, Iterable

METADATA_KEY = "x-request-id"
# Printable and short: it goes into logs.
_ACCEPTED = re.compile(r"[\x21-\x7e]{1,128}")

_current: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="")


def current_request_id() -> str:
    """Return the id of the call that this task belongs to; empty outside of one."""
    return _current.get()


def begin_request(metadata: Iterable[tuple[str, str | bytes]], own: str = "") -> str:
    """Name the call that begins in this task: as its caller does in `x-request-id` or in the message, or anew."""
    name = name_of(metadata, own)
    _current.set(name)
    return name


def under(name: str, do: Callable[[], object]) -> None:
    """Do something in a request's name, and what comes after not."""
    before = _current.set(name)
    try:
        do()
    finally:
        _current.reset(before)


def name_of(metadata: Iterable[tuple[str, str | bytes]], own: str = "") -> str:
    """Return the name of a call; see `begin_request`."""
    sent: str | bytes = own
    for key, value in metadata:
        if key == METADATA_KEY:
            sent = value
            break
    accepted = isinstance(sent, str) and _ACCEPTED.fullmatch(sent)
    # Unique is enough, nobody has to be kept from guessing it: no system call for every request.
    return str(sent) if accepted else f"{random.getrandbits(128):032x}"
