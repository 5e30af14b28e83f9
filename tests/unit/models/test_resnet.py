"""The trunk: what it computes, what it offers, what it refuses."""

import pytest
import torch

import regard_models
from regard_models import InputShapeError, SpecError, UnknownModelError, UnknownOutputError
from regard_models.spec import ModelSpec, slot

PARAMETERS = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "resnext50_32x4d": 25_028_904,
}


@pytest.fixture
def tiny():
    return regard_models.load_bundle("resnet_tiny").model


@pytest.mark.parametrize(("name", "expected"), PARAMETERS.items())
def test_parameter_counts_are_the_published_ones(name, expected):
    """Each plain network has the published number of parameters, to the digit."""
    with torch.device("meta"):
        model = regard_models.create(name)
    assert sum(each.numel() for each in model.parameters()) == expected


@torch.inference_mode()
def test_outputs_have_the_declared_shapes(tiny):
    """Every declared output comes back under its name in its declared shape."""
    found = tiny.extract(torch.randn(2, 3, 32, 32), list(tiny.outputs))
    assert {name: tuple(value.shape) for name, value in found.items()} == {
        name: (2, *info.shape) for name, info in tiny.outputs.items()
    }


@torch.inference_mode()
@pytest.mark.parametrize("size", [(1, 1), (33, 47), (64, 32)])
def test_any_input_size_is_accepted(tiny, size):
    """A picture of any size, one pixel included, gives a finite embedding."""
    embedding = tiny.extract(torch.randn(1, 3, *size), ["embedding"])["embedding"]
    assert embedding.shape == (1, 64)
    assert embedding.isfinite().all()


@torch.inference_mode()
def test_stages_behind_the_last_wanted_one_are_not_run(tiny):
    """Asking for layer2 alone runs neither layer3 nor what is behind it."""
    ran = []
    for name in ("layer2", "layer3", "layer4", "fc"):
        getattr(tiny, name).register_forward_hook(lambda *_, name=name: ran.append(name))
        for block in getattr(tiny, name).children():
            block.bn1.register_forward_hook(lambda *_, name=name: ran.append(name))
    tiny.extract(torch.randn(1, 3, 32, 32), ["layer2"])
    assert ran == ["layer2"]
    ran.clear()
    tiny.extract(torch.randn(1, 3, 32, 32), ["embedding"])
    assert ran == ["layer2", "layer3", "layer4"]


@torch.inference_mode()
def test_forward_gives_logits_or_without_a_head_the_embedding(tiny):
    """`forward` is the logits output; a model without classes gives its embedding."""
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(tiny(x), tiny.extract(x, ["logits"])["logits"])
    assert torch.equal(tiny.forward_features(x), tiny.extract(x, ["layer4"])["layer4"])
    bare = regard_models.create("resnet_tiny", num_classes=0).eval()
    assert "logits" not in bare.outputs
    assert bare(x).shape == (2, 64)


def test_unknown_names_are_answered_with_near_ones(tiny):
    """An unknown output, model or override is refused with the names that are near."""
    with pytest.raises(UnknownOutputError, match="embedding"):
        tiny.extract(torch.zeros(1, 3, 8, 8), ["embeding"])
    with pytest.raises(UnknownModelError, match="resnet50"):
        regard_models.create("resnet5")
    with pytest.raises(SpecError, match="num_classes"):
        regard_models.create("resnet18", num_clases=3)


@pytest.mark.parametrize(
    "x",
    [torch.zeros(3, 8, 8), torch.zeros(1, 4, 8, 8), torch.zeros(1, 3, 0, 8), torch.zeros(1, 3, 8, 8).byte()],
    ids=["no batch", "four channels", "empty", "integers"],
)
def test_impossible_inputs_are_refused(tiny, x):
    """What is no batch of normalised colour pictures is refused with what was expected."""
    with pytest.raises(InputShapeError, match="expected"):
        tiny(x)


@pytest.mark.parametrize(
    "change",
    [
        {"block": "dense"},
        {"stem": "none"},
        {"pool": "max"},
        {"pool": 3},
        {"neck": "long"},
        {"pool_stages": ()},
        {"pool_stages": (4, 3)},
        {"pool_stages": (4, 4)},
        {"pool_stages": (0,)},
        {"pool_stages": 4},
        {"width": 0},
        {"num_classes": -1},
        {"input_size": 0},
        {"input_size": (1, 2, 3)},
        {"input_size": "ab"},
        {"width": "8"},
        {"depths": (1, 1)},
        {"depths": (1, 1, 0, 1)},
        {"attention": (slot("telepathy", "after"),)},
        {"attention": (slot("telepathy", "head"),)},
        {"attention": (slot("dual", "after", power=3),)},
        {"attention": (slot("dual", "head", power=3),)},
        {"attention": (slot("pyramid", "replace"),)},
    ],
)
def test_specs_of_no_network_are_refused(change):
    """A spec that describes no network is refused when it is made or built."""
    with pytest.raises(SpecError):
        regard_models.create("resnet_tiny", **change)


def test_spec_survives_json():
    """A spec read back from its canonical JSON is equal, and its JSON is the same text."""
    spec = ModelSpec(
        "bottleneck",
        (3, 4, 6, 3),
        dilations=((), (), (1, 2), (4, 8, 16)),
        attention=(slot("pyramid", "replace", blocks=(-1,), kernels=(3, 5)),),
    )
    assert ModelSpec.from_json(spec.to_json()) == spec
    assert ModelSpec.from_json(spec.to_json()).to_json() == spec.to_json()
    with pytest.raises(SpecError, match="spec"):
        ModelSpec.from_json('{"depth": 3}')


def test_gradients_reach_every_parameter():
    """In train mode one backward pass reaches every parameter of the trunk."""
    model = regard_models.create("resnet_tiny")
    model(torch.randn(2, 3, 32, 32)).square().sum().backward()
    assert all(each.grad is not None and each.grad.isfinite().all() for each in model.parameters())
