"""What is measured: a model and the images that are sent to it. A new case is one more line in CASES.

Load generators read the cases, too, and begin sooner without torch: nothing here imports it before a model is made.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

# As regard_models has it, which knows it with torch alone.
DEFAULT_MODEL = "ea_mini"


@dataclass(frozen=True)
class Case:
    """One workload.

    Attributes:
        about: what it is, for the table's reader.
        model: a registered name.
        input_size: height and width of the network's input.
        image: makes what a caller sends.
    """

    about: str
    model: str
    input_size: int
    image: Callable[[], np.ndarray | bytes]

    def save_model(self, folder: Path) -> Path:
        """Write the model, with weights of a seed, where a server and a plain loop both find it."""
        from regard_models import Preprocessing, create, save_bundle  # noqa: PLC0415 - imports torch

        path = folder / f"{self.model}-{self.input_size}.safetensors"
        size = self.input_size
        model = create(self.model, input_size=(size, size)).eval()
        save_bundle(path, model, preprocessing=Preprocessing(size, size, size), source="benchmark")
        return path


def pixels(side: int) -> np.ndarray:
    """Return uint8 noise, (side, side, 3): no decoding and no resizing."""
    return np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)


def photograph() -> bytes:
    """Return a JPEG of 500 × 375, smooth with some texture, about as large as a photograph of that size."""
    noise = np.random.default_rng(0).normal(128, 60, (24, 32, 3)).clip(0, 255).astype(np.uint8)
    picture = Image.fromarray(noise).resize((500, 375), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _large(model: str, about: str, side: int) -> dict[str, Case]:
    """Return the two cases of a large network: JPEGs, and pixels of its own size."""
    return {
        model: Case(f"{about}, JPEG 500x375 to {side}", model, side, photograph),
        f"{model}-pixels": Case(f"{about}, uint8 {side}x{side}", model, side, lambda: pixels(side)),
    }


CASES = {
    # For peers.py alone, which serves the mean of a picture under the name of this model.
    "null": Case("the mean of uint8 32x32: nothing but serving", "resnet_tiny", 32, lambda: pixels(32)),
    "tiny": Case(
        "three thin layers, uint8 32x32: the cost of serving", "resnet_tiny", 32, lambda: pixels(32)
    ),
    "small": Case("ResNet-18, uint8 64x64", "resnet18", 64, lambda: pixels(64)),
    "mini": Case("the default network, JPEG 500x375 to 160", DEFAULT_MODEL, 160, photograph),
    "mini-pixels": Case("the default network, uint8 160x160", DEFAULT_MODEL, 160, lambda: pixels(160)),
    **_large("resnet50", "ResNet-50", 224),
    **_large("epsanet50", "EPSANet-50", 224),
    **_large("skresnext50_32x4d", "SK-ResNeXt-50", 224),
    **_large("botnet26t_256", "BoTNet-26", 256),
}
