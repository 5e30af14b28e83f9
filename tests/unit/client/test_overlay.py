"""Attention over a picture: which map is taken, and what is made of it."""

import numpy as np
import pytest
from PIL import Image

from regard_client.catalog import Model, OutputInfo, Preprocessing, read_model
from regard_client.overlay import heat, overlay, spatial_attention
from regard_proto.v1 import features_pb2 as pb

PREPARED = Preprocessing(
    height=32, width=48, resize=48, interpolation="bilinear", mean=(0, 0, 0), std=(1, 1, 1)
)


def model(*outputs) -> Model:
    infos = [
        pb.OutputInfo(name=name, kind=pb.OUTPUT_KIND_ATTENTION, shape=[2] * len(axes), axes=axes)
        for name, axes in outputs
    ]
    return read_model(pb.Model(name="m", state=pb.MODEL_STATE_READY, outputs=infos))


def test_the_last_map_over_places_is_shown():
    """Of several maps the one nearest to the embedding is taken, and those without places are passed over."""
    served = model(
        ("early", ("height", "width")),
        ("late", ("slot", "height", "width")),
        ("branches", ("branch", "channel")),
    )
    assert isinstance(spatial_attention(served), OutputInfo)
    assert spatial_attention(served).name == "late"


def test_a_model_without_places_says_so():
    """Attention over branches cannot be laid over a picture; the error names models that can."""
    with pytest.raises(ValueError, match=r"no attention map over places.*ea_mini"):
        spatial_attention(model(("branches", ("branch", "channel"))))


def test_heat_spans_0_to_1_and_takes_the_strongest_slot():
    """Several slots become one map, the smallest value dark and the largest bright."""
    slots = np.zeros((3, 4, 5), np.float32)
    slots[1, 2, 3], slots[2, 0, 0] = 2.0, 1.0
    found = heat(slots)
    assert found.shape == (4, 5)
    assert (found[2, 3], found[0, 0], found.min()) == (1.0, 0.5, 0.0)


def test_a_flat_map_is_dark():
    """A map without differences divides by nothing."""
    assert np.array_equal(heat(np.full((2, 2), 7.0)), np.zeros((2, 2)))


@pytest.mark.parametrize("size", [(100, 60), (60, 100), (48, 48)])
def test_the_overlay_has_the_size_that_the_network_saw(tmp_path, size):
    """The picture is cut as the server cuts it, bright where attention is."""
    path = tmp_path / "photo.png"
    Image.new("RGB", size, (90, 90, 90)).save(path)
    attention = np.zeros((4, 6), np.float32)
    attention[1, 1] = 1.0
    pixels = np.asarray(overlay(path, attention, PREPARED)).astype(int).sum(axis=2)
    assert pixels.shape == (32, 48)
    row, column = np.unravel_index(pixels.argmax(), pixels.shape)
    assert (row // 8, column // 8) == (1, 1)
