"""Lanes and streams: the pipeline that a CUDA device uses, on a stand-in whose computing takes until it is told."""

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from regard_models import load_bundle
from regard_server.batcher import Batcher
from regard_server.cost import CostModel
from regard_server.engine import Engine, EngineOptions
from regard_server.engine.streams import HostStreams, streams_for
from regard_server.hold import Hold
from regard_server.scheduler import Scheduler
from regard_server.waiting import Entry
from regard_server.work import BatchKey, Work

PATIENCE_S = 20.0
PIXELS = BatchKey("resnet_tiny", "pixels", 32, 32, "pooled")


class SlowStreams(HostStreams):
    """A device with two lanes: uploads are counted, and results come when the test lets them."""

    lanes = 2

    def __init__(self):
        super().__init__()
        self.uploaded = threading.Semaphore(0)
        self.finish = threading.Semaphore(0)
        self.order = []
        self.inside = 0

    def upload(self, array):
        self.order.append(("upload", len(array)))
        self.uploaded.release()
        return super().upload(array)

    @contextmanager
    def computing(self):
        with super().computing():
            self.inside += 1
            assert self.inside == 1  # batches are queued whole
            yield
            self.inside -= 1

    def download(self, tensors):
        arrays = super().download(tensors)

        def wait():
            assert self.finish.acquire(timeout=PATIENCE_S)
            self.order.append(("download", len(next(iter(arrays().values())))))
            return arrays()

        return wait


@pytest.fixture
def streams(monkeypatch):
    streams = SlowStreams()
    monkeypatch.setattr("regard_server.engine.engine.streams_for", lambda _device: streams)
    return streams


def test_the_next_batch_is_uploaded_while_one_computes(streams):
    """With two lanes a second batch is on the device before the first has come back; none is lost or mixed up."""
    engine = Engine(EngineOptions(threads=1, max_batch=4), logging.getLogger("engine"))
    bundle = load_bundle("resnet_tiny")
    engine.load(bundle)
    assert engine.lanes == 2
    costs, answers = CostModel(), {}
    done = threading.Semaphore(0)

    def deliver(outcomes):
        for outcome in outcomes:
            answers[outcome.entry.owner] = outcome.value
            done.release()

    batcher = Batcher(
        Scheduler(lambda _: 4, costs, Hold(0.0, costs)),
        deliver,
        clock=lambda: 0.0,
        logger=logging.getLogger("batcher"),
    )
    pictures = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8)
    for number, picture in enumerate(pictures):
        batcher.submit(Entry(PIXELS, Work(picture, ("embedding",)), number, float("inf")))
    with ThreadPoolExecutor(engine.lanes) as lanes:
        served = [lanes.submit(batcher.serve, engine.run) for _ in range(engine.lanes)]
        for _ in range(2):
            assert streams.uploaded.acquire(timeout=PATIENCE_S)
        assert streams.order == [("upload", 4), ("upload", 4)]
        streams.finish.release(2)
        for _ in pictures:
            assert done.acquire(timeout=PATIENCE_S)
        batcher.close()
        for each in served:
            each.result(PATIENCE_S)
    plain = Engine(EngineOptions(threads=1, max_batch=8), logging.getLogger("engine"))
    streams.finish.release(100)
    plain.load(bundle)
    expected = plain.run(PIXELS, [Work(picture, ("embedding",)) for picture in pictures])
    for number, row in enumerate(expected):
        np.testing.assert_allclose(answers[number]["embedding"], row["embedding"], atol=1e-5)


def test_the_cpu_has_one_lane():
    """There is nothing to overlap, and a second thread would only disturb the first."""
    assert streams_for(torch.device("cpu")).lanes == 1
