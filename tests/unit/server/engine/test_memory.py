"""Memory that is really short: a process of its own, whose address space is bounded once the network is there."""

import subprocess
import sys

SPLIT = """
import logging, resource, sys
import numpy as np
from regard_models import load_bundle
from regard_server.capacity import BatchCapacity
from regard_server.engine import Engine, EngineOptions
from regard_server.work import BatchKey, Work

logging.basicConfig(stream=sys.stdout, format="%(message)s")
capacity = BatchCapacity(1024)
engine = Engine(EngineOptions(threads=1, max_batch=1024), logging.getLogger(), capacity)
engine.load(load_bundle("resnet_tiny"))
key = BatchKey("resnet_tiny", "pixels", 32, 32, "pooled")
pictures = np.random.default_rng(0).integers(0, 256, (1024, 32, 32, 3), np.uint8)
works = [Work([each], ("embedding",)) for each in pictures]
alone = [engine.run(key, [work])[0].values["embedding"] for work in works[::64]]
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (10 << 20), -1))
rows = engine.run(key, works)
assert not any(row.broken for row in rows)
for row, expected in zip(rows[::64], alone, strict=True):
    np.testing.assert_allclose(row.values["embedding"], expected, atol=1e-5)
assert capacity(key) < 1024
"""


def test_a_batch_that_the_machine_does_not_hold_is_split():
    """On the CPU too everybody is answered, in smaller batches, when an allocation fails."""
    ended = subprocess.run([sys.executable, "-c", SPLIT], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "out of memory at a batch of 1024; running 512 and the rest" in ended.stdout
