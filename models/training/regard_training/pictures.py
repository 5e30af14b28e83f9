"""From packages to photographs on disk: fetched once into a cache folder, never into the repository.

Photographs are shrunk to a longer side of 1024 pixels, more than any crop needs. Emoji are drawn at the size of their
font's bitmaps.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from PIL import Image, ImageDraw, ImageFont

from regard_training.packages import unpacked
from regard_training.source import code_points

if TYPE_CHECKING:
    from collections.abc import Iterator

    from regard_training.source import Source

LONGEST_SIDE = 1024
LEAST_BYTES = 6000
"""Of a picture in a Qt resource file: smaller ones are icons."""
GLYPH_SIZE = 109
"""The one size, in pixels, that the bitmaps of Noto's emoji font have."""
STAMP_TOPICS = ("animals", "food", "plants", "vehicles")


def pictures_of(source: Source, cache: Path) -> list[Path]:
    """Return a source's pictures as JPEG files in the cache, fetching the package if it is not there.

    Raises:
        RuntimeError: a pattern of the source matches nothing: the package has changed.
    """
    folder = cache / "photographs" / source.folder
    done = folder / "complete"
    if not done.exists():
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in _pictures(source, unpacked(source, cache)):
            picture = _shrunk(data)
            (squared(picture) if source.drawn else picture).save(folder / f"{name}.jpg", quality=95)
        done.touch()
    return sorted(folder.glob("*.jpg"))


Stamps: TypeAlias = list[tuple[Path, str]]
"""Files of cut-outs, each with its category: its folder, two levels deep."""


def stamps(source: Source, cache: Path) -> tuple[Stamps, Stamps]:
    """Return the cut-outs of things and creatures, and those that are left out: cartoons, and the other topics'."""
    root = unpacked(source, cache) / "usr/share/tuxpaint/stamps"
    kept: Stamps = []
    left_out: Stamps = []
    for path in sorted(root.rglob("*.png")):
        folders = path.relative_to(root).parts[:-1]
        wanted = folders[0] in STAMP_TOPICS and "cartoon" not in folders
        (kept if wanted else left_out).append((path, "/".join(folders[:2])))
    return kept, left_out


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
            if source.glyphs:
                font = ImageFont.truetype(path, GLYPH_SIZE)
                yield from ((code_points(each), drawn_glyph(each, font)) for each in source.glyphs)
                continue
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


def drawn_glyph(character: str, font: ImageFont.FreeTypeFont) -> bytes:
    """Draw a coloured character on white, in a PNG file as large as its glyph.

    Raises:
        RuntimeError: nothing comes of it: the font has no such character.
    """
    left, top, right, bottom = font.getbbox(character)
    sheet = Image.new("RGB", (int(right - left), int(bottom - top)), "white")
    ImageDraw.Draw(sheet).text((-left, -top), character, fill="black", font=font, embedded_color=True)
    if sheet.getcolors(maxcolors=1) is not None:
        raise RuntimeError(
            f"the font has no {code_points(character)}; it must have changed since this was written"
        )
    file = io.BytesIO()
    sheet.save(file, "png")
    return file.getvalue()


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
