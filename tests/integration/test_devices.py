"""Several devices behind one queue."""

import threading


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
