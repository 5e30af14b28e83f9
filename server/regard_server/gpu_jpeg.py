"""JPEG pixels from a GPU: nvImageCodec decodes, torch turns, shrinks and cuts, all of it there.

    bytes ─→ plain_jpeg ─→ nvJPEG ─→ (h, w, 3) ─→ upright ─→ resize ─→ crop ─→ H×W×3 uint8 ─→ host, to wait for a batch
                └─ what is unusual, large or cannot be read there: None, and the host reads it

Off unless asked for. It spares the host most of a JPEG's work, which pays where a fast GPU has few cores beside it. It
costs computing that the networks would have, and trust: decoders on GPUs are made for their owners' files. One that
lacks part of its picture, but has its end, may be read as if it were whole, and what makes nvJPEG fail can end the CUDA
context of every model. nvImageCodec itself overruns its memory on headers that are made for it (two orientations; a
size that its parser alone sees), so it gets neither orientation nor any header that could be read in two ways.

On the device "cpu" the same code runs with the library's own libjpeg-turbo, which tells standard error of damaged
files: that is what the tests run.
"""

import importlib
import importlib.util
import io
import logging
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from regard_models import Preprocessing
from regard_server.fitting import Pixels
from regard_server.framing import Turn, frame, turn_of
from regard_server.jpeg import is_jpeg
from regard_server.plain_jpeg import plain_jpeg
from regard_server.settings import Settings

LIBRARY: Final = "nvidia.nvimgcodec"
# As bytes and as float32 this is 250 MB on the device for each thread that decodes, besides what nvJPEG takes.
_MOST_PIXELS: Final = 1 << 24
_MOST_RESIZED_PIXELS: Final = 1 << 22


class GpuUnavailableError(OSError):
    """JPEGs cannot be read on that device; the message says what is missing."""


class _Decoder(NamedTuple):
    """One thread's: the library's decoder, and the stream that it and torch work on, None on the host."""

    library: Any
    stream: torch.cuda.Stream | None


class GpuJpegs:
    """Reads JPEGs on one device; may be called by many threads, each of which gets a decoder of its own.

    Args:
        library: nvImageCodec.
        device: a CUDA device, or the CPU.
        logger: told of the first picture that the device failed at.
    """

    def __init__(self, library: Any, device: torch.device, logger: logging.Logger) -> None:
        self._library = library
        self._device = device
        self._logger = logger
        self._has_failed = False
        self._of_thread = threading.local()

    def __call__(self, data: bytes, opened: Image.Image, preprocessing: Preprocessing) -> Pixels | None:
        """Read a JPEG: bytes -> (H, W, 3) uint8 at the model's input size; None where the host has to.

        Args:
            data: the file.
            opened: the same file, opened by Pillow, which has read its header.
            preprocessing: of the model.
        """
        if not is_jpeg(opened) or opened.mode not in {"RGB", "L"}:
            return None
        if opened.width * opened.height > _MOST_PIXELS or (plain := plain_jpeg(data)) is None:
            return None
        turn = turn_of(opened)
        try:
            return self._read(plain, opened.size, turn, preprocessing)
        except (RuntimeError, ValueError) as error:  # of what is no picture, of memory, of the device
            if not self._has_failed:
                self._has_failed = True
                self._logger.warning("a JPEG was left to the host, and others will be: %s", error)
            return None

    def _read(
        self, plain: bytes, size: tuple[int, int], turn: Turn, preprocessing: Preprocessing
    ) -> Pixels | None:
        decoder = self._decoder()
        # Its own parser's word decides how much memory it takes.
        code = self._library.CodeStream(plain)
        if (code.width, code.height) != size:
            return None
        with torch.inference_mode(), torch.cuda.stream(decoder.stream):
            as_stored = self._library.DecodeParams(apply_exif_orientation=False)
            stream = decoder.stream.cuda_stream if decoder.stream else 0
            picture = decoder.library.decode(code, params=as_stored, cuda_stream=stream)
            if picture is None:
                return None
            return _fitted(_upright(self._as_tensor(picture), turn), preprocessing)

    def _decoder(self) -> _Decoder:
        """Return this thread's decoder, which is made when it is asked for first."""
        found: _Decoder | None = getattr(self._of_thread, "decoder", None)
        if found is None:
            found = self._of_thread.decoder = self._make_decoder()
        return found

    def _make_decoder(self) -> _Decoder:
        library = self._library
        if self._device.type == "cpu":
            number, stream, kinds = library.NVIMGCODEC_DEVICE_CPU_ONLY, None, [library.CPU_ONLY]
        else:
            number = self._device.index or 0
            stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]  # torch's own gap
            kinds = [library.GPU_ONLY, library.HYBRID_CPU_GPU, library.HW_GPU_ONLY]
        # Smooth chroma as libjpeg has it, said outright: older versions of nvJPEG repeat samples.
        decoder = library.Decoder(
            device_id=number,
            max_num_cpu_threads=1,
            backends=[library.Backend(kind) for kind in kinds],
            options=":fancy_upsampling=1",
        )
        return _Decoder(decoder, stream)

    def _as_tensor(self, picture: Any) -> Tensor:
        """Return a decoded picture's own memory: (h, w, 3) uint8."""
        if self._device.type == "cpu":
            return torch.from_numpy(np.asarray(picture))
        return torch.as_tensor(picture, device=self._device)


def open_gpu_jpegs(device: str, logger: logging.Logger) -> GpuJpegs:
    """Return a reader that has read a picture on a device: CUDA, or "cpu" for the same code on the host.

    Raises:
        GpuUnavailableError: the library is not installed, there is no such device, or it decodes nothing.
    """
    if not _is_installed():
        raise GpuUnavailableError("nvImageCodec is not installed: pip install 'regard[gpu-jpeg]'")
    if device != "cpu" and not torch.cuda.is_available():
        raise GpuUnavailableError("torch finds no CUDA device")
    # It would write a line to standard error for every picture that it cannot read.
    os.environ.setdefault("PYNVIMGCODEC_VERBOSITY", "0")
    try:
        jpegs = GpuJpegs(importlib.import_module(LIBRARY), torch.device(device), logger)
    except (ImportError, OSError) as error:
        raise GpuUnavailableError(f"nvImageCodec cannot be loaded: {error}") from error
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "JPEG")
    with ThreadPoolExecutor(1) as thread:  # whose decoder goes with it
        read = thread.submit(jpegs, file.getvalue(), Image.open(file), Preprocessing(8, 8, 8))
    if read.result() is None:
        raise GpuUnavailableError(f"nvImageCodec reads no JPEG on {device}; is its CUDA the driver's?")
    return jpegs


def decoding_device(settings: Settings) -> str:
    """Return the first CUDA device of a server, or simply the first one where its networks run elsewhere."""
    return next((name for name in settings.device.split(",") if name.startswith("cuda")), "cuda")


def decoder_faults(settings: Settings) -> list[str]:
    """Return a line if JPEGs are to be read on a GPU and cannot be."""
    if settings.jpeg_decoder == "gpu":
        try:
            open_gpu_jpegs(decoding_device(settings), logging.getLogger(__name__))
        except GpuUnavailableError as error:
            return [f"jpeg_decoder: {error}"]
    return []


def _is_installed() -> bool:
    try:
        return importlib.util.find_spec(LIBRARY) is not None
    except ModuleNotFoundError:  # not even the package that it lies in
        return False


def _upright(picture: Tensor, turn: Turn) -> Tensor:
    """Turn a picture (h, w, 3)."""
    turned = picture.transpose(0, 1) if turn.transposed else picture
    flipped = [axis for axis, is_flipped in enumerate((turn.upside_down, turn.mirrored)) if is_flipped]
    return turned.flip(flipped) if flipped else turned


def _fitted(picture: Tensor, preprocessing: Preprocessing) -> Pixels | None:
    """Resize and cut: (h, w, 3) uint8 -> (H, W, 3) uint8 on the host; None where that takes too much memory."""
    height, width = picture.shape[:2]
    framed = frame(width, height, preprocessing)
    if framed.width * framed.height > _MOST_RESIZED_PIXELS:
        return None  # one side is hundreds of times the other
    planes = picture.permute(2, 0, 1)[None].float()
    size = (framed.height, framed.width)
    resized = functional.interpolate(planes, size, mode=preprocessing.interpolation, antialias=True)
    bottom, right = framed.top + preprocessing.height, framed.left + preprocessing.width
    cut = resized[0, :, framed.top : bottom, framed.left : right]
    pixels: Pixels = cut.round().clamp(0, 255).byte().permute(1, 2, 0).contiguous().cpu().numpy()
    return pixels
