"""The work behind BentoML, with its adaptive batching; it takes JSON."""

import base64
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import bentoml
from work import MOST, PORT, Reader, Work


@bentoml.service(workers=1, traffic={"timeout": 60})
class Peer:
    """One worker process; its batches are told a latency to keep, not a delay."""

    def __init__(self) -> None:
        self._reader, self._work = Reader(), Work()
        self._decoders = ThreadPoolExecutor(len(os.sched_getaffinity(0)))

    @bentoml.api(batchable=True, max_batch_size=MOST, max_latency_ms=60_000)
    def embed(self, images: list[str]) -> list[str]:
        pictures = list(self._decoders.map(self._reader.read, map(base64.b64decode, images)))
        return [base64.b64encode(each).decode() for each in self._work.run(pictures)]


if __name__ == "__main__":
    command = [sys.executable, "-m", "bentoml", "serve", "serve_bentoml:Peer"]
    options = ["--host", "127.0.0.1", "--port", str(PORT), "--working-dir", str(Path(__file__).parent)]
    os.environ["BENTOML_DO_NOT_TRACK"] = "True"
    os.execv(sys.executable, [*command, *options])  # noqa: S606 - it takes this process's place
