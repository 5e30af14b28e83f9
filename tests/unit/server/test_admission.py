"""The door: what fits comes in, what does not is refused at once."""

import asyncio
from contextlib import contextmanager

import pytest

from regard_server.admission import RETRY_AFTER_S, Admission, Claim
from regard_server.errors import OverloadedError


class Door(Admission):
    """The door, and requests that are inside for the time of a block."""

    @contextmanager
    def admit(self, images=1, size_bytes=1, **urgency):
        claim = Claim(images, size_bytes, **urgency)
        self.take(claim)
        try:
            yield
        finally:
            self.give_back(claim)

    def refuses(self, images=1, **urgency):
        """Tell whether somebody who does not wait is refused."""
        try:
            with self.admit(images, **urgency):
                return False
        except OverloadedError:
            return True


class Waiter:
    """Somebody who waits, and then stays inside until he is told to leave."""

    def __init__(self, admission, images=1, size_bytes=1, **urgency):
        self._admission = admission
        self._claim = Claim(images, size_bytes, **urgency)
        self._task = asyncio.create_task(admission.wait(self._claim))

    @property
    def inside(self):
        return self._task.done() and not self._task.cancelled()

    async def leave(self):
        """Give back, or give up."""
        if self._task.done():
            self._admission.give_back(self._claim)
        else:
            self._task.cancel()
        await asyncio.wait([self._task])


async def settled():
    """Let everybody who was told something act on it."""
    for _ in range(3):
        await asyncio.sleep(0)


@pytest.fixture
def admission():
    return Door(max_images=4, max_bytes=100)


def test_room_is_held_while_a_request_is_served_and_freed_after(admission):
    """Images and bytes are counted in and out."""
    with admission.admit(images=3, size_bytes=60):
        assert (admission.images, admission.bytes) == (3, 60)
    assert (admission.images, admission.bytes) == (0, 0)


def test_room_is_freed_when_the_request_fails(admission):
    """A request that raises gives back what it held."""
    with pytest.raises(ZeroDivisionError), admission.admit(images=3, size_bytes=60):
        raise ZeroDivisionError
    assert (admission.images, admission.bytes) == (0, 0)


@pytest.mark.parametrize(
    ("images", "size_bytes", "words"),
    [(2, 1, "3 images are being served and 2 more"), (1, 41, "60 bytes are being served and 41 more")],
    ids=["images", "bytes"],
)
def test_what_does_not_fit_is_refused_with_a_time_to_come_back(admission, images, size_bytes, words):
    """Either limit refuses, says what is inside, and changes nothing."""
    with admission.admit(images=3, size_bytes=60):
        with (
            pytest.raises(OverloadedError, match=words) as refusal,
            admission.admit(images=images, size_bytes=size_bytes),
        ):
            pytest.fail("it was let in")
        assert (admission.images, admission.bytes) == (3, 60)
    assert refusal.value.retry_after_s == RETRY_AFTER_S


def test_the_budget_may_be_filled_to_the_brim(admission):
    """The limits themselves are allowed."""
    with admission.admit(images=3, size_bytes=60), admission.admit(images=1, size_bytes=40):
        assert (admission.images, admission.bytes) == (4, 100)


def test_a_request_larger_than_the_whole_budget_is_let_in_alone(admission):
    """What could never fit beside others is served when nobody else is there, and then alone."""
    with (
        admission.admit(images=9, size_bytes=1000),
        pytest.raises(OverloadedError),
        admission.admit(images=1, size_bytes=1),
    ):
        pytest.fail("it was let in")
    assert (admission.images, admission.bytes) == (0, 0)


async def test_the_patient_wait_for_room(admission):
    """A stream's requests are let in when those before them leave, not refused, and nothing is left of them."""
    waiters = [Waiter(admission, images) for images in (4, 2, 3, 1)]
    inside = []
    for each in waiters:
        await settled()
        inside.append([other.inside for other in waiters])
        await each.leave()
    assert inside == [[True] + [False] * 3, [True] * 2 + [False] * 2, [True] * 4, [True] * 4]
    assert (admission.images, admission.bytes) == (0, 0)


async def test_those_who_wait_go_in_by_class_then_deadline_then_arrival(admission):
    """As everywhere else in the server."""
    with admission.admit(4):
        urgencies = [(1, 1.0), (0, 3.0), (0, 2.0), (0, 2.0)]
        waiters = [Waiter(admission, 4, priority=p, deadline=d) for p, d in urgencies]
        await settled()
    for place in (2, 3, 1, 0):
        await settled()
        assert [each.inside for each in waiters].index(True) == place
        await waiters[place].leave()
        waiters[place] = Waiter(admission, 99, priority=2)  # behind them all


async def test_a_large_request_goes_in_beside_any_number_of_small_ones_that_wait():
    """What becomes free is kept for the first in line, however well those behind it would fit."""
    admission = Door(max_images=64, max_bytes=1 << 20)
    passed = 0
    over = asyncio.Event()

    async def come_and_go():
        nonlocal passed
        while not over.is_set() and passed < 10_000:
            await admission.wait(Claim(1, 1))
            await asyncio.sleep(0)
            admission.give_back(Claim(1, 1))
            passed += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(100):
            group.create_task(come_and_go())
        await settled()
        before = passed
        await admission.wait(Claim(32, 1))
        over.set()
        assert passed - before <= 100
        admission.give_back(Claim(32, 1))


async def test_whoever_does_not_wait_passes_the_line_nine_images_to_one():
    """Then the first in line is due: all that becomes free is his, of the kept tenth too, and others are refused."""
    admission = Door(max_images=20, max_bytes=1 << 20)
    with admission.admit(19):
        first = Waiter(admission, 2)
        await settled()
        assert [admission.refuses() for _ in range(19)] == [False] * 18 + [True]
        with pytest.raises(OverloadedError, match="1 requests wait for room before yours"), admission.admit():
            pytest.fail("it was let in")
        assert not first.inside
    await settled()
    assert first.inside
    assert not admission.refuses()
    await first.leave()
    assert admission.images == 0


async def test_who_is_due_has_the_kept_room_at_once():
    """He goes in as the last one passes who may, if there is room then."""
    admission = Door(max_images=20, max_bytes=1 << 20)
    with admission.admit(18):
        first = Waiter(admission)
        await settled()
        assert not first.inside
        assert [admission.refuses() for _ in range(9)] == [False] * 9
        with admission.admit(1):
            pass
        await settled()
        assert first.inside
    await first.leave()


async def test_who_is_less_urgent_than_the_first_in_line_does_not_pass_him(admission):
    """Bulk that does not wait is refused while interactive requests do."""
    with admission.admit(3):
        first = Waiter(admission, 2)
        await settled()
        assert admission.refuses(priority=1)
        assert not admission.refuses(priority=0)
    await settled()
    await first.leave()


async def test_bulk_goes_in_now_and_then_however_many_interactive_ones_wait(admission):
    """Every tenth turn is the least urgent class's."""
    with admission.admit(4):
        bulk = Waiter(admission, 4, priority=1)
        urgent = [Waiter(admission, 4) for _ in range(30)]
        await settled()
    for _ in range(9):
        await settled()
        (inside,) = (each for each in urgent if each.inside)
        urgent.remove(inside)
        await inside.leave()
    await settled()
    assert bulk.inside
    for each in (bulk, *urgent):
        await each.leave()
    assert admission.images == 0


@pytest.mark.parametrize("unit", ["images", "size_bytes"])
async def test_a_tenth_is_kept_for_interactive_callers_who_do_not_wait(unit):
    """Neither bulk nor streams take the last tenth of images or bytes; whoever it is kept for finds it."""
    admission = Door(**{"max_images": 1 << 20, "max_bytes": 1 << 20, f"max_{unit.removeprefix('size_')}": 40})
    with admission.admit(**{unit: 36}, priority=1):
        assert admission.refuses(priority=1)
        stream = Waiter(admission)
        await settled()
        assert not stream.inside
        with admission.admit(**{unit: 4}):
            assert admission.refuses()
    await settled()
    assert stream.inside
    await stream.leave()


async def test_who_leaves_the_line_makes_way_for_those_behind_him(admission):
    """Whether he gives up while he waits, or in the moment that he is let in."""
    with admission.admit(2):
        large, small = Waiter(admission, 4), Waiter(admission, 2)
        await settled()
        assert not small.inside
        await large.leave()
        await settled()
        assert small.inside
        large, last = Waiter(admission, 4), Waiter(admission, 4, deadline=1.0)
        await settled()
        await small.leave()
    large._task.cancel()
    last._task.cancel()  # it was told that it may come in
    await settled()
    assert (admission.images, admission.bytes, len(admission._line)) == (0, 0, 0)


async def test_who_has_used_up_his_share_waits_in_nobody_s_way():
    """His requests go in as his others leave, in order; whoever is behind them goes in before."""
    admission = Door(max_images=100, max_bytes=100, max_client_images=3)
    with admission.admit(2, client="a"):
        large, small = Waiter(admission, 3, client="a"), Waiter(admission, 1, client="a")
        await settled()
        assert not large.inside
        assert not small.inside
        other = Waiter(admission, 3, client="b")
        await settled()
        assert other.inside
    await settled()
    assert large.inside
    assert not small.inside
    gone = Waiter(admission, 1, client="a")
    await settled()
    gone._task.cancel()
    await large.leave()
    await settled()
    assert small.inside
    for each in (small, other):
        await each.leave()
    assert (admission.images, admission._by_client, admission._aside) == (0, {}, {})


async def test_who_leaves_the_line_for_his_share_holds_nobody_up():
    """Whoever stood behind one who was too large goes in when that one gives up, not when another leaves."""
    admission = Door(max_images=100, max_bytes=100, max_client_images=3)
    with admission.admit(2, client="a"):
        large, small = Waiter(admission, 3, client="a"), Waiter(admission, 1, client="a")
        await settled()
        await large.leave()
        await settled()
        assert small.inside
    await small.leave()
    assert (admission.images, admission._by_client, admission._aside) == (0, {}, {})


def test_one_caller_has_a_share_and_the_others_have_theirs():
    """Beyond it he is refused, however much room there is; when he is answered he may come again."""
    admission = Door(max_images=100, max_bytes=100, max_client_images=3)
    with admission.admit(images=3, size_bytes=1, client="a"):
        with (
            pytest.raises(OverloadedError, match="3 images of yours are being served and 1 more"),
            admission.admit(images=1, size_bytes=1, client="a"),
        ):
            pytest.fail("it was let in")
        with admission.admit(images=3, size_bytes=1, client="b"), admission.admit(images=9, size_bytes=1):
            assert admission.images == 15
    with admission.admit(images=9, size_bytes=1, client="a"):  # more than the share, alone rather than never
        assert admission.images == 9
    assert not admission._by_client
