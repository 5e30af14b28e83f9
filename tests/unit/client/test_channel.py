"""How the connection behaves: retries, limits, TLS."""

import json
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from certificates import Authority

from regard_client import AsyncClient, Client, MessageTooLargeError, Tls, Transport, UnavailableError
from regard_client.channel import call_metadata
from regard_client.testing import FakeServer
from regard_client.testing.servicer import OUTPUTS, Script, Servicer
from regard_proto.v1 import features_pb2_grpc


def test_unavailable_calls_are_tried_again(client, server):
    """A call that was UNAVAILABLE twice is answered the third time, without the caller's doing."""
    server.fail("", grpc.StatusCode.UNAVAILABLE, times=2)
    np.testing.assert_array_equal(client.extract(b"photo"), server.vector(b"photo"))
    assert len(server.calls) == 3


def test_large_images_are_tried_again_too(client, server):
    """A message beyond gRPC's default retry buffer of 256 KiB is still sent again."""
    photo = bytes(3 << 20)
    server.fail("", grpc.StatusCode.UNAVAILABLE)
    np.testing.assert_array_equal(client.extract(photo), server.vector(photo))
    assert len(server.calls) == 2


def test_attempts_have_an_end(server):
    """A server that stays UNAVAILABLE is asked `max_attempts` times."""
    server.fail("", grpc.StatusCode.UNAVAILABLE, times=10)
    transport = Transport(max_attempts=2, initial_backoff_s=0.01)
    with Client(server.target, transport=transport) as client, pytest.raises(UnavailableError):
        client.extract(b"photo")
    assert len(server.calls) == 2


def test_fewer_cannot_be_sent_than_are_accepted():
    """A ratio below 1 would come to nothing being sent, and is refused by name."""
    with pytest.raises(ValueError, match="sent"):
        Transport(sent_per_accepted=0.9)


@pytest.mark.parametrize("option", ["initial_backoff_s", "max_backoff_s"])
def test_pauses_that_grpc_cannot_take_are_refused(option):
    """Pauses so short that gRPC loses the call over them are refused, with what would do."""
    with pytest.raises(ValueError, match=r"expected 0\.01 s at least"):
        Transport(**{option: 0.001})


def test_overload_is_not_tried_again(client, server):
    """A server that refuses work is not pushed deeper."""
    server.fail("OVERLOADED", grpc.StatusCode.RESOURCE_EXHAUSTED)
    with pytest.raises(Exception, match="told to fail"):
        client.extract(b"photo")
    assert len(server.calls) == 1


def test_one_attempt_means_no_retries():
    """With a single attempt there is no retry policy, which gRPC would refuse."""
    options = dict(Transport(max_attempts=1).options("host:1"))
    assert "methodConfig" not in json.loads(options["grpc.service_config"])


@pytest.mark.parametrize(
    ("target", "local"), [("localhost:1", True), ("127.0.0.1:1", True), ("regard:1", False)]
)
def test_no_proxy_leads_to_ones_own_machine(target, local):
    """A proxy in the environment is used for other machines only."""
    assert ("grpc.enable_http_proxy" in dict(Transport().options(target))) is local


def test_a_message_beyond_our_limit_is_told():
    """What is larger than the client sends is refused here, with the limit and where to raise it."""
    with FakeServer() as server, Client(server.target, transport=Transport(max_send_bytes=1000)) as client:
        with pytest.raises(MessageTooLargeError, match=r"client's limit of 1,000.*Transport"):
            client.extract(bytes(2000))
        assert not server.calls


def test_a_message_beyond_the_servers_limit_is_told():
    """What is larger than the server takes is told with its limit, not as overload."""
    with (
        FakeServer(max_message_bytes=1000) as server,
        Client(server.target) as client,
        pytest.raises(MessageTooLargeError, match="server's limit of 1,000"),
    ):
        client.extract(bytes(2000))


def test_an_answer_beyond_our_limit_is_told():
    """What is larger than the client takes is told with its limit."""
    with (
        FakeServer(outputs={"embedding": (1000,)}) as server,
        Client(server.target, transport=Transport(max_receive_bytes=1000)) as client,
        pytest.raises(MessageTooLargeError, match="client's limit of 1,000"),
    ):
        client.extract(b"photo")


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.mark.parametrize("mutual", [False, True])
def test_tls_and_mtls(authority, mutual):
    """With the authority, and a certificate of our own where the server wants one, calls are answered."""
    pair, root = authority.issue("server"), authority.file.read_bytes()
    script = Script("fake", OUTPUTS, "f" * 64, 8)
    script.gate.set()
    with ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool)
        features_pb2_grpc.add_FeatureServiceServicer_to_server(Servicer(script), server)
        credentials = grpc.ssl_server_credentials(
            [(pair.key.read_bytes(), pair.certificate.read_bytes())],
            root_certificates=root if mutual else None,
            require_client_auth=mutual,
        )
        port = server.add_secure_port("127.0.0.1:0", credentials)
        server.start()
        own = authority.issue("caller").client if mutual else {}
        with Client(f"localhost:{port}", credentials=Tls(ca=authority.file, **own), token="t") as client:  # noqa: S106
            assert client.extract(b"photo").shape == (8,)
        transport = Transport(max_attempts=1)
        with (
            Client(f"localhost:{port}", credentials=Tls(), transport=transport) as stranger,
            pytest.raises(UnavailableError),
        ):
            stranger.extract(b"photo")
        server.stop(None).wait()


def test_half_of_mtls_is_refused():
    """A certificate without its key is a mistake that is told at once."""
    with pytest.raises(ValueError, match="certificate and key"):
        Client(credentials=Tls(certificate="cert.pem"))


@pytest.mark.parametrize(
    ("target", "options", "sent"),
    [
        ("localhost:1", {}, True),
        ("unix:/run/regard", {}, True),
        ("regard:1", {"credentials": Tls()}, True),
        ("regard:1", {"plaintext_token": True}, True),
        ("regard:1", {}, False),
        ("dns:///localhost.example:1", {}, False),
        ("localhost.example:1", {}, False),
    ],
)
def test_a_token_does_not_travel_in_plain_text(target, options, sent):
    """To other machines it goes through TLS, or where somebody says that the way is safe."""
    if sent:
        assert call_metadata("secret", target, options.pop("credentials", None), **options)
        return
    for kind in (Client, AsyncClient):
        with pytest.raises(ValueError, match="without TLS"):
            kind(target, token="secret", **options)  # noqa: S106 - not one


@pytest.mark.parametrize("token", ["two words", "line\n", "naïve", "", "a\x00b"])
def test_a_token_that_no_header_can_carry_is_refused(token):
    """Before anything is sent, and without being shown; an empty one is none."""
    if not token:
        assert call_metadata(token, "localhost:1", None) == ()
        return
    with pytest.raises(ValueError, match="no bearer token") as error:
        Client(token=token)
    assert token not in str(error.value)
