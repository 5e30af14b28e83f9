"""A real server in a thread of its own, and the places where a test may hold it or listen to it.

test ── raw stubs ──→ loopback ──→ Server (event loop in a thread) ──→ device thread: GatedEngine
  ├── gate.hold() / gate.open() ──────────────────────────────────────→ holds every batch
  ├── queue.until(n) ─────────────────────────────→ the scheduler's length
  └── journal.until("Extract CANCELLED") ─────────→ one line a call, written when the call is over
"""

import asyncio
import dataclasses
import logging
import math
import threading
import time
from collections.abc import Callable
from functools import partial
from itertools import zip_longest
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2, health_pb2_grpc

from regard_models import load_bundle
from regard_proto import tensors
from regard_proto.v1 import features_pb2 as pb
from regard_proto.v1.features_pb2_grpc import FeatureServiceStub
from regard_server.app import Server
from regard_server.engine import Engine
from regard_server.request_id import current_request_id
from regard_server.settings import Settings
from regard_server.work import BatchKey

PATIENCE_S = 60.0
"""How long a test waits for an event before it gives up; no test is meant to need it."""
POLL_S = 0.001
"""Between two looks at what cannot say that it has changed."""


class Signal:
    """A condition with a deadline."""

    def __init__(self):
        self._changed = threading.Condition()

    def notify(self):
        with self._changed:
            self._changed.notify_all()

    def wait_for(self, predicate, what):
        with self._changed:
            assert self._changed.wait_for(predicate, PATIENCE_S), f"waited in vain for {what()}"


class Journal(logging.Handler):
    """The server's log, to be waited on."""

    def __init__(self):
        super().__init__()
        self.lines = []
        self.names = []  # the request that each line belongs to
        self._signal = Signal()

    def emit(self, record):
        self.names.append(current_request_id())
        self.lines.append(record.getMessage())
        self._signal.notify()

    def count(self, text):
        return sum(text in line for line in self.lines)

    def until(self, text, count=1):
        self._signal.wait_for(
            lambda: self.count(text) >= count, lambda: f"{count} × {text!r} in {self.lines[-20:]}"
        )


class Gate:
    """Holds the device thread before it runs a batch."""

    def __init__(self):
        self._held = False
        self._steps = 0
        self._signal = Signal()
        self.batches = []
        self.fault: Callable[[Any, Any], None] = lambda _key, _batch: None

    def hold(self):
        self._held = True

    def open(self):
        self._held = False
        self._signal.notify()

    def step(self):
        """Let one batch through."""
        self._steps += 1
        self._signal.notify()

    def pass_through(self, key, batch):
        self.batches.append(sum(len(work.pictures) for work in batch))
        self._signal.notify()
        self._signal.wait_for(lambda: not self._held or self._steps, lambda: "the gate to open")
        self._steps = max(0, self._steps - 1)
        self.fault(key, batch)

    def until(self, batches):
        """Wait until so many batches have come up to the gate."""
        self._signal.wait_for(
            lambda: len(self.batches) >= batches, lambda: f"{batches} batches, not {self.batches}"
        )


class GatedEngine(Engine):
    """The real engine behind a gate."""

    def __init__(self, gate, *arguments):
        super().__init__(*arguments)
        self._gate = gate
        self._warm = False

    def warm_up(self):
        costs = super().warm_up()
        self._warm = True
        return costs

    def run(self, key, batch):
        if self._warm:
            self._gate.pass_through(key, batch)
        return super().run(key, batch)


TINY = BatchKey("resnet_tiny", "pixels", 32, 32, "pooled")


class Queue:
    """The real scheduler, looked at again and again: nothing of it can be replaced where it is compiled."""

    def __init__(self, scheduler):
        self.scheduler = scheduler

    def __len__(self):
        return len(self.scheduler)

    def expect_slow_batches(self, *sizes):
        """Have the scheduler learn, an outlier at a time, that such batches take far longer than anybody waits."""
        for size in sizes * 100:
            self.scheduler._costs.observe(TINY, size, 1000.0)

    def expect_one_slow_size(self, size):
        """Have the scheduler believe so of batches of one size, and of no others."""
        self.scheduler._costs._seen[TINY].curve[size] = 1000.0
        self.scheduler._forecast.forget(TINY)

    def promise_one(self):
        """Have room promised to somebody whose picture is being decoded."""
        assert not self.scheduler.reserve(TINY, 1, ready=0.0, deadline=math.inf, now=0.0)

    def take_one_promise_back(self):
        """Release it; nobody else may have taken it or have one."""
        (backlog,) = (each for each in self.scheduler._forecast._backlogs.values() if each)
        assert backlog.count(TINY) - len(self) == 1
        self.scheduler.release(TINY, deadline=math.inf)

    def until(self, length):
        """Wait until so many images wait for the device."""
        deadline = time.monotonic() + PATIENCE_S
        while len(self) != length:
            assert time.monotonic() < deadline, f"waited in vain for {length} waiting, not {len(self)}"
            time.sleep(POLL_S)


@dataclasses.dataclass
class Served:
    """A running server with everything that a test needs of it."""

    server: Server
    loop: asyncio.AbstractEventLoop
    gate: Gate
    queue: Queue
    journal: Journal
    channel: grpc.Channel = None
    expires_s: float = 1.0  # of requests that are to expire

    def await_(self, coroutine):
        """Run a coroutine on the server's loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(PATIENCE_S)

    def connect(self, *options):
        """Return a new channel; the caller closes it."""
        return grpc.insecure_channel(self.server.address, [("grpc.use_local_subchannel_pool", 1), *options])

    @property
    def features(self):
        return FeatureServiceStub(self.channel)

    @property
    def health(self):
        return health_pb2_grpc.HealthStub(self.channel)

    def check(self, service=""):
        status = self.health.Check(health_pb2.HealthCheckRequest(service=service), timeout=PATIENCE_S).status
        return health_pb2.HealthCheckResponse.ServingStatus.Name(status)

    def extract(self, *images, timeout=PATIENCE_S, metadata=None, **fields):
        request = pb.ExtractRequest(images=images, **fields)
        return self.features.Extract(request, timeout=timeout, metadata=metadata)

    def begin(self, *images, timeout=PATIENCE_S, **fields):
        """Send a request and return its future."""
        return self.features.Extract.future(pb.ExtractRequest(images=images, **fields), timeout=timeout)

    def expire(self, reached, *images):
        """Send requests whose deadline passes, until one has reached a place.

        Others may expire on their way, or be refused by a server that is too slow for them.
        """
        late = {grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED}
        came = False
        while not came:
            call = self.begin(*images, timeout=self.expires_s)
            while not call.done():
                came = came or reached()
                time.sleep(POLL_S)
            assert call.exception().code() in late, call.exception()
            came = came or reached()

    def metric(self, name, **labels):
        return self.server.metrics.registry.get_sample_value(name, labels)

    def assert_empty(self):
        """Check that nothing is left inside."""
        names = ("regard_queue_depth", "regard_in_flight_images", "regard_in_flight_bytes")
        assert {name: self.metric(name) for name in names} == dict.fromkeys(names, 0)


@pytest.fixture(scope="session")
def loop():
    """One event loop for all servers: gRPC's asyncio side wants one of them in a process."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="servers")
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def launch(loop, *, wait=True, engines=(), **settings):
    """Start a server on free ports; `engines` changes the options of its devices' engines, one after another."""
    given = {
        "address": "127.0.0.1:0",
        "metrics_address": "",
        "models": ("resnet_tiny",),
        "device": "cpu",
        "engine": "eager",
        "dtype": "float32",
        "cache_dir": None,
        "threads": 1,
        "decode_threads": 2,
        "log_level": "debug",
        **settings,
    }
    gate, journal = Gate(), Journal()
    logger = logging.Logger("regard.test", logging.DEBUG)  # noqa: LOG001 - one for each server
    logger.addHandler(journal)

    async def start():
        server = Server(Settings(**given), logger)
        for device, changes in zip_longest(server._devices, engines, fillvalue={}):
            options, *others = device._make_engine.args
            device._make_engine = partial(GatedEngine, gate, dataclasses.replace(options, **changes), *others)
        await server.start()
        if wait:
            await server.ready()
        return server

    server = asyncio.run_coroutine_threadsafe(start(), loop).result(PATIENCE_S)
    served = Served(server, loop, gate, Queue(server._batcher._scheduler), journal)
    served.channel = served.connect()
    return served


def land(served):
    """Stop a server, whatever a test left it in."""
    served.gate.open()
    served.channel.close()
    served.await_(served.server.drain(0.0))


@pytest.fixture(scope="session", params=["public", "direct"])
def frontend(request):
    """Every test that needs a server runs once through each front end."""
    return request.param


@pytest.fixture(scope="session")
def shared(loop, frontend):
    """A server that nobody disturbs."""
    served = launch(loop, metrics_address="127.0.0.1:0", frontend=frontend)
    yield served
    land(served)


@pytest.fixture
def serve(loop, frontend):
    """Start servers with settings of the test's own; they are stopped at its end."""
    running = []

    def serve(**settings):
        running.append(launch(loop, **{"frontend": frontend, **settings}))
        return running[-1]

    yield serve
    for served in running:
        land(served)


@pytest.fixture(scope="session")
def bundle():
    """The model that the servers serve, in this process."""
    return load_bundle("resnet_tiny")


@pytest.fixture
def pictures():
    """Make images: raw pixels of the model's own size, each different."""
    chance = np.random.default_rng(0)

    def pictures(count):
        return [
            pb.Image(raw=pb.RawImage(height=32, width=32, data=chance.bytes(32 * 32 * 3)))
            for _ in range(count)
        ]

    return pictures


def vector(result, output=0):
    """Return an output of a result that has one."""
    assert result.WhichOneof("outcome") == "features", result.error
    return tensors.to_array(result.features.outputs[output].tensor)


def reason(error):
    """Return the stable reason of a status, or of a call's error."""
    if isinstance(error, grpc.RpcError):
        trailers = dict(error.trailing_metadata())
        error = Status.FromString(trailers["grpc-status-details-bin"])
    for packed in error.details:
        info = ErrorInfo()
        if packed.Unpack(info):
            assert info.domain == "regard"
            return info.reason
    return None


@pytest.fixture
def vectors():
    """Return the first output of every result of a response."""
    return lambda response: np.stack([vector(result) for result in response.results])


@pytest.fixture(name="reason")
def reason_fixture():
    return reason


@pytest.fixture(name="vector")
def vector_fixture():
    return vector
