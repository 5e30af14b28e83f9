"""Health, reflection and the life of a server: loading, ready, failed, draining."""

import threading

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from regard_proto.v1 import features_pb2 as pb
from regard_server import device

PATIENCE_S = 60.0
SERVICE = "regard.v1.FeatureService"
NAMES = ("", SERVICE, f"{SERVICE}/resnet_tiny")


@pytest.fixture
def watch():
    """Watch a service's health; the iterator gives the names of states."""
    calls = []

    def watch(served, service=""):
        call = served.health.Watch(health_pb2.HealthCheckRequest(service=service), timeout=PATIENCE_S)
        calls.append(call)
        return call, (health_pb2.HealthCheckResponse.ServingStatus.Name(each.status) for each in call)

    yield watch
    for call in calls:
        call.cancel()


@pytest.fixture
def loading(serve, monkeypatch):
    """A server whose weights take until `finish` is set."""
    finish = threading.Event()
    load = device.load_bundle

    def slow(*arguments, **options):
        assert finish.wait(PATIENCE_S)
        return load(*arguments, **options)

    monkeypatch.setattr(device, "load_bundle", slow)
    served = serve(wait=False)
    served.finish = finish
    yield served
    finish.set()
    served.await_(served.server.ready())


@pytest.mark.parametrize("service", NAMES)
def test_a_warm_server_serves(shared, service):
    """Overall, the service and the model are SERVING."""
    assert shared.check(service) == "SERVING"


def test_a_service_that_is_not_there_is_unknown(shared):
    """Asking for the health of something else is NOT_FOUND."""
    for service in ("other.Service", "resnet_tiny", f"{SERVICE}/other"):
        with pytest.raises(grpc.RpcError) as error:
            shared.check(service)
        assert error.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("service", NAMES)
def test_nothing_serves_before_warm_up(loading, service):
    """A server that is still loading says so, for everything."""
    assert loading.check(service) == "NOT_SERVING"


def test_watchers_hear_that_loading_is_over(loading, watch):
    """NOT_SERVING becomes SERVING the moment the models are warm."""
    watched = [watch(loading, service)[1] for service in NAMES]
    assert [next(each) for each in watched] == ["NOT_SERVING"] * 3
    loading.finish.set()
    assert [next(each) for each in watched] == ["SERVING"] * 3


def test_a_watcher_who_leaves_does_not_deafen_the_others(loading, watch):
    """Of two watchers of one service the second hears of changes after the first is gone."""
    first, states = watch(loading)
    assert next(states) == "NOT_SERVING"
    _, others = watch(loading)
    assert next(others) == "NOT_SERVING"
    first.cancel()
    assert loading.check() == "NOT_SERVING"
    loading.finish.set()
    assert next(others) == "SERVING"


def test_requests_while_loading_are_unavailable_with_a_time_to_come_back(loading, pictures, reason):
    """Nobody is kept waiting for weights: UNAVAILABLE, RetryInfo, and GetModel says LOADING."""
    with pytest.raises(grpc.RpcError) as error:
        loading.extract(*pictures(1))
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE
    assert reason(error.value) == "UNAVAILABLE"
    assert "is being loaded" in error.value.details()
    assert dict(error.value.trailing_metadata())["grpc-retry-pushback-ms"] == "1000"
    (model,) = loading.features.ListModels(pb.ListModelsRequest()).models
    assert (model.name, model.state) == ("resnet_tiny", pb.MODEL_STATE_LOADING)


def test_weights_that_cannot_be_loaded_end_the_server(serve, monkeypatch, pictures):
    """A server without its model is not healthy, says FAILED, and tells its owner."""

    def fail(*_arguments, **_options):
        raise OSError("no such weights")

    monkeypatch.setattr("regard_server.device.load_bundle", fail)
    served = serve(wait=False)
    served.journal.until("the device thread ended")
    served.await_(failure(served.server))
    assert served.check() == "NOT_SERVING"
    with pytest.raises(grpc.RpcError) as error:
        served.extract(*pictures(1))
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE
    assert served.features.GetModel(pb.GetModelRequest()).model.state == pb.MODEL_STATE_FAILED
    assert served.metric("regard_ready") == 0


async def failure(server):
    return await server.failed


def test_a_device_thread_that_dies_takes_its_health_with_it(serve, watch, pictures, reason):
    """Whoever waits and whoever comes is told UNAVAILABLE at once, and health says NOT_SERVING."""
    served = serve()
    _, states = watch(served)
    assert next(states) == "SERVING"

    def die(_key, _batch):
        raise SystemExit("the driver is gone")

    served.gate.hold()
    running = served.begin(*pictures(1))
    served.gate.until(1)
    waiting = served.begin(*pictures(2))
    served.queue.until(2)
    served.gate.fault = die
    served.gate.open()
    for future in (running, waiting):
        with pytest.raises(grpc.RpcError) as error:
            future.result()
        assert error.value.code() is grpc.StatusCode.UNAVAILABLE
        assert reason(error.value) == "UNAVAILABLE"
    assert next(states) == "NOT_SERVING"
    with pytest.raises(grpc.RpcError) as error:
        served.extract(*pictures(1))
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE
    assert not served.server._devices[0].alive
    served.assert_empty()


def test_reflection_lists_the_services(shared):
    """Tools such as grpcurl find the services without a proto file."""
    stub = reflection_pb2_grpc.ServerReflectionStub(shared.channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    (answer,) = stub.ServerReflectionInfo(iter([request]))
    names = {service.name for service in answer.list_services_response.service}
    assert {SERVICE, "grpc.health.v1.Health"} <= names


def test_what_is_no_message_of_reflection_is_no_bug(shared):
    """The caller hears that he sent none, and whoever reads the log is not called."""
    method = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    with pytest.raises(grpc.RpcError) as error:
        list(shared.channel.stream_stream(method)(iter([b"\xff"])))
    # grpc.aio has no better word for it
    assert error.value.code() in {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN}
    assert shared.journal.count("a bug in") == 0


def test_reflection_gives_the_files_of_a_symbol(shared):
    """The descriptor of our service comes with what it needs."""
    stub = reflection_pb2_grpc.ServerReflectionStub(shared.channel)
    request = reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE)
    (answer,) = stub.ServerReflectionInfo(iter([request]))
    files = b"".join(answer.file_descriptor_response.file_descriptor_proto)
    assert b"ExtractRequest" in files
