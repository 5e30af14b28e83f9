"""The mechanisms against tensors that the published classes computed in float64."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from regard_models.attention import from_original, load_original

FILES = sorted((Path(__file__).parents[2] / "golden" / "modules").glob("*.safetensors"))
TOLERANCE = 1e-4
"""Of the output's standard deviation, in float32; the published code itself is within 1e-5."""


def read(path):
    """Return the module with its weights, its inputs in order, and the tensors of the file."""
    with safe_open(path, framework="pt") as file:
        about = file.metadata()
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
    module = from_original(about["class"], json.loads(about["args"]))
    state = {key.removeprefix("state."): value for key, value in tensors.items() if key.startswith("state.")}
    load_original(module, state)
    return module.eval(), [tensors[f"input.{name}"] for name in json.loads(about["call"])], tensors


def channels_last(x):
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


def assert_close(found, expected, tolerance):
    assert found.shape == expected.shape
    assert torch.equal(found.isnan(), expected.isnan())
    difference = (found - expected).nan_to_num().abs().max()
    assert difference <= tolerance * expected[~expected.isnan()].std()


@torch.inference_mode()
@pytest.mark.parametrize("layout", [torch.Tensor.contiguous, channels_last])
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_float32_is_within_tolerance(path, layout):
    """In float32 each mechanism equals the published class, in either memory layout."""
    module, inputs, tensors = read(path)
    assert_close(module(*map(layout, inputs)), tensors["output"], TOLERANCE)


@torch.inference_mode()
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_float64_is_exact(path):
    """In float64 each mechanism equals the published class to rounding, so no formula differs."""
    module, inputs, tensors = read(path)
    wide = [x.double() if x.is_floating_point() else x for x in inputs]
    assert_close(module.double()(*wide), tensors["output.f64"], 1e-12)


def test_there_are_golden_files():
    """The golden files are there: an empty folder would pass everything else."""
    assert len(FILES) == 21
