"""Published checkpoints that fit our models: what there is, where its owner keeps it, and under which licence.

Plain data. Nothing here downloads anything, and importing it does not import torch: fetch a file yourself
where you trust its owner, then `regard convert SOURCE FILE -o model.safetensors`. Figures were read in the
owners' code and pages (weight enumerations, result tables, READMEs); none was measured here. A checksum is given only
where the owner publishes one: torch's and OpenMMLab's file names end in the first eight digits of the
file's SHA-256.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """One published checkpoint.

    Attributes:
        name: what to call it.
        source: the name that `regard convert` takes.
        url: the file, or the page on which its owner links to it.
        licence: of the weights, as far as their owner states it.
        result: what its owner reports of this file, or what it was trained on where he reports nothing of it.
        sha256: the file's SHA-256, or the leading digits of it that its owner publishes; empty where unknown.
    """

    name: str
    source: str
    url: str
    licence: str
    result: str
    sha256: str = ""


TORCH = "https://download.pytorch.org/models"
TIMM = "https://huggingface.co/timm"
OPENMMLAB = "https://download.openmmlab.com/mmsegmentation/v0.5/danet"


def _torchvision(model: str, weights: str, digits: str, top1: str) -> Published:
    url = f"{TORCH}/{model}-{digits}.pth"
    source = f"torchvision/{model}" + ("" if weights == "V1" else f".{weights.lower()}")
    return Published(
        f"{model} {weights}", source, url, "BSD-3-Clause (code)", f"ImageNet top-1 {top1}", digits
    )


def _timm(model: str, tag: str, top1: str) -> Published:
    return Published(
        f"{model}.{tag}", f"timm/{model}", f"{TIMM}/{model}.{tag}", "Apache-2.0", f"ImageNet top-1 {top1}"
    )


def _openmmlab(depth: int, stem: str, stamp: str, result: str) -> Published:
    url = f"{OPENMMLAB}/{stem}/{stem}_{stamp}.pth"
    return Published(
        stem, f"mmsegmentation/danet{depth}", url, "Apache-2.0", result, stamp.rpartition("-")[2]
    )


PUBLISHED: tuple[Published, ...] = (
    _torchvision("resnet18", "V1", "f37072fd", "69.76"),
    _torchvision("resnet34", "V1", "b627a593", "73.31"),
    _torchvision("resnet50", "V1", "0676ba61", "76.13"),
    _torchvision("resnet50", "V2", "11ad3fa6", "80.86"),
    _torchvision("resnet101", "V1", "63fe2227", "77.37"),
    _torchvision("resnet101", "V2", "cd907fc2", "81.89"),
    _torchvision("resnet152", "V1", "394f9c45", "78.31"),
    _torchvision("resnext50_32x4d", "V1", "7cdf4587", "77.62"),
    Published("resnet50.a1_in1k", "timm/resnet50", f"{TIMM}/resnet50.a1_in1k", "Apache-2.0", "ImageNet-1k"),
    _timm("skresnet18", "ra_in1k", "73.02"),
    _timm("skresnet34", "ra_in1k", "76.96"),
    _timm("skresnext50_32x4d", "ra_in1k", "80.17"),
    _timm("botnet26t_256", "c1_in1k", "79.26"),
    Published(
        "SK-ResNet50",
        "pytorchinsight/sk_resnet50",
        "https://github.com/implus/PytorchInsight",
        "none stated",
        "ImageNet top-1 77.54",
    ),
    Published(
        "SK-ResNet101",
        "pytorchinsight/sk_resnet101",
        "https://github.com/implus/PytorchInsight",
        "none stated",
        "ImageNet top-1 78.79",
    ),
    Published(
        "EANet-101",
        "official/eanet101",
        "https://cloud.tsinghua.edu.cn/f/1e7253ae0748470482e4/",
        "none stated",
        "Pascal VOC, 21 classes",
    ),
    Published(
        "DANet101",
        "official/danet101",
        "https://github.com/junfu1115/DANet",
        "MIT (code)",
        "Cityscapes",
    ),
    _openmmlab(
        50, "danet_r50-d8_512x1024_80k_cityscapes", "20200607_133029-2bfa2293", "Cityscapes mIoU 79.34"
    ),
    _openmmlab(
        101, "danet_r101-d8_512x1024_80k_cityscapes", "20200607_132918-955e6350", "Cityscapes mIoU 80.41"
    ),
    _openmmlab(50, "danet_r50-d8_512x512_160k_ade20k", "20200616_082340-9cb35dcd", "ADE20K mIoU 42.45"),
    _openmmlab(101, "danet_r101-d8_512x512_160k_ade20k", "20200616_082348-23bf12f9", "ADE20K mIoU 44.17"),
    _openmmlab(50, "danet_r50-d8_512x512_40k_voc12aug", "20200613_235526-426e3a64", "Pascal VOC mIoU 76.37"),
    _openmmlab(
        101, "danet_r101-d8_512x512_40k_voc12aug", "20200613_223031-788e232a", "Pascal VOC mIoU 76.51"
    ),
)
"""EPSANet is not among them: its authors never released weights; `official/epsanet50` reads those of their code."""


def published(source: str = "") -> tuple[Published, ...]:
    """Return the catalogue, or what it has for one source."""
    return tuple(each for each in PUBLISHED if source in ("", each.source))
