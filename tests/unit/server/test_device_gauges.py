"""Devices as Prometheus sees them; what they say themselves needs hardware, and is given here."""

from prometheus_client import CollectorRegistry

from regard_server.device_gauges import DeviceGauges
from regard_server.engine import DeviceReading, read_device

MEMORY = ("regard_device_memory_bytes", "regard_device_memory_used_bytes", "regard_device_utilization_ratio")


def seen(busy, read):
    registry = CollectorRegistry()
    registry.register(DeviceGauges(lambda: busy, read))
    return lambda name, device: registry.get_sample_value(name, {"device": device})


def test_a_cpu_tells_how_busy_it_is_and_nothing_else():
    """Its memory is the machine's; families without samples stand for what it has not."""
    value = seen({"cpu": 1.5}, read_device)
    assert value("regard_device_busy_seconds_total", "cpu") == 1.5
    assert [value(name, "cpu") for name in MEMORY] == [None] * 3


def test_a_gpu_tells_its_memory_and_utilisation():
    """Each device has its own series."""
    readings = {"cuda:0": DeviceReading(80, 20, 0.5), "cuda:1": DeviceReading(80, 10, None)}
    value = seen({"cuda:0": 1.0, "cuda:1": 2.0}, readings.get)
    assert [value(name, "cuda:0") for name in MEMORY] == [80, 20, 0.5]
    assert [value(name, "cuda:1") for name in MEMORY] == [80, 10, None]
