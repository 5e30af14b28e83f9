"""What Prometheus sees. Every metric is named, typed and labelled here and nowhere else.

Labels are the server's own words (models, methods, codes, outcomes), never what a client sends, so that the
number of series is bounded. Histograms add up over replicas. deploy/METRICS.md explains every one of them, and a test
holds it to what stands here.
"""

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, disable_created_metrics
from prometheus_client.gc_collector import GCCollector
from prometheus_client.process_collector import ProcessCollector

from regard_server.device_gauges import DeviceGauges
from regard_server.embeddings import EmbeddingHealth
from regard_server.instruments import CounterFamily, HistogramFamily

# From a cache hit on a GPU to an overloaded CPU; about three buckets an octave where people set their objectives.
SECONDS = (
    *(0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1),
    *(0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0),
)
SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
OUTCOMES = ("ok", "invalid", "shed", "late", "failed", "cancelled")
# The codes of `errors.py`, and the two that gRPC adds.
CODES = (
    *("OK", "CANCELLED", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "RESOURCE_EXHAUSTED"),
    *("FAILED_PRECONDITION", "INTERNAL", "UNAVAILABLE", "UNAUTHENTICATED"),
)


class Metrics:
    """The metrics of one server, in a registry of its own.

    Args:
        embeddings: what watches over the vectors that are answered.
    """

    def __init__(self, embeddings: EmbeddingHealth) -> None:
        # Else the library's own counters have one more series each, which says when they were made. Its switch is the
        # process's.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the library's own gap
        self.embeddings = embeddings
        self.registry = CollectorRegistry()
        self.registry.register(embeddings)
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
        # The library's own, here and below: written in the engine's threads.
        self.padded = Counter(
            "regard_padded_rows",
            "Rows that were computed for nobody, to fill batches of engines with fixed sizes.",
            ["model"],
            registry=self.registry,
        )
        # Files are found to have changed in gRPC's threads.
        self.reloads = Counter(
            "regard_security_reloads",
            "Times that certificates or tokens changed on disk, by what and outcome: ok, failed.",
            ["what", "outcome"],
            registry=self.registry,
        )
        self.build_info = Gauge(
            "regard_build_info",
            "1: what runs, which front end serves, and whether its hot path is compiled.",
            ["version", "frontend", "compiled"],
            registry=self.registry,
        )
        self.model_info = Gauge(
            "regard_model_info",
            "1 for every model that was loaded.",
            ["model", "fingerprint", "trained", "dtype", "engine", "device"],
            registry=self.registry,
        )

    def padded_by(self, model: str, rows: int) -> None:
        """Count rows that were computed for nobody."""
        self.padded.labels(model).inc(rows)

    def expect(self, *, models: Iterable[str], methods: Iterable[str]) -> None:
        """Make all series that are known beforehand, at 0: a rate over one that begins at 1 never sees that 1."""
        for model in models:
            self.padded.labels(model)
            for outcome in OUTCOMES:
                self.items.labels(model, outcome)
            for each in (self.decode_seconds, self.queue_seconds, self.compute_seconds, self.batch_size):
                each.labels(model)
        for what in ("certificate", "tokens"):
            for outcome in ("ok", "failed"):
                self.reloads.labels(what, outcome)
        for method in methods:
            self.request_seconds.labels(method)
            for code in CODES:
                self.requests.labels(method, code)

    def watch(
        self,
        *,
        devices: DeviceGauges,
        queue_depth: Callable[[], int],
        images: Callable[[], int],
        size: Callable[[], int],
        cached: Callable[[], int],
        ready: Callable[[], bool],
        most_images: int,
        most_bytes: int,
    ) -> None:
        """Read gauges from their owners whenever somebody scrapes."""
        self.registry.register(devices)
        for name, help_, read in (
            ("regard_queue_depth", "Images that wait for the device.", queue_depth),
            ("regard_in_flight_images", "Images inside the server.", images),
            ("regard_in_flight_bytes", "Bytes of image data inside the server.", size),
            ("regard_in_flight_images_limit", "Images that may be inside the server.", lambda: most_images),
            ("regard_in_flight_bytes_limit", "Bytes that may be inside the server.", lambda: most_bytes),
            ("regard_cache_bytes", "Bytes of remembered outputs.", cached),
            ("regard_ready", "1 while the server takes requests.", ready),
        ):
            Gauge(name, help_, registry=self.registry).set_function(read)

    def _count(self, name: str, about: str, *labels: str) -> CounterFamily:
        return CounterFamily(name, about, labels, self.registry)

    def _seconds(self, name: str, about: str, label: str) -> HistogramFamily:
        return HistogramFamily(name, about, [label], SECONDS, self.registry)
