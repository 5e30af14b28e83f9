"""What counts as an image, and how it travels."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from regard_client import InvalidImageError
from regard_client.images import Encoded, Pixels, ReadyTensor, read_image
from regard_proto import tensors
from regard_proto.v1 import features_pb2 as pb


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_bytes_travel_as_they_are(kind):
    """Encoded bytes of any kind are sent untouched."""
    assert read_image(kind(b"jpeg")) == Encoded(b"jpeg")


def test_files_travel_as_they_are(tmp_path):
    """A path, as a string or a Path, and an open file give the file's bytes."""
    path = tmp_path / "photo.jpg"
    path.write_bytes(b"jpeg")
    assert read_image(path) == read_image(str(path)) == Encoded(b"jpeg")
    with path.open("rb") as file:
        assert read_image(file) == Encoded(b"jpeg")


def test_a_missing_file_is_an_ordinary_error(tmp_path):
    """Nobody has to learn a new name for a file that is not there."""
    with pytest.raises(FileNotFoundError):
        read_image(tmp_path / "none.jpg")


def test_a_text_file_is_told_apart():
    """A file opened in text mode is refused with the remedy."""
    with pytest.raises(TypeError, match="binary mode"):
        read_image(io.StringIO("text"))


def test_empty_bytes_are_refused_before_they_are_sent():
    """No bytes are no image, by the server's own reason."""
    with pytest.raises(InvalidImageError, match="empty") as caught:
        read_image(b"")
    assert caught.value.reason == "IMAGE_EMPTY"


@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 5), st.integers(1, 5), st.just(3))))
def test_rgb_arrays_travel_as_pixels(array):
    """uint8 (H, W, 3) is sent row by row, also from views that are not contiguous."""
    for view in (array, array[::-1], array.transpose(1, 0, 2)):
        pixels = read_image(view)
        assert (pixels.height, pixels.width) == view.shape[:2]
        np.testing.assert_array_equal(np.frombuffer(pixels.data, np.uint8).reshape(view.shape), view)


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 1)])
def test_grey_arrays_become_rgb(shape):
    """Grey pixels are repeated for R, G and B."""
    array = np.arange(6, dtype=np.uint8).reshape(shape)
    pixels = read_image(array)
    assert pixels == Pixels(2, 3, bytes(value for value in range(6) for _ in "RGB"))


def test_float_arrays_travel_as_tensors():
    """float32 (3, H, W) is sent ready for the network, and reads back as it was."""
    array = np.random.default_rng(0).standard_normal((3, 4, 5), np.float32)
    message = pb.Image()
    picture = read_image(array)
    picture.write(message)
    assert isinstance(picture, ReadyTensor)
    np.testing.assert_array_equal(tensors.to_array(message.tensor), array)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((3, 4, 4), np.float64),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((3, 0, 4), np.float32),
        np.zeros(3, np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_other_arrays_are_refused_with_what_is_expected(array):
    """An array of another type or shape is a ValueError that names both, and what would do."""
    with pytest.raises(ValueError, match=r"expected uint8 \(H, W, 3\)") as caught:
        read_image(array)
    assert str(array.shape) in str(caught.value)


@pytest.mark.parametrize(
    "image", [None, 1, ["a.jpg"], {"a": 1}, object()], ids=lambda image: type(image).__name__
)
def test_what_is_no_image_is_a_type_error(image):
    """Anything else is refused with a list of what is accepted."""
    with pytest.raises(TypeError, match="expected a path, the bytes"):
        read_image(image)


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "CMYK", "YCbCr", "HSV"])
def test_pillow_images_travel_as_rgb_pixels(mode):
    """What Pillow converts without loss of meaning is sent as its RGB pixels."""
    image = Image.new("RGB", (3, 2), (10, 20, 30)).convert(mode)
    assert read_image(image) == Pixels(2, 3, image.convert("RGB").tobytes())


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P", "I;16", "RGBa"])
def test_pillow_images_with_alpha_palette_or_depth_travel_as_png(mode):
    """What the server converts by its own stated rule is sent to it whole."""
    image = Image.new("RGBA", (3, 2), (10, 20, 30, 40))
    image = Image.new(mode, (3, 2)) if mode == "I;16" else image.convert("LA" if mode == "PA" else mode)
    picture = read_image(image)
    assert isinstance(picture, Encoded)
    with Image.open(io.BytesIO(picture.data)) as back:
        assert back.size == (3, 2)
        assert back.format == "PNG"


def test_pillow_images_are_turned_upright():
    """An orientation that has not been applied is applied, as the server does for the file."""
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 20)).save(file, "JPEG", exif=exif)
    with Image.open(file) as image:
        pixels = read_image(image)
    assert (pixels.height, pixels.width) == (30, 20)


def test_pillow_images_without_a_way_to_rgb_are_refused():
    """Floating-point pictures have no stated range, so the caller has to say what they mean."""
    with pytest.raises(InvalidImageError, match="'F'"):
        read_image(Image.new("F", (2, 2)))
