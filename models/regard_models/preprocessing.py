"""How an image is made ready for a model: as data, so that a server can do it however it likes."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal, get_args

from regard_models.errors import SpecError, WeightsError
from regard_models.limits import MOST_SIDE, check_numbers

Interpolation = Literal["bicubic", "bilinear"]


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
    interpolation: Interpolation = "bilinear"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        check_numbers("height and width", (self.height, self.width), (1, MOST_SIDE), 2)
        check_numbers("resize", (self.resize,), (1, 2 * MOST_SIDE), 1)
        if self.interpolation not in get_args(Interpolation):
            raise SpecError(
                f"interpolation {self.interpolation!r:.80}: expected one of {', '.join(get_args(Interpolation))}"
            )
        colours: dict[str, Any] = {"mean": self.mean, "std": self.std}
        for name, values in colours.items():
            numbers = [each for each in values if isinstance(each, int | float) and isfinite(each)]
            if len(values) != len("RGB") or len(numbers) != len(values):
                raise SpecError(f"{name} {values!r:.80}: expected three numbers")
        if min(self.std) <= 0:
            raise SpecError(f"std {self.std}: expected numbers above 0")

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
            SpecError: a field's value makes no sense.
        """
        try:
            fields = json.loads(text)
            return cls(**{**fields, "mean": tuple(fields["mean"]), "std": tuple(fields["std"])})
        except (TypeError, KeyError, json.JSONDecodeError, RecursionError) as cause:
            raise WeightsError(f"not a description of preprocessing: {cause}") from cause
