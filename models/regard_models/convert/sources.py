"""The publishers whose checkpoints fit, and what each one's files mean.

A source names the model that its weights are for, the renames of its keys, keys that are dropped on
purpose, and the preprocessing it was trained with. What a file can say of its own network (number of
classes, stem) is read from it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from regard_models.attention.original import ORIGINALS
from regard_models.convert import renames
from regard_models.errors import ModelError, near
from regard_models.preprocessing import Preprocessing

if TYPE_CHECKING:
    from regard_models.convert.renames import Rules


@dataclass(frozen=True)
class Source:
    """One publisher's form of one network.

    Attributes:
        model: the registered model that it is; empty for a head by itself.
        rules: renames from the publisher's keys to ours.
        dropped: regular expressions of keys that are left out on purpose: auxiliary training heads.
        layer4: dilations of the last stage where the publisher's differ from the registered model's.
        preprocessing: what its weights were trained with.
    """

    model: str
    rules: Rules = renames.TORCHVISION
    dropped: tuple[str, ...] = ()
    layer4: tuple[int, ...] = ()
    preprocessing: Preprocessing = field(default_factory=Preprocessing)


BICUBIC = Preprocessing(interpolation="bicubic")
RSB = Preprocessing(resize=236, interpolation="bicubic")
"""Of timm's a1, a2 and b weights ("ResNet strikes back"): the crop is 0.95 of the shorter side."""
TORCHVISION_2 = Preprocessing(resize=232)
"""Of torchvision's second weights (IMAGENET1K_V2), whose files differ from the first in nothing else but numbers."""
SEGMENTATION = Preprocessing(480, 480, 520)
AUXILIARY = (r"^auxlayer\.", r"^auxiliary_head\.", r"^pretrained\.fc\.")

SOURCES: dict[str, Source] = {
    "torchvision/resnet18": Source("resnet18"),
    "torchvision/resnet34": Source("resnet34"),
    "torchvision/resnet50": Source("resnet50"),
    "torchvision/resnet101": Source("resnet101"),
    "torchvision/resnet152": Source("resnet152"),
    "torchvision/resnext50_32x4d": Source("resnext50_32x4d"),
    "torchvision/resnet50.v2": Source("resnet50", preprocessing=TORCHVISION_2),
    "torchvision/resnet101.v2": Source("resnet101", preprocessing=TORCHVISION_2),
    "timm/resnet18": Source("resnet18", preprocessing=RSB),
    "timm/resnet34": Source("resnet34", preprocessing=RSB),
    "timm/resnet50": Source("resnet50", preprocessing=RSB),
    "timm/resnet101": Source("resnet101", preprocessing=RSB),
    "timm/resnext50_32x4d": Source("resnext50_32x4d", preprocessing=RSB),
    "timm/skresnet18": Source("skresnet18", renames.TIMM_SK, preprocessing=BICUBIC),
    "timm/skresnet34": Source("skresnet34", renames.TIMM_SK, preprocessing=BICUBIC),
    "timm/skresnet50": Source("skresnet50", renames.TIMM_SK, preprocessing=BICUBIC),
    "timm/skresnext50_32x4d": Source("skresnext50_32x4d", renames.TIMM_SK, preprocessing=BICUBIC),
    "timm/botnet26t_256": Source(
        "botnet26t_256", renames.TIMM_BOTNET, preprocessing=Preprocessing(256, 256, 269, "bicubic")
    ),
    "official/epsanet50": Source("epsanet50", renames.EPSANET),
    "official/epsanet101": Source("epsanet101", renames.EPSANET),
    "official/eanet50": Source("eanet_resnet50", renames.EANET, preprocessing=SEGMENTATION),
    "official/eanet101": Source("eanet_resnet101", renames.EANET, preprocessing=SEGMENTATION),
    "official/danet_head": Source("", renames.DANET_HEAD),
    "official/danet50": Source("danet_resnet50", renames.DANET, AUXILIARY, preprocessing=SEGMENTATION),
    "official/danet101": Source("danet_resnet101", renames.DANET, AUXILIARY, preprocessing=SEGMENTATION),
    "mmsegmentation/danet50": Source(
        "danet_resnet50", renames.MMSEG_DANET, AUXILIARY, (2, 4), preprocessing=SEGMENTATION
    ),
    "mmsegmentation/danet101": Source(
        "danet_resnet101", renames.MMSEG_DANET, AUXILIARY, (2, 4), preprocessing=SEGMENTATION
    ),
    "pytorchinsight/sk_resnet50": Source("sk_resnet50", renames.INSIGHT_SK),
    "pytorchinsight/sk_resnet101": Source("sk_resnet101", renames.INSIGHT_SK),
}

ALIASES = {
    "junfu1115/danet_resnet50": "official/danet50",
    "junfu1115/danet_resnet101": "official/danet101",
    "official/danet_resnet50": "official/danet50",
    "official/danet_resnet101": "official/danet101",
    "official/eanet_resnet50": "official/eanet50",
    "official/eanet_resnet101": "official/eanet101",
    "mmsegmentation/danet_r50-d8": "mmsegmentation/danet50",
    "mmsegmentation/danet_r101-d8": "mmsegmentation/danet101",
    "mmsegmentation/danet_resnet50": "mmsegmentation/danet50",
    "mmsegmentation/danet_resnet101": "mmsegmentation/danet101",
}
"""Other names by which people may call a source."""


class UnknownSourceError(ModelError):
    """No source of that name."""


def find_source(name: str) -> Source:
    """Look a source up by its name or one of its aliases.

    Raises:
        UnknownSourceError: with the names that are near.
    """
    known = ALIASES.get(name, name)
    if known not in SOURCES:
        classes = (f"original/{each}" for each in ORIGINALS)
        raise UnknownSourceError(f"no source {name!r}; {near(name, (*SOURCES, *classes))}")
    return SOURCES[known]
