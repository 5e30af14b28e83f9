"""docker-compose.yml for real: build it, bring it up, call it, scale it, kill it, watch it, take it down.

Not part of `make test`: it needs a Docker engine, or root on Debian to start one (see engine.sh), and takes minutes
the first time, when the base images and the image are made. `make e2e-compose` runs it, and with REGARD_COMPILED=false
before it the container whose Python is not compiled.

It prints what it sees and ends with status 0, or at the first thing that is not as it should be. Its project, its
image's tag and its ports on the host are its own, so a stack that already runs is left alone.
"""

# ruff: noqa: T201 - it reports on the terminal

import argparse
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import grpc
from calling import call, call_securely
from report import check, see, step
from scaling import scale_under_load
from secrets_of_tests import make_secrets
from stack import PROJECT, UP_TIMEOUT_S, Stack, docker_engine
from watching import check_watchers

from regard_models.samples import sample_photographs
from regard_proto.v1 import features_pb2 as pb
from regard_proto.v1.features_pb2_grpc import FeatureServiceStub

BUILD_TIMEOUT_S = 1800
STOP_TIMEOUT_S = 100
CALL_TIMEOUT_S = 60

# What is inside the worker when it is told to stop: a second or two of work for two cores.
REQUESTS, IMAGES_PER_REQUEST = 32, 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--folder", help="what engine.sh writes in, where it starts an engine")
    chosen = parser.parse_args()
    began = time.monotonic()
    with ExitStack() as cleanup:
        with step("a Docker engine and the base images"):
            engine = cleanup.enter_context(docker_engine(chosen.folder))
        stack = Stack(engine)
        cleanup.callback(take_down, stack)
        build(stack)
        try:
            bring_up(stack)
            with step("calls through Envoy: gRPC, JSON, grpc-web"):
                call(stack)
            with step("Prometheus and Grafana"):
                check_watchers(stack)
            scale_under_load(stack)
            stop_worker(stack)
            start_again(stack)
            secure(stack, Path(cleanup.enter_context(TemporaryDirectory())))
        except BaseException:
            print(stack.compose("logs", "--tail", "40"))
            raise
    print(f"==> all of it works ({time.monotonic() - began:.0f} s)")


def build(stack: Stack) -> None:
    with step("docker compose build"):
        stack.compose("build", "--quiet", timeout_s=BUILD_TIMEOUT_S)
    image = "regard-worker:e2e"
    size, base = (
        int(stack.docker("image", "inspect", "--format", "{{.Size}}", name)) / 1e6
        for name in (image, "python:3.11-slim-bookworm")
    )
    see(f"the image has {size:,.0f} MB, {base:,.0f} of them its base")
    search = (
        "command -v cc gcc g++ make; find /opt /root /home /tmp -name '*.whl' -o -path '*/.cache/*' -type f"
    )
    left = stack.docker("run", "--rm", "--user=0", "--entrypoint=sh", image, "-c", f"{search}; true")
    check("no compiler, wheel or cache is left in it", not left, left)


def bring_up(stack: Stack) -> None:
    with step("docker compose up --wait"):
        stack.compose("up", "--detach", "--wait", "--quiet-pull", timeout_s=UP_TIMEOUT_S)
    for service, ports in (("envoy", (50051, 8080)), ("prometheus", (9090,)), ("grafana", (3000,))):
        addresses = [stack.compose("port", service, str(port)) for port in ports]
        loopback = all(address.startswith("127.0.0.1:") for address in addresses)
        check(f"{service} is published on loopback", loopback, addresses)
    (worker,) = stack.containers("worker")
    check("the worker publishes no port", not stack.inspect(worker, "HostConfig.PortBindings"), worker)
    see(f"cold, with its engine to measure, it was ready after {stack.seconds_to_ready(worker):.1f} s")
    for service in ("worker", "envoy", "prometheus", "grafana"):
        (container,) = stack.containers(service)
        health = stack.inspect(container, "State.Health.Status")
        user = stack.docker("exec", container, "id", "-u")
        # `|| true`, because that it fails is the point.
        wrote = stack.docker("exec", container, "sh", "-c", "(touch /here && echo yes) 2>/dev/null || true")
        right = (health, user != "0", wrote) == ("healthy", True, "")
        check(
            f"{service} is healthy, runs as user {user}, on a read-only file system",
            right,
            (health, user, wrote),
        )


def stop_worker(stack: Stack) -> None:
    """Stop the only worker while it has calls to answer, the first of which it has answered."""
    photograph = pb.Image(encoded=sample_photographs()[0].read_bytes())
    request = pb.ExtractRequest(images=[photograph] * IMAGES_PER_REQUEST)
    (worker,) = stack.containers("worker")
    with (
        step("docker compose stop worker, with calls in flight"),
        ThreadPoolExecutor(1) as beside,
        grpc.insecure_channel(stack.target) as channel,
    ):
        extract = FeatureServiceStub(channel).Extract
        calls = [extract.future(request, timeout=CALL_TIMEOUT_S) for _ in range(REQUESTS)]
        calls[0].result()
        stopping = beside.submit(stack.compose, "stop", "worker", timeout_s=STOP_TIMEOUT_S)
        answered = [call.result() for call in calls]
        stopping.result()
    features = [result for reply in answered for result in reply.results if result.HasField("features")]
    asked = REQUESTS * IMAGES_PER_REQUEST
    check(f"{len(features)} of {asked} images were answered", len(features) == asked, answered[-1])
    state = stack.inspect(worker, "State")
    check("the worker exited with 0", (state["Status"], state["ExitCode"]) == ("exited", 0), state)


def start_again(stack: Stack) -> None:
    with step("docker compose up --wait, again"):
        stack.compose("up", "--detach", "--wait", timeout_s=UP_TIMEOUT_S)
    (worker,) = stack.containers("worker")
    see(
        f"warm, with what it has measured in the volume, it was ready after {stack.seconds_to_ready(worker):.1f} s"
    )


def secure(stack: Stack, folder: Path) -> None:
    made = make_secrets(folder)
    stack.environment.update(made)
    stack.files.append("docker-compose.tls.yml")
    with step("the same with TLS and tokens"):
        stack.compose("up", "--detach", "--wait", timeout_s=UP_TIMEOUT_S)
        call_securely(stack, made["TLS_CA"])


def take_down(stack: Stack) -> None:
    with step("docker compose down"):
        stack.compose("down", "--volumes", timeout_s=STOP_TIMEOUT_S)
    mark = f"label=com.docker.compose.project={PROJECT}"
    for kind in ("container", "network", "volume"):
        every = ["--all"] if kind == "container" else []
        left = stack.docker(kind, "ls", *every, "--quiet", "--filter", mark)
        check(f"no {kind} is left", not left, left)


if __name__ == "__main__":
    main()
