"""How a picture is turned upright, and what of it the network sees."""

from typing import NamedTuple

from PIL import ExifTags, Image

from regard_models import Preprocessing


class Turn(NamedTuple):
    """What makes a picture upright: its axes may change places; then it may be turned over on each."""

    transposed: bool = False
    upside_down: bool = False
    mirrored: bool = False


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
    return _TURNS.get(exif.get(ExifTags.Base.Orientation, 1), AS_IT_IS)


def frame(width: int, height: int, preprocessing: Preprocessing) -> Frame:
    """Say how a picture is resized and where its middle begins, rounding as torchvision does."""
    shorter = min(width, height)
    scaled = [int(preprocessing.resize * side / shorter) for side in (width, height)]
    left = round((scaled[0] - preprocessing.width) / 2)
    top = round((scaled[1] - preprocessing.height) / 2)
    return Frame(scaled[0], scaled[1], left, top)
