"""`regard serve` as a process: its first line, its exit status, and what it says when it cannot."""

import os
import re
import signal
import socket
import subprocess
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from certificates import Authority
from process import BIN, PATIENCE_S, Process

from regard_proto.v1 import features_pb2 as pb
from regard_proto.v1.features_pb2_grpc import FeatureServiceStub
from regard_server.frontend.polling import BY_ITSELF, VARIABLE

REGARD = str(BIN / "regard")
LOCAL = ("--address", "127.0.0.1:0", "--metrics-address", "127.0.0.1:0")
# The engine that needs no measuring and writes no profile.
PLAIN = ("--engine", "eager", "--dtype", "float32", "--threads", "1", "--log-level", "debug")


class Server(Process):
    """A running `regard serve`."""

    def __init__(self, *options, **environment):
        super().__init__([REGARD, "serve", *LOCAL, *PLAIN, *options], **environment)

    def ready(self):
        """Wait for the announcement; return it with the two addresses: (text, address, metrics address)."""
        self.until("try:")
        text = self.output
        return text, re.search(r"ready on (\S+)", text)[1], re.search(r"http://(\S+)/metrics", text)[1]


@pytest.fixture
def start():
    """Start processes; what still runs at the end is killed."""
    started = []

    def start(*options, **environment):
        started.append(Server(*options, **environment))
        return started[-1]

    yield start
    for process in started:
        process.close()


def run(*options, **environment):
    """Run `regard serve` to its end: (status, standard output, standard error)."""
    finished = subprocess.run(
        [REGARD, "serve", *options],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        env={**os.environ, **environment},
    )
    return finished.returncode, finished.stdout, finished.stderr


def image(side):
    return pb.Image(raw=pb.RawImage(height=side, width=side, data=bytes(side * side * 3)))


def test_sigterm_under_load_answers_everybody_and_exits_with_0(start):
    """Whatever was accepted is answered, newcomers are turned away, and the end is orderly."""
    process = start("--models", "resnet_tiny")
    announced, address, _ = process.ready()
    assert "UNTRAINED" in announced
    assert f"regard extract --target {address}" in announced
    request = pb.ExtractRequest(images=[image(32)] * 16)
    some = threading.Semaphore(0)

    def call_until_refused(_number):
        answered = 0
        with grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            stub = FeatureServiceStub(channel)
            while True:
                try:
                    answered += len(stub.Extract(request, timeout=PATIENCE_S).results) == 16
                except grpc.RpcError as error:
                    # A call that crosses gRPC's GOAWAY on the way is cancelled by gRPC before the server sees it.
                    expected = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
                    assert error.code() in expected  # noqa: PT017 - it ends the loop
                    return answered
                some.release()

    with ThreadPoolExecutor(8) as callers:
        counts = callers.map(call_until_refused, range(8))
        for _ in range(40):
            assert some.acquire(timeout=PATIENCE_S)
        process.send(signal.SIGTERM)
        answered = sum(counts)
    assert process.end() == 0
    assert "Extract CANCELLED" not in process.output
    assert process.output.count("Extract OK") == answered
    assert "Traceback" not in process.output
    assert process.output.rstrip().endswith("stopped")


def test_a_second_signal_ends_it_at_once(start):
    """Whoever presses Ctrl-C twice does not wait for calls in flight."""
    process = start("--models", "resnet18", "--drain-timeout-s", "1000", "--default-timeout-s", "1000")
    _, address, metrics = process.ready()
    with grpc.insecure_channel(address, [("grpc.max_send_message_length", -1)]) as channel:
        # One call, so that nothing but its long computation stands between its arrival and its end.
        call = FeatureServiceStub(channel).Extract.future(pb.ExtractRequest(images=[image(224)] * 256))
        while "regard_in_flight_images 256.0" not in scrape(metrics):
            assert not call.done()
        process.send(signal.SIGINT)
        process.until("draining")
        process.send(signal.SIGINT)
        assert process.end() == 128 + signal.SIGINT
        assert call.exception().code() is grpc.StatusCode.UNAVAILABLE


def scrape(address):
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=PATIENCE_S) as answer:
        return answer.read().decode()


def test_a_signal_while_loading_stops_it_too(start):
    """Nobody has to wait for warm-up to stop a server."""
    process = start("--models", "resnet50")
    process.until("listening on")
    process.send(signal.SIGTERM)
    assert process.end() == 0


def test_a_signal_before_it_has_begun_stops_it_too(start, tmp_path):
    """What is told to stop while it imports torch ends at once; a container's first process would not hear it."""
    (tmp_path / "torch.py").write_text("import time; print('importing', flush=True); time.sleep(3600)")
    process = start(PYTHONPATH=str(tmp_path))
    process.until("importing")
    process.send(signal.SIGTERM)
    assert process.end() == 0
    assert "listening" not in process.output


@pytest.mark.parametrize(
    ("options", "environment", "expected"),
    [
        ((), {}, BY_ITSELF),
        ((), {VARIABLE: "-event_engine_client"}, "-event_engine_client"),
        (("--frontend", "public"), {}, None),
    ],
)
def test_it_reads_its_sockets_itself_unless_told_otherwise(start, options, environment, expected):
    """It begins once more for that, as the same process; through grpc.aio it leaves gRPC's choice alone."""
    process = start("--models", "resnet_tiny", *options, **environment)
    _, address, _ = process.ready()
    with grpc.insecure_channel(address) as channel:
        FeatureServiceStub(channel).Extract(pb.ExtractRequest(images=[image(32)]), timeout=PATIENCE_S)
    assert process.environment().get(VARIABLE) == expected
    process.send(signal.SIGTERM)
    assert process.end() == 0


def test_a_port_in_use_is_one_clear_line():
    """Another server on the port is said so, without a traceback, with status 1."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        status, out, err = run("--models", "resnet_tiny", "--address", address, *LOCAL[2:], *PLAIN)
    assert (status, out) == (1, "")
    assert f"cannot listen on {address}" in err
    assert "Traceback" not in err


def test_check_shows_what_would_be_served():
    """`--check` lists every setting and serves nothing."""
    status, out, err = run("--check", "--models", "resnet_tiny,big=resnet50", REGARD_MAX_BATCH="7")
    assert (status, err) == (0, "")
    assert "max_batch = 7" in out
    assert out.splitlines()[-1] == "ok: would serve resnet_tiny, big on 127.0.0.1:50051"


def test_check_reports_every_fault():
    """`--check` of bad settings says all that is wrong, each with its field, with status 2."""
    status, out, err = run("--check", "--max-batch", "0", "--address", "nowhere", REGARD_STREAM_WINDWO="3")
    assert (status, out) == (2, "")
    for field in ("max_batch:", "address:", "REGARD_STREAM_WINDWO:"):
        assert field in err
    assert "Traceback" not in err


def test_an_unknown_model_is_a_fault_of_the_settings():
    """A misspelt model is found before anything is bound, with the near names."""
    status, out, err = run("--models", "resnet_tinny")
    assert (status, out) == (2, "")
    assert "did you mean resnet_tiny" in err
    assert "Traceback" not in err


def test_weights_that_are_none_are_one_clear_line(tmp_path):
    """A file that is no model is an operator's mistake: its name and the reason, no traceback, status 1."""
    path = tmp_path / "mine.safetensors"
    path.write_bytes(b"not weights")
    status, out, err = run(*LOCAL, *PLAIN, "--models", str(path))
    assert (status, out) == (1, "")
    assert str(path) in err
    assert "Traceback" not in err


def test_sigterm_with_tls_ends_orderly(start, tmp_path):
    """Connections under TLS, one of them half open, keep nobody from stopping."""
    own = Authority(tmp_path).own
    pem, key = str(own.certificate), str(own.key)
    process = start("--models", "resnet_tiny", "--tls-certificate", pem, "--tls-key", key)
    announced, address, _ = process.ready()
    port = int(address.rpartition(":")[2])
    assert f"--target localhost:{port} --ca {pem}" in announced
    credentials = grpc.ssl_channel_credentials(own.certificate.read_bytes())
    with (
        grpc.secure_channel(f"localhost:{port}", credentials) as channel,
        socket.create_connection(("127.0.0.1", port)),
    ):
        request = pb.ExtractRequest(images=[image(32)])
        assert len(FeatureServiceStub(channel).Extract(request, timeout=PATIENCE_S).results) == 1
        process.send(signal.SIGTERM)
        assert process.end() == 0
    assert "Traceback" not in process.output


def test_check_reads_certificates_and_tokens(tmp_path):
    """Files that cannot be served with are found before anything is served, all of them, beside the models."""
    (tmp_path / "tokens").write_text("short")
    files = (
        "--tls-certificate",
        "none.pem",
        "--tls-key",
        "none.key",
        "--tokens-file",
        str(tmp_path / "tokens"),
    )
    status, out, err = run("--check", *files, "--models", "resnet_tinny")
    assert (status, out) == (2, "")
    for said in ("tls_certificate: cannot read", "tls_key: cannot read", "tokens_file: ", "models: "):
        assert said in err
    assert "short" not in err.replace("too short", "")
    assert "Traceback" not in err


def test_check_opens_the_weights(tmp_path):
    """A file that is no model is found by `--check`, before anybody waits for it."""
    path = tmp_path / "mine.safetensors"
    path.write_bytes(b"not weights")
    status, out, err = run("--check", "--models", f"resnet_tiny,{path}")
    assert (status, out) == (2, "")
    assert err.splitlines()[-1].startswith("models: ")
    assert str(path) in err
    assert "Traceback" not in err


def test_metadata_that_are_no_text_stay_out_of_the_log(start):
    """A header of bytes that are no UTF-8 is a caller's mistake, if not a mistyped secret."""
    process = start("--models", "resnet_tiny")
    _, address, _ = process.ready()
    host, _, port = address.rpartition(":")
    fields = {
        b":method": b"POST",
        b":scheme": b"http",
        b":path": b"/regard.v1.FeatureService/ListModels",
        b":authority": b"localhost",
        b"content-type": b"application/grpc",
        b"te": b"trailers",
        b"authorization": b"Bearer secret\xff\xfe",
    }
    # Each literal, not indexed: https://www.rfc-editor.org/rfc/rfc7541#section-6.2.2
    block = b"".join(
        bytes([0, len(name)]) + name + bytes([len(value)]) + value for name, value in fields.items()
    )
    frames = (b"\x04\0", b""), (b"\x01\x04", block), (b"\0\x01", bytes(5))
    with socket.create_connection((host, int(port)), PATIENCE_S) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        for number, (kind, payload) in enumerate(frames):
            stream = int(number > 0).to_bytes(4, "big")
            connection.sendall(len(payload).to_bytes(3, "big") + kind + stream + payload)
        process.until("ListModels OK")
    process.send(signal.SIGTERM)
    assert process.end() == 0
    assert "Traceback" not in process.output
    assert "secret" not in process.output
