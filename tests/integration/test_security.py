"""Who may connect and who may call, through both front ends, with certificates made for the occasion."""

import contextlib
import socket
import ssl

import grpc
import numpy as np
import pytest
from certificates import Authority
from cryptography import x509
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from regard_client import Client, Tls, Transport, UnauthorizedError, UnavailableError, cli
from regard_models.samples import sample_photographs
from regard_proto.v1 import features_pb2 as pb
from regard_proto.v1.features_pb2_grpc import FeatureServiceStub

PATIENCE_S = 60.0
TOKEN, OTHER = "0123456789abcdef", "fedcba9876543210-other"
ONCE = Transport(max_attempts=1)
IMAGE = np.zeros((32, 32, 3), np.uint8)


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path / "ours")


@pytest.fixture
def tokens(tmp_path):
    """A file of tokens, which tests write anew."""
    path = tmp_path / "tokens"
    path.write_text(f"# who may call\nsearch {TOKEN}\n\n{OTHER}\n")
    return path


def client(served, **options):
    """Return a client that tries once."""
    port = served.server.address.rpartition(":")[2]
    return Client(f"localhost:{port}", transport=ONCE, timeout_s=PATIENCE_S, **options)


def extract(served, **options):
    with client(served, **options) as each:
        return each.extract(IMAGE)


def served_serial(served):
    """Return the serial number of the certificate that a new connection is shown."""
    host, _, port = served.server.address.rpartition(":")
    pem = ssl.get_server_certificate((host, int(port)), timeout=PATIENCE_S)
    return x509.load_pem_x509_certificate(pem.encode()).serial_number


def test_tls_is_for_those_who_trust_its_authority(serve, authority, tmp_path):
    """The right authority is answered; another one, the public ones and plain text are not."""
    served = serve(**authority.issue("server").server)
    assert extract(served, credentials=Tls(ca=authority.file)).shape == (64,)
    stranger = Authority(tmp_path / "theirs")
    for credentials in (Tls(ca=stranger.file), Tls(), None):
        with pytest.raises(UnavailableError):
            extract(served, credentials=credentials)


def test_mutual_tls_wants_a_certificate_of_its_authority(serve, authority, tmp_path):
    """Ours is let in; none, a stranger's and one that ran out are not."""
    served = serve(**authority.issue("server").server, tls_client_authority=authority.file)
    ours = Tls(ca=authority.file, **authority.issue("caller").client)
    assert extract(served, credentials=ours).shape == (64,)
    stranger = Authority(tmp_path / "theirs").issue("stranger")
    expired = authority.issue("expired", days=-1)
    for own in ({}, stranger.client, expired.client):
        with pytest.raises(UnavailableError):
            extract(served, credentials=Tls(ca=authority.file, **own))


def test_a_new_certificate_is_shown_to_new_connections(serve, authority):
    """A renewal needs no restart; calls in flight and connections that stand go on."""
    pair = authority.issue("server")
    served = serve(**pair.server)
    credentials = Tls(ca=authority.file)
    with client(served, credentials=credentials) as standing:
        standing.extract(IMAGE)
        served.gate.hold()
        port = served.server.address.rpartition(":")[2]
        channel = grpc.secure_channel(f"localhost:{port}", credentials.credentials())
        request = pb.ExtractRequest(images=[pb.Image(raw=pb.RawImage(height=32, width=32, data=bytes(3072)))])
        call = FeatureServiceStub(channel).Extract.future(request, timeout=PATIENCE_S)
        served.gate.until(2)
        assert served_serial(served) == authority.serials["server"]
        pair.replace(authority.issue("renewed"))
        assert served_serial(served) == authority.serials["renewed"]
        served.gate.open()
        assert len(call.result().results) == 1
        channel.close()
        standing.extract(IMAGE)
    assert served.metric("regard_security_reloads_total", what="certificate", outcome="ok") == 1


def test_a_certificate_that_does_not_fit_its_key_is_not_taken(serve, authority):
    """Half a renewal keeps the old pair, and is told of once."""
    pair = authority.issue("server")
    served = serve(**pair.server)
    pair.certificate.write_bytes(authority.issue("renewed").certificate.read_bytes())
    for _ in range(3):
        assert served_serial(served) == authority.serials["server"]
    assert served.journal.count("the certificate stays as it was") == 1
    assert served.metric("regard_security_reloads_total", what="certificate", outcome="failed") == 1
    pair.key.write_bytes(pair.key.with_name("renewed.key").read_bytes())
    assert served_serial(served) == authority.serials["renewed"]


@pytest.mark.parametrize("token", [TOKEN, OTHER])
def test_a_known_token_is_let_in(serve, tokens, token):
    """With a name before it or without."""
    assert extract(serve(tokens_file=tokens), token=token).shape == (64,)


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ((), "TOKEN_MISSING"),
        ((("authorization", TOKEN),), "TOKEN_MISSING"),
        ((("authorization", "Basic dXNlcjpwYXNz"),), "TOKEN_MISSING"),
        ((("authorization", "Bearer "),), "TOKEN_MISSING"),
        ((("authorization", f"Bearer {TOKEN}"), ("authorization", "Bearer x")), "TOKEN_MISSING"),
        ((("authorization", f"Bearer {TOKEN[:-1]}"),), "TOKEN_INVALID"),
        ((("authorization", f"Bearer {TOKEN} {OTHER}"),), "TOKEN_INVALID"),
        ((("authorization", f"Bearer {'a' * 7000}"),), "TOKEN_INVALID"),
        ((("authorization", "Bearer search"),), "TOKEN_INVALID"),
        ((("authorization-bin", f"Bearer {TOKEN}".encode()),), "TOKEN_MISSING"),
    ],
    ids=["none", "bare", "basic", "empty", "two", "short", "both", "huge", "name", "binary"],
)
def test_others_are_not(serve, tokens, metadata, expected, reason):
    """Whatever is not exactly one known token is UNAUTHENTICATED, with a reason that programs may test."""
    served = serve(tokens_file=tokens)
    for call in (
        lambda: served.extract(metadata=metadata),
        lambda: served.features.ListModels(pb.ListModelsRequest(), metadata=metadata, timeout=PATIENCE_S),
        lambda: list(served.features.StreamExtract(iter(()), metadata=metadata, timeout=PATIENCE_S)),
    ):
        with pytest.raises(grpc.RpcError) as error:
            call()
        assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert reason(error.value) == expected
        assert dict(error.value.trailing_metadata())["x-request-id"]
    assert served.metric("regard_requests_total", method="Extract", code="UNAUTHENTICATED") == 1
    assert TOKEN not in "".join(served.journal.lines)


def test_the_scheme_may_be_written_in_any_case(serve, tokens):
    """Bearer, bearer and BEARER are one; RFC 9110 says so."""
    served = serve(tokens_file=tokens)
    for scheme in ("Bearer", "bearer", "BEARER"):
        request = pb.ListModelsRequest()
        served.features.ListModels(request, metadata=(("authorization", f"{scheme} {TOKEN}"),))


def test_the_client_tells_what_is_wrong(serve, tokens):
    """An unknown token is an `UnauthorizedError` with its reason."""
    served = serve(tokens_file=tokens)
    with pytest.raises(UnauthorizedError) as error:
        extract(served, token="a" * 20)
    assert error.value.reason == "TOKEN_INVALID"


def test_a_refused_message_is_not_received(serve, tokens):
    """Who has no token cannot make the server hold, or refuse for its size, what he sends."""
    served = serve(tokens_file=tokens, max_message_bytes=1 << 20, max_image_bytes=1 << 20)
    with served.connect(("grpc.max_send_message_length", -1)) as channel:
        request = pb.ExtractRequest(images=[pb.Image(encoded=bytes(32 << 20))])
        with pytest.raises(grpc.RpcError) as error:
            FeatureServiceStub(channel).Extract(request, timeout=PATIENCE_S)
    assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_probes_need_no_token_and_reflection_does(serve, tokens):
    """Whoever watches the server has no secrets; whoever looks at its methods needs one."""
    served = serve(tokens_file=tokens)
    assert served.check() == "SERVING"
    stub = reflection_pb2_grpc.ServerReflectionStub(served.channel)

    def services(metadata):
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        (answer,) = stub.ServerReflectionInfo(iter([asked]), metadata=metadata, timeout=PATIENCE_S)
        return [each.name for each in answer.list_services_response.service]

    with pytest.raises(grpc.RpcError) as error:
        services(())
    assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert "regard.v1.FeatureService" in services((("authorization", f"Bearer {TOKEN}"),))


def test_an_unknown_method_tells_nothing_new(serve, tokens):
    """It is UNIMPLEMENTED with and without a token, and counted under no name of the caller's."""
    served = serve(tokens_file=tokens)
    with pytest.raises(grpc.RpcError) as error:
        served.channel.unary_unary("/regard.v1.FeatureService/Nothing")(b"", timeout=PATIENCE_S)
    assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_edits_of_the_tokens_count_at_the_next_call(serve, tokens):
    """What was taken out is refused and what was put in is let in, by those connected already."""
    served = serve(tokens_file=tokens)
    with client(served, token=TOKEN) as old, client(served, token="c" * 32) as new:
        old.extract(IMAGE)
        for content, known, unknown in (("c" * 32, new, old), (TOKEN, old, new), ("c" * 32, new, old)):
            tokens.write_text(f"{content}\n")
            known.extract(IMAGE)
            with pytest.raises(UnauthorizedError):
                unknown.extract(IMAGE)


@pytest.mark.parametrize("content", [None, "", "too-short", "a b c", "ünïcode-is-no-token"])
def test_a_broken_file_of_tokens_changes_nothing(serve, tokens, content):
    """A file that is gone, empty or no such file is told of, once, and those who could call still can."""
    served = serve(tokens_file=tokens)
    if content is None:
        tokens.unlink()
    else:
        tokens.write_text(content)
    for _ in range(3):
        extract(served, token=TOKEN)
    assert served.journal.count("the tokens stay as they were") == 1
    assert content is None or not content or content not in "".join(served.journal.lines)
    assert served.metric("regard_security_reloads_total", what="tokens", outcome="failed") == 1


def test_a_token_travels_through_tls(serve, authority, tokens):
    """Both together: the connection first, then the call."""
    served = serve(**authority.issue("server").server, tokens_file=tokens)
    credentials = Tls(ca=authority.file)
    assert extract(served, credentials=credentials, token=TOKEN).shape == (64,)
    with pytest.raises(UnauthorizedError):
        extract(served, credentials=credentials)


def test_the_command_line_has_it_all(serve, authority, tokens, capsys, monkeypatch):
    """`regard extract` and `regard models` with an authority, a certificate of their own and a token."""
    served = serve(
        **authority.issue("server").server, tls_client_authority=authority.file, tokens_file=tokens
    )
    own = authority.issue("caller")
    tokens.write_text(f"{TOKEN}\n")  # which is also a file for the caller
    photo = next(iter(sample_photographs()))
    port = served.server.address.rpartition(":")[2]
    tls = ["--target", f"localhost:{port}", "--ca", str(authority.file)]
    mutual = [*tls, "--certificate", str(own.certificate), "--key", str(own.key)]
    monkeypatch.delenv("REGARD_TOKEN", raising=False)
    assert cli.main(["extract", *mutual, "--token-file", str(tokens), str(photo)]) == 0
    assert "64" in capsys.readouterr().out
    monkeypatch.setenv("REGARD_TOKEN", TOKEN)
    assert cli.main(["models", *mutual]) == 0
    assert "resnet_tiny" in capsys.readouterr().out
    for missing in (
        ["models", *tls, "--timeout", "5"],
        ["models", *mutual, "--token-file", str(photo.parent / "none")],
    ):
        with contextlib.suppress(SystemExit):
            assert cli.main(missing) == 1
        assert capsys.readouterr().err.startswith("regard: ")


def test_the_server_warns_of_tokens_in_plain_text(serve, tokens):
    """Where it can be reached from elsewhere; on loopback there is nobody to read them."""
    warning = "tokens travel in plain text"
    assert not serve(tokens_file=tokens).journal.count(warning)
    assert serve(tokens_file=tokens, address="0.0.0.0:0").journal.count(warning) == 1


def test_connections_that_say_nothing_keep_nobody_out(serve, authority):
    """Hundreds of handshakes that never end, or end in rubbish, and callers are answered as ever."""
    served = serve(**authority.issue("server").server)
    host, _, port = served.server.address.rpartition(":")
    silent = [socket.create_connection((host, int(port)), PATIENCE_S) for _ in range(200)]
    for connection in silent[::2]:
        connection.sendall(b"\x16\x03\x01\x40\x00\x01\x00")  # the beginning of a long hello
    for connection in silent[::5]:
        connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
    assert extract(served, credentials=Tls(ca=authority.file)).shape == (64,)
    for connection in silent:
        connection.close()
    assert extract(served, credentials=Tls(ca=authority.file)).shape == (64,)


def test_a_caller_with_a_token_has_a_share_of_his_own(serve, tokens, pictures, reason):
    """One who floods the server is refused beyond it, and keeps nobody else from being answered."""
    served = serve(tokens_file=tokens, max_client_images=2)
    mine, theirs = (("authorization", f"Bearer {TOKEN}"),), (("authorization", f"Bearer {OTHER}"),)
    served.gate.hold()
    inside = served.features.Extract.future(pb.ExtractRequest(images=pictures(2)), metadata=mine)
    served.gate.until(1)
    with pytest.raises(grpc.RpcError) as error:
        served.extract(*pictures(1), metadata=mine)
    assert (error.value.code(), reason(error.value)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
    request = pb.ExtractRequest(images=pictures(1), request_id="patient")
    waiting = served.features.StreamExtract(iter([request]), metadata=mine, timeout=PATIENCE_S)
    other = served.features.Extract.future(pb.ExtractRequest(images=pictures(2)), metadata=theirs)
    served.queue.until(2)
    served.gate.open()
    assert len(inside.result().results) == len(other.result().results) == 2
    assert next(waiting).results[0].features.outputs
    served.assert_empty()


def test_without_tokens_a_caller_is_his_certificate_or_his_address(serve, authority, pictures):
    """Two certificates are two callers, two connections from one machine are one."""
    plain = serve(max_client_images=1)
    plain.gate.hold()
    inside = plain.begin(*pictures(1))
    plain.gate.until(1)
    with plain.connect() as other:
        error = FeatureServiceStub(other).Extract.future(pb.ExtractRequest(images=pictures(1))).exception()
        assert "images of yours" in error.details()
    plain.gate.open()
    assert inside.result().results
    mutual = serve(
        **authority.issue("server").server, tls_client_authority=authority.file, max_client_images=1
    )
    mutual.gate.hold()
    port, calls = mutual.server.address.rpartition(":")[2], []
    for name in ("one", "two", "two"):
        own = authority.issue(name).client if name not in authority.serials else calls[-1][1]
        credentials = Tls(ca=authority.file, **own).credentials()
        channel = grpc.secure_channel(
            f"localhost:{port}", credentials, [("grpc.use_local_subchannel_pool", 1)]
        )
        request = pb.ExtractRequest(images=pictures(1))
        calls.append((FeatureServiceStub(channel).Extract.future(request, timeout=PATIENCE_S), own, channel))
        mutual.gate.until(1)
        mutual.queue.until(min(len(calls), 2) - 1)
    assert "images of yours" in calls[2][0].exception().details()
    mutual.gate.open()
    assert calls[0][0].result().results
    assert calls[1][0].result().results
    for *_, channel in calls:
        channel.close()
