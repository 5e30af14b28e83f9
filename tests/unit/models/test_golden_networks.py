"""Whole networks, loaded through the conversion, against outputs of the published code."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from regard_models.convert import from_published

FOLDER = Path(__file__).parents[2] / "golden" / "networks"
TOLERANCE = 1e-3
"""Of each output's standard deviation, in float32; measured: 2e-5 at worst."""
SOURCES = {
    "resnet50": "torchvision/resnet50",
    "skresnet18": "timm/skresnet18",
    "skresnext50_32x4d": "timm/skresnext50_32x4d",
    "botnet26t_256": "timm/botnet26t_256",
    "epsanet50": "official/epsanet50",
    "danet_head": "official/danet_head",
}
GLOBAL = {"forward_features": "layer4", "pooled": "embedding", "logits": "logits"}
HEAD = {
    "sa": "position_features",
    "sc": "channel_features",
    "feat_sum": "fused_features",
    "sasc_output": "logits",
    "sa_output": "position_logits",
    "sc_output": "channel_logits",
}


def load_netweights():
    spec = importlib.util.spec_from_file_location("netweights", FOLDER / "netweights.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


netweights = load_netweights()


@pytest.fixture(scope="module", params=SOURCES)
def network(request):
    """Return a network's description and our model with its weights."""
    about = json.loads((FOLDER / f"{request.param}.keys.json").read_text())
    shapes = {key: each["shape"] for key, each in about["keys"].items()}
    weights = netweights.state(about["seed"], shapes, about["rules"])
    state = {key: torch.from_numpy(value.copy()) for key, value in weights.items()}
    return about, from_published(SOURCES[request.param], state)


def images(about, shape):
    x = torch.from_numpy(netweights.image(about["seed"], shape))
    return x.relu() if about["network"] == "danet_head" else x


def answer(model, golden_names, x):
    """Compute what the golden file calls by its own names."""
    ours = {name: HEAD.get(name) or GLOBAL.get(name) or stage(name) for name in golden_names}
    found = model.extract(x, sorted(set(ours.values())))
    return {
        name: found[our].mean((2, 3)) if name.endswith(".gap") else found[our] for name, our in ours.items()
    }


def stage(name):
    """Return our name of `layer2.gap` or timm's `stages.1.gap`."""
    place = name.removesuffix(".gap")
    return f"layer{int(place[-1]) + 1}" if place.startswith("stages") else place


@torch.inference_mode()
def test_every_output_is_within_tolerance(network):
    """Stages, features, embedding and logits equal those of the published network at every stored size."""
    about, model = network
    assert sum(each.numel() for each in model.parameters()) == about["num_parameters"]
    compared = 0
    for golden in about["goldens"]:
        path = FOLDER / golden["file"]
        if not path.exists():
            continue
        expected = load_file(path)
        found = answer(model, expected, images(about, golden["input_shape"]))
        for name, value in expected.items():
            assert found[name].shape == value.shape
            assert (found[name] - value).abs().max() <= TOLERANCE * value.std(), name
            compared += 1
    assert compared >= len(HEAD)


@torch.inference_mode()
def test_statistics_hold_at_sizes_without_a_file(network):
    """Where only mean, deviation and maximum of a size were kept, ours are the same."""
    about, model = network
    for golden in about["goldens"]:
        if (FOLDER / golden["file"]).exists():
            continue
        found = answer(model, golden["outputs"], images(about, golden["input_shape"]))
        for name, expected in golden["outputs"].items():
            value = found[name]
            for statistic, ours in (
                ("mean", value.mean()),
                ("std", value.std(correction=0)),
                ("absmax", value.abs().max()),
            ):
                assert abs(ours - expected[statistic]) <= TOLERANCE * expected["std"], (name, statistic)
