"""Devices as Prometheus sees them: busy seconds of each, and memory and utilisation of those that tell."""

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector


class Reading(Protocol):
    """What the engine reads off a device, see `engine/reading.py`."""

    @property
    def memory_bytes(self) -> int:
        """What it has."""

    @property
    def memory_used_bytes(self) -> int:
        """What is taken of it."""

    @property
    def utilization(self) -> float | None:
        """Share of the last moments in which it computed."""


class DeviceGauges(Collector):
    """Reads the devices whenever somebody scrapes.

    Args:
        busy_s: seconds in which a batch ran, by the names of devices that are ready.
        read: asks a device; None where there is nothing to say.
    """

    def __init__(
        self, busy_s: Callable[[], Mapping[str, float]], read: Callable[[str], Reading | None]
    ) -> None:
        self._busy_s = busy_s
        self._read = read

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """Yield every family; those of memory and utilisation are without samples on a CPU."""
        busy = CounterMetricFamily(
            "regard_device_busy_seconds", "Seconds in which the device had a batch to run.", labels=["device"]
        )
        size = GaugeMetricFamily("regard_device_memory_bytes", "Memory of the device.", labels=["device"])
        used = GaugeMetricFamily(
            "regard_device_memory_used_bytes",
            "Memory of the device that is taken, by whomever.",
            labels=["device"],
        )
        utilization = GaugeMetricFamily(
            "regard_device_utilization_ratio",
            "Share of the last moments in which the device computed, as its driver says.",
            labels=["device"],
        )
        for name, seconds in self._busy_s().items():
            busy.add_metric([name], seconds)
            if reading := self._read(name):
                size.add_metric([name], reading.memory_bytes)
                used.add_metric([name], reading.memory_used_bytes)
                if reading.utilization is not None:
                    utilization.add_metric([name], reading.utilization)
        yield from (busy, size, used, utilization)
