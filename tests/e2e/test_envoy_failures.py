"""Workers that die, leave and come while callers are at it: nobody notices."""

import signal
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from load import both_sorts
from processes import Envoy, Worker, free_ports

from regard_models.samples import sample_photographs
from regard_proto.v1 import features_pb2 as pb
from regard_proto.v1.features_pb2_grpc import FeatureServiceStub

PHOTOGRAPH = sample_photographs()[0].read_bytes()
THREADS = 4
# Enough calls to see that the load goes on.
SOME = 100


class Pair:
    """Envoy in front of two servers, each of which can be begun again."""

    def __init__(self, launch, folder):
        self._launch = launch
        self._revived = 0
        self.workers = [launch(Worker, port) for port in free_ports(2)]
        for worker in self.workers:
            worker.ready()
        self.envoy = launch(Envoy, folder, [worker.port for worker in self.workers]).ready(2)

    def revive(self):
        """Begin the second server again, after its end, and wait until Envoy has taken it in."""
        self._revived += 1
        # Otherwise it may be there again before Envoy has missed it.
        self.envoy.until('"eject_unhealthy_event"', self._revived)
        self.workers[1] = self._launch(Worker, self.workers[1].port).ready()
        self.envoy.until('"add_healthy_event"', 2 + self._revived)


@pytest.fixture(scope="module")
def pair(launch, tmp_path_factory):
    return Pair(launch, tmp_path_factory.mktemp("envoy"))


def statistic(envoy, name):
    """Return the sum over a metric's series of the workers' cluster."""
    _, _, body = envoy.http("/stats/prometheus", port=envoy.observe_port)
    lines = [line for line in body.decode().splitlines() if line.startswith(f"{name}{{")]
    return sum(float(line.rpartition(" ")[2]) for line in lines if '"workers"' in line)


def test_calls_are_spread_evenly(pair):
    """Of a load on two equal workers each answers between 40 and 60 in a hundred."""
    envoy = pair.envoy
    with both_sorts(envoy.target, PHOTOGRAPH, THREADS) as load:
        load.until(10 * SOME)
    _, _, body = envoy.http("/clusters", port=envoy.admin_port)
    counts = [
        int(line.rpartition(":")[2])
        for worker in pair.workers
        for line in body.decode().splitlines()
        if line.startswith(f"workers::127.0.0.1:{worker.port}::rq_success::")
    ]
    assert load.failures == []
    assert 0.4 < counts[0] / sum(counts) < 0.6


def test_a_worker_that_drains_costs_no_call(pair):
    """SIGTERM of one of two under load fails no call, and Envoy has turned away before the port is closed."""
    envoy, leaving = pair.envoy, pair.workers[1]
    with both_sorts(envoy.target, PHOTOGRAPH, THREADS) as load:
        load.until(SOME)
        leaving.send(signal.SIGTERM)
        envoy.until('"eject_unhealthy_event"')
        assert leaving.end() == 0
        load.until(SOME)
    assert load.failures == []
    assert statistic(envoy, "envoy_cluster_upstream_rq_retry") == 0
    pair.revive()


def test_a_worker_that_is_killed_costs_no_call(pair):
    """SIGKILL of one of two under load fails no call, and another one on its port is taken in again."""
    killed = pair.workers[1]
    with both_sorts(pair.envoy.target, PHOTOGRAPH, THREADS) as load:
        load.until(SOME)
        killed.send(signal.SIGKILL)
        killed.end()
        load.until(SOME)
        pair.revive()
        load.until(SOME)
    assert load.failures == []
    assert statistic(pair.envoy, "envoy_cluster_upstream_rq_retry") > 0


def test_a_large_call_in_flight_is_made_again_elsewhere(pair):
    """A message of many megabytes is kept until it is answered, so that another worker can be asked."""
    image = pb.Image(raw=pb.RawImage(height=1500, width=1500, data=bytes(1500 * 1500 * 3)))
    request = pb.ExtractRequest(images=[image] * 2)
    options = [("grpc.enable_retries", 0), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(pair.envoy.target, options) as channel:
        extract = FeatureServiceStub(channel).Extract
        extract(request, timeout=60)
        calls = [extract.future(request, timeout=60) for _ in range(16)]
        calls[0].result()
        pair.workers[1].send(signal.SIGKILL)
        assert [len(call.result().results) for call in calls] == [2] * 16
    pair.workers[1].end()
    pair.revive()


def test_an_envoy_that_stops_lets_calls_end(pair):
    """SIGTERM to the container's script: calls in flight are answered, and it ends with status 0."""
    # All eight fit into one worker (1,024 images at once), for the balancer may send them all to the same one.
    request = pb.ExtractRequest(images=[pb.Image(encoded=PHOTOGRAPH)] * 128)
    with (
        ThreadPoolExecutor(1) as beside,
        grpc.insecure_channel(pair.envoy.target, [("grpc.enable_retries", 0)]) as channel,
    ):
        extract = FeatureServiceStub(channel).Extract
        extract(pb.ExtractRequest(images=request.images[:1]), timeout=60)
        calls = [extract.future(request, timeout=60) for _ in range(8)]
        calls[0].result()
        pair.envoy.send(signal.SIGTERM)
        ended = beside.submit(pair.envoy.end)
        assert [len(call.result().results) for call in calls] == [128] * 8
    assert ended.result() == 0


def test_no_worker_is_said_at_once(launch, tmp_path):
    """Without a worker callers are told UNAVAILABLE rather than kept waiting, and health says no."""
    envoy = launch(Envoy, tmp_path, free_ports(1))
    envoy.until("starting main dispatch loop")
    with grpc.insecure_channel(envoy.target, [("grpc.enable_retries", 0)]) as channel:
        with pytest.raises(grpc.RpcError) as error:
            FeatureServiceStub(channel).ListModels(pb.ListModelsRequest(), timeout=30, wait_for_ready=True)
        assert error.value.code() is grpc.StatusCode.UNAVAILABLE
    assert not envoy.is_ready()
