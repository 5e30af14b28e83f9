"""`regard extract`: the features of a few image files, printed or saved."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from regard_client.commands.connection import add_connection_options, connect
from regard_client.overlay import overlay, spatial_attention
from regard_client.results import Result

_SHOWN_VALUES: Final = 4


def main(argv: Sequence[str]) -> int:
    """Print a line for every file, and save the vectors if asked; 1 if any file failed."""
    options = _parser().parse_args(argv)
    if options.save is not None and not options.save.parent.is_dir():
        sys.stderr.write(f"regard extract: no directory {options.save.parent} to save in\n")
        return 2
    if options.attention_overlay:
        return _overlay(options)
    width = max(len(file) for file in options.files)
    done: list[tuple[str, Result]] = []
    try:
        with connect(options) as client:
            answers = client.results(
                options.files, outputs=options.output, model=options.model, timeout_s=options.timeout
            )
            for file, result in zip(options.files, answers, strict=True):
                if result.error is None:
                    done.append((file, result))
                    sys.stdout.write(_line(file.ljust(width), result, options.output) + "\n")
                else:
                    sys.stderr.write(f"regard extract: {file}: {_reason(result.error)}\n")
    finally:  # what is there is saved, even if the server went away or somebody pressed Ctrl-C
        if options.save is not None and done:
            _save(options.save, done, options.output)
    return int(len(done) < len(options.files))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="regard extract",
        description="Get the features of image files. A file that fails is told of on stderr; the others go on.",
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="JPEG, PNG, WebP, BMP, GIF or TIFF")
    parser.add_argument("--model", default="", help="name of the model (the server's default one)")
    parser.add_argument(
        "--output", default="embedding", help="what to get, as in `regard models` (embedding)"
    )
    parser.add_argument(
        "-o",
        "--save",
        type=Path,
        metavar="NPZ",
        help="save names, vectors, model and fingerprint to a file for numpy.load",
    )
    parser.add_argument(
        "--attention-overlay",
        action="store_true",
        help="write FILE.attention.png instead: the picture with the network's attention over it",
    )
    add_connection_options(parser)
    return parser


def _overlay(options: argparse.Namespace) -> int:
    """Write every file's picture with the model's attention over it; 1 if any failed, 2 if the model has none."""
    failed = 0
    with connect(options) as client:
        model = client.model(options.model)
        try:
            shown = spatial_attention(model)
        except ValueError as error:
            sys.stderr.write(f"regard extract: {error}\n")
            return 2
        answers = client.results(
            options.files, outputs=shown.name, model=options.model, timeout_s=options.timeout
        )
        for file, result in zip(options.files, answers, strict=True):
            if result.error is not None:
                sys.stderr.write(f"regard extract: {file}: {_reason(result.error)}\n")
                failed = 1
                continue
            target = Path(file).with_suffix(".attention.png")
            overlay(file, result.outputs[shown.name], model.preprocessing).save(target)
            sys.stdout.write(f"{target}  {shown.name} of {model.name}: {shown.description}\n")
    return failed


def _line(name: str, result: Result, output: str) -> str:
    array, timings = result.outputs[output], result.timings
    values = array.reshape(-1)
    shown = " ".join(f"{value:.4g}" for value in values[:_SHOWN_VALUES])
    return (
        f"{name}  {'×'.join(map(str, array.shape))}  norm {np.linalg.norm(values.astype(np.float64)):.4g}  "
        f"[{shown}{' …' if values.size > _SHOWN_VALUES else ''}]  "
        f"decode {timings.decode_ms:.1f} queue {timings.queue_ms:.1f} compute {timings.compute_ms:.1f} "
        f"total {timings.total_ms:.1f} ms, batch {timings.batch_size}"
    )


def _reason(error: Exception) -> str:
    return str(error.strerror or error) if isinstance(error, OSError) else str(error)


def _save(path: Path, done: Sequence[tuple[str, Result]], output: str) -> None:
    """Write the file whole or not at all: beside its place first, then into it."""
    first = done[0][1]
    partial = path.with_name(path.name + ".part")
    with partial.open("wb") as file:
        np.savez(
            file,
            names=np.array([file for file, _ in done]),
            vectors=np.stack([result.outputs[output] for _, result in done]),
            model=np.array(first.model),
            output=np.array(output),
            fingerprint=np.array(first.fingerprint),
        )
    partial.replace(path)
