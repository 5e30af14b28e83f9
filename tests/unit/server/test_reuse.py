"""One forward for identical pictures."""

import asyncio

import numpy as np
import pytest

from regard_server.reuse import Reuse, content_key

OUTPUTS = {"embedding": np.arange(4, dtype=np.float32)}  # 16 bytes


class Computation:
    """A forward that waits for the test's permission, and counts."""

    def __init__(self, outcome=OUTPUTS):
        self.outcome = outcome
        self.count = 0
        self.started = asyncio.Event()
        self.permit = asyncio.Event()

    async def __call__(self):
        self.count += 1
        self.started.set()
        await self.permit.wait()
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


async def test_those_in_flight_share_one_forward():
    """While a picture is computed, its likes wait for the same answer."""
    reuse, computation = Reuse(0), Computation()
    tasks = [asyncio.create_task(reuse.get("k", computation)) for _ in range(5)]
    await computation.started.wait()
    computation.permit.set()
    answers = await asyncio.gather(*tasks)
    assert computation.count == 1
    assert [source for _, source in answers] == ["computed", *["shared"] * 4]
    assert all(outputs is OUTPUTS for outputs, _ in answers)


async def test_without_a_cache_nothing_is_remembered():
    """Later likes are computed again, and no memory is held."""
    reuse, computation = Reuse(0), Computation()
    computation.permit.set()
    for _ in range(2):
        assert (await reuse.get("k", computation))[1] == "computed"
    assert (computation.count, reuse.bytes, reuse._in_flight) == (2, 0, {})


async def test_a_cache_remembers_within_its_bytes_the_latest_used():
    """What was not used longest is forgotten first, and the bound is never passed."""
    reuse, computation = Reuse(32), Computation()
    computation.permit.set()
    for key in ("a", "b", "a", "c"):
        await reuse.get(key, computation)
    assert reuse.bytes == 32
    assert (await reuse.get("a", computation))[1] == "cache"
    assert (await reuse.get("b", computation))[1] == "computed"


async def test_an_answer_larger_than_the_cache_is_not_remembered():
    """It would push everything else out and not fit even then."""
    reuse, computation = Reuse(8), Computation()
    computation.permit.set()
    await reuse.get("k", computation)
    assert reuse.bytes == 0


async def test_who_waits_computes_when_the_first_caller_leaves():
    """A leader's cancellation is nobody else's: the next in line takes over."""
    reuse, computation = Reuse(0), Computation()
    leader = asyncio.create_task(reuse.get("k", computation))
    await computation.started.wait()
    follower = asyncio.create_task(reuse.get("k", computation))
    await asyncio.sleep(0)
    leader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leader
    computation.permit.set()
    assert (await follower)[1] == "computed"
    assert computation.count == 2


async def test_a_follower_who_leaves_disturbs_nobody():
    """The shared computation goes on for the others."""
    reuse, computation = Reuse(0), Computation()
    leader = asyncio.create_task(reuse.get("k", computation))
    await computation.started.wait()
    followers = [asyncio.create_task(reuse.get("k", computation)) for _ in range(2)]
    await asyncio.sleep(0)
    followers[0].cancel()
    computation.permit.set()
    assert [(await task)[1] for task in (leader, followers[1])] == ["computed", "shared"]


async def test_a_fault_is_its_caller_s_and_is_not_remembered():
    """Who waited tries himself and gets the fault that is his own."""
    reuse, computation = Reuse(1000), Computation(ValueError("a fault"))
    computation.permit.set()
    tasks = [asyncio.create_task(reuse.get("k", computation)) for _ in range(3)]
    faults = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(fault) for fault in faults] == [ValueError] * 3
    assert (computation.count, reuse.bytes) == (3, 0)


def test_keys_differ_where_answers_may():
    """Content, its division into parts, fingerprint and outputs all count."""
    keys = {
        content_key([b"ab", b"c"], "f", ("embedding",)),
        content_key([b"a", b"bc"], "f", ("embedding",)),
        content_key([b"ab", b"d"], "f", ("embedding",)),
        content_key([b"ab", b"c"], "g", ("embedding",)),
        content_key([b"ab", b"c"], "f", ("logits",)),
    }
    assert len(keys) == 5
    assert content_key([b"ab", b"c"], "f", ("embedding",)) in keys
