"""Folded networks compute the same, with fewer layers."""

import pytest
import torch
from torch import nn

import regard_models
from regard_models import fold
from regard_models.attention.external import FoldedExternalAttention

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def trained_like(name):
    """Return a named model in float64 whose norms have statistics of their own, as after training."""
    torch.manual_seed(0)
    model = regard_models.create(name, input_size=64).eval().double()
    for module in model.modules():
        if isinstance(module, NORMS):
            if module.affine:
                module.weight.data.uniform_(0.5, 1.5)
                module.bias.data.normal_(0, 0.1)
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
        if hasattr(module, "gamma"):
            module.gamma.data.fill_(0.5)
    return model


@torch.inference_mode()
@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("resnet_mini", 1),
        ("ea_mini", 1),
        ("mhsa_mini", 1),
        ("sk_mini", 1),
        ("da_mini", 1),
        ("epsa_mini", 7),
        ("resnext50_32x4d", 0),
        ("botnet26t_256", 0),
        ("eanet_resnet50", 0),
        ("danet_resnet50", 0),
        ("epsanet50", 16),
    ],
)
def test_every_output_is_equal_in_float64(name, left):
    """A folded model's outputs, attention maps included, equal the original's; EPSA's norms and the neck are left."""
    model = trained_like(name)
    folded = fold(model)
    x = torch.randn(2, 3, 64, 48, dtype=torch.float64)
    expected, found = (each.extract(x, list(model.outputs)) for each in (model, folded))
    for output, value in expected.items():
        assert (found[output] - value).abs().max() <= 1e-9 * value.std(), output
    assert sum(isinstance(each, NORMS) for each in folded.modules()) == left
    assert sum(isinstance(each, NORMS) for each in model.modules()) > left


def test_external_attention_shrinks_as_computed():
    """Folded external attention has 2SC + C parameters."""
    folded = fold(regard_models.create("ea_mini").eval())
    parts = [each for each in folded.modules() if isinstance(each, FoldedExternalAttention)]
    assert [sum(each.numel() for each in part.parameters()) for part in parts] == [128 * 129, 256 * 129]


def test_models_in_train_mode_are_not_folded():
    """Folding asks for eval mode, since in train mode norms follow the batch."""
    with pytest.raises(ValueError, match="eval"):
        fold(regard_models.create("resnet_tiny"))
