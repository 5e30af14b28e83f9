"""JPEG pixels from a GPU: nvImageCodec decodes, torch shrinks and cuts, both there.

    bytes ─→ nvJPEG ─→ (h, w, 3) ─→ antialiased resize ─→ crop ─→ H×W×3 uint8 ─→ host, to wait for a batch
             └─ what it cannot read, or had better not: None, and the host reads it

Off unless asked for. It spares the host most of a JPEG's work, which pays where a fast GPU has few cores beside it; it
takes computing from the networks, upsamples and rounds otherwise than libjpeg does, so that vectors may depend on where
a picture was read, and puts a parser of strangers' bytes into the process's one CUDA context, where its crash ends
every model. On the device "cpu" the same code runs with the library's own libjpeg-turbo and gives that one's pixels;
that is what the tests run. It has not been run on a GPU, since none was at hand.
"""

import importlib.util
import os
import threading
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from regard_models import Preprocessing
from regard_server.images import Pixels, frame
from regard_server.settings import Settings

LIBRARY: Final = "nvidia.nvimgcodec"
# A float32 copy of the picture lies on the device while it is shrunk, one for each decoder thread: 200 MB of so many.
_MOST_PIXELS: Final = 1 << 24
# Smooth chroma, as libjpeg has it; nvJPEG repeats samples otherwise.
_OPTIONS: Final = ":fancy_upsampling=1"


class GpuUnavailableError(RuntimeError):
    """JPEGs cannot be read on that device; the message says what is missing."""


class GpuJpegs:
    """Reads JPEGs on one device; may be called by many threads, each of which gets a decoder of its own.

    Args:
        device: a CUDA device, or "cpu" for the same on the host.

    Raises:
        GpuUnavailableError: the library is not installed, or there is no such device.
    """

    def __init__(self, device: str) -> None:
        self._device = torch.device(device)
        if not is_installed():
            raise GpuUnavailableError("nvImageCodec is not installed: pip install 'regard[gpu-jpeg]'")
        if self._device.type == "cuda" and not torch.cuda.is_available():
            raise GpuUnavailableError("torch finds no CUDA device")
        # It writes a line to stderr about every file that is damaged; the caller hears of it instead.
        os.environ.setdefault("PYNVIMGCODEC_VERBOSITY", "0")
        self._library: Any = importlib.import_module(LIBRARY)
        self._of_thread = threading.local()

    def __call__(self, data: bytes, opened: Image.Image, preprocessing: Preprocessing) -> Pixels | None:
        """Return a JPEG at the model's input size; None where the host has to read it, or to say what is wrong.

        Args:
            data: the file.
            opened: the same file, opened by Pillow, which has read its header.
            preprocessing: of the model.
        """
        if opened.format not in {"JPEG", "MPO"} or opened.mode not in {"RGB", "L"}:
            return None
        if opened.width * opened.height > _MOST_PIXELS:
            return None
        decoder, stream = self._decoder()
        with torch.inference_mode(), torch.cuda.stream(stream):
            number = stream.cuda_stream if stream else 0
            picture = decoder.decode(self._library.CodeStream(data), cuda_stream=number)
            if picture is None:
                return None
            try:
                return _fitted(self._as_tensor(picture), preprocessing)
            except torch.OutOfMemoryError:
                return None

    def _decoder(self) -> tuple[Any, torch.cuda.Stream | None]:
        """Return this thread's decoder, and the stream that it works on."""
        if not hasattr(self._of_thread, "decoder"):
            self._of_thread.decoder = self._make_decoder()
        decoder: tuple[Any, torch.cuda.Stream | None] = self._of_thread.decoder
        return decoder

    def _make_decoder(self) -> tuple[Any, torch.cuda.Stream | None]:
        library = self._library
        if self._device.type == "cpu":
            number, backends, stream = library.NVIMGCODEC_DEVICE_CPU_ONLY, [library.CPU_ONLY], None
        else:
            number, backends = self._device.index or 0, []
            stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]  # torch's own gap
        decoder = library.Decoder(
            device_id=number,
            max_num_cpu_threads=1,
            backends=[library.Backend(kind) for kind in backends] or None,
            options=_OPTIONS,
        )
        return decoder, stream

    def _as_tensor(self, picture: Any) -> Tensor:
        """Return a decoded picture's own memory: (h, w, 3) uint8."""
        if self._device.type == "cpu":
            return torch.from_numpy(np.asarray(picture))
        return torch.as_tensor(picture, device=self._device)


def is_installed() -> bool:
    """Tell whether nvImageCodec can be imported."""
    try:
        return importlib.util.find_spec(LIBRARY) is not None
    except ModuleNotFoundError:  # not even the package that it lies in
        return False


def decoding_device(settings: Settings) -> str:
    """Return the first CUDA device of a server, or simply the first one where its networks run elsewhere."""
    return next((name for name in settings.device.split(",") if name.startswith("cuda")), "cuda")


def decoder_faults(settings: Settings) -> list[str]:
    """Return a line if JPEGs are to be read on a GPU and cannot be."""
    if settings.jpeg_decoder == "gpu":
        try:
            GpuJpegs(decoding_device(settings))
        except GpuUnavailableError as error:
            return [f"jpeg_decoder: {error}"]
    return []


def _fitted(picture: Tensor, preprocessing: Preprocessing) -> Pixels | None:
    """Resize and cut as `images` does: (h, w, 3) uint8 -> (H, W, 3) uint8 on the host."""
    height, width = picture.shape[:2]
    framed = frame(width, height, preprocessing)
    if framed.width * framed.height > _MOST_PIXELS:
        return None  # one side is thousands of times the other
    planes = picture.permute(2, 0, 1)[None].float()
    size = (framed.height, framed.width)
    resized = functional.interpolate(planes, size, mode=preprocessing.interpolation, antialias=True)
    bottom, right = framed.top + preprocessing.height, framed.left + preprocessing.width
    cut = resized[0, :, framed.top : bottom, framed.left : right]
    pixels: Pixels = cut.round().clamp(0, 255).byte().permute(1, 2, 0).contiguous().cpu().numpy()
    return pixels
