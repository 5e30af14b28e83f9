"""Decoding: every format and mode, every way up, and everything that is no picture."""

import contextlib
import io
import random
import struct
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from regard_models import Preprocessing, load_bundle
from regard_models.samples import sample_photographs
from regard_server.budget import MemoryBudget
from regard_server.errors import (
    EmptyImageError,
    ImageTooLargeError,
    InvalidImageError,
    InvalidPixelsError,
    UndecodableImageError,
    UnknownFormatError,
)
from regard_server.images import FORMATS, ImageLimits, decode, fit_raw
from regard_server.libtiff import silence_libtiff

LIMITS = ImageLimits(max_bytes=1 << 20, max_pixels=1_000_000, memory=MemoryBudget(1))
AS_IS = Preprocessing(24, 24, 24)
"""What leaves a square picture of 24 pixels as it is."""
COLOURS = np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)
LOSSLESS = [
    ("PNG", {}),
    ("WEBP", {"lossless": True}),
    ("BMP", {}),
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
]


def smooth(height, width):
    """Return a picture that survives lossy compression: (height, width, 3)."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack(
        [rows * 255 // max(height - 1, 1), columns * 255 // max(width - 1, 1), (rows + columns) % 97 + 80], -1
    ).astype(np.uint8)


def encode(picture, form, **options):
    """Return the bytes of a file."""
    file = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(file, form, **options)
    return file.getvalue()


def vector(model, pixels):
    """Return the embedding of pixels (H, W, 3): (1, D)."""
    mean, std = (torch.tensor(getattr(AS_IS, name)) for name in ("mean", "std"))
    ready = ((torch.tensor(pixels) / 255 - mean) / std).permute(2, 0, 1)
    return model.extract(ready[None], ["embedding"])["embedding"]


def read(data, preprocessing=AS_IS, limits=LIMITS):
    return decode(data, limits, preprocessing)


class TestFormats:
    """What each kind of file becomes."""

    @pytest.mark.parametrize(("form", "options"), LOSSLESS, ids=str)
    def test_lossless_formats_give_the_very_pixels(self, form, options):
        """Nothing is lost between the file and the network's input."""
        pixels = read(encode(COLOURS, form, **options))
        assert (pixels.dtype, pixels.shape) == (np.uint8, (24, 24, 3))
        np.testing.assert_array_equal(pixels, COLOURS)

    @pytest.mark.parametrize(
        ("form", "options"),
        [("JPEG", {"quality": 95}), ("JPEG", {"progressive": True}), ("WEBP", {"quality": 95})],
    )
    def test_lossy_formats_come_close(self, form, options):
        """A compressed picture is the same to within what compression does."""
        picture = smooth(24, 24)
        assert np.abs(read(encode(picture, form, **options)).astype(int) - picture).mean() < 6

    def test_of_a_gif_the_first_frame_counts(self):
        """An animation is its first picture."""
        first, second = (Image.new("P", (24, 24), value) for value in (1, 2))
        for frame in (first, second):
            frame.putpalette([0, 0, 0, 200, 100, 50, 9, 9, 9])
        pixels = read(encode(first, "GIF", save_all=True, append_images=[second]))
        np.testing.assert_array_equal(pixels, np.broadcast_to((200, 100, 50), (24, 24, 3)))

    @pytest.mark.parametrize("form", ["WEBP", "TIFF", "PNG"])
    def test_of_several_frames_the_first_counts(self, form):
        """So it is for every format that can hold several."""
        first, second = (Image.new("RGB", (24, 24), colour) for colour in ("red", "blue"))
        pixels = read(encode(first, form, save_all=True, append_images=[second]))
        assert np.abs(pixels.astype(int) - (255, 0, 0)).max() <= 2  # WebP's colours are rounded

    @pytest.mark.parametrize("components", [1, 3, 4])
    def test_a_lossless_jpeg_is_not_reduced(self, components):
        """The decoder that reduces others would write all of it where there is room for a part."""
        lines = struct.pack(">BHHB", 8, 600, 500, components)
        samples = b"".join(bytes([number, 0x11, 0]) for number in range(components))
        scan = bytes([components]) + b"".join(bytes([number, 0]) for number in range(components)) + b"\1\0\0"
        segments = (0xC3, lines + samples), (0xC4, bytes([0, 1] + [0] * 16)), (0xDA, scan)
        headers = (
            bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data for marker, data in segments
        )
        # Each sample is as was predicted from those before it, in one bit.
        data = b"\xff\xd8" + b"".join(headers) + bytes(600 * 500 * components // 8) + b"\xff\xd9"
        pixels = read(data)
        assert (pixels == pixels[0, 0]).all()

    @pytest.mark.parametrize("form", ["ICO", "PPM", "PCX", "TGA", "EPS", "PDF"])
    def test_other_formats_are_unknown_and_the_known_ones_are_listed(self, form):
        """Whatever else the decoder could read is not read from the wire."""
        with pytest.raises(UnknownFormatError, match="expected one of JPEG, PNG, WEBP, BMP, GIF, TIFF"):
            read(encode(COLOURS, form))


class TestModes:
    """How every kind of sample becomes 8-bit RGB."""

    def test_grey_is_repeated(self):
        """One channel becomes three equal ones."""
        grey = COLOURS[..., 0]
        np.testing.assert_array_equal(read(encode(grey, "PNG")), np.repeat(grey[..., None], 3, -1))

    def test_black_and_white_is_nought_and_255(self):
        """One bit a pixel is the darkest and the brightest."""
        bits = COLOURS[..., 0] > 127
        np.testing.assert_array_equal(read(encode(Image.fromarray(bits), "PNG"))[..., 1], bits * 255)

    def test_palettes_are_looked_up(self):
        """A palette's indices become its colours."""
        picture = Image.fromarray(COLOURS).quantize(16)
        np.testing.assert_array_equal(read(encode(picture, "PNG")), np.asarray(picture.convert("RGB")))

    @pytest.mark.parametrize("form", ["PNG", "GIF"])
    def test_a_transparent_palette_entry_is_white(self, form):
        """Transparency of a palette is laid over white, the other entries stay."""
        picture = Image.new("P", (24, 24), 0)
        picture.putpalette([10, 20, 30, 200, 100, 50])
        picture.paste(1, (0, 0, 12, 24))
        pixels = read(encode(picture, form, transparency=0))
        np.testing.assert_array_equal(pixels[0, 0], (200, 100, 50))
        np.testing.assert_array_equal(pixels[0, 23], (255, 255, 255))

    @pytest.mark.parametrize(("form", "options"), LOSSLESS[:2] + LOSSLESS[3:4])
    def test_alpha_is_laid_over_white(self, form, options):
        """Half transparent black is grey, fully transparent anything is white."""
        picture = np.zeros((24, 24, 4), np.uint8)
        picture[:, :8] = (0, 0, 0, 255)
        picture[:, 8:16] = (0, 0, 0, 128)
        picture[:, 16:] = (90, 0, 0, 0)
        pixels = read(encode(picture, form, **options, **({"exact": True} if form == "WEBP" else {})))
        np.testing.assert_array_equal(pixels[0, [0, 8, 16]], [[0] * 3, [127] * 3, [255] * 3])

    def test_grey_with_alpha_is_laid_over_white(self):
        """Two channels, grey and alpha, follow the same rule."""
        picture = np.stack([np.full((24, 24), 40), np.where(np.eye(24), 255, 0)], -1).astype(np.uint8)
        pixels = read(encode(Image.fromarray(picture, "LA"), "PNG"))
        np.testing.assert_array_equal(pixels[0, :2], [[40] * 3, [255] * 3])

    @pytest.mark.parametrize(
        ("mode", "transparent", "colour"), [("RGB", (1, 2, 3), (1, 2, 3)), ("L", 7, 7)], ids=["RGB", "grey"]
    )
    def test_a_transparent_colour_is_white(self, mode, transparent, colour):
        """A PNG may name one colour that is transparent; it is laid over white as well."""
        picture = Image.new(mode, (24, 24), colour)
        picture.paste(0, (0, 0, 12, 24))
        pixels = read(encode(picture, "PNG", transparency=transparent))
        np.testing.assert_array_equal(pixels[0, [0, 23]], [[0] * 3, [255] * 3])

    @pytest.mark.parametrize("form", ["JPEG", "TIFF"])
    def test_cmyk_becomes_rgb(self, form):
        """Cyan ink alone is the complement of red."""
        pixels = read(encode(Image.new("CMYK", (24, 24), (255, 0, 0, 0)), form))
        assert np.abs(pixels.astype(int) - (0, 255, 255)).max() <= 2

    @pytest.mark.parametrize("form", ["PNG", "TIFF"])
    def test_16_bit_grey_keeps_the_upper_8_bits(self, form):
        """Sixteen bits are scaled, not clipped."""
        samples = np.arange(24 * 24, dtype=np.uint16).reshape(24, 24) * 113
        pixels = read(encode(Image.fromarray(samples), form))
        np.testing.assert_array_equal(pixels, np.repeat((samples >> 8)[..., None], 3, -1))

    def test_16_bit_colour_keeps_the_upper_8_bits(self):
        """A PNG of 16 bits a channel is scaled likewise."""
        samples = np.random.default_rng(1).integers(0, 65536, (24, 24, 3), np.uint16)
        rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
        data = png_header(24, 24, depth=16) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
        np.testing.assert_array_equal(read(data), samples >> 8)

    def test_samples_without_a_range_are_refused(self):
        """Floating-point pictures have no white to scale by, and a guess would be a wrong vector."""
        data = encode(Image.fromarray(np.random.default_rng(1).random((24, 24), np.float32)), "TIFF")
        with pytest.raises(UndecodableImageError, match="floating-point"):
            read(data)

    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
    def test_exif_orientation_is_honoured(self, form, orientation):
        """A photograph is upright whichever way the camera was held."""
        turned = {
            1: lambda upright: upright,
            2: np.fliplr,
            3: lambda upright: np.rot90(upright, 2),
            4: np.flipud,
            5: lambda upright: upright.swapaxes(0, 1),
            6: lambda upright: np.rot90(upright, 1),
            7: lambda upright: np.rot90(upright, 2).swapaxes(0, 1),
            8: lambda upright: np.rot90(upright, -1),
        }[orientation]
        upright = np.zeros((24, 24, 3), np.uint8)
        upright[:12, :12], upright[:12, 12:], upright[12:, :12] = (250, 0, 0), (0, 250, 0), (0, 0, 250)
        exif = Image.Exif()
        exif[0x0112] = orientation
        options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}.get(form, {})
        data = encode(np.ascontiguousarray(turned(upright)), form, exif=exif, **options)
        assert np.abs(read(data).astype(int) - upright).max() <= 3

    @pytest.mark.parametrize("orientation", [0, 9, 65535])
    def test_an_orientation_that_does_not_exist_is_passed_over(self, orientation):
        """A camera's nonsense does not cost the picture."""
        exif = Image.Exif()
        exif[0x0112] = orientation
        np.testing.assert_array_equal(read(encode(COLOURS, "PNG", exif=exif)), COLOURS)


class TestFit:
    """Resize and crop."""

    @pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
    @pytest.mark.parametrize("size", [(300, 400), (41, 37), (37, 41), (20, 500), (64, 64), (32, 32), (9, 8)])
    def test_only_what_the_crop_keeps_is_resized_with_the_same_pixels(self, size, interpolation):
        """The shortcut gives what resizing the whole picture and cropping afterwards gives."""
        picture = np.random.default_rng(2).integers(0, 256, (*size, 3), np.uint8)
        prepared = Preprocessing(24, 28, 32, interpolation)
        height, width = (int(32 * side / min(size)) for side in size)
        method = Image.Resampling[interpolation.upper()]
        whole = Image.fromarray(picture).resize((width, height), method)
        left, top = round((width - 28) / 2), round((height - 24) / 2)
        expected = np.asarray(whole.crop((left, top, left + 28, top + 24)))
        pixels = read(encode(picture, "PNG"), prepared)
        # The filter's weights are rounded to fixed point; a box moves them by less than one step.
        assert np.abs(pixels.astype(int) - expected).max() <= 1
        assert (pixels != expected).mean() < 0.02

    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("size", [(1280, 853), (999, 667)])
    def test_a_jpeg_that_is_reduced_is_framed_by_the_size_it_has(self, size, orientation):
        """A reduced side is rounded up, by which a picture of 3:2 would be framed a pixel off, and stretched."""
        exif = Image.Exif()
        exif[0x0112] = orientation
        photograph = Image.open(sample_photographs()[2]).convert("RGB").resize(size)
        data = encode(photograph, "JPEG", exif=exif, quality=95)
        upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
        prepared, limits = Preprocessing(64, 96, 96), ImageLimits(max_bytes=1 << 24, max_pixels=1 << 24)
        found, expected = (read(each, prepared, limits) for each in (data, encode(upright, "PNG")))
        assert np.abs(found.astype(int) - expected).mean() < 1

    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("size", [(1, 3000), (3000, 1), (3, 3000), (3000, 7), (8, 3000)])
    def test_a_narrow_jpeg_gives_its_middle(self, size, orientation):
        """Its narrow side does not become narrower when it is reduced, so by that side it would seem to be whole."""
        exif = Image.Exif()
        exif[0x0112] = orientation
        ramp = np.linspace(0, 255, 3000).astype(np.uint8)
        rows = np.broadcast_to(ramp[:, None] if size[0] == 3000 else ramp, size)
        data = encode(np.stack([rows] * 3, axis=-1), "JPEG", exif=exif, quality=95)
        upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
        prepared = Preprocessing(24, 24, 32)
        found, expected = (read(each, prepared) for each in (data, encode(upright, "PNG")))
        assert np.abs(found.astype(int) - expected).max() <= 2

    @pytest.mark.parametrize("size", [(225, 300), (300, 225)])
    def test_a_crop_to_the_edge_stays_within_the_picture(self, size):
        """225 / 224 · 224 is more than 225, as far as floating point goes; the crop ends with the picture."""
        pixels = read(encode(np.full((*size, 3), 77, np.uint8), "PNG"), Preprocessing(224, 224, 224))
        np.testing.assert_array_equal(pixels, np.full((224, 224, 3), 77))

    @pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
    @pytest.mark.parametrize("size", [(1280, 853), (1920, 1440)])
    def test_vectors_of_reduced_jpegs_are_those_of_whole_ones(self, size, interpolation):
        """The tolerance that jpeg.py states: a cosine of 0.999 with Pillow's antialiased way, for photographs."""
        model = load_bundle("resnet_mini").model
        prepared, limits = Preprocessing(interpolation=interpolation), ImageLimits(1 << 24, 1 << 24)
        for path in sample_photographs()[:3]:
            data = encode(Image.open(path).convert("RGB").resize(size), "JPEG", quality=90)
            whole = encode(Image.open(io.BytesIO(data)), "BMP")
            with torch.inference_mode():
                first, second = (vector(model, read(each, prepared, limits)) for each in (data, whole))
            assert torch.cosine_similarity(first, second).item() > 0.999

    @pytest.mark.parametrize("size", [(1, 5000), (5000, 1), (1, 1), (2, 900_000 // 2)])
    def test_extreme_shapes_are_fitted_too(self, size):
        """A line of pixels, however long, is resized and cropped like any other picture."""
        pixels = read(encode(np.full((*size, 3), 77, np.uint8), "PNG"), Preprocessing(24, 24, 32))
        np.testing.assert_array_equal(pixels, np.full((24, 24, 3), 77))

    def test_raw_pixels_of_the_networks_size_are_not_touched(self):
        """Callers who resize for themselves get what they sent, without a copy."""
        data = COLOURS.tobytes()
        pixels = fit_raw(data, 24, 24, LIMITS, AS_IS)
        np.testing.assert_array_equal(pixels, COLOURS)
        assert not pixels.flags.owndata

    def test_raw_pixels_are_fitted_like_a_file(self):
        """The same picture gives the same input, with or without a file format."""
        picture = smooth(90, 60)
        prepared = Preprocessing(24, 24, 32)
        np.testing.assert_array_equal(
            fit_raw(picture.tobytes(), 90, 60, LIMITS, prepared), read(encode(picture, "PNG"), prepared)
        )

    @pytest.mark.parametrize(
        ("length", "height", "width"),
        [(11, 2, 2), (13, 2, 2), (0, 0, 4), (0, 4, 0), (0, 1, 1), (4, 4294967295, 4294967295)],
    )
    def test_raw_pixels_must_have_the_size_that_is_said(self, length, height, width):
        """A wrong number of bytes or an empty side is refused with the number that was expected."""
        with pytest.raises(InvalidPixelsError, match=f"expected height × width × 3 = {height * width * 3}"):
            fit_raw(bytes(length), height, width, LIMITS, AS_IS)

    def test_raw_pixels_are_limited_too(self):
        """The limit on pixels holds for those that come without a format."""
        with pytest.raises(ImageTooLargeError, match=r"1001×1000 = 1001000 pixels; at most 1000000"):
            fit_raw(bytes(1001 * 1000 * 3), 1000, 1001, LIMITS, AS_IS)


class TestRefusals:
    """What is no picture, or too much of one."""

    def test_no_bytes(self):
        """Zero bytes are empty, not of an unknown format."""
        with pytest.raises(EmptyImageError, match="zero bytes; expected an encoded file"):
            read(b"")

    @pytest.mark.parametrize("data", [b"hello", b"\0" * 100, b"<svg/>", "text, naïve".encode(), b"\x89PNG"])
    def test_what_is_no_image(self, data):
        """Other bytes are refused with how they begin and what was expected."""
        with pytest.raises(UnknownFormatError, match=r"it begins with b.*expected one of JPEG"):
            read(data)

    @pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")
    @pytest.mark.parametrize("form", FORMATS)
    def test_a_file_that_ends_after_its_first_bytes(self, form):
        """What begins like a format is called damaged, not unknown."""
        with pytest.raises(UndecodableImageError, match=f"a damaged {form}|cannot be decoded"):
            read(DAMAGEABLE[form][:16])

    def test_a_file_of_too_many_bytes(self):
        """The limit on bytes counts before anything is read."""
        with pytest.raises(ImageTooLargeError, match=f"has {2**20 + 1} bytes; at most {2**20}"):
            read(bytes(2**20 + 1))

    @pytest.mark.filterwarnings("ignore:Truncated File Read:UserWarning")
    @pytest.mark.parametrize("form", FORMATS)
    def test_a_truncated_file_never_becomes_a_vector(self, form):
        """Cut anywhere before its pixels end, a file is refused; it is never filled up with grey."""
        data = encode(np.random.default_rng(3).integers(0, 256, (40, 40, 3), np.uint8), form)
        for length in range(1, int(len(data) * 0.9), max(1, len(data) // 60)):
            with pytest.raises((UndecodableImageError, UnknownFormatError)):
                read(data[:length])

    @pytest.mark.parametrize("form", FORMATS)
    def test_a_bomb_is_refused_before_it_is_decoded(self, form):
        """A header that promises more pixels than allowed is enough to refuse."""
        with pytest.raises(ImageTooLargeError, match=r"pixels; at most 1000000 are allowed"):
            read(BOMBS[form](1001, 1000))

    @pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
    @pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP", "GIF", "TIFF"])
    def test_the_largest_bomb_that_a_header_can_promise(self, form):
        """Sides of tens of thousands are refused just so (WebP cannot say more than 16,383)."""
        with pytest.raises(ImageTooLargeError, match="at most 1000000 are allowed"):
            read(BOMBS[form](60_000, 60_000))

    def test_a_tiff_of_large_tiles_is_refused(self):
        """Each is decoded as a whole: one of 256 megapixels took 0.8 GB for a picture of one, and some MB of file."""
        fields = [
            (256, 4, 100), (257, 4, 100), (258, 3, 8), (259, 3, 8), (262, 3, 1), (277, 3, 1),
            (322, 4, 16_000), (323, 4, 16_000), (324, 4, 8), (325, 4, 8),
        ]  # fmt: skip
        entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in fields)
        data = (
            b"II*\0" + struct.pack("<I", 16) + zlib.compress(b"") + struct.pack("<H", len(fields)) + entries
        )
        with pytest.raises(ImageTooLargeError, match="tiles have 256000000 pixels each"):
            read(data + bytes(4))

    def test_a_png_of_endless_text_is_refused(self):
        """Zeros compress to a thousandth, and nobody reads them: four million characters are let be."""
        for count in (4, 5):
            text = PngInfo()
            for number in range(count):
                text.add_itxt(str(number), "0" * (1 << 20), zip=True)
            data = encode(COLOURS, "PNG", pnginfo=text)
            if count == 4:
                np.testing.assert_array_equal(read(data), COLOURS)
            else:
                with pytest.raises(UndecodableImageError, match="text"):
                    read(data)

    def test_a_jpeg_of_endless_scans_is_refused(self):
        """A few bytes a scan over a large picture would keep a decoder busy for minutes."""
        plain = encode(smooth(24, 24), "JPEG", progressive=True)
        start = plain.index(b"\xff\xda")
        scan = b"\xff\xda\x00\x08\x01\x01\x00\x01\x3f\x10\x00"
        assert read(plain).shape == (24, 24, 3)
        with pytest.raises(UndecodableImageError, match=r"has \d+ scans; at most 100 are read"):
            read(plain[:start] + scan * 100 + plain[start:])

    @settings(max_examples=300)
    @given(seed=st.integers(0, 2**32), form=st.sampled_from(FORMATS), count=st.integers(1, 12))
    @pytest.mark.filterwarnings("ignore")  # Pillow warns of damaged metadata, which is what is made here
    def test_damaged_files_raise_nothing_but_invalid_image(self, seed, form, count):
        """Whatever bytes are changed, a file is read or refused; nothing else is raised."""
        chance = random.Random(seed)  # noqa: S311 - nothing secret
        data = bytearray(DAMAGEABLE[form])
        for _ in range(count):
            at = chance.randrange(min(len(data), chance.choice((64, 400, len(data)))))
            match chance.randrange(4):
                case 0:
                    data[at] = chance.choice((0, 1, 127, 255, chance.randrange(256)))
                case 1:
                    data[at : at + 4] = struct.pack(chance.choice("<>") + "I", chance.getrandbits(32))
                case 2:
                    del data[at : at + chance.randrange(1, 9)]
                case _:
                    data[at:at] = chance.randbytes(chance.randrange(1, 9))
        with contextlib.suppress(InvalidImageError):
            pixels = read(bytes(data))
            assert (pixels.dtype, pixels.shape) == (np.uint8, (24, 24, 3))

    @settings(max_examples=200)
    @given(start=st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"II*\0", b"RIFF"]),
           rest=st.binary(max_size=300))  # fmt: skip
    @pytest.mark.filterwarnings("ignore")
    def test_random_bytes_raise_nothing_but_invalid_image(self, start, rest):
        """The magic number of a format followed by noise is refused like any other damage."""
        with pytest.raises(InvalidImageError):
            read(start + rest)


def chunk(name, data):
    """Return a chunk of a PNG file."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_header(width, height, depth=8):
    """Return a PNG file up to its header's end: RGB."""
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0))


def _jpeg(width, height):
    data = encode(COLOURS, "JPEG")
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def _webp(width, height):
    return encode(np.zeros((height, width, 3), np.uint8), "WEBP", lossless=True, method=0)


def _bmp(width, height):
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + header


def _gif(width, height):
    data = encode(Image.new("P", (24, 24)), "GIF")
    return data[:6] + struct.pack("<HH", width, height) + data[10:]


def _tiff(width, height):
    fields = [
        (256, width),
        (257, height),
        (258, 8),
        (259, 1),
        (262, 1),
        (273, 8),
        (277, 1),
        (278, height),
        (279, 1),
    ]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in fields)
    return b"II*\0" + struct.pack("<IH", 8, len(fields)) + entries + bytes(4)


BOMBS = {
    "JPEG": _jpeg,
    "PNG": lambda width, height: png_header(width, height) + chunk(b"IDAT", b"") + chunk(b"IEND", b""),
    "WEBP": _webp,
    "BMP": _bmp,
    "GIF": _gif,
    "TIFF": _tiff,
}
EXIF = Image.Exif()
EXIF[0x0112] = 6
DAMAGEABLE = {
    form: encode(smooth(30, 40), form, **({} if form in {"BMP", "GIF"} else {"exif": EXIF}))
    for form in FORMATS
}


def test_a_small_run_length_encoded_bmp_of_many_pixels_is_refused():
    """Expanding one in Python would keep a thread busy for seconds for the price of a kilobyte."""
    header = struct.pack("<2sIHHI", b"BM", 1078 + 64, 0, 0, 1078)
    info = struct.pack("<IiiHHIIiiII", 40, 40_000_000, 1, 1, 8, 1, 64, 0, 0, 256, 0)
    data = header + info + bytes(1024) + b"\x00\x00" * 31 + b"\x00\x01"
    limits = ImageLimits(max_bytes=1 << 20, max_pixels=50_000_000)
    with pytest.raises(UndecodableImageError, match="run-length encoded"):
        decode(data, limits, AS_IS)


class TestDamage:
    """Files that are whole by their ends and not in between."""

    @pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 2}], ids=str)
    @pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
    def test_a_jpeg_without_its_middle_is_refused(self, options, mode):
        """Pillow fills in grey where the data end before the picture does; a vector of that would be a lie."""
        picture = Image.fromarray(smooth(400, 400) ^ np.uint8(85)).convert(mode)
        whole = encode(picture, "JPEG", **options)
        assert read(whole).shape == (24, 24, 3)
        half = len(whole) * 2 // 3
        with pytest.raises(UndecodableImageError, match="is the file complete"):
            read(whole[:half] + b"\xff\xd9")

    def test_bytes_that_hide_no_pixel_are_let_be(self):
        """Some cameras leave rubbish between segments; every pixel is there."""
        whole = encode(smooth(40, 40), "JPEG")
        expected = read(whole)
        np.testing.assert_array_equal(read(whole[:-2] + bytes(17) + whole[-2:]), expected)
        np.testing.assert_array_equal(read(whole + b"trailing rubbish"), expected)

    @pytest.mark.parametrize("units", [1, 2, 4, 6])
    def test_a_jpeg_that_restarts_elsewhere_than_it_says_is_refused(self, units):
        """Three rows of three units each; read by another count, everything after the first would be made up."""
        whole = encode(smooth(48, 48), "JPEG", restart_marker_rows=1)
        interval = whole.index(b"\xff\xdd") + 4
        assert whole[interval : interval + 2] == b"\x00\x03"
        assert read(whole).shape == (24, 24, 3)
        with pytest.raises(UndecodableImageError, match="damaged"):
            read(whole[:interval] + struct.pack(">H", units) + whole[interval + 2 :])

    def test_libtiff_says_nothing_of_it_on_standard_error(self, capfd):
        """What is wrong with a picture is told to its caller, not in the middle of the log."""
        assert silence_libtiff()
        for compression in ("tiff_lzw", "tiff_adobe_deflate"):
            data = bytearray(encode(COLOURS, "TIFF", compression=compression))
            data[40:60] = b"\xff" * 20
            with contextlib.suppress(InvalidImageError):
                read(bytes(data))
        assert capfd.readouterr().err == ""
