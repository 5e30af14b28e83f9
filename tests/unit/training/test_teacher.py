"""The teacher's inference graph, checked by what it says of photographs."""

import numpy as np
import pytest
import torch
from PIL import Image

from regard_models.samples import sample_photographs
from regard_training.answers import asking
from regard_training.teacher import SamePaddingConvolution, load_teacher

CLASSES = {
    "chelsea": {281, 282, 285},
    "coffee": {504, 967},
    "flower": {985},
    "china": {449, 698, 442},
    "clock": {892},
}
"""ImageNet's classes of some sample photographs: cats, cups, a daisy, palace and lake side, a wall clock."""


@pytest.fixture(scope="module")
def photographs():
    names, pictures = [], []
    for path in sample_photographs():
        with Image.open(path) as file:
            pictures.append(np.asarray(file.convert("RGB").resize((224, 224))))
        names.append(path.stem)
    return names, np.stack(pictures)


@pytest.fixture(scope="module")
def teacher():
    return load_teacher()


def test_the_teacher_knows_the_sample_photographs(teacher, photographs):
    """Of a cat, a cup, a flower, a palace and a clock the right class is among the best three."""
    names, pictures = photographs
    _, logits = asking(teacher, 224, "cpu")(pictures)
    best = dict(zip(names, np.argsort(-logits.astype(float), 1)[:, :3].tolist(), strict=True))
    for name, right in CLASSES.items():
        assert right & set(best[name]), (name, best[name])


def test_both_ways_of_asking_agree(teacher, photographs):
    """OpenVINO and torch give the same features, at another side than the images' too."""
    _, pictures = photographs
    through_openvino, _ = asking(teacher, 96, "cpu")(pictures[:3])
    pixels = torch.nn.functional.interpolate(
        torch.tensor(pictures[:3]).permute(0, 3, 1, 2).float(), (96, 96), mode="bicubic", antialias=True
    )
    with torch.inference_mode():
        features, _ = teacher(pixels)
    np.testing.assert_allclose(through_openvino, features.numpy(), atol=2e-3)


@pytest.mark.parametrize(("side", "expected"), [(8, 4), (7, 4), (1, 1)])
def test_padding_is_tensorflows(side, expected):
    """A strided convolution gives half the positions, rounded up; of an even side the end is padded, not the start."""
    layer = SamePaddingConvolution(1, 1, 3, 2, bias=False)
    torch.nn.init.ones_(layer.weight)
    found = layer(torch.ones(1, 1, side, side))
    assert found.shape[2:] == (expected, expected)
    assert found[0, 0, 0, 0] == {8: 9, 7: 4, 1: 1}[side]
