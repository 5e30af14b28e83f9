"""Memory for decoding: who waits for it, in which order, who does not have to, and that it always comes back."""

import asyncio
import contextlib
import gc
import io
import subprocess
import sys
import threading
import time
import weakref

import numpy as np
import pytest
from PIL import Image

from regard_models import Preprocessing
from regard_server.budget import MemoryBudget, ShortOfMemoryError
from regard_server.decoding import DecodePool
from regard_server.errors import UndecodableImageError
from regard_server.images import ImageLimits, decode, fit_raw

PREPARED = Preprocessing(24, 24, 32)
MANY_AT_ONCE = """
import asyncio, re, sys, time
from regard_server.cli import prepare_libraries

prepare_libraries()

from regard_models import Preprocessing
from regard_server.budget import MemoryBudget
from regard_server.decoding import DecodePool
from regard_server.images import ImageLimits, decode

def kilobytes(name):
    return int(re.search(name + r":\\s+(\\d+)", open("/proc/self/status").read())[1])

async def read(data, threads, budget):
    memory = MemoryBudget(budget)
    pool, limits = DecodePool(threads, time.monotonic, memory), ImageLimits(1 << 24, 50_000_000, memory)
    await asyncio.gather(*(pool.read(lambda: decode(data, limits, Preprocessing())) for _ in range(threads)))
    pool.close()

small, large = (open(path, "rb").read() for path in sys.argv[1:3])
asyncio.run(read(small, 4, 1))
before = kilobytes("VmHWM")
asyncio.run(read(large, 4, int(sys.argv[3])))
print((kilobytes("VmHWM") - before) << 10, (kilobytes("VmRSS") - before) << 10)
"""


def encode(picture, form, **options):
    """Return the bytes of a file."""
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


class Memory(MemoryBudget):
    """Tells a picture that it waits."""

    def put_off(self, place, size):
        super().put_off(place, size)
        place[-1][0].settled.set()


class Reading:
    """A picture that takes so many bytes, and is read until it is let go on."""

    def __init__(self, memory, size, fault=None):
        self.began, self.settled, self.permit = threading.Event(), threading.Event(), threading.Event()
        self.tries = 0
        self._memory, self._size, self._fault = memory, size, fault

    def __call__(self):
        self.tries += 1
        self._memory.reserve(self._size)
        self.began.set()
        self.settled.set()
        assert self.permit.wait(10)
        if self._fault:
            raise self._fault
        return self._size


class Place:
    """A pool whose pictures have 100 bytes."""

    def __init__(self):
        self.memory = Memory(100)
        self.pool = DecodePool(3, time.monotonic, self.memory)
        self.readings = []

    async def ask(self, size, fault=None, **urgency):
        """Let a picture be read; return it when it is, or waits for memory."""
        reading = Reading(self.memory, size, fault)
        reading.task = asyncio.create_task(self.pool.read(reading, **urgency))
        self.readings.append(reading)
        assert await asyncio.to_thread(reading.settled.wait, 10)
        return reading

    async def began(self, *readings):
        """Wait until these pictures are being read."""
        for reading in readings:
            assert await asyncio.to_thread(reading.began.wait, 10)


@pytest.fixture
async def place():
    place = Place()
    yield place
    for reading in place.readings:
        reading.permit.set()
    await asyncio.gather(*(reading.task for reading in place.readings), return_exceptions=True)
    place.pool.close()
    assert not place.memory.in_use


async def test_who_finds_too_little_waits_and_keeps_no_thread(place):
    """A large picture is read after the other, and what takes nothing is read meanwhile."""
    first = await place.ask(60)
    second = await place.ask(60)
    await place.began(first)
    assert not second.began.is_set()
    assert await place.pool.read(lambda: "small") == "small"
    first.permit.set()
    assert await first.task == 60
    await place.began(second)
    second.permit.set()
    assert await second.task == 60
    assert second.tries == 2


async def test_who_fits_is_read_beside_others(place):
    """The bytes of all together are what is bounded, not their number."""
    both = [await place.ask(50), await place.ask(50)]
    await place.began(*both)
    for each in both:
        each.permit.set()
    assert await asyncio.gather(*(each.task for each in both)) == [50, 50]


async def test_a_large_picture_is_not_overtaken_by_those_that_would_fit(place):
    """While it waits nobody else is given memory, however little; then both that fit together are read."""
    first, large, small = await place.ask(60), await place.ask(80), await place.ask(20)
    await place.began(first)
    assert not small.began.is_set()
    first.permit.set()
    await place.began(large, small)  # 100 together
    large.permit.set()
    small.permit.set()
    assert await asyncio.gather(large.task, small.task) == [80, 20]


async def test_one_picture_goes_whatever_it_takes(place):
    """What would never fit is read alone."""
    small, huge, last = await place.ask(10), await place.ask(1000), await place.ask(10)
    await place.began(small)
    small.permit.set()
    await place.began(huge)
    assert not last.began.is_set()
    huge.permit.set()
    await place.began(last)
    last.permit.set()
    assert await asyncio.gather(huge.task, last.task) == [1000, 10]


async def test_those_who_wait_go_by_urgency(place):
    """An interactive picture has the memory before one of bulk, and the earlier deadline before the later."""
    first = await place.ask(60)
    later = await place.ask(90, deadline=2.0)
    bulk = await place.ask(90, priority=1, deadline=1.0)
    sooner = await place.ask(90, deadline=1.0)
    first.permit.set()
    for each, others in ((sooner, (later, bulk)), (later, (bulk,)), (bulk, ())):
        await place.began(each)
        assert not any(other.began.is_set() for other in others)
        each.permit.set()
        assert await each.task == 90


async def test_who_leaves_while_he_waits_is_not_read_and_makes_room(place):
    """The next may fit beside what is read, and then has not to wait for its end."""
    first, leaving, next_one = await place.ask(60), await place.ask(90), await place.ask(40)
    leaving.task.cancel()
    await place.began(first, next_one)
    assert leaving.tries == 1
    for each in (first, next_one):
        each.permit.set()
    assert await asyncio.gather(first.task, next_one.task) == [60, 40]
    assert not leaving.began.is_set()


@pytest.mark.parametrize("fault", [ValueError("damaged"), MemoryError()], ids=repr)
async def test_whatever_goes_wrong_the_memory_comes_back(place, fault):
    """A picture that fails, in whatever way, leaves its bytes to the next."""
    failing, following = await place.ask(90, fault), await place.ask(90)
    failing.permit.set()
    with pytest.raises(type(fault)):
        await failing.task
    await place.began(following)
    following.permit.set()
    assert await following.task == 90


async def test_a_caller_who_leaves_while_he_is_read_gives_back_when_it_ends(place):
    """The memory is taken as long as the thread decodes, whoever waits for it."""
    leaving, following = await place.ask(90), await place.ask(90)
    await place.began(leaving)
    leaving.task.cancel()
    await asyncio.wait([leaving.task])
    await place.pool.read(lambda: None)
    assert not following.began.is_set()
    leaving.permit.set()
    await place.began(following)
    following.permit.set()
    assert await following.task == 90


async def test_a_pool_that_closes_lets_nobody_wait_for_memory(place):
    """Who waits is cancelled, and so is who would have to."""
    first, waiting = await place.ask(60), await place.ask(60)
    late = Reading(place.memory, 60)
    entered, go_on = threading.Event(), threading.Event()

    def read():
        entered.set()
        assert go_on.wait(10)
        return late()

    task = asyncio.create_task(place.pool.read(read))
    assert await asyncio.to_thread(entered.wait, 10)
    place.pool.close()
    go_on.set()
    ends = await asyncio.gather(waiting.task, task, return_exceptions=True)
    assert [type(end) for end in ends] == [asyncio.CancelledError] * 2
    first.permit.set()
    assert await first.task == 60


async def test_what_is_said_of_the_backlog_knows_nothing_of_waiting_for_memory():
    """Its threads are free for a newcomer, and the mean is of reading alone."""
    seconds = iter(range(1000))
    memory = Memory(100)
    pool = DecodePool(1, lambda: float(next(seconds)), memory)
    await pool.read(lambda: None)
    mean_s = pool._mean_s
    assert mean_s > 0
    memory.reserve(60)  # by this thread, which is none of the pool's
    reading = Reading(memory, 60)
    task = asyncio.create_task(pool.read(reading))
    await asyncio.sleep(0)
    await pool.read(lambda: None)  # takes its turn after that one
    assert reading.tries == 1
    assert pool._mean_s == pytest.approx(mean_s + 0.05 * (1.0 - mean_s))
    now = next(seconds)
    assert pool.ready_at(1) == pytest.approx(now + 1 + pool._mean_s)
    task.cancel()
    await asyncio.wait([task])
    memory.give_back()
    pool.close()
    assert not memory.in_use


async def test_what_failed_is_freed_before_its_memory_is_given_back(place):
    """An error holds the frames that it came through, and they what was decoded until then."""
    decoded = []

    class Pixels:
        pass

    def read():
        place.memory.reserve(90)
        pixels = Pixels()
        decoded.append(weakref.ref(pixels))
        try:
            int("truncated")
        except ValueError as error:
            raise UndecodableImageError("the image cannot be decoded") from error

    gc.disable()
    try:
        with pytest.raises(UndecodableImageError) as caught:
            await place.pool.read(read)
        assert caught.value.__traceback__ is not None
        assert decoded[0]() is None
    finally:
        gc.enable()


class TestPictures:
    """What is counted of real ones."""

    @pytest.fixture
    def short(self):
        """Return limits under which another thread has taken everything."""
        memory = MemoryBudget(1)
        thread = threading.Thread(target=memory.reserve, args=(1,))
        thread.start()
        thread.join()
        return ImageLimits(1 << 26, 1 << 26, memory)

    @pytest.mark.parametrize("size", [(500, 375), (1000, 900)])
    @pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
    def test_a_small_picture_does_not_ask(self, short, form, size):
        """It is read whatever large ones take."""
        assert decode(encode(Image.new("RGB", size), form), short, PREPARED).shape == (24, 24, 3)

    @pytest.mark.parametrize("form", ["PNG", "WEBP", "BMP", "GIF", "TIFF"])
    def test_a_large_picture_asks(self, short, form):
        """Four megapixels of any format are counted."""
        with pytest.raises(ShortOfMemoryError) as caught:
            decode(encode(Image.new("RGB", (2048, 2048)), form), short, PREPARED)
        assert caught.value.size > 4 << 22

    def test_a_large_jpeg_that_is_read_at_an_eighth_does_not_ask(self, short):
        """It takes next to nothing, but for its coefficients, if there is more than one scan."""
        picture = Image.new("RGB", (4096, 2048))
        assert decode(encode(picture, "JPEG"), short, PREPARED).shape == (24, 24, 3)
        with pytest.raises(ShortOfMemoryError) as caught:
            decode(encode(picture, "JPEG", progressive=True, subsampling=0), short, PREPARED)
        assert caught.value.size > 6 << 23

    def test_a_jpeg_of_one_scan_that_lacks_components_asks(self, short):
        """Libjpeg keeps all coefficients for the scans that it still expects."""
        whole = encode(Image.new("RGB", (4096, 2048)), "JPEG", subsampling=0)
        start = whole.index(b"\xff\xda")
        one = whole[:start] + b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00" + whole[start + 14 :]
        with pytest.raises(ShortOfMemoryError) as caught:
            decode(one, short, PREPARED)
        assert caught.value.size > 6 << 23

    def test_a_jpeg_that_turns_out_to_be_for_pillow_asks_then(self, short):
        """Its pixels are then there as a whole."""
        whole = encode(Image.new("RGB", (4096, 2048)), "JPEG")
        with pytest.raises(ShortOfMemoryError) as caught:
            decode(whole[:-2] + bytes(17) + whole[-2:], short, PREPARED)
        assert caught.value.size > 4 << 23

    def test_raw_pixels_ask_as_well(self, short):
        """Beyond a megapixel, as others do."""
        assert fit_raw(bytes(3 << 20), 1024, 1024, short, PREPARED).shape == (24, 24, 3)
        with pytest.raises(ShortOfMemoryError) as caught:
            fit_raw(bytes(3 << 22), 2048, 2048, short, PREPARED)
        assert caught.value.size == 7 << 22

    async def test_they_come_out_as_ever(self):
        """Pictures that have to wait for each other give the pixels that they give alone."""
        memory = MemoryBudget(1)
        pool, limits = DecodePool(4, time.monotonic, memory), ImageLimits(1 << 26, 1 << 26, memory)
        colours = np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)
        picture = Image.fromarray(colours).resize((1600, 1200))
        files = [encode(picture, form) for form in ("WEBP", "PNG", "TIFF", "BMP", "JPEG")]
        with contextlib.closing(pool):
            found = await asyncio.gather(
                *(pool.read(lambda data=data: decode(data, limits, PREPARED)) for data in files)
            )
        for data, pixels in zip(files, found, strict=True):
            np.testing.assert_array_equal(pixels, decode(data, ImageLimits(1 << 26, 1 << 26), PREPARED))
        assert not memory.in_use


def test_four_threads_take_the_memory_of_one_picture(tmp_path):
    """Four WebPs of 16 megapixels, 256 MB each, are decoded one at a time, and then nothing of them is kept."""
    small, large = tmp_path / "small", tmp_path / "large"
    for path, side in ((small, 100), (large, 4000)):
        Image.new("RGB", (side, side), (200, 30, 60)).save(path, "WEBP", method=0, quality=1)

    command = [sys.executable, "-c", MANY_AT_ONCE, small, large, "300000000"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    peak, kept = map(int, done.stdout.splitlines()[-1].split())
    one = 16 * 4000 * 4000
    assert one * 0.9 < peak < one * 1.3
    assert kept < one * 0.2
