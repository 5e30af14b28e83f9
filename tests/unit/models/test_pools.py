"""What makes one vector of a feature map."""

import pytest
import torch

import regard_models
from regard_models import SpecError
from regard_models.backbones.pools import POOLS, generalised_mean


def test_generalised_mean_is_the_formula():
    """The fourth root of the mean fourth power over all places, where nothing is negative."""
    x = torch.rand(2, 5, 3, 4, dtype=torch.float64)
    expected = x.flatten(2).pow(4).sum(2).div(12).pow(1 / 4)
    torch.testing.assert_close(generalised_mean(x), expected, atol=1e-12, rtol=0)


def test_a_place_that_answers_counts_for_more_than_in_the_average():
    """Of a map that answers at one place of 25 the generalised mean keeps nearly half, the average a 25th."""
    x = torch.zeros(1, 1, 5, 5)
    x[0, 0, 2, 2] = 1
    assert generalised_mean(x).item() == pytest.approx(25 ** (-1 / 4), rel=1e-5)
    assert POOLS["average"](x).item() == pytest.approx(1 / 25)


def test_negative_values_count_as_none_and_keep_a_slope_finite():
    """A map without a positive value gives a vector near zero, and gradients that can be followed."""
    x = torch.full((1, 2, 3, 3), -4.0, requires_grad=True)
    vector = generalised_mean(x)
    vector.sum().backward()
    assert vector.abs().max() <= 1.01e-6
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_large_values_do_not_overflow_in_half_precision(dtype):
    """The fourth power of 300 does not fit into float16; its generalised mean does, and has the type of the map."""
    vector = generalised_mean(torch.full((1, 2, 2, 2), 300, dtype=dtype))
    assert vector.dtype == dtype
    torch.testing.assert_close(vector.float(), torch.full((1, 2), 300.0), rtol=0.01, atol=0)


@torch.inference_mode()
def test_a_network_pools_as_its_spec_says():
    """The embedding, its description and the classifier's input are those of the pool that the spec names."""
    weights = regard_models.create("resnet_tiny").state_dict()
    x = torch.randn(2, 3, 32, 32)
    for name, pool in POOLS.items():
        model = regard_models.create("resnet_tiny", pool=name).eval()
        model.load_state_dict(weights)
        found = model.extract(x, ["layer4", "embedding", "logits"])
        assert torch.equal(found["embedding"], pool(found["layer4"]))
        assert torch.equal(found["logits"], model.fc(found["embedding"]))
        assert found["embedding"].shape == (2, *model.outputs["embedding"].shape)
        assert ("generalised mean" in model.outputs["embedding"].description) == (name == "gem")


@torch.inference_mode()
def test_an_embedding_of_several_stages_holds_the_vector_of_each():
    """The vectors of the stages that the spec names, in their order; class scores come of the last stage alone."""
    model = regard_models.create("resnet_tiny", pool="gem", pool_stages=(2, 4)).eval()
    found = model.extract(torch.randn(2, 3, 32, 32), ["layer2", "layer4", "embedding", "logits"])
    vectors = [generalised_mean(found[stage]) for stage in ("layer2", "layer4")]
    assert torch.equal(found["embedding"], torch.cat(vectors, 1))
    assert torch.equal(found["logits"], model.fc(vectors[1]))
    assert model.outputs["embedding"].shape == (80,)
    assert model.outputs["embedding"].description == "generalised mean (power 4) of the maps of stages 2, 4"


@torch.inference_mode()
def test_a_neck_standardises_by_what_training_saw():
    """Each channel of the embedding less its mean, by its deviation; class scores know nothing of it."""
    plain = regard_models.create("resnet_tiny").eval()
    model = regard_models.create("resnet_tiny", neck="norm").eval()
    model.load_state_dict(plain.state_dict(), strict=False)
    model.neck.running_mean.uniform_()
    model.neck.running_var.uniform_(0.5, 2.0)
    x = torch.randn(2, 3, 32, 32)
    before, after = (each.extract(x, ["embedding", "logits"]) for each in (plain, model))
    expected = (before["embedding"] - model.neck.running_mean) / model.neck.running_var.sqrt()
    torch.testing.assert_close(after["embedding"], expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(after["logits"], before["logits"])
    assert model.outputs["embedding"].description.endswith("standardised")
    assert {*model.state_dict()} - {*plain.state_dict()} == {
        f"neck.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")
    }


@pytest.mark.parametrize("change", [{"pool": "gem"}, {"pool_stages": (3, 4)}, {"neck": "norm"}], ids=str)
def test_a_head_pools_for_itself(change):
    """A spec that names a pool beside a head, which would not be asked for it, is refused."""
    with pytest.raises(SpecError, match="beside a head"):
        regard_models.create("danet_resnet50", **change)
