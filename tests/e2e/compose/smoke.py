"""docker-compose.yml for real: build it, bring it up, ask it, watch it through Prometheus, stop it, take it down.

Not part of `make test`: it needs a Docker engine, or root on Debian to start one (see engine.sh), and takes minutes
the first time, when the base images and the image are made. From the repository's top, after `make test` or any other
target that makes .venv:

    .venv/bin/python tests/e2e/compose/smoke.py

It prints what it sees and ends with status 0, or at the first thing that is not as it should be. Its project and its
ports on the host are its own, so a stack that already runs is left alone.
"""

# ruff: noqa: T201 - it reports on the terminal

import argparse
import json
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import grpc
import numpy as np
from stack import PROJECT, Stack, docker_engine

from regard_client import Client
from regard_models.samples import sample_photographs
from regard_proto.v1 import features_pb2 as pb
from regard_proto.v1.features_pb2_grpc import FeatureServiceStub

BUILD_TIMEOUT_S = 1800
UP_TIMEOUT_S = 120
STOP_TIMEOUT_S = 60
SCRAPE_TIMEOUT_S = 60
CALL_TIMEOUT_S = 60

# What is inside the worker when it is told to stop: fewer requests than its stream window, and a second or two of
# work for two cores.
STREAMED_REQUESTS, IMAGES_PER_REQUEST = 32, 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--folder", help="what engine.sh writes in, where it starts an engine")
    chosen = parser.parse_args()
    with ExitStack() as cleanup:
        with step("a Docker engine and the base images"):
            engine = cleanup.enter_context(docker_engine(chosen.folder))
        stack = Stack(engine)
        cleanup.callback(take_down, stack)
        build(stack)
        try:
            bring_up(stack)
            ask(stack)
            watch(stack)
            stop_worker(stack)
        except BaseException:
            print(stack.compose("logs", "--tail", "40"))
            raise
    print("==> all of it works")


def build(stack: Stack) -> None:
    with step("docker compose build"):
        stack.compose("build", "--quiet", timeout_s=BUILD_TIMEOUT_S)
    image = f"{PROJECT}-worker"
    size = int(stack.docker("image", "inspect", "--format", "{{.Size}}", image))
    see(f"the image has {size / 1e6:,.0f} MB")
    search = (
        "command -v cc gcc g++ make; find /opt /root /home /tmp -name '*.whl' -o -path '*/.cache/*' -type f"
    )
    left = stack.docker("run", "--rm", "--user=0", "--entrypoint=sh", image, "-c", f"{search}; true")
    check("no compiler, wheel or cache is left in it", not left, left)


def bring_up(stack: Stack) -> None:
    with step("docker compose up --wait"):
        stack.compose("up", "--detach", "--wait", "--quiet-pull", timeout_s=UP_TIMEOUT_S)
    for service, port in (("worker", 50051), ("prometheus", 9090)):
        health = stack.state(service)["Health"]["Status"]
        check(f"{service} is healthy", health == "healthy", health)
        address = stack.compose("port", service, str(port))
        check(f"{service} is published on loopback", address.startswith("127.0.0.1:"), address)
    identity = stack.compose("exec", "worker", "id", "--user")
    check(f"the worker runs as user {identity}", identity != "0", identity)


def ask(stack: Stack) -> None:
    photographs = sample_photographs()
    with (
        step(f"{len(photographs)} photographs through the published port"),
        Client(f"127.0.0.1:{stack.grpc_port}", timeout_s=CALL_TIMEOUT_S) as client,
    ):
        result = client.result(photographs[0])
        vectors = np.stack(list(client.extract_many(photographs)))
    see(f"{result.model} {result.fingerprint[:12]}; {result.timings}")
    right = vectors.ndim == 2 and len(vectors) == len(photographs) and np.isfinite(vectors).all()
    check(f"vectors of shape {vectors.shape}, all finite", right and vectors.any(axis=1).all(), vectors)


def watch(stack: Stack) -> None:
    with step("Prometheus scrapes the worker"):
        # At least the images of `ask`: a scrape that came after them.
        asked = 1 + len(sample_photographs())
        deadline = time.monotonic() + SCRAPE_TIMEOUT_S
        while (seen := query(stack, 'sum(regard_items_total{outcome="ok"})')) < asked:
            if time.monotonic() > deadline:
                raise SystemExit(
                    f"not so: all {asked} images are counted within {SCRAPE_TIMEOUT_S} s; saw {seen}"
                )
            time.sleep(0.5)  # its API has nothing to wait on
    see(f"it has counted {seen:.0f} images")
    up, ready = query(stack, 'sum(up{job="regard"})'), query(stack, "sum(regard_ready)")
    check("one target is up, and says that it is ready", (up, ready) == (1, 1), (up, ready))


def stop_worker(stack: Stack) -> None:
    """Stop the worker while it has calls to answer, the first of which it has answered."""
    photograph = pb.Image(encoded=sample_photographs()[0].read_bytes())
    requests = [
        pb.ExtractRequest(images=[photograph] * IMAGES_PER_REQUEST, request_id=str(number))
        for number in range(STREAMED_REQUESTS)
    ]
    with (
        step("docker compose stop worker, under load"),
        ThreadPoolExecutor(1) as beside,
        grpc.insecure_channel(f"127.0.0.1:{stack.grpc_port}") as channel,
    ):
        extract = FeatureServiceStub(channel).Extract
        calls = [extract.future(request, timeout=CALL_TIMEOUT_S) for request in requests]
        calls[0].result()
        stopping = beside.submit(stack.compose, "stop", "worker", timeout_s=STOP_TIMEOUT_S)
        answered = [call.result() for call in calls]
        stopping.result()
    features = [result for reply in answered for result in reply.results if result.HasField("features")]
    asked = STREAMED_REQUESTS * IMAGES_PER_REQUEST
    check(f"{len(features)} of {asked} images were answered", len(features) == asked, answered[-1])
    state = stack.state("worker")
    check("the worker exited with 0", (state["Status"], state["ExitCode"]) == ("exited", 0), state)
    see(f"its last words: {stack.compose('logs', '--no-log-prefix', '--tail', '3', 'worker')}")


def take_down(stack: Stack) -> None:
    with step("docker compose down"):
        stack.compose("down", "--volumes", timeout_s=STOP_TIMEOUT_S)
    mark = f"label=com.docker.compose.project={PROJECT}"
    for kind in ("container", "network", "volume"):
        every = ["--all"] if kind == "container" else []
        left = stack.docker(kind, "ls", *every, "--quiet", "--filter", mark)
        check(f"no {kind} is left", not left, left)


def query(stack: Stack, expression: str) -> float:
    """Return the value of an expression of one series, by Prometheus' HTTP API; 0 where there is none."""
    arguments = urllib.parse.urlencode({"query": expression})
    url = f"http://127.0.0.1:{stack.prometheus_port}/api/v1/query?{arguments}"
    with urllib.request.urlopen(url, timeout=10) as response:
        series = json.load(response)["data"]["result"]
    return float(series[0]["value"][1]) if series else 0.0


@contextmanager
def step(what: str) -> Iterator[None]:
    print(f"==> {what}", flush=True)
    began = time.monotonic()
    yield
    see(f"{time.monotonic() - began:.1f} s")


def see(what: str) -> None:
    print(f"    {what}", flush=True)


def check(claim: str, holds: bool, saw: object) -> None:  # noqa: FBT001 - reads as a sentence
    if not holds:
        raise SystemExit(f"not so: {claim}; saw {saw}")
    see(claim)


if __name__ == "__main__":
    main()
