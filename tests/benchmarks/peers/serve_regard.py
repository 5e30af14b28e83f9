"""regard with the null work instead of a network: the server, its engine included, but for the runner.

The model that it says it serves is `resnet_tiny`, whose pictures are as large as those of the null work.
"""

import asyncio
import logging
import sys

from work import PORT, _mean

from regard_models import ModelBundle
from regard_server import app
from regard_server.engine import Engine
from regard_server.engine.mode import Mode
from regard_server.lifecycle import run
from regard_server.settings import load_settings


class Mean:
    """The null work as a runner."""

    weights_bytes = 0

    def covers(self, key, output) -> bool:
        return True

    def run(self, key, pictures, outputs) -> dict:
        return {"embedding": _mean(pictures)}


class NullEngine(Engine):
    """An engine whose networks are all the null work."""

    def _build(self, bundle: ModelBundle, mode: Mode, alone_s: float | None = None) -> Mean:
        return Mean()


if __name__ == "__main__":
    app.Engine = NullEngine
    options = ["--address", f"127.0.0.1:{PORT}", "--metrics-address", "", "--models", "resnet_tiny"]
    settings = load_settings([*options, "--engine", "eager", "--dtype", "float32"])
    sys.exit(asyncio.run(run(settings, logging.getLogger("regard"))))
