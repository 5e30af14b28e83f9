"""Two real servers, a real Prometheus that scrapes them, and callers of every kind.

callers ──→ regard serve ×2 ←── /metrics ── prometheus ←── HTTP API ── tests
"""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path

import grpc
import numpy as np
import pytest

from regard_client import Client
from regard_proto import tensors
from regard_proto.v1 import features_pb2 as pb
from regard_proto.v1.features_pb2_grpc import FeatureServiceStub

TOP = Path(__file__).parents[3]
REGARD = str(Path(sys.executable).with_name("regard"))
PATIENCE_S = 120.0
MODELS = ("resnet_tiny", "ea_mini")
OPTIONS = (
    *("--models", ",".join(MODELS), "--engine", "eager", "--dtype", "float32", "--threads", "1"),
    # Few, so that a burst is refused.
    *("--max-in-flight-images", "48", "--cache-bytes", "100000"),
    # Many, so that a test need not wait for minutes.
    *("--embedding-samples-per-s", "50", "--embedding-reference-samples", "64"),
)


def program(name):
    """Return the program's path; `make test` fetches it."""
    found = shutil.which(name, path=f"{TOP / '.cache/prometheus/usr/bin'}{os.pathsep}{os.environ['PATH']}")
    assert found, f"there is no {name}; `make .cache/prometheus/usr/bin/promtool` fetches it"
    return found


@pytest.fixture(scope="session")
def promtool():
    return program("promtool")


def until(found, what):
    """Ask another process again and again, until it gives what is waited for; return that."""
    deadline = time.monotonic() + PATIENCE_S
    pause = threading.Event()
    while not (value := found()):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        pause.wait(0.1)
    return value


class Replica:
    """A server in a process of its own, on ports that a later one may have again."""

    def __init__(self, folder, *, address="127.0.0.1:0", metrics="127.0.0.1:0"):
        environment = {name: value for name, value in os.environ.items() if not name.startswith("REGARD_")}
        self._log = (folder / "replicas.log").open("a")
        self._process = subprocess.Popen(
            [
                *(REGARD, "serve", *OPTIONS, "--cache-dir", str(folder / "cache")),
                *("--address", address, "--metrics-address", metrics),
            ],
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=environment,
        )

    def ready(self):
        lines = []
        while not any("try:" in line for line in lines):
            lines.append(self._process.stdout.readline())
            assert lines[-1], "it ended before it was ready"
        text = "".join(lines)
        self.address = re.search(r"ready on (\S+)", text)[1]
        self.metrics = re.search(r"http://(\S+)/metrics", text)[1]
        return self

    def scrape(self):
        with urllib.request.urlopen(f"http://{self.metrics}/metrics", timeout=PATIENCE_S) as answer:
            return answer.read().decode()

    def read(self, series):
        """Return the value of one series."""
        return float(re.search(rf"^{re.escape(series)} (\S+)$", self.scrape(), re.MULTILINE)[1])

    def leave(self):
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)

    def stop(self):
        self.leave()
        self._process.wait(PATIENCE_S)
        self._process.stdout.close()
        self._log.close()


class Prometheus:
    """A Prometheus with the rules that ship, scraping every second."""

    def __init__(self, folder, targets):
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(TOP / "deploy/prometheus/rules/*.yml")],
            "scrape_configs": [{"job_name": "regard", "static_configs": [{"targets": targets}]}],
        }
        (folder / "prometheus.yml").write_text(json.dumps(config))  # which is YAML, too
        self._log = (folder / "prometheus.log").open("w")
        self._process = subprocess.Popen(
            [
                program("prometheus"),
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'tsdb'}",
                f"--web.listen-address={self.address}",
            ],
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    def ready(self):
        until(self._is_ready, "Prometheus")
        return self

    def _is_ready(self):
        assert self._process.poll() is None, Path(self._log.name).read_text()
        try:
            with urllib.request.urlopen(f"http://{self.address}/-/ready", timeout=PATIENCE_S) as answer:
                return answer.status == HTTPStatus.OK
        except OSError:  # not listening yet, or answering that it is starting
            return False

    def get(self, path, **parameters):
        """Ask its HTTP API; a refusal is an error with its words."""
        url = f"http://{self.address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(f"{parameters}: {error.read().decode()}") from error

    def query(self, expr, at=None):
        """Return [(labels, value)] of an instant query."""
        given = {"query": expr} if at is None else {"query": expr, "time": at}
        found = self.get("query", **given)
        assert found["resultType"] == "vector", (expr, found["resultType"])
        return [(each["metric"], float(each["value"][1])) for each in found["result"]]

    def value(self, expr, at=None):
        """Return the one value of a query; None where there is none."""
        found = self.query(expr, at)
        assert len(found) <= 1, (expr, found)
        return found[0][1] if found else None

    def stop(self):
        self._process.terminate()
        self._process.wait(PATIENCE_S)
        self._log.close()


class Callers:
    """Everything that callers do, in turns, against one server; counts what they were answered."""

    CALL = 20  # images of a large one

    def __init__(self, replica):
        self._client = Client(replica.address)
        self._channel = grpc.insecure_channel(replica.address)
        self._stub = FeatureServiceStub(self._channel)
        self._chance = np.random.default_rng(0)
        self._over = threading.Event()
        self.answered = Counter()

    def raw(self, side=32):
        data = self._chance.integers(0, 256, (side, side, 3), np.uint8)
        return pb.Image(raw=pb.RawImage(height=side, width=side, data=data.tobytes()))

    def run(self):
        """Go on until the end."""
        with self._client, self._channel:
            while not self._over.is_set():
                for turn in (self.succeed, self.repeat, self.fail, self.flood, self.leave, self.stream):
                    turn()

    def end(self):
        self._over.set()

    def call(self, *images, model="resnet_tiny", timeout=PATIENCE_S, **fields):
        """Call, and count what became of the images, or of the call."""
        request = pb.ExtractRequest(images=images, model=model, **fields)
        try:
            response = self._stub.Extract(request, timeout=timeout)
        except grpc.RpcError as error:
            self.answered[error.code().name] += 1
            return
        for result in response.results:
            self.answered[model, result.WhichOneof("outcome")] += 1

    def succeed(self):
        """Images of both models, through the client library and as messages."""
        for model in MODELS:
            for _ in range(3):
                self._client.extract(
                    self._chance.integers(0, 256, (40, 40, 3), np.uint8), model=model, timeout_s=PATIENCE_S
                )
                self.answered[model, "features"] += 1
            self.call(*(self.raw() for _ in range(8)), model=model)
        self._client.models(timeout_s=PATIENCE_S)
        self._client.model(MODELS[0], timeout_s=PATIENCE_S)

    def repeat(self):
        """The same image, at once and again."""
        same = self.raw()
        for model in MODELS:
            self.call(same, same, same, model=model)
            self.call(same, model=model)

    def fail(self):
        """What is no image, what no network survives, what is not served."""
        huge = pb.Image(tensor=tensors.from_array(np.full((3, 32, 32), 3e38, np.float32)))
        for model in MODELS:
            self.call(pb.Image(encoded=b"text"), huge, self.raw(), model=model)
        self.call(self.raw(), model="made up")
        self.call(self.raw(), expected_fingerprint="0" * 64)
        self.call()

    def flood(self):
        """More at once than there is room for."""
        images = [self.raw() for _ in range(self.CALL)]
        for model in MODELS:
            request = pb.ExtractRequest(images=images, model=model)
            calls = [self._stub.Extract.future(request, timeout=PATIENCE_S) for _ in range(6)]
            for call in calls:
                error = call.exception()
                self.answered["RESOURCE_EXHAUSTED" if error else (model, "features")] += (
                    1 if error else self.CALL
                )

    def leave(self):
        """Callers who change their mind."""
        for model in MODELS:
            request = pb.ExtractRequest(images=[self.raw() for _ in range(self.CALL)], model=model)
            calls = [self._stub.Extract.future(request, timeout=PATIENCE_S) for _ in range(2)]
            for call in calls:
                call.cancel()
                self.answered[model, "left"] += self.CALL

    def stream(self):
        """One stream of a few requests."""
        requests = [
            pb.ExtractRequest(request_id=str(number), model=MODELS[number % 2], images=[self.raw()])
            for number in range(4)
        ]
        for response in self._stub.StreamExtract(iter(requests), timeout=PATIENCE_S):
            for result in response.results:
                self.answered[response.model, result.WhichOneof("outcome")] += 1


class Watched:
    """Servers that were under load for a while, and what Prometheus made of it."""

    def __init__(self, folder):
        self.folder = folder
        self.replicas = []
        self.prometheus = None
        self.callers = []

    def start(self):
        self.replicas = [Replica(self.folder), Replica(self.folder)]
        for each in self.replicas:
            each.ready()
        self.prometheus = Prometheus(self.folder, [each.metrics for each in self.replicas])
        self.prometheus.ready()
        self.callers = [Callers(each) for each in self.replicas]

    def load(self):
        """Have everybody call until there is enough to see; remember when, and let them end."""
        with ThreadPoolExecutor(len(self.callers)) as threads:
            running = [threads.submit(each.run) for each in self.callers]
            try:
                for what in (
                    # Recording rules have gone by, too: they ask for the last five minutes.
                    "count(count_over_time(up[1m]) >= 10) == 2",
                    "count(count_over_time(regard_embedding_drift[1m]) >= 4) == 4",
                    'count(sum by (instance) (rate(regard_items_total{outcome="cancelled"}[10s])) > 0) == 2',
                    "count(count_over_time(job_model_fingerprint:regard_embedding_drift:avg[1m]) >= 4) == 2",
                    "count(count_over_time(job_model_fingerprint:regard_embedding_variety:ratio[1m]) >= 4) == 2",
                    "count(count_over_time(job:regard_slow_calls:ratio_rate3d[1m]) >= 4) == 1",
                ):
                    until(lambda what=what: self.prometheus.query(what), what)
                self.loaded_at = time.time()
            finally:
                for each in self.callers:
                    each.end()
            for each in running:
                each.result()

    def close(self):
        for each in self.replicas:
            each.leave()
        for each in (*self.replicas, self.prometheus):
            if each is not None:
                each.stop()


@pytest.fixture(name="until", scope="session")
def until_fixture():
    return until


@pytest.fixture(scope="session")
def watched(tmp_path_factory):
    """Two loaded servers and their Prometheus; the load is over when a test gets them."""
    watched = Watched(tmp_path_factory.mktemp("watched"))
    try:
        watched.start()
        watched.load()
        yield watched
    finally:
        watched.close()
