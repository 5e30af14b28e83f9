"""The work that every peer hosts: the same torch module, behind whatever serves it.

bytes ─→ picture: decoded, or taken as pixels ─→ run: a list of pictures ─→ a list of float32 embeddings as bytes

Told by the environment what to serve, because every framework starts its processes in another way.
"""

import logging
import os
from pathlib import Path

import numpy as np

CASE = os.environ["PEER_CASE"]
MODEL = Path(os.environ["PEER_MODEL"])
MODE = os.environ["PEER_MODE"]
PORT = int(os.environ["PEER_PORT"])

MOST = 32
# The longest that a batch waits for company, where a framework asks: long enough to fill one, short beside the work.
DELAY_S = 0.002
SIZES = {"null": (32, 32), "small": (64, 64), "tiny": (32, 32)}
IS_ENCODED = CASE not in SIZES


class Work:
    """The model of the case, loaded by whoever runs it. Use it in one thread."""

    def __init__(self) -> None:
        self._run = _mean if CASE == "null" else _network()

    def run(self, pictures: "list[np.ndarray]") -> list[bytes]:
        """Return the embeddings of a batch."""
        return [row.tobytes() for row in self._run(np.stack(pictures))]


class Reader:
    """Bytes into pictures, from any thread."""

    def __init__(self) -> None:
        if IS_ENCODED:
            from regard_models import load_bundle  # noqa: PLC0415 - needs torch, which not everybody has
            from regard_server.images import ImageLimits, decode  # noqa: PLC0415

            limits, prepared = ImageLimits(1 << 24, 50_000_000), load_bundle(MODEL).preprocessing
            self._decode = lambda data: decode(data, limits, prepared)

    def read(self, data: bytes) -> np.ndarray:
        """Return the picture, (H, W, 3) uint8."""
        return self._decode(data) if IS_ENCODED else np.frombuffer(data, np.uint8).reshape(*SIZES[CASE], 3)


def _mean(pictures: np.ndarray) -> np.ndarray:
    """The null work: (B, 32, 32, 3) uint8 -> (B, 1) float32."""
    return pictures.reshape(len(pictures), -1).mean(axis=1, keepdims=True, dtype=np.float32)


def _network():
    import torch  # noqa: PLC0415 - the null work does without

    from regard_models import load_bundle  # noqa: PLC0415
    from regard_server.cores import usable_cores  # noqa: PLC0415
    from regard_server.engine.mode import EAGER, Mode  # noqa: PLC0415
    from regard_server.engine.openvino_runner import OpenVinoRunner  # noqa: PLC0415
    from regard_server.engine.streams import streams_for  # noqa: PLC0415
    from regard_server.engine.torch_runner import TorchRunner  # noqa: PLC0415
    from regard_server.settings import default_cache_dir  # noqa: PLC0415
    from regard_server.work import BatchKey  # noqa: PLC0415

    bundle, threads = load_bundle(MODEL), usable_cores()
    torch.set_num_threads(threads)
    if MODE == "same":
        runner = OpenVinoRunner(
            bundle,
            Mode("openvino", "bfloat16"),
            threads=threads,
            max_batch=MOST,
            cache=default_cache_dir(),
            logger=logging.getLogger(),
        )
    else:
        device = torch.device("cpu")
        streams = streams_for(device)
        runner = TorchRunner(bundle.model, bundle.preprocessing, EAGER, device, streams=streams)
    prepared = bundle.preprocessing
    key = BatchKey("peer", "pixels", prepared.height, prepared.width, "pooled")
    return lambda pictures: runner.run(key, pictures, ("embedding",))["embedding"]
