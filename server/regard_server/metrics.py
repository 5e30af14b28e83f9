"""What Prometheus sees. Every metric is named, typed and labelled here and nowhere else.

Labels are the server's own words (models, methods, codes, outcomes), never what a client sends, so that the
number of series is bounded. Histograms add up over replicas.
"""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.gc_collector import GCCollector
from prometheus_client.process_collector import ProcessCollector

from regard_server.instruments import CounterFamily, HistogramFamily

# From a cache hit on a GPU to an overloaded CPU; about three buckets an octave where people set their objectives.
SECONDS = (
    *(0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1),
    *(0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0),
)
SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)


class Metrics:
    """The metrics of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self.requests = self._count("regard_requests", "Calls answered; a stream is one.", "method", "code")
        self.request_seconds = self._seconds(
            "regard_request_duration_seconds", "From a request's arrival to its answer.", "method"
        )
        self.items = self._count(
            "regard_items",
            "Images by outcome: ok, invalid, shed, late, failed, cancelled.",
            "model",
            "outcome",
        )
        self.decode_seconds = self._seconds(
            "regard_decode_duration_seconds",
            "Decoding and resizing an image, the wait for a thread included.",
            "model",
        )
        self.queue_seconds = self._seconds(
            "regard_queue_duration_seconds", "An image's wait for the device.", "model"
        )
        self.compute_seconds = self._seconds(
            "regard_compute_duration_seconds", "A forward pass, one observation a batch.", "model"
        )
        self.batch_size = HistogramFamily(
            "regard_batch_size", "Images in a batch.", ["model"], SIZES, self.registry
        )
        self.reused = self._count(
            "regard_reuse",
            "Images where reuse is on, by where their answer came from: computed, shared, cache.",
            "model",
            "source",
        )
        self.received_bytes = self._count("regard_received_bytes", "Bytes of image data received.").labels()
        self.sent_bytes = self._count("regard_sent_bytes", "Bytes of feature data sent.").labels()
        self.model_info = Gauge(
            "regard_model_info",
            "1 for every model that was loaded.",
            ["model", "fingerprint", "trained", "dtype", "engine", "device"],
            registry=self.registry,
        )

    def watch(
        self,
        *,
        queue_depth: Callable[[], int],
        images: Callable[[], int],
        size: Callable[[], int],
        cached: Callable[[], int],
        ready: Callable[[], bool],
    ) -> None:
        """Read gauges from their owners whenever somebody scrapes."""
        for name, help_, read in (
            ("regard_queue_depth", "Images that wait for the device.", queue_depth),
            ("regard_in_flight_images", "Images inside the server.", images),
            ("regard_in_flight_bytes", "Bytes of image data inside the server.", size),
            ("regard_cache_bytes", "Bytes of remembered outputs.", cached),
            ("regard_ready", "1 while the server takes requests.", ready),
        ):
            Gauge(name, help_, registry=self.registry).set_function(read)

    def _count(self, name: str, about: str, *labels: str) -> CounterFamily:
        return CounterFamily(name, about, labels, self.registry)

    def _seconds(self, name: str, about: str, label: str) -> HistogramFamily:
        return HistogramFamily(name, about, [label], SECONDS, self.registry)
