"""`regard serve` with its metrics, or with metrics that count nothing: what measuring costs is the difference.

python observed_server.py on --models resnet18 …       # the rest as for `regard serve`
python observed_server.py off --null --models …        # without running the network either
"""

import sys

from null_server import without_model

from regard_server import instruments
from regard_server.cli import serve
from regard_server.embeddings import EmbeddingHealth


class Nothing:
    """Stands in for every counter and histogram."""

    def inc(self, by: float = 1.0) -> None: ...

    def observe(self, value: float, times: int = 1) -> None: ...


def without_metrics() -> None:
    """Have the same calls made, and nothing done in them."""
    nothing = Nothing()
    for family in (instruments.CounterFamily, instruments.HistogramFamily):
        family.labels = lambda *_: nothing
    EmbeddingHealth.offer = lambda *_: None


if __name__ == "__main__":
    kind, *options = sys.argv[1:]
    if kind == "off":
        without_metrics()
    if "--null" in options:
        options.remove("--null")
        without_model()
    sys.exit(serve(options))
