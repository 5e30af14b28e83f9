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
from regard_server.capacity import BatchCapacity
from regard_server.cost import CostModel
from regard_server.engine import Engine, EngineOptions
from regard_server.engine.mode import EAGER, Mode
from regard_server.engine.streams import HostStreams, streams_for
from regard_server.engine.torch_runner import Normalised, TorchRunner
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
    def computing(self, uploaded):
        with super().computing(uploaded):
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
    monkeypatch.setattr("regard_server.engine.engine.streams_for", lambda *_: streams)
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
        batcher.submit([Entry(PIXELS, Work([picture], ("embedding",)), number, float("inf"))])
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
    expected = plain.run(PIXELS, [Work([picture], ("embedding",)) for picture in pictures])
    for number, rows in enumerate(expected):
        np.testing.assert_allclose(answers[number].values["embedding"], rows.values["embedding"], atol=1e-5)


def test_the_cpu_has_one_lane():
    """There is nothing to overlap, and a second thread would only disturb the first."""
    assert streams_for(torch.device("cpu")).lanes == 1


class CountedStreams(HostStreams):
    """A device with two lanes that says how much its batches took: so much for an image."""

    lanes, image = 2, 100_000

    def __init__(self):
        super().__init__()
        self._peak = 0
        self.sizes = []

    def upload(self, array):
        self.sizes.append(len(array))
        self._peak = max(self._peak, self.image * len(array))
        return super().upload(array)

    def peak_bytes(self):
        peak, self._peak = self._peak, 0
        return peak


@pytest.fixture
def counted(monkeypatch):
    """Return a warm engine on such a device, of whose memory its network may take its weights and so many images."""
    streams = CountedStreams()
    monkeypatch.setattr("regard_server.engine.engine.streams_for", lambda *_: streams)

    def counted(images, **options):
        bundle = load_bundle("resnet_tiny")
        weights = sum(each.nbytes for each in bundle.model.state_dict().values())
        given = {"threads": 1, "max_batch": 16, "max_model_bytes": weights + int(images * streams.image)}
        capacity = BatchCapacity(16)
        engine = Engine(EngineOptions(**given | options), logging.getLogger("engine"), capacity)
        engine.load(bundle)
        engine.warm_up()
        return engine, streams, capacity

    return counted


WORK = Work([np.zeros((32, 32, 3), np.uint8)], ("embedding",))


def test_a_model_keeps_to_its_share_of_the_memory(counted):
    """No batch is larger than what fits by what one took at warm-up, not even the first; everybody is answered."""
    engine, streams, capacity = counted(5.5)
    assert max(streams.sizes) == 4  # of those that are warmed up the largest that fits
    streams.sizes.clear()
    assert len(engine.run(PIXELS, [WORK] * 16)) == 16
    assert streams.sizes == [5, 5, 5, 1]
    assert (capacity(PIXELS), capacity("another kind")) == (5, 16)


def test_kinds_that_were_not_warmed_up_keep_to_the_share_too(counted):
    """What they take is foreseen by their pixels, and that they may be dearer."""
    engine, streams, _ = counted(9)
    tensor = BatchKey("resnet_tiny", "tensor", 32, 32, "pooled")
    streams.sizes.clear()
    engine.run(tensor, [Work([np.zeros((3, 32, 32), np.float32)], ("embedding",))] * 5)
    assert streams.sizes == [2, 2, 1]


def test_one_lane_does_not_count_what_the_other_takes(counted):
    """While two batches are in flight the device's peak is nobody's own: it lowers no batch, and hides none."""
    engine, streams, capacity = counted(16.5)
    streams.image *= 100  # as other lanes' batches would raise it
    with ThreadPoolExecutor(2) as lanes:
        both = [lanes.submit(engine.run, PIXELS, [WORK] * 16) for _ in range(2)]
        assert [len(each.result(PATIENCE_S)) for each in both] == [16, 16]
    assert capacity(PIXELS) == 16


def test_every_network_of_a_model_counts(counted):
    """When callers of tensors have the float32 network made, less is left for batches."""
    engine, streams, _ = counted(5.5, engine="folded", dtype="bfloat16")
    before = engine._loaded["resnet_tiny"].most(PIXELS, engine._options.max_model_bytes)
    tensor = BatchKey("resnet_tiny", "tensor", 32, 32, "pooled")
    engine.run(tensor, [Work([np.zeros((3, 32, 32), np.float32)], ("embedding",))])
    after = engine._loaded["resnet_tiny"].most(PIXELS, engine._options.max_model_bytes)
    made = engine._loaded["resnet_tiny"].exact()
    assert (before - after) == pytest.approx(made.weights_bytes / streams.image, abs=1)
    assert before > after


def test_a_network_that_is_run_on_a_device_stays_where_it_was():
    """What is measured there and not chosen leaves nothing behind."""
    bundle = load_bundle("resnet_tiny")
    away = torch.device("meta")
    runner = TorchRunner(bundle.model, bundle.preprocessing, EAGER, away, streams=HostStreams())
    assert {each.device for each in runner.network.state_dict().values()} == {away}
    assert {each.device.type for each in bundle.model.state_dict().values()} == {"cpu"}


def test_lanes_share_the_thread_that_runs_what_is_compiled(streams, monkeypatch):
    """A graph that one thread recorded cannot be run by another: it begins every batch, and the lanes copy."""
    bundle, inside = load_bundle("resnet_tiny"), []

    def stand_in(forward, **_options):  # for what takes a minute
        def compiled(module, pixels):
            inside.append(threading.current_thread())
            return forward(module, pixels)

        return compiled

    monkeypatch.setattr(torch, "compile", stand_in)
    pictures = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    with ThreadPoolExecutor(1) as recorder, ThreadPoolExecutor(2) as lanes:
        runner = TorchRunner(
            bundle.model,
            bundle.preprocessing,
            Mode("compiled", "float32"),
            torch.device("cpu"),
            streams=streams,
            sizes=(2,),
            recorder=recorder,
        )
        both = [lanes.submit(runner.run, PIXELS, pictures, ("embedding",)) for _ in range(2)]
        for _ in both:
            assert streams.uploaded.acquire(timeout=PATIENCE_S)
        streams.finish.release(2)
        first, second = [each.result(PATIENCE_S)["embedding"] for each in both]
        assert np.array_equal(first, second)
        assert inside == [recorder.submit(threading.current_thread).result()] * 2


def test_an_engine_with_several_lanes_has_such_a_thread(streams, monkeypatch):
    """Compiled networks have as many lanes as others."""
    monkeypatch.setattr(torch, "compile", lambda module, **_: module)
    engine = Engine(EngineOptions(threads=1, engine="compiled", max_batch=2), logging.getLogger("engine"))
    engine.load(load_bundle("resnet_tiny"))
    streams.finish.release()
    assert engine.lanes == streams.lanes == 2
    (rows,) = engine.run(PIXELS, [WORK])
    assert rows.values["embedding"].shape == (1, 64)
    assert engine._loaded["resnet_tiny"].runner._recorder is engine._recorder is not None


def folded_runner(**options):
    bundle = load_bundle("resnet_tiny")
    mode = Mode("folded", "float32")
    return TorchRunner(
        bundle.model, bundle.preprocessing, mode, torch.device("cpu"), streams=HostStreams(), **options
    )


def test_rows_that_fill_a_batch_are_counted():
    """What is computed for nobody is told, by how many; full sizes and what no fixed size runs are not."""
    told = []
    runner = folded_runner(sizes=(1, 4, 8), on_padded=told.append)
    pictures = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
    plain = runner.run(PIXELS, pictures, ("embedding",))["embedding"]
    assert told == []
    runner._compiled = dict.fromkeys((1, 4, 8), Normalised.forward)  # as they would be compiled, for a minute
    padded = runner.run(PIXELS, pictures, ("embedding",))["embedding"]
    np.testing.assert_allclose(padded, plain, atol=1e-5)
    runner.run(PIXELS, pictures[:4], ("embedding",))
    runner.run(PIXELS, pictures[:2], ("embedding",))
    runner.run(PIXELS, pictures[:3], ("layer1",))
    assert told == [3, 2]


def test_a_compiled_network_is_asked_for_what_was_compiled():
    """The embedding of pixels is one computation; whatever is asked beside it does not change how it is made."""
    runner = folded_runner()
    assert runner.covers(PIXELS, "logits")
    runner._compiled = {}  # as it would be if it had been compiled, for a minute
    tensors = PIXELS._replace(form="tensor")
    asked = [(PIXELS, "embedding"), (PIXELS, "logits"), (tensors, "embedding")]
    assert [runner.covers(*each) for each in asked] == [True, False, False]
