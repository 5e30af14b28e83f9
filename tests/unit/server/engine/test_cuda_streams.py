"""The order of copies and computing on a CUDA device, on a stand-in that does everything as late as it may.

Nothing that is queued happens before somebody waits for it, and then no more than that needs. So memory that is written
to too early, and waiting for more than one's own batch, both show.
"""

from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest

from regard_server.engine import streams as module
from regard_server.engine.streams import CudaStreams


class Event:
    """A place in a stream; waiting for it makes what comes before it happen."""

    def __init__(self, stream):
        self._stream, self._place = stream, len(stream.queue)

    def synchronize(self):
        stream = self._stream
        while stream.done < self._place:
            stream.done += 1
            stream.queue[stream.done - 1]()


class Stream:
    """A queue of operations, in order."""

    current = None

    def __init__(self, _device=None):
        self.queue, self.done = [], 0

    def record_event(self):
        return Event(self)

    def wait_event(self, event):
        self.queue.append(event.synchronize)

    @contextmanager
    def entered(self):
        Stream.current, before = self, Stream.current
        yield
        Stream.current = before


class Tensor:
    """Numbers on the device, or pinned; operations are queued on the stream that is entered."""

    def __init__(self, values):
        self.values, self.shape, self.streams = values, values.shape, []

    def made(self, what):
        found = Tensor(np.zeros(self.shape, np.float32))
        Stream.current.queue.append(lambda: np.copyto(found.values, what(self.values)))
        return found

    def to(self, _device, *, non_blocking):
        assert non_blocking
        return self.made(lambda values: values)

    def float(self):
        return self.made(lambda values: values)

    def record_stream(self, stream):
        self.streams.append(stream)

    def copy_(self, other, *, non_blocking):
        assert non_blocking
        Stream.current.queue.append(lambda: np.copyto(self.values, other.values))

    def numpy(self):
        return self.values


class Torch:
    """The part of torch that moves memory; counts what is pinned."""

    uint8, float32 = np.uint8, np.float32
    from_numpy = Tensor
    cuda = SimpleNamespace(Stream=Stream, stream=Stream.entered)

    def __init__(self):
        self.pinned = []

    def empty(self, shape, *, dtype, pin_memory):
        assert pin_memory
        self.pinned.append(Tensor(np.zeros(shape, dtype)))
        return self.pinned[-1]


@pytest.fixture
def torch(monkeypatch):
    torch = Torch()
    monkeypatch.setattr(module, "torch", torch)
    return torch


@pytest.fixture
def streams(torch):  # noqa: ARG001 - in whose place it stands
    return CudaStreams("cuda")


def stacked(streams, *pictures):
    return np.frombuffer(streams.join([bytes(each) for each in pictures]), np.uint8)


def begin(streams, array):
    """Queue a batch whose network doubles it; return its upload, and what waits for its rows."""
    uploaded = streams.upload(array)
    with streams.computing(uploaded):
        rows = streams.download({"double": uploaded.batch.made(lambda values: 2 * values)})
    return uploaded, rows


def test_rows_come_back_though_everything_happens_late(streams):
    """Each step waits for the one before it, on another stream, and memory lives until the last of them."""
    uploaded, rows = begin(streams, stacked(streams, [1, 2], [3]))
    assert rows()["double"].tolist() == [2, 4, 6]
    assert uploaded.batch.streams == [streams._compute]


def test_a_batch_waits_for_its_own_steps_only(streams):
    """The next batch's upload and computing have not happened when the first one's rows are there."""
    _, first = begin(streams, np.array([1], np.uint8))
    later = streams.upload(np.array([2], np.uint8))
    with streams.computing(later):
        second = streams.download({"double": later.batch.made(lambda values: 2 * values)})
    assert first()["double"].tolist() == [2]
    assert later.batch.values.tolist() == [0]
    assert second()["double"].tolist() == [4]


def test_computing_does_not_wait_for_an_upload_that_began_before_it(streams):
    """Lane B may have begun to upload when lane A computes: A waits for its own pictures."""
    own = streams.upload(np.array([1], np.uint8))
    other = streams.upload(np.array([2], np.uint8))
    with streams.computing(own):
        rows = streams.download({"double": own.batch.made(lambda values: 2 * values)})
    assert rows()["double"].tolist() == [2]
    assert other.batch.values.tolist() == [0]


def test_pictures_are_stacked_in_pinned_memory_that_is_used_again(streams, torch):
    """A lane pins memory for its largest batch once, and the next ones are written into it."""
    places = []
    for size in (4, 4, 2, 3):
        array = stacked(streams, [size] * size)
        assert array.tolist() == [size] * size
        places.append(array.__array_interface__["data"][0])
        begin(streams, array)[1]()
    assert len(set(places)) == 1
    assert [each.values.dtype for each in torch.pinned].count(np.uint8) == 1


def test_memory_is_not_written_to_while_it_is_copied(streams):
    """A batch that failed may be copied still when its parts are stacked; the copy is what it was meant to be."""
    failed = streams.upload(stacked(streams, [7, 7]))
    assert failed.batch.values.tolist() == [0, 0]
    stacked(streams, [8])
    assert failed.batch.values.tolist() == [7, 7]


def test_results_are_copied_out_beside_the_next_batch(streams, torch):
    """What is computed next does not wait for the copy of what was computed before, nor the copy for it."""
    _, first = begin(streams, np.array([1], np.uint8))
    begin(streams, np.array([2], np.uint8))
    streams._compute.record_event().synchronize()
    assert all(not each.values.any() for each in torch.pinned)
    assert first()["double"].tolist() == [2]
    assert [each.values.tolist() for each in torch.pinned] == [[2], [0]]


def test_rows_are_out_of_the_pinned_memory(streams, torch):
    """Callers may keep them for long, and it is scarce."""
    rows = begin(streams, np.array([1], np.uint8))[1]()["double"]
    assert not any(np.shares_memory(rows, each.values) for each in torch.pinned)
