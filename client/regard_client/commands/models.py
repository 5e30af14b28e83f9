"""`regard models`: what a server serves."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Final

from regard_client.catalog import Model
from regard_client.commands.connection import add_connection_options, connect
from regard_client.commands.table import table

_HEADING: Final = (
    "NAME",
    "DEFAULT",
    "STATE",
    "TRAINED",
    "INPUT",
    "DEVICE",
    "FINGERPRINT",
    "OUTPUTS",
    "WEIGHTS",
)


def main(argv: Sequence[str]) -> int:
    """Print the models as a table, or with --json everything about them."""
    parser = argparse.ArgumentParser(prog="regard models", description="List what a server serves.")
    parser.add_argument("--json", action="store_true", help="print everything there is to know, as JSON")
    parser.add_argument(
        "--published",
        action="store_true",
        help="list published checkpoints that `regard convert` reads instead; asks no server",
    )
    add_connection_options(parser)
    options = parser.parse_args(argv)
    with connect(options) as client:
        models = client.models()
    if options.json:
        sys.stdout.write(json.dumps([asdict(model) for model in models], indent=2) + "\n")
    else:
        sys.stdout.write(table(_HEADING, [_row(model) for model in models]))
    return 0


def _row(model: Model) -> tuple[str, ...]:
    return (
        model.name,
        "default" if model.is_default else "",
        model.state,
        "trained" if model.trained else "untrained",
        f"{model.preprocessing.height}×{model.preprocessing.width}",
        f"{model.device} {model.compute_dtype}".strip(),
        model.fingerprint[:12],
        _outputs(model),
        model.weights,
    )


def _outputs(model: Model) -> str:
    """Name the outputs; attention maps, of which there may be dozens, are counted."""
    names = [name for name, output in model.outputs.items() if output.kind != "attention"]
    maps = len(model.outputs) - len(names)
    return " ".join(names) + (f" and {maps} attention maps" if maps else "")
