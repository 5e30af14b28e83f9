"""How fast pictures are decoded, and what it does to their vectors: `python tests/benchmarks/decoding.py`.

Sample photographs as JPEGs of several sizes, decoded on one thread by Pillow alone, as the server does, and by
nvImageCodec: on the GPU, or on the host in its place, which says nothing of its speed. Interleaved rounds, medians. The
cosines are between the embeddings (eager float32, the plain small model) of Pillow's pixels and the others'.
"""

import argparse
import io
import logging
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
from regard_server.fitting import fit
from regard_server.gpu_jpeg import open_gpu_jpegs
from regard_server.work import BatchKey

SIZES = ("500x375", "640x480", "1280x853", "1920x1440", "4000x3000")
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
        return fit(picture.convert("RGB"), preprocessing)


def by_server(data: bytes, preprocessing) -> np.ndarray:
    """Decode as the server does."""
    return images.decode(data, LIMITS, preprocessing)


class ByGpu:
    """Decode as a server with `jpeg_decoder = "gpu"` does."""

    def __init__(self) -> None:
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self._reader = open_gpu_jpegs(self.device, logging.getLogger())

    def __call__(self, data: bytes, preprocessing) -> np.ndarray:
        return images.decode(data, LIMITS, preprocessing, self._reader)


def cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the cosine of each row with the other's."""
    return (first * second).sum(axis=1) / np.linalg.norm(first, axis=1) / np.linalg.norm(second, axis=1)


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
    parser.add_argument("--sizes", nargs="+", metavar="WxH", default=SIZES)
    parser.add_argument("--interpolation", choices=["bilinear", "bicubic"], default="bicubic")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    bundle = load_bundle("resnet_mini")
    prepared = Preprocessing(interpolation=arguments.interpolation)
    runner = TorchRunner(bundle.model, prepared, EAGER, torch.device("cpu"), streams=HostStreams())
    key = BatchKey("resnet_mini", "pixels", prepared.height, prepared.width, "pooled")
    by_gpu, rows = ByGpu(), []
    for size in arguments.sizes:
        files = jpegs(tuple(map(int, size.split("x"))))
        rates = {by_pillow: [], by_server: [], by_gpu: []}
        for _ in range(arguments.rounds):
            for decode, found in rates.items():
                found.append(rate(decode, files, prepared, arguments.seconds))
        pixels = [np.stack([decode(data, prepared) for data in files]) for decode in rates]
        vectors = [runner.run(key, each, ["embedding"])["embedding"] for each in pixels]
        of_server, of_gpu = (cosines(vectors[0], each) for each in vectors[1:])
        medians = {decode: statistics.median(found) for decode, found in rates.items()}
        rows.append(
            {
                "size": size,
                "Pillow img/s": medians[by_pillow],
                "regard img/s": medians[by_server],
                "ratio": medians[by_server] / medians[by_pillow],
                "mean abs error": float(np.abs(pixels[0].astype(int) - pixels[1]).mean()),
                "cosine mean": f"{of_server.mean():.6f}",
                "cosine worst": f"{of_server.min():.6f}",
                f"nvImageCodec ({by_gpu.device}) img/s": medians[by_gpu],
                "its cosine worst": f"{of_gpu.min():.6f}",
            }
        )
    report.print_table(rows)
    print("written to", report.save("decoding", rows, **vars(arguments)))


if __name__ == "__main__":
    main()
