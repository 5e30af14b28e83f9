"""Every named backbone: images/s and peak memory, eager, folded and compiled, in float32 and bfloat16.

Each variant lives in a process of its own, so that its memory is its own; the variants of a model take
turns in short rounds, so that a machine that drifts drifts for all of them, and the median round counts.
Images per second of processor time are the steadier figure where other work shares the machine. `cosine`
compares embeddings with those of the eager float32 model on the same batch (mean and worst over the batch);
weights are a seed's unless a .safetensors file is given, and untrained weights make bfloat16 look worse
than it is.

    python tests/benchmarks/backbones.py --models resnet50 sk_mini --modes eager folded --batch 8
"""

import argparse
import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

os.environ.setdefault(
    "OMP_WAIT_POLICY", "PASSIVE"
)  # spinning threads collapse when another process takes a core

import torch
from report import load, print_table, save

from regard_models import fold, list_models, load_bundle

MODES = ("eager", "folded", "compiled")
"""`compiled` is the folded model through torch.compile with frozen weights, which it then lays out for itself."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
MIB = 1 << 20
LARGEST_BATCHED = 320
"""Pixels; segmentation networks have larger inputs, and one is work enough."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list_models(), help="names, or .safetensors files")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--batch", type=int, default=8, help="1 is taken for inputs beyond 320 pixels")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.5, help="of one round of one variant")
    parser.add_argument(
        "--budget", type=float, default=600, help="seconds after which no further model is begun"
    )
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--name", default="backbones", help="of the JSON file under bench-results/")
    parser.add_argument("--resume", action="store_true", help="keep what that file has, measure the rest")
    parser.add_argument("--worker", nargs=3, metavar=("MODEL", "MODE", "DTYPE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(*options.worker, options)
        return
    left_out = ("models", "name", "resume", "worker")
    settings = {key: value for key, value in vars(options).items() if key not in left_out}
    if options.device.startswith("cuda"):
        settings["accelerator"] = torch.cuda.get_device_name(options.device)
    rows, started = load(options.name) if options.resume else [], time.monotonic()
    for model in options.models:
        if Path(model).stem in {row["model"] for row in rows}:
            continue
        if time.monotonic() - started > options.budget:
            print(f"out of budget before {model}", file=sys.stderr)
            break
        rows += measure(model, options)
        save(options.name, rows, **settings)
        print(f"{model}: done after {time.monotonic() - started:.0f} s", file=sys.stderr)
    print_table(rows)
    print("\n".join(markdown(rows)))


def measure(model: str, options: argparse.Namespace) -> list[dict]:
    """Return a row for each variant of a model that this machine can run."""
    with contextlib.ExitStack() as stack:
        variants = {}
        for mode in options.modes:
            for dtype in options.dtypes:
                variants[mode, dtype] = stack.enter_context(Variant(model, mode, dtype, options))
        running = {key: each for key, each in variants.items() if each.begin()}
        rounds = {key: [] for key in running}
        for _ in range(options.rounds):
            for key, each in running.items():
                rounds[key].append(each.round(options.seconds))
        rows = []
        reference = variants["eager", "float32"].embedding if ("eager", "float32") in running else None
        for (mode, dtype), results in rounds.items():
            row = {"model": Path(model).stem, "mode": mode, "dtype": dtype}
            for figure in ("images_per_s", "images_per_cpu_s"):
                row[figure] = statistics.median(each[figure] for each in results)
            row["peak_mib"] = max(each["peak_mib"] for each in results)
            if reference is not None:
                cosine = torch.cosine_similarity(reference, running[mode, dtype].embedding)
                row |= {"cosine_mean": f"{cosine.mean():.5f}", "cosine_worst": f"{cosine.min():.5f}"}
            rows.append(row)
    return rows


class Variant:
    """A process that holds one model in one mode and dtype and runs it when told to."""

    def __init__(self, model: str, mode: str, dtype: str, options: argparse.Namespace) -> None:
        command = [sys.executable, __file__, "--worker", model, mode, dtype, "--batch", str(options.batch)]
        command += ["--threads", str(options.threads), "--device", options.device]
        self.command, self.process, self.embedding = command, None, None

    def __enter__(self) -> Self:
        """Start the process: those of a model build and compile side by side, and are measured in turn."""
        self.process = subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()

    def begin(self) -> bool:
        """Wait until it is warm; false if this machine cannot run it, its traceback having said why."""
        line = self.process.stdout.readline()
        if line:
            self.embedding = torch.tensor(json.loads(line))
        return bool(line)

    def round(self, seconds: float) -> dict:
        print(seconds, file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())


def markdown(rows: list[dict]) -> Iterator[str]:
    """Give the table of models/README.md: a line a model, images per second of processor time."""
    variants = list(dict.fromkeys((row["mode"], row["dtype"]) for row in rows))
    heads = [f"{mode} {dtype.replace('float', 'f')}" for mode, dtype in variants]
    yield f"| model | {' | '.join(heads)} | peak MiB | cosine of bf16: mean, worst |"
    yield "|---" * (len(heads) + 3) + "|"
    for model in dict.fromkeys(row["model"] for row in rows):
        found = {(row["mode"], row["dtype"]): row for row in rows if row["model"] == model}
        cells = [found.get(variant) for variant in variants]
        speeds = [f"{cell['images_per_cpu_s']:.3g}" if cell else "–" for cell in cells]
        peaks = " / ".join(str(cell["peak_mib"]) if cell else "–" for cell in cells)
        narrow = [row for (_, dtype), row in found.items() if dtype == "bfloat16" and "cosine_mean" in row]
        cosines = [min((row[key] for row in narrow), default="–") for key in ("cosine_mean", "cosine_worst")]
        yield f"| {model} | {' | '.join(speeds)} | {peaks} | {', '.join(cosines)} |"


@torch.inference_mode()
def work(model: str, mode: str, dtype: str, options: argparse.Namespace) -> None:
    """Run one variant: print the embeddings, then a round's result for every line of seconds on stdin."""
    torch.set_num_threads(options.threads)
    before = resident()
    network = load_bundle(model).model
    batch = options.batch if max(network.spec.input_size) <= LARGEST_BATCHED else 1
    x = torch.randn(batch, 3, *network.spec.input_size, generator=torch.Generator().manual_seed(0))
    network, x = (each.to(options.device, DTYPES[dtype]) for each in (network, x))
    network = network if mode == "eager" else fold(network)

    def embed(x: torch.Tensor) -> torch.Tensor:
        return network.extract(x, ("embedding",))["embedding"]

    extract = torch.compile(embed, options={"freezing": True}) if mode == "compiled" else embed

    def run() -> torch.Tensor:
        embedding = extract(x)
        if x.is_cuda:
            torch.cuda.synchronize()
        return embedding

    for _ in range(2):  # the first call compiles, the second still allocates
        run()
    print(json.dumps(run().float().tolist()), flush=True)
    for line in sys.stdin:
        images, started, cpu = 0, time.perf_counter(), time.process_time()
        while (passed := time.perf_counter() - started) < float(line):
            run()
            images += batch
        peak = torch.cuda.max_memory_allocated() if x.is_cuda else resident() - before
        result = {
            "images_per_s": images / passed,
            "images_per_cpu_s": images / (time.process_time() - cpu),
            "peak_mib": round(peak / MIB),
        }
        print(json.dumps(result), flush=True)


def resident() -> int:
    """Return the most bytes that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
