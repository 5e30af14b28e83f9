"""Pictures, crops and the pool: what training sees."""

from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
from PIL import Image

from regard_models.samples import sample_photographs
from regard_training import sources
from regard_training.crops import QUERY, SCENE_SIDE, blend, cut_scene, vary
from regard_training.pictures import on_white, squared, stamps, webp_pictures
from regard_training.pool import Pictures, Pool, PoolPlan, complete_chunks, make_pool

SAMPLES = Pictures(tuple(sample_photographs()))
NAMESAKES = {
    "usr/lib/python3/dist-packages/odoo/addons/website/static/src/img/library/clock.jpg",
    "usr/lib/python3/dist-packages/odoo/addons/website/static/src/img/library/rocket.jpg",
    "usr/share/doc/libjs-jquery-backstretch/examples/coffee.jpg",
    "usr/share/doc/libjs-jquery-ui-docs/examples/position/images/rocket.jpg",
    "usr/share/pixmaps/faces/legacy/astronaut.jpg",
    "usr/share/pixmaps/faces/legacy/coffee.jpg",
    "usr/share/pixmaps/faces/legacy/flower.jpg",
}
"""Looked at: they are called as sample photographs are, and show something else."""


@pytest.fixture(scope="module")
def photograph():
    with Image.open(sample_photographs()[0]) as file:
        return file.convert("RGB")


def test_a_seed_decides_a_view(photograph):
    """The same random state cuts the same scene and varies it alike; another one does not."""
    views = [
        np.asarray(vary(cut_scene(photograph, random), QUERY, random, 64))
        for random in (Random(1), Random(1), Random(2))
    ]
    assert views[0].shape == (64, 64, 3)
    assert np.array_equal(views[0], views[1])
    assert not np.array_equal(views[0], views[2])


@pytest.mark.parametrize("seed", range(5))
def test_a_cutout_stands_on_white(photograph, seed):
    """Of a scene pasted on white some is white and some is not; it keeps its size."""
    scene = np.asarray(cut_scene(photograph, Random(seed), cutouts=1.0))
    assert scene.shape == (SCENE_SIDE, SCENE_SIDE, 3)
    assert 0.02 < (scene == 255).all(2).mean() < 0.98


def test_a_blend_shows_both(photograph):
    """Every pixel of a blend lies between those of its scenes, and it is neither of them."""
    random = Random(3)
    scenes = [cut_scene(photograph, random) for _ in range(2)]
    first, second, both = (np.asarray(each).astype(int) for each in (*scenes, blend(*scenes, random)))
    assert (both >= np.minimum(first, second) - 1).all()
    assert (both <= np.maximum(first, second) + 1).all()
    assert not np.array_equal(both, first)
    assert not np.array_equal(both, second)


def test_a_cutout_with_alpha_is_centred_on_a_white_square(tmp_path):
    """A wide transparent picture keeps its proportions, and what is transparent is white."""
    Image.new("RGBA", (40, 20), (255, 0, 0, 255)).save(tmp_path / "wide.png")
    pixels = np.asarray(on_white(tmp_path / "wide.png", 40))
    assert pixels.shape == (40, 40, 3)
    assert (pixels[[0, -1]] == 255).all()
    assert tuple(pixels[20, 20]) == (255, 0, 0)


def test_pictures_are_found_in_a_resource_file():
    """Whole WebP files are cut out by their own lengths; small ones, other RIFF files and cut ends are not."""
    large = b"RIFF" + (7992).to_bytes(4, "little") + b"WEBP" + bytes(7988)
    small = b"RIFF" + (92).to_bytes(4, "little") + b"WEBP" + bytes(88)
    sound = b"RIFF" + (7992).to_bytes(4, "little") + b"WAVE" + bytes(7988)
    assert webp_pictures(b"qres" + large + small + sound + large + large[:5000]) == [large, large]


def test_nothing_held_out_is_trained_on():
    """The packages of the held-out pictures, and the sample photographs' members, are in no training source."""
    training = {source.package for source in sources.TRAINING}
    assert training.isdisjoint({sources.STAMPS.package, sources.LARGE.package})
    samples = {path.stem for path in sample_photographs()} | {"clock_motion", "hubble_deep_field"}
    members = {member for source in sources.TRAINING for member in source.members}
    assert members >= NAMESAKES
    assert samples.isdisjoint(Path(member).stem for member in members - NAMESAKES)


def test_a_pool_is_made_once_and_gives_two_views_of_a_scene(tmp_path):
    """What is there is not made again; a drawn pair shows one scene twice, with the teacher's answers."""
    plan = PoolPlan(tmp_path / "pool", scenes=3, views=2, side=32, teacher_side=64)
    make_pool(plan, 1, SAMPLES, workers=0)
    made = (tmp_path / "pool/000/images.npy").stat().st_mtime_ns
    folders = make_pool(plan, 2, SAMPLES, workers=0)
    assert (tmp_path / "pool/000/images.npy").stat().st_mtime_ns == made
    assert complete_chunks(plan.folder) == tuple(folders)
    pool = Pool.open(folders, plan.views)
    assert pool.scenes == 6
    images, features, logits = pool.draw(4, np.random.default_rng(0))
    assert (images.shape, features.shape, logits.shape) == ((2, 4, 32, 32, 3), (2, 4, 1280), (2, 4, 1000))
    stored = [list(map(bytes, chunk[0])) for chunk in pool.chunks]
    for first, second in zip(*images, strict=True):
        chunk = next(each for each in stored if first.tobytes() in each)
        places = chunk.index(first.tobytes()), chunk.index(second.tobytes())
        assert places[0] != places[1]
        assert places[0] // 2 == places[1] // 2


def test_chunks_made_otherwise_are_not_mixed_in(tmp_path):
    """A folder keeps to the plan it was begun with, and says so where another is wanted or its own not known."""
    plan = PoolPlan(tmp_path / "pool", scenes=2, views=2, side=32, teacher_side=64)
    make_pool(plan, 1, SAMPLES, workers=0)
    make_pool(plan, 1, SAMPLES, workers=0)
    with pytest.raises(ValueError, match=r"holds chunks of .*0\.35.*, not of .*0\.5"):
        make_pool(replace(plan, blends=0.5), 1, SAMPLES, workers=0)
    (plan.folder / "plan.json").unlink()
    with pytest.raises(ValueError, match="holds chunks of None"):
        make_pool(plan, 1, SAMPLES, workers=0)


def test_a_share_of_the_scenes_is_cut_from_drawings(tmp_path):
    """With drawings at hand their share of the views shows them, and without any every view shows a photograph."""
    for name, colour in (("photograph", "blue"), ("drawing", "red")):
        Image.new("RGB", (120, 120), colour).save(tmp_path / f"{name}.png")
    photographs, drawings = ((tmp_path / f"{name}.png",) for name in ("photograph", "drawing"))
    plan = PoolPlan(tmp_path / "pool", scenes=40, views=2, side=32, teacher_side=64, blends=0, drawings=0.5)

    def red_scenes(pictures, folder):
        (made,) = make_pool(replace(plan, folder=folder), 1, pictures, workers=0)
        middles = np.load(made / "images.npy")[::2, 16, 16].astype(int)
        return int((middles[:, 0] > middles[:, 2]).sum())

    assert 10 <= red_scenes(Pictures(photographs, drawings), tmp_path / "both") <= 30
    assert red_scenes(Pictures(photographs), tmp_path / "photographs") == 0


def test_a_drawing_is_centred_on_white_and_cut_nearly_whole():
    """A tall drawing becomes a white square with it in the middle, of which a scene keeps most."""
    square = squared(Image.new("RGBA", (50, 200), (255, 0, 0, 255)))
    assert square.size == (200, 200)
    assert {square.getpixel(place) for place in ((0, 0), (74, 100), (125, 100))} == {(255, 255, 255)}
    assert {square.getpixel(place) for place in ((75, 0), (124, 199))} == {(255, 0, 0)}
    shares = [
        (np.asarray(cut_scene(square, Random(seed), least=0.6, cutouts=0))[..., 1] < 128).mean()
        for seed in range(20)
    ]
    assert min(shares) > 0.05


def test_cutouts_are_parted_by_topic_and_kind(tmp_path):
    """Cartoons and topics that are no things or creatures are left out; each has its folder, two levels deep."""
    source = replace(sources.STAMPS, package="stamps")
    names = (
        "animals/birds/owl.png",
        "animals/birds/cartoon/owl.png",
        "town/house.png",
        "food/fruit/kiwi/half.png",
    )
    root = tmp_path / "unpacked/stamps/usr/share/tuxpaint/stamps"
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    (tmp_path / "unpacked/stamps/.complete").touch()
    kept, left_out = stamps(source, tmp_path)
    assert kept == [(root / names[0], "animals/birds"), (root / names[3], "food/fruit")]
    assert left_out == [(root / names[1], "animals/birds"), (root / names[2], "town")]
