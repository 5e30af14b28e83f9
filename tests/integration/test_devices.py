"""Several devices behind one queue."""

import threading

import pytest

from regard_models import ModelError
from regard_server.errors import UnavailableError


def test_two_devices_take_batches_from_one_queue(serve, pictures):
    """While one device is busy the other serves, and everybody is answered alike."""
    served = serve(device="cpu,cpu")
    (picture,) = pictures(1)
    first = served.extract(picture).results[0].features
    served.gate.hold()
    calls = [served.begin(picture)]
    served.gate.until(2)
    calls.append(served.begin(picture))
    served.gate.until(3)  # both are inside: neither waits for the other
    names = {thread.name for thread in threading.enumerate()}
    assert {"device-0", "device-1"} <= names
    served.gate.open()
    for call in calls:
        assert call.result().results[0].features == first
    served.assert_empty()


def test_a_server_is_ready_when_all_its_devices_are(serve):
    """One warm device is not enough: health speaks for the whole."""
    served = serve(device="cpu,cpu")
    assert len(served.server._warm) == 2
    assert served.check() == "SERVING"


def test_devices_of_a_kind_choose_once(serve):
    """Started together with nothing known, one measures and the other takes its choice: one fingerprint."""
    served = serve(device="cpu,cpu", engine="auto", dtype="auto")
    assert served.journal.count("Measurement(mode=Mode(engine='eager'") == 1
    (first,), (second,) = served.server._warm.values()
    assert first.fingerprint == second.fingerprint


def test_every_device_is_told_of(serve):
    """Which device runs a model by what is known of each, not of the last that became ready."""
    served = serve(device="cpu,cpu", engines=({}, {"device": "cpu:0"}))
    ((model, fingerprint),) = served.server.catalog.known()
    assert model.device == "cpu"
    for device in ("cpu", "cpu:0"):
        labels = {"trained": "false", "dtype": "float32", "engine": "eager", "device": device}
        assert served.metric("regard_model_info", model=model.name, fingerprint=fingerprint, **labels) == 1


def test_devices_that_would_answer_with_different_vectors_are_not_served(serve):
    """Nobody can tell which one answers: the server fails, and says what to do."""
    served = serve(device="cpu,cpu", engines=({}, {"engine": "folded", "dtype": "bfloat16"}), wait=False)
    with pytest.raises(UnavailableError):
        served.await_(served.server.ready())
    error = served.server.failed.result()
    assert isinstance(error, ModelError)
    assert "eager float32 on cpu, folded bfloat16 on cpu" in str(error)
    assert "--engine" in str(error)
    assert served.check() == "NOT_SERVING"
