"""One forward for identical pictures."""

import asyncio

import numpy as np
import pytest

from regard_server.errors import DeadlineExpiredError, NonFiniteOutputError, UndecodableImageError
from regard_server.reuse import Reuse, Urgency, content_key

ANY = Urgency(0, 0.0, 60.0)
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
        if isinstance(self.outcome, ValueError):
            raise self.outcome
        return self.outcome


def begin(reuse, computation, *urgency):
    """Ask for a picture."""
    return asyncio.create_task(reuse.get("k", computation, Urgency(*urgency) if urgency else ANY))


async def test_those_in_flight_share_one_forward():
    """While a picture is computed, its likes wait for the same answer."""
    reuse, computation = Reuse(0), Computation()
    tasks = [begin(reuse, computation) for _ in range(5)]
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
        assert (await reuse.get("k", computation, ANY))[1] == "computed"
    assert (computation.count, reuse.bytes, reuse._in_flight) == (2, 0, {})


async def test_a_cache_remembers_within_its_bytes_the_latest_used():
    """What was not used longest is forgotten first, and the bound is never passed."""
    reuse, computation = Reuse(32), Computation()
    computation.permit.set()
    for key in ("a", "b", "a", "c"):
        await reuse.get(key, computation, ANY)
    assert reuse.bytes == 32
    assert (await reuse.get("a", computation, ANY))[1] == "cache"
    assert (await reuse.get("b", computation, ANY))[1] == "computed"


async def test_an_answer_larger_than_the_cache_is_not_remembered():
    """It would push everything else out and not fit even then."""
    reuse, computation = Reuse(8), Computation()
    computation.permit.set()
    await reuse.get("k", computation, ANY)
    assert reuse.bytes == 0


async def test_who_waits_computes_when_the_first_caller_leaves():
    """A leader's cancellation is nobody else's: the next in line takes over."""
    reuse, computation = Reuse(0), Computation()
    leader = begin(reuse, computation)
    await computation.started.wait()
    follower = begin(reuse, computation)
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
    leader = begin(reuse, computation)
    await computation.started.wait()
    followers = [begin(reuse, computation) for _ in range(2)]
    await asyncio.sleep(0)
    followers[0].cancel()
    computation.permit.set()
    assert [(await task)[1] for task in (leader, followers[1])] == ["computed", "shared"]


async def test_a_fault_is_its_caller_s_and_is_not_remembered():
    """Who waited tries himself and gets the fault that is his own."""
    reuse, computation = Reuse(1000), Computation(ValueError("a fault"))
    computation.permit.set()
    tasks = [begin(reuse, computation) for _ in range(3)]
    faults = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(fault) for fault in faults] == [ValueError] * 3
    assert (computation.count, reuse.bytes) == (3, 0)


@pytest.mark.parametrize("error", [UndecodableImageError, NonFiniteOutputError])
async def test_what_is_wrong_with_a_picture_is_found_once(error):
    """Those who wait get the error, as they would for themselves; it is not remembered."""
    reuse, computation = Reuse(1000), Computation(error("it is broken"))
    tasks = [begin(reuse, computation) for _ in range(3)]
    await computation.started.wait()
    computation.permit.set()
    answers = await asyncio.gather(*tasks)
    assert [type(answer) for answer, _ in answers] == [error] * 3
    assert computation.count == 1
    assert reuse.is_empty
    await reuse.get("k", computation, ANY)
    assert computation.count == 2


async def test_what_went_wrong_with_a_caller_is_nobody_else_s():
    """Whoever waited for somebody who was too late computes for himself."""
    reuse, computation = Reuse(0), Computation(DeadlineExpiredError("too late"))
    tasks = [begin(reuse, computation) for _ in range(3)]
    await computation.started.wait()
    computation.permit.set()
    await asyncio.gather(*tasks)
    assert computation.count == 3


@pytest.mark.parametrize(
    ("first", "second", "shares"),
    [
        ((1, 0.0, 60.0), (0, 1.0, 61.0), False),
        ((0, 0.0, 60.0), (1, 1.0, 2.0), True),
        ((0, 0.0, 60.0), (0, 10.0, 30.0), False),
        ((0, 0.0, 60.0), (0, 10.0, 40.0), True),
        ((1, 0.0, 60.0), (1, 1.0, 61.0), True),
    ],
    ids=["of a more urgent class", "less urgent", "in half the time", "in more", "equal"],
)
async def test_who_is_more_urgent_does_not_wait_for_who_is_less(first, second, shares):
    """He computes for himself, whoever comes then waits for him, and the first is not disturbed."""
    reuse, slow, quick = Reuse(1000), Computation(), Computation()
    leader = begin(reuse, slow, *first)
    await slow.started.wait()
    assert reuse.knows("k", Urgency(*second)) == shares
    urgent = begin(reuse, quick, *second)
    await asyncio.sleep(0)
    assert quick.count == (not shares)
    if not shares:
        follower = begin(reuse, quick, *second)
        await asyncio.sleep(0)
        quick.permit.set()
        assert [(await task)[1] for task in (urgent, follower)] == ["computed", "shared"]
    slow.permit.set()
    assert (await leader)[1] == "computed"
    if shares:
        assert (await urgent)[1] == "shared"
    assert (slow.count, quick.count, reuse.bytes, reuse._in_flight) == (1, not shares, 16, {})


async def test_a_slow_first_one_ends_nobody_s_waiting_for_a_second():
    """When who was less urgent comes first all the same, those who wait for the other still get his answer."""
    reuse, slow, quick = Reuse(0), Computation(), Computation()
    leader = begin(reuse, slow, 1, 0.0, 60.0)
    await slow.started.wait()
    urgent, follower = begin(reuse, quick, 0, 0.0, 60.0), begin(reuse, quick, 0, 0.0, 60.0)
    await quick.started.wait()
    slow.permit.set()
    assert (await leader)[1] == "computed"
    assert not reuse.is_empty
    quick.permit.set()
    assert [(await task)[1] for task in (urgent, follower)] == ["computed", "shared"]


async def test_who_waits_for_another_is_told_so():
    """He needs no room meanwhile; who computes is not told."""
    reuse, computation, following = Reuse(0), Computation(), []
    tasks = [
        asyncio.create_task(reuse.get("k", computation, ANY, on_follow=lambda n=n: following.append(n)))
        for n in range(3)
    ]
    await computation.started.wait()
    await asyncio.sleep(0)
    assert following == [1, 2]
    computation.permit.set()
    await asyncio.gather(*tasks)


def test_keys_differ_where_answers_may():
    """Content, its division into parts, fingerprint and outputs all count."""
    keys = {
        content_key(lambda: [b"ab", b"c"], "f", ("embedding",)),
        content_key(lambda: [b"a", b"bc"], "f", ("embedding",)),
        content_key(lambda: [b"ab", b"d"], "f", ("embedding",)),
        content_key(lambda: [b"ab", b"c"], "g", ("embedding",)),
        content_key(lambda: [b"ab", b"c"], "f", ("logits",)),
    }
    assert len(keys) == 5
    assert content_key(lambda: [b"ab", b"c"], "f", ("embedding",)) in keys
