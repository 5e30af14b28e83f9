"""Packages: how a source's files are found once it is fetched, and that sources do not mix."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image, ImageFont

from regard_training import sources
from regard_training.pictures import drawn_glyph, pictures_of
from regard_training.source import Source, code_points

RENDERS = Source("@someone/renders", "npm", "CC0", ("package/assets/*.webp",), version="1.2.3", drawn=True)


def add_render(archive, name, size):
    file = io.BytesIO()
    Image.new("RGBA", size, (255, 0, 0, 255)).save(file, "webp", lossless=True)
    entry = tarfile.TarInfo(f"package/assets/{name}.webp")
    entry.size = len(file.getvalue())
    archive.addfile(entry, io.BytesIO(file.getvalue()))


def test_drawings_of_an_npm_package_become_squares(tmp_path):
    """Each member of a fetched archive becomes one white square, made once: what comes later is not looked at."""
    folder = tmp_path / "packages/someone-renders"
    folder.mkdir(parents=True)
    with tarfile.open(folder / "someone-renders-1.2.3.tgz", "w:gz") as archive:
        add_render(archive, "1f418", (100, 60))
        add_render(archive, "1f40e", (60, 100))
    made = pictures_of(RENDERS, tmp_path)
    assert [path.name for path in made] == ["package_assets_1f40e.jpg", "package_assets_1f418.jpg"]
    for path in made:
        with Image.open(path) as picture:
            assert picture.size == (100, 100)
            assert picture.getpixel((0, 0)) == (255, 255, 255)
    (folder / "someone-renders-1.2.3.tgz").unlink()
    assert pictures_of(RENDERS, tmp_path) == made


def test_a_member_that_is_gone_is_an_error(tmp_path):
    """A package that lost what a source names stops the fetching, with the package and the pattern."""
    folder = tmp_path / "packages/someone-renders"
    folder.mkdir(parents=True)
    with tarfile.open(folder / "someone-renders-1.2.3.tgz", "w:gz"):
        pass
    with pytest.raises(RuntimeError, match=r"@someone/renders has no package/assets/\*\.webp"):
        pictures_of(RENDERS, tmp_path)


def test_no_two_sources_share_a_folder():
    """A package that is taken from two releases has two folders, each of one part."""
    everything = [*sources.TRAINING, sources.STAMPS, sources.LARGE]
    folders = [source.folder for source in everything]
    assert len(set(folders)) == len(folders)
    assert not [folder for folder in folders if "/" in folder or folder.startswith((".", "@"))]
    assert {"endless-sky-data", "endless-sky-data-sid"} <= set(folders)


def test_the_sets_of_emoji_draw_the_same():
    """No character comes twice, and the sets' files, all or some, are named after those that the font draws."""
    (font,) = (source for source in sources.TRAINING if source.glyphs)
    renders, older = (source for source in sources.TRAINING if source.kind == "npm")
    assert len(set(font.glyphs)) == len(font.glyphs) == 809
    assert renders.members == tuple(f"package/assets/{code_points(each)}.webp" for each in font.glyphs)
    assert len(older.members) == 465
    assert set(older.members) < {
        f"package/assets/png_512x512/{code_points(each)}.png" for each in font.glyphs
    }
    assert code_points("\U0001f9d1\u200d\U0001f33e") == "1f9d1-200d-1f33e"


def test_a_glyph_is_drawn_as_large_as_it_is():
    """A character fills its picture but for its own margins; one of which nothing is seen is an error."""
    font = ImageFont.load_default(60)
    left, top, right, bottom = font.getbbox("M")
    with Image.open(io.BytesIO(drawn_glyph("M", font))) as picture:
        assert picture.size == (right - left, bottom - top)
        share = np.asarray(picture.convert("L")) < 128
        assert 0.3 < share.mean() < 0.8
        assert share[:, :12].any()
        assert share[:, -12:].any()
    with pytest.raises(RuntimeError, match="no 20;"):
        drawn_glyph(" ", font)
