"""How a picture is turned upright, and what of it the network sees."""

from typing import NamedTuple, TypeAlias

from PIL import ExifTags, Image

from regard_models import Preprocessing

Box: TypeAlias = tuple[int, int, int, int]
"""A part of a picture: left, top, right, bottom. In pixels."""


class Turn(NamedTuple):
    """What makes a picture upright: its axes may change places; then it may be turned over on each."""

    transposed: bool = False
    upside_down: bool = False
    mirrored: bool = False

    def size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the upright picture's width and height, given those that it is stored with."""
        return size[::-1] if self.transposed else size

    def sideways(self) -> "Turn":
        """Return what makes a picture upright and then lets its axes change places."""
        return Turn(not self.transposed, upside_down=self.mirrored, mirrored=self.upside_down)

    def part(self, stored: Image.Image, box: Box) -> Image.Image:
        """Return what is in a box of the upright picture, upright."""
        width, height = self.size(stored.size)
        left, top, right, bottom = box
        if self.mirrored:
            left, right = width - right, width - left
        if self.upside_down:
            top, bottom = height - bottom, height - top
        part = stored.crop((top, left, bottom, right) if self.transposed else (left, top, right, bottom))
        return part if self == AS_IT_IS else part.transpose(_TRANSPOSITIONS[self])


AS_IT_IS = Turn()
_TURNS = {
    2: Turn(mirrored=True),
    3: Turn(upside_down=True, mirrored=True),
    4: Turn(upside_down=True),
    5: Turn(transposed=True),
    6: Turn(transposed=True, mirrored=True),
    7: Turn(transposed=True, upside_down=True, mirrored=True),
    8: Turn(transposed=True, upside_down=True),
}
_TRANSPOSITIONS = {
    _TURNS[2]: Image.Transpose.FLIP_LEFT_RIGHT,
    _TURNS[3]: Image.Transpose.ROTATE_180,
    _TURNS[4]: Image.Transpose.FLIP_TOP_BOTTOM,
    _TURNS[5]: Image.Transpose.TRANSPOSE,
    _TURNS[6]: Image.Transpose.ROTATE_270,
    _TURNS[7]: Image.Transpose.TRANSVERSE,
    _TURNS[8]: Image.Transpose.ROTATE_90,
}


class Frame(NamedTuple):
    """A picture's size once its shorter side is `resize`, and where in it the crop begins. In pixels."""

    width: int
    height: int
    left: int
    top: int


def turn_of(picture: Image.Image) -> Turn:
    """Return what makes a JPEG upright, by the orientation that its EXIF data say."""
    if "exif" not in picture.info:
        return AS_IT_IS
    exif = Image.Exif()
    exif.load(picture.info["exif"])
    return turn_by(exif)


def turn_by(exif: Image.Exif) -> Turn:
    """Return what makes a picture upright, by the orientation that these data say."""
    return _TURNS.get(exif.get(ExifTags.Base.Orientation, 1), AS_IT_IS)


def frame(width: int, height: int, preprocessing: Preprocessing) -> Frame:
    """Say how a picture is resized and where its middle begins, rounding as torchvision does."""
    shorter = min(width, height)
    scaled = [int(preprocessing.resize * side / shorter) for side in (width, height)]
    left = round((scaled[0] - preprocessing.width) / 2)
    top = round((scaled[1] - preprocessing.height) / 2)
    return Frame(scaled[0], scaled[1], left, top)
