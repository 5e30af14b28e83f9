"""What is to go to the batcher in one turn of the event loop, all at once.

    many callers, one turn ─→ put, put, put ─→ flush: one submission, one lock, one waking of a device's thread
    one caller             ─→ put, at once

A device that is free takes what it finds: submitted one by one, the first would go alone, and its thread would contend
for the interpreter with the one that submits the others. Where turns have one, though, his waiting for the end of the
turn would be in vain. So the first of a turn goes at once if he was alone the last time.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from regard_server.to_all import to_all
from regard_server.waiting import Entry


class Sender(Protocol):
    """Who has entries to submit.

    Attributes:
        over: whether nobody wants them computed any more.
        entries: what is submitted, while it is not over.
    """

    over: bool
    entries: list[Entry]

    def submitted(self) -> None:
        """Take note that they wait for a device now."""

    def fail(self, error: BaseException) -> None:
        """Take note that they cannot."""


class Outbox:
    """Used from the event loop.

    Args:
        submit: the batcher's.
        loop: the event loop.
    """

    def __init__(self, submit: Callable[[Sequence[Entry]], None], loop: asyncio.AbstractEventLoop) -> None:
        self._send = submit
        self._loop = loop
        self._senders: list[Sender] = []
        self._come = 0  # in this turn
        self._alone = True  # whether one came in the last turn that anybody came in

    def put(self, sender: Sender) -> None:
        """Have entries submitted, when the event loop's other work of this turn is done at the latest."""
        self._come += 1
        if self._come == 1:
            self._loop.call_soon(self._flush)
            if self._alone:
                self._submit([sender])
                return
        self._senders.append(sender)

    def _flush(self) -> None:
        self._alone = self._come == 1
        self._come = 0
        senders, self._senders = [sender for sender in self._senders if not sender.over], []
        if senders:
            self._submit(senders)

    def _submit(self, senders: list[Sender]) -> None:
        entries = [entry for sender in senders for entry in sender.entries]
        try:
            self._send(entries)
        except Exception as error:  # noqa: BLE001 - told to who waits for the answers
            to_all(senders, partial(_fail, error))
            return
        for sender in senders:
            sender.submitted()


def _fail(error: Exception, sender: Sender) -> None:
    sender.fail(error)
