"""The whole way once: start a server, send it the sample photographs, say what finds what, stop it.

`make demo` runs this. Of each photograph it sends a varied copy too, which shall find it again: the samples have one
pair that is alike, grass and gravel. Everything goes through the public doors: the `regard` command, and the client
library over gRPC, from many threads at once, so that the server batches them.
"""

import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image

from regard_client import Client, Result
from regard_models.samples import sample_photographs
from regard_training.crops import QUERY, vary
from regard_training.held_out import square

READY = "regard is ready on "
ROUNDS = 3
START_TIMEOUT_S = 120
COPY_SIDE = 224
ALIKE = 0.6
"""Of the default model's cosines: of held-out pictures of different kinds one pair in a hundred is nearer, of varied
copies and their own pictures 19 in 20 are."""


@contextmanager
def running_server(*more: str) -> Iterator[str]:
    """Run `regard serve` with `more` options on a free port; yield its address, and stop it as an operator would."""
    command = [str(Path(sys.executable).with_name("regard")), "serve"]
    options = ["--address", "127.0.0.1:0", "--metrics-address", "", "--log-level", "warning", *more]
    print("==> starting a server:", "regard serve", *options[:2], flush=True)
    began = time.perf_counter()
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True) as server:
        line = server.stdout.readline() if server.stdout else ""
        if not line.startswith(READY):
            sys.exit(f"the server did not start; it said: {line or 'nothing'}")
        print(f"    ready after {time.perf_counter() - began:.1f} s on {line.removeprefix(READY).strip()}")
        try:
            yield line.removeprefix(READY).strip()
        finally:
            server.send_signal(signal.SIGTERM)
            status = server.wait(START_TIMEOUT_S)
            print(f"==> server stopped with status {status}")
    if status:
        sys.exit(status)


def varied(photograph: Path) -> Image.Image:
    """Turn, crop, recolour, blur and compress a copy, as the evaluation of the weights does; always the same."""
    return vary(square(photograph), QUERY, Random(photograph.stem), COPY_SIDE)  # noqa: S311 - no secret


def directions(vectors: Iterable[np.ndarray]) -> np.ndarray:
    """Bring vectors of length D to length 1, one below the other `(N, D)`: their products are cosines."""
    rows = np.stack(list(vectors))
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def extract_all(client: Client, images: Sequence[Path | Image.Image]) -> list[Result]:
    """Send every image from a thread of its own, a few rounds of them; return the last round."""
    results: list[Result] = []
    with ThreadPoolExecutor(len(images)) as threads:
        for number in range(1, ROUNDS + 1):
            began = time.perf_counter()
            results = list(threads.map(client.result, images))
            elapsed = time.perf_counter() - began
            sizes = Counter(result.timings.batch_size for result in results)
            batches = ", ".join(f"{count // size} of {size}" for size, count in sorted(sizes.items()) if size)
            print(f"    round {number}: {len(results)} images in {elapsed * 1000:.0f} ms; batches: {batches}")
    return results


def print_found_again(names: list[str], gallery: np.ndarray, copies: np.ndarray) -> None:
    """Print how many copies have their own photograph as the nearest, and what the others find instead."""
    similarity = copies @ gallery.T
    found = similarity.argmax(1)
    own = [place == number for number, place in enumerate(found)]
    print(f"==> {sum(own)} of {len(names)} copies find their own photograph first of all {len(names)}")
    for number, place in enumerate(found):
        if place != number:
            print(
                f"    {names[number]} finds {names[place]} with a cosine of {similarity[number, place]:.3f}, "
                f"itself with {similarity[number, number]:.3f}"
            )


def print_neighbours(
    names: list[str], gallery: np.ndarray, copies: np.ndarray, results: Sequence[Result]
) -> None:
    """Print how near every photograph is to its copy and to the nearest other, and where its time went."""
    similarity = gallery @ gallery.T
    np.fill_diagonal(similarity, -np.inf)
    print(
        f"\n{'photograph':<12}{'its copy':>8}   {'nearest other':<29}"
        f"{'decode':>8}{'queue':>10}{'compute':>10}{'batch':>7}"
    )
    for number, (name, result) in enumerate(zip(names, results, strict=True)):
        nearest, spent = int(similarity[number].argmax()), result.timings
        cosine = similarity[number, nearest]
        verdict = "" if cosine >= ALIKE else "nothing alike"
        print(
            f"{name:<12}{gallery[number] @ copies[number]:>8.3f}   {cosine:.3f} {names[nearest]:<10}{verdict:<13}"
            f"{spent.decode_ms:>5.1f} ms{spent.queue_ms:>7.1f} ms{spent.compute_ms:>7.1f} ms{spent.batch_size:>7}"
        )
    print()


def main() -> None:
    """Run the demonstration."""
    photographs = sample_photographs()
    copies = [varied(photograph) for photograph in photographs]
    with running_server() as address, Client(address) as client:
        model = client.model()
        print(f"==> model {model.name}: {model.weights}; fingerprint {model.fingerprint[:12]}")
        if not model.trained:
            print(
                "    UNTRAINED: its neighbours are of little meaning; the way they were found is the real one"
            )
        print(
            f"==> sending {len(photographs)} photographs and a varied copy of each, all at once, {ROUNDS} times"
        )
        print(
            "    (turned, cropped, at times mirrored, recoloured, blurred, compressed: as the weights were measured)"
        )
        results = extract_all(client, [*photographs, *copies])
        vectors = directions(result.outputs["embedding"] for result in results)
        names = [photograph.stem for photograph in photographs]
        gallery, copied = vectors[: len(names)], vectors[len(names) :]
        print_found_again(names, gallery, copied)
        print_neighbours(names, gallery, copied, results[: len(names)])


if __name__ == "__main__":
    main()
