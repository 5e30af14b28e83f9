"""Read the server's metrics as they stand: the numbers that a scrape would find, and only those that the page shows."""

from collections.abc import Callable
from typing import Final

import numpy as np

from regard_server.instruments import CounterFamily, HistogramFamily
from regard_server.metrics import Metrics
from regard_server.page.history import Reading, Tally

# Calls whose duration is that of a request; a stream lasts as long as its caller likes.
_UNARY: Final = frozenset({"Extract"})


def read(
    metrics: Metrics,
    *,
    at_s: float,
    wall_s: float,
    queue_depth: Callable[[], int],
    in_flight: Callable[[], int],
) -> Reading:
    """Return what the metrics say now; see `Reading` for the two times."""
    requests = tallies(metrics.request_seconds)
    return Reading(
        at_s=at_s,
        wall_s=wall_s,
        stages={
            "decode": tallies(metrics.decode_seconds),
            "queue": tallies(metrics.queue_seconds),
            "compute": tallies(metrics.compute_seconds),
            "total": {method: tally for method, tally in requests.items() if method in _UNARY},
        },
        batch_size=tallies(metrics.batch_size),
        items=counts(metrics.items),
        requests=counts(metrics.requests),
        queue_depth=queue_depth(),
        in_flight=in_flight(),
    )


def tallies(histogram: HistogramFamily) -> dict[str, Tally]:
    """Return a histogram's buckets and sums by the value of its one label."""
    return {
        value: Tally(tuple(found.bounds), np.array(found.counts, np.float64), found.total)
        for (value,), found in histogram.children().items()
    }


def counts(counter: CounterFamily) -> dict[tuple[str, str], float]:
    """Return a counter's values by those of its two labels."""
    return {(first, second): count.value for (first, second), count in counter.children().items()}
