"""How fast pictures are decoded, and what it does to their vectors: `python tests/benchmarks/decoding.py`.

Sample photographs as JPEGs of several sizes, decoded on one thread by Pillow alone and as the server does; interleaved
rounds, medians. The cosine is between the embeddings (eager float32, the default model) of the two.
"""

import argparse
import io
import statistics
import time

import numpy as np
import report
import torch
from PIL import Image

from regard_models import Preprocessing, load_bundle
from regard_models.samples import sample_photographs
from regard_server import images
from regard_server.engine.mode import EAGER
from regard_server.engine.streams import HostStreams
from regard_server.engine.torch_runner import TorchRunner
from regard_server.work import BatchKey

SIZES = ((500, 375), (640, 480), (1920, 1440), (4000, 3000))
LIMITS = images.ImageLimits(1 << 26, 1 << 26)


def jpegs(size: tuple[int, int]) -> list[bytes]:
    """Return the sample photographs at one size."""
    encoded = []
    for path in sample_photographs():
        buffer = io.BytesIO()
        Image.open(path).convert("RGB").resize(size, Image.Resampling.BICUBIC).save(
            buffer, "JPEG", quality=90
        )
        encoded.append(buffer.getvalue())
    return encoded


def by_pillow(data: bytes, preprocessing) -> np.ndarray:
    """Decode and resize the whole picture."""
    with Image.open(io.BytesIO(data)) as picture:
        return images._fit(picture.convert("RGB"), preprocessing)


def by_server(data: bytes, preprocessing) -> np.ndarray:
    """Decode as the server does."""
    return images.decode(data, LIMITS, preprocessing)


def rate(decode, files: list[bytes], preprocessing, seconds: float) -> float:
    """Return images a second."""
    done, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        decode(files[done % len(files)], preprocessing)
        done += 1
    return done / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    bundle = load_bundle("resnet_mini")
    prepared = Preprocessing()
    runner = TorchRunner(bundle.model, prepared, EAGER, torch.device("cpu"), streams=HostStreams())
    key = BatchKey("resnet_mini", "pixels", prepared.height, prepared.width, "pooled")
    rows = []
    for size in SIZES:
        files = jpegs(size)
        rates = {by_pillow: [], by_server: []}
        for _ in range(arguments.rounds):
            for decode, found in rates.items():
                found.append(rate(decode, files, prepared, arguments.seconds))
        pillow, server = (np.stack([decode(data, prepared) for data in files]) for decode in rates)
        first, second = (runner.run(key, pixels, ["embedding"])["embedding"] for pixels in (pillow, server))
        lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
        cosines = (first * second).sum(axis=1) / lengths
        rows.append(
            {
                "size": f"{size[0]}x{size[1]}",
                "Pillow img/s": statistics.median(rates[by_pillow]),
                "regard img/s": statistics.median(rates[by_server]),
                "ratio": statistics.median(rates[by_server]) / statistics.median(rates[by_pillow]),
                "mean abs error": float(np.abs(pillow.astype(int) - server).mean()),
                "cosine mean": f"{cosines.mean():.6f}",
                "cosine worst": f"{cosines.min():.6f}",
            }
        )
    report.print_table(rows)
    print("written to", report.save("decoding", rows, seconds=arguments.seconds, rounds=arguments.rounds))


if __name__ == "__main__":
    main()
