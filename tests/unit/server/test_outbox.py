"""Who goes to the batcher when, in one turn of the event loop or in several."""

import asyncio
import gc
import weakref

import pytest

from regard_server.errors import UnavailableError
from regard_server.outbox import Outbox
from regard_server.waiting import Entry


class Batcher:
    """A stand-in that notes what is submitted together."""

    def __init__(self):
        self.submitted = []
        self.error = None

    def submit(self, entries):
        if self.error:
            raise self.error
        self.submitted.append([entry.payload for entry in entries])


class Sender:
    def __init__(self, *payloads):
        self.entries = [Entry("key", payload, None, 60.0) for payload in payloads]
        self.over = False
        self.told = []

    def submitted(self):
        self.told.append("submitted")

    def fail(self, error):
        self.told.append(error)


@pytest.fixture
def batcher():
    return Batcher()


@pytest.fixture
async def outbox(batcher):
    return Outbox(batcher.submit, asyncio.get_running_loop())


async def turn():
    await asyncio.sleep(0)


async def test_one_caller_does_not_wait_for_the_end_of_a_turn(batcher, outbox):
    """Turn after turn he goes at once."""
    for number in range(3):
        sender = Sender(number)
        outbox.put(sender)
        assert batcher.submitted[-1] == [number]
        assert sender.told == ["submitted"]
        await turn()
    assert len(batcher.submitted) == 3


async def test_many_callers_of_a_turn_go_together(batcher, outbox):
    """Where there were several in the last turn, all of this one wait for its end; the entries keep their order."""
    for number in range(3):
        outbox.put(Sender(number))
    await turn()
    assert batcher.submitted == [[0], [1, 2]]
    outbox.put(Sender(3))
    outbox.put(Sender(4, 5))
    assert batcher.submitted == [[0], [1, 2]]
    await turn()
    assert batcher.submitted == [[0], [1, 2], [3, 4, 5]]


async def test_who_is_left_alone_goes_at_once_again(batcher, outbox):
    """One turn with a single caller is enough."""
    for _ in range(2):
        outbox.put(Sender("crowd"))
    await turn()
    outbox.put(Sender("waits"))
    await turn()
    outbox.put(Sender("goes"))
    assert batcher.submitted[-1] == ["goes"]


async def test_who_is_over_before_the_end_of_the_turn_is_not_submitted(batcher, outbox):
    """He may have left; nobody is to compute for him."""
    outbox.put(Sender("first"))
    over, other = Sender("over"), Sender("other")
    outbox.put(over)
    outbox.put(other)
    over.over = True
    await turn()
    assert batcher.submitted == [["first"], ["other"]]
    assert over.told == []


async def test_all_are_told_where_nothing_can_be_submitted(batcher, outbox):
    """A server that shuts down answers all who came in the turn."""
    batcher.error = UnavailableError("closed")
    senders = [Sender(number) for number in range(3)]
    for sender in senders:
        outbox.put(sender)
    await turn()
    assert [sender.told for sender in senders] == [[batcher.error]] * 3


async def test_what_was_raised_holds_nobody_once_all_are_told(batcher, outbox):
    """It is freed, and with it those whom it was told, before the cyclic garbage collector comes by."""
    batcher.error = UnavailableError("closed")
    sender = Sender("first")
    left = weakref.ref(sender)
    gc.disable()
    try:
        outbox.put(sender)
        sender.told.clear()
        del sender, batcher.error
        assert left() is None
    finally:
        gc.enable()
