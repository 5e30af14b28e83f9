"""How an image is made ready for a model: as data, so that a server can do it however it likes."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Literal

from regard_models.errors import WeightsError


@dataclass(frozen=True)
class Preprocessing:
    """Resize the shorter side, crop the centre, scale to 0…1, subtract `mean` and divide by `std`.

    Attributes:
        height: of the crop, in pixels.
        width: of the crop, in pixels.
        resize: length of the shorter side before the crop, in pixels.
        interpolation: of the resize.
        mean: per channel, red, green, blue, of values in 0…1.
        std: likewise.
    """

    height: int = 224
    width: int = 224
    resize: int = 256
    interpolation: Literal["bicubic", "bilinear"] = "bilinear"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def resized(self, size: tuple[int, int]) -> Preprocessing:
        """Return the same for another input size, the crop keeping its share of the shorter side."""
        resize = round(self.resize * min(size) / min(self.height, self.width))
        return dataclasses.replace(self, height=size[0], width=size[1], resize=max(resize, *size))

    def to_json(self) -> str:
        """Return canonical JSON: keys sorted, no spaces."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Preprocessing:
        """Read what `to_json` wrote.

        Raises:
            WeightsError: the text is no JSON object of these fields.
        """
        try:
            fields = json.loads(text)
            return cls(**{**fields, "mean": tuple(fields["mean"]), "std": tuple(fields["std"])})
        except (TypeError, KeyError, json.JSONDecodeError) as cause:
            raise WeightsError(f"not a description of preprocessing: {cause}") from cause
