"""The yardstick: the same engine on the same images in a plain loop, no server, at several batch sizes.

Decoding counts where the case has it, on as many threads as the server uses. Prints one line of JSON a batch
size.
"""

import argparse
import json
import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as `regard serve` sets it

from cases import CASES

from regard_models import load_bundle
from regard_server.cores import usable_cores
from regard_server.engine import Engine, EngineOptions
from regard_server.images import ImageLimits, decode
from regard_server.settings import default_cache_dir
from regard_server.work import BatchKey, Work

LIMITS = ImageLimits(max_bytes=1 << 24, max_pixels=50_000_000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", choices=CASES, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 8, 16, 32])
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--device", default="cpu", help="or auto: a GPU where there is one")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--dtype", default="auto")
    arguments = parser.parse_args()
    case = CASES[arguments.case]
    cores = usable_cores()
    options = EngineOptions(
        device=arguments.device,
        threads=cores,
        max_batch=max(arguments.sizes),
        engine=arguments.engine,
        dtype=arguments.dtype,
        cache=default_cache_dir(),
    )
    engine = Engine(options, logging.getLogger())
    prepared = engine.load(load_bundle(arguments.model, name="model")).preprocessing
    engine.warm_up()
    key = BatchKey("model", "pixels", prepared.height, prepared.width, "pooled")
    image = case.image()

    def read(_: int):
        return decode(image, LIMITS, prepared) if isinstance(image, bytes) else image

    with ThreadPoolExecutor(cores) as decoders:
        for size in arguments.sizes:
            done, began, cpu_began = 0, time.perf_counter(), time.process_time()
            ready = decoders.map(read, range(size))
            while time.perf_counter() - began < arguments.seconds:
                batch = [Work([picture], ("embedding",)) for picture in ready]
                ready = decoders.map(read, range(size))  # decoded while the batch runs
                engine.run(key, batch)
                done += size
            elapsed, cpu = time.perf_counter() - began, time.process_time() - cpu_began
            print(json.dumps({"size": size, "images_per_s": done / elapsed, "cpu_ms": cpu / done * 1000}))


if __name__ == "__main__":
    main()
