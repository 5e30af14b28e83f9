"""Whatever a caller holds an image in, made ready for the wire.

    path, bytes, binary file           an encoded file, sent as it is        Encoded
    PIL.Image                          RGB pixels (as PNG if it has alpha)   Pixels, Encoded
    uint8 array (H, W, 3) or (H, W)    RGB pixels                            Pixels
    float32 array (3, H, W)            ready for the network, not resized    ReadyTensor

Nothing is decoded or resized here: that is the server's work, by one stated rule.
"""

import io
import os
import sys
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol, TypeAlias, TypeGuard, cast, runtime_checkable

import numpy as np
import numpy.typing as npt

from regard_client.errors import InvalidImageError
from regard_proto.v1 import features_pb2 as pb

ACCEPTED: Final = (
    "a path, the bytes of an encoded file (JPEG, PNG, WebP, BMP, GIF, TIFF), a binary file object, a PIL.Image, "
    "a uint8 array (H, W, 3) or (H, W), or a float32 array (3, H, W) that is ready for the network"
)


@runtime_checkable
class BinaryFile(Protocol):
    """A file opened in binary mode."""

    def read(self, size: int = -1, /) -> bytes:
        """Return what is left of the file."""


class PillowImage(Protocol):
    """What is used of `PIL.Image.Image`; Pillow itself is needed by nobody who has no such image."""

    @property
    def mode(self) -> str:
        """The pixel format: "RGB", "L", "RGBA", …."""

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows."""

    def convert(self, mode: str, /) -> "PillowImage":
        """Return the image in another pixel format."""

    def tobytes(self) -> bytes:
        """Return the pixels, row by row."""


ImageLike: TypeAlias = (
    str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryFile | PillowImage | npt.NDArray[Any]
)


# The kinds of picture are tuples: one is made for every image, and a frozen dataclass takes twice as long.
class Encoded(NamedTuple):
    """The bytes of an image file."""

    data: bytes

    @property
    def nbytes(self) -> int:
        """How many bytes it takes in a message."""
        return len(self.data)

    def write(self, image: pb.Image) -> None:
        """Put it into a message; in place, because building it apart would copy it once more."""
        image.encoded = self.data


class Pixels(NamedTuple):
    """8-bit RGB pixels, row by row: `data` is (height, width, 3)."""

    height: int
    width: int
    data: bytes

    @property
    def nbytes(self) -> int:
        """How many bytes it takes in a message."""
        return len(self.data)

    def write(self, image: pb.Image) -> None:
        """Put it into a message."""
        raw = image.raw  # once: every look at the field makes an object
        raw.height = self.height
        raw.width = self.width
        raw.data = self.data


class ReadyTensor(NamedTuple):
    """A normalised float32 picture: `data` is (3, height, width), little-endian."""

    shape: tuple[int, ...]
    data: bytes

    @property
    def nbytes(self) -> int:
        """How many bytes it takes in a message."""
        return len(self.data)

    def write(self, image: pb.Image) -> None:
        """Put it into a message."""
        tensor = image.tensor
        tensor.dtype = pb.DATA_TYPE_FLOAT32
        tensor.shape.extend(self.shape)
        tensor.data = self.data


Picture: TypeAlias = Encoded | Pixels | ReadyTensor

# Made once: `bytes | bytearray` written in a function is put together anew by every call.
_BYTES: Final = (bytes, bytearray, memoryview)
_IN_MEMORY: Final = (np.ndarray, *_BYTES)


def read_image(image: ImageLike) -> Picture:
    """Return an image as it will travel; reads the file if it is a path or a file object.

    Raises:
        TypeError: it is none of the accepted kinds.
        InvalidImageError: it is of an accepted kind, but empty or of the wrong shape.
        OSError: the file cannot be read; `FileNotFoundError` if there is none.
    """
    if isinstance(image, np.ndarray):
        return _from_array(image)
    if isinstance(image, _BYTES):
        return _encoded(bytes(image), "the bytes given")
    if isinstance(image, str | os.PathLike):
        path = Path(image)
        return _encoded(path.read_bytes(), str(path))
    if _is_pillow(image):
        return _from_pillow(image)
    if isinstance(image, BinaryFile):
        data = image.read()
        if isinstance(data, bytes):
            return _encoded(data, "what is left of the file")
        raise TypeError(f"file gives {type(data).__name__} where bytes are expected; open it in binary mode")
    raise TypeError(f"{type(image).__name__} is no image; expected {ACCEPTED}")


def reads_files(image: ImageLike) -> bool:
    """Tell whether reading an image may block or take long, so that it belongs off an event loop."""
    return not isinstance(image, _IN_MEMORY)


def _encoded(data: bytes, whence: str) -> Encoded:
    if not data:
        raise InvalidImageError(f"no image: {whence} is empty", reason="IMAGE_EMPTY")
    return Encoded(data)


# numpy makes up a dtype's name each time that it is asked.
_NAMES: Final = {np.dtype(name): name for name in ("uint8", "float32")}


def _from_array(array: npt.NDArray[Any]) -> Pixels | ReadyTensor:
    match _NAMES.get(array.dtype) or array.dtype.name, array.shape:
        case "uint8", (height, width, 3) if height and width:
            return Pixels(height, width, array.tobytes())
        case "uint8", (height, width) | (height, width, 1) if height and width:
            return Pixels(height, width, np.repeat(array.reshape(height, width, 1), 3, axis=2).tobytes())
        case "float32", (3, height, width) if height and width:
            return ReadyTensor(array.shape, array.astype("<f4", copy=False).tobytes())
    raise InvalidImageError(
        f"array of {array.dtype.name} and shape {array.shape} is no image; expected uint8 (H, W, 3) or (H, W) pixels, "
        "or float32 (3, H, W) that is ready for the network",
        reason="IMAGE_INVALID",
    )


# What Pillow turns to RGB without loss of meaning. Alpha, palettes and 16 bits go by the server's stated
# rule instead, so that an image gives the same vector as the file that it came from.
_PLAIN_MODES: Final = frozenset({"RGB", "RGBX", "L", "1", "CMYK", "YCbCr", "LAB", "HSV"})
_PNG_MODES: Final = frozenset({"RGBA", "LA", "P", "I;16", "I"})
_PNG_EQUIVALENTS: Final = {"RGBa": "RGBA", "La": "LA", "PA": "RGBA", "I;16B": "I;16", "I;16L": "I;16"}


def _is_pillow(image: object) -> TypeGuard[PillowImage]:
    # Whoever holds a Pillow image has imported Pillow; for all others it need not be installed.
    pillow = sys.modules.get("PIL.Image")
    return pillow is not None and isinstance(image, pillow.Image)


def _from_pillow(image: PillowImage) -> Pixels | Encoded:
    from PIL import ImageOps  # noqa: PLC0415 - see _is_pillow

    # An orientation tag that is still there has not been applied yet; files get the same treatment.
    upright: Any = ImageOps.exif_transpose(cast("Any", image))
    if upright.mode in _PNG_EQUIVALENTS:
        upright = upright.convert(_PNG_EQUIVALENTS[upright.mode])
    width, height = upright.size
    if not width or not height:
        raise InvalidImageError(f"image of {width} × {height} pixels is empty", reason="IMAGE_EMPTY")
    if upright.mode in _PLAIN_MODES:
        rgb = upright if upright.mode == "RGB" else upright.convert("RGB")
        return Pixels(height, width, rgb.tobytes())
    if upright.mode in _PNG_MODES:
        png = io.BytesIO()
        upright.save(png, "PNG", compress_level=1)
        return Encoded(png.getvalue())
    raise InvalidImageError(
        f'image of mode {upright.mode!r} has no stated way to RGB; use image.convert("RGB")'
    )
