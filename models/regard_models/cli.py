"""Subcommands of `regard` that concern weights: `regard convert` and `regard published`.

Each takes its arguments and returns an exit status: 0, 1 for a checkpoint that does not fit, 2 for a
command line that makes no sense.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from regard_models.catalogue import Published
from regard_models.catalogue import published as catalogue
from regard_models.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Sequence

COLUMNS = ("name", "source", "licence", "sha256", "result", "url")


def convert(argv: Sequence[str]) -> int:
    """Convert a published checkpoint into a .safetensors file to serve from."""
    parser = argparse.ArgumentParser("regard convert", description=convert.__doc__)
    parser.add_argument(
        "source", help="whose file it is, such as timm/skresnet18; `regard published` lists some"
    )
    parser.add_argument(
        "file", help="the checkpoint: .safetensors, or what torch.save wrote (read weights-only)"
    )
    parser.add_argument("-o", "--output", required=True, help="the .safetensors file to write")
    parser.add_argument(
        "--input-size", type=_size, help="pixels to prepare it for: 320, or 256x320 (height x width)"
    )
    parser.add_argument(
        "--args",
        type=_arguments,
        metavar="JSON",
        help="of a published class (original/SKAttention, …): what the shapes of its weights do not say",
    )
    options = parser.parse_args(argv)

    from regard_models.convert import convert_file  # noqa: PLC0415 - torch takes seconds, --help shall not

    try:
        model = convert_file(
            options.source, options.file, options.output, input_size=options.input_size, args=options.args
        )
    except ModelError as fault:
        sys.stderr.write(f"regard convert: {fault}\n")
        return 1
    parameters = sum(each.numel() for each in model.parameters())
    spec = getattr(model, "spec", None)
    ready = f"{spec.input_size[0]}x{spec.input_size[1]} pixels" if spec else "a module, not to be served"
    sys.stdout.write(f"{options.output}: {options.source}, {parameters:,} parameters, {ready}\n")
    return 0


def published(argv: Sequence[str]) -> int:
    """List published checkpoints that `regard convert` reads; nothing is downloaded."""
    parser = argparse.ArgumentParser("regard published", description=published.__doc__)
    parser.add_argument("source", nargs="?", default="", help="only those of one source")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(argv)
    rows = catalogue(options.source)
    if options.json:
        sys.stdout.write(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    else:
        sys.stdout.write(_table(rows))
    return 0


def _table(rows: Sequence[Published]) -> str:
    cells = [[column.upper() for column in COLUMNS]]
    cells += [[getattr(row, column) or "-" for column in COLUMNS] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]
    return "\n".join(lines) + "\n"


def _arguments(text: str) -> dict[str, Any]:
    """Read a JSON object."""
    try:
        return dict(json.loads(text))
    except (TypeError, ValueError) as cause:
        raise argparse.ArgumentTypeError(f'{text!r}: expected a JSON object such as {{"h": 8}}') from cause


def _size(text: str) -> tuple[int, int]:
    """Read `320` or `256x320`."""
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)?", text):
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected a number of pixels, or height x width such as 256x320"
        )
    height, _, width = text.partition("x")
    return int(height), int(width or height)
