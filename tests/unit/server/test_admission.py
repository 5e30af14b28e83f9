"""The door: what fits comes in, what does not is refused at once."""

import asyncio

import pytest

from regard_server.admission import RETRY_AFTER_S, Admission
from regard_server.errors import OverloadedError


@pytest.fixture
def admission():
    return Admission(max_images=4, max_bytes=100)


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


async def test_the_patient_wait_for_room():
    """A stream's request is let in when the one before it leaves, not refused."""
    admission = Admission(max_images=2, max_bytes=100)
    order = []

    async def enter(name, images):
        await admission.room(images=images, size_bytes=1)
        with admission.admit(images=images, size_bytes=1):
            order.append(name)
            await asyncio.sleep(0)

    await asyncio.gather(*(enter(name, 2) for name in "abc"))
    assert sorted(order) == ["a", "b", "c"]
    assert (admission.images, admission.bytes) == (0, 0)


def test_one_caller_has_a_share_and_the_others_have_theirs():
    """Beyond it he is refused, however much room there is; when he is answered he may come again."""
    admission = Admission(max_images=100, max_bytes=100, max_client_images=3)
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
