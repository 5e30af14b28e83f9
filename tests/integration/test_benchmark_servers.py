"""The benchmarks' servers with something of ours replaced: they follow when what they replace changes."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from process import PATIENCE_S, Process

from regard_proto import tensors
from regard_proto.v1 import features_pb2 as pb
from regard_proto.v1.features_pb2_grpc import FeatureServiceStub

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
PLAIN = ("--address", "127.0.0.1:0", "--metrics-address", "", "--engine", "eager", "--dtype", "float32")


@pytest.fixture
def ask(pictures):
    """Send one image to an address; return its embedding."""

    def ask(address):
        with grpc.insecure_channel(address) as channel:
            request = pb.ExtractRequest(images=pictures(1))
            (result,) = FeatureServiceStub(channel).Extract(request, timeout=PATIENCE_S).results
        (output,) = result.features.outputs
        assert output.name == "embedding"
        return tensors.to_array(output.tensor)

    return ask


@pytest.mark.parametrize("options", [["direct"], ["public"], ["public", "--serve=plain"]], ids=" ".join)
def test_the_server_without_a_model_answers_with_nothing_computed(ask, options):
    """Behind each front end, and as anybody would write it, an image gets the vector of zeros that stands for all."""
    command = [sys.executable, str(BENCHMARKS / "null_server.py"), *options]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        try:
            address = server.stdout.readline().strip()
            assert address, "it ended before it served"
            vector = ask(address)
        finally:
            server.stdin.close()
            assert server.wait(PATIENCE_S) == 0
    assert vector.shape == (64,)
    assert not vector.any()


@pytest.mark.parametrize("kind", ["on", "off"])
def test_the_server_whose_metrics_cost_nothing_answers_as_the_other_does(ask, kind):
    """With and without what counts, and without running the network, an image gets its vector of zeros."""
    command = [sys.executable, str(BENCHMARKS / "observed_server.py"), kind, "--null"]
    server = Process([*command, *PLAIN, "--models", "resnet_tiny"])
    try:
        server.until("try:")
        assert not ask(re.search(r"ready on (\S+)", server.output)[1]).any()
        server.send(signal.SIGTERM)
        assert server.end() == 0
    finally:
        server.close()
