"""What one device makes of large networks: `python tests/benchmarks/device.py`, on a GPU where there is one.

    loop: batches in-process, no server ─→ closed loop of many callers: capacity ─→ open loops at 0.5 and 0.9 of it

For each network, asked with uint8 pixels of its own size, with JPEGs that the host decodes, and on a GPU with JPEGs
that it decodes itself. The loop's best batch size is the server's largest. `utilization` is the driver's word, or,
where there is no GPU, the share of the cores that the server took. Compare within a run only.
"""

import argparse
import json
import logging
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import report
import torch
from cases import CASES
from overload import Cores, closed_load, open_load
from processes import regard

from regard_server.engine.reading import read_device
from regard_server.gpu_jpeg import GpuUnavailableError, open_gpu_jpegs

HERE = Path(__file__).parent
MODELS = ("resnet50", "epsanet50", "skresnext50_32x4d", "botnet26t_256")
SHARES = (0.5, 0.9)
_LOOK_S = 0.1


@contextmanager
def utilization() -> Iterator[list[float]]:
    """Look at the first CUDA device until the end, again and again; there is nothing to see without one."""
    looks: list[float] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(_LOOK_S):
            reading = read_device("cuda:0") if torch.cuda.is_available() else None
            if reading and reading.utilization is not None:
                looks.append(reading.utilization)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield looks
    finally:
        over.set()
        watcher.join()


def loop(case: str, model: Path, sizes: list[int], seconds: float) -> dict:
    """Run batches without a server; return the figures of the best size."""
    command = [sys.executable, str(HERE / "loop.py"), f"--case={case}", f"--model={model}", "--device=auto"]
    command += [f"--seconds={seconds}", "--sizes", *map(str, sizes)]
    lines = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
    return max(map(json.loads, lines), key=lambda each: each["images_per_s"])


def watched(cores: Cores, load: Callable[[], dict]) -> dict:
    """Load a server; return the generator's figures and the device's utilisation."""
    with utilization() as looks:
        figures = load()
    of_cores = figures["server_cores"] / len(cores.server)
    return figures | {"utilization": statistics.mean(looks) if looks else of_cores}


def measure(case: str, decoder: str, arguments: argparse.Namespace) -> dict:
    """Measure one network asked in one way; return its line of the table."""
    with tempfile.TemporaryDirectory() as folder:
        model = CASES[case].save_model(Path(folder))
        best = loop(case, model, arguments.sizes, arguments.seconds / 2)
        row = {
            "model": CASES[case].model,
            "images": CASES[case].about.rpartition(", ")[2],
            "decoder": decoder,
            "best batch": best["size"],
            "loop img/s": best["images_per_s"],
        }
        options = (f"--max-batch={best['size']}", f"--jpeg-decoder={decoder}")
        with regard(f"model={model}", *options) as server:
            asked, seconds = [f"--case={case}", "--way=client"], arguments.seconds
            cores = Cores.of_machine(apart=False)
            full = watched(cores, partial(closed_load, server, cores, asked, arguments.callers, seconds))
            row |= {
                "img/s": full["goodput"],
                "of loop": full["goodput"] / best["images_per_s"],
                "utilization": full["utilization"],
                "generator cores": full["client_cores"],
            }
            for share in SHARES:
                rate = share * full["goodput"]
                found = watched(cores, partial(open_load, server, cores, asked, rate, seconds, closed=full))
                names = ("p50_ms", "p99_ms", "utilization")
                row |= {f"{name.replace('_', ' ')} at {share:.0%}": found[name] for name in names}
    return row


def reads_jpegs() -> bool:
    """Say whether the first GPU can; print why it cannot."""
    try:
        open_gpu_jpegs("cuda", logging.getLogger())
    except GpuUnavailableError as error:
        print(f"without decoding on the GPU: {error}", file=sys.stderr)
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=[*MODELS, "mini"], default=[*MODELS])
    parser.add_argument("--sizes", nargs="+", type=int, help="of batches in the loop")
    parser.add_argument("--callers", type=int, help="of the closed loop")
    parser.add_argument("--seconds", type=float, default=6.0, help="of every measurement")
    arguments = parser.parse_args()
    gpu = torch.cuda.is_available()
    arguments.sizes = arguments.sizes or ([8, 32, 64, 128, 256] if gpu else [1, 8, 32])
    arguments.callers = arguments.callers or (512 if gpu else 32)
    decoders = ["host", "gpu"] if gpu and reads_jpegs() else ["host"]
    rows = []
    for model in arguments.models:
        for case, decoder in [(f"{model}-pixels", "host"), *((model, each) for each in decoders)]:
            print(f"{case}, decoder {decoder}", file=sys.stderr)
            rows.append(measure(case, decoder, arguments))
    report.print_table(rows)
    device = torch.cuda.get_device_name() if gpu else "cpu"
    settings = {"device": device, "callers": arguments.callers, "seconds": arguments.seconds}
    print(f"on {device}; written to", report.save("device", rows, **settings))


if __name__ == "__main__":
    main()
