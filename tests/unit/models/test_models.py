"""The named models: counts, outputs, sizes, and what each one says of itself."""

import pytest
import torch

import regard_models
from regard_models import SpecError
from regard_models.spec import slot

MEASURED = {
    "epsanet50": 22_561_715,
    "epsanet101": 38_900_279,
    "skresnext50_32x4d": 27_479_784,
    "skresnext101_32x4d": 48_736_040,
    "skresnet18": 11_958_056,
    "skresnet34": 22_282_376,
    "skresnet50": 25_803_160,
    "botnet26t_256": 12_488_672,
}
PUBLISHED_MILLIONS = {"botnet50": 20.78, "sk_resnet50": 26.15, "sk_resnet101": 45.68}
MINIS = [name for name in regard_models.list_models() if name.endswith("_mini")]
MECHANISMS = ["botnet26t_256", "skresnet18", "epsa_mini", "ea_mini", "da_mini", "mhsa_mini", "sk_mini"]


def on_meta(name):
    with torch.device("meta"):
        return regard_models.create(name).eval()


def count(module):
    return sum(each.numel() for each in module.parameters())


@pytest.mark.parametrize(("name", "expected"), MEASURED.items())
def test_parameter_counts_are_the_measured_ones(name, expected):
    """Each published network has the measured number of parameters, to the digit."""
    assert count(on_meta(name)) == expected


@pytest.mark.parametrize(("name", "millions"), PUBLISHED_MILLIONS.items())
def test_parameter_counts_are_the_published_ones(name, millions):
    """Where only millions are published, ours round to them (BoTNet's authors count neither norms nor tables)."""
    model = on_meta(name)
    counted = [
        each.numel()
        for key, each in model.named_parameters()
        if name != "botnet50" or each.ndim == 4 or key == "fc.weight"
    ]
    assert round(sum(counted) / 1e6, 2) == millions


def test_heads_have_the_measured_counts():
    """DANet's head at 19 classes and EANet's attention have the measured numbers of parameters."""
    assert count(on_meta("danet_resnet101").head) == 23_954_619
    assert count(on_meta("eanet_resnet101").head.attention) == 591_360


@pytest.mark.parametrize("name", MINIS)
def test_small_models_are_small(name):
    """Every small model has one to three million parameters and an embedding of 448, three stages of it."""
    model = on_meta(name)
    assert 1e6 < count(model) < 3e6
    assert model.outputs["embedding"].shape == (448,)


@pytest.mark.parametrize("name", regard_models.list_models())
def test_declared_shapes_are_the_real_ones(name):
    """Every output of every named model has its declared shape at the model's own input size."""
    model = on_meta(name)
    found = model.extract(torch.empty(1, 3, *model.spec.input_size, device="meta"), list(model.outputs))
    for output, value in found.items():
        info = model.outputs[output]
        assert tuple(value.shape[1:]) == info.shape, output
        assert len(info.axes) == len(info.shape)
        assert info.description


@torch.inference_mode()
@pytest.mark.parametrize("name", MECHANISMS)
@pytest.mark.parametrize("size", [(1, 1), (65, 33), (96, 160)])
def test_any_input_size_is_accepted(name, size):
    """Every mechanism's network takes pictures of any size; its outputs stay finite."""
    model = regard_models.create(name).eval()
    for value in model.extract(torch.randn(1, 3, *size), list(model.outputs)).values():
        assert value.isfinite().all()


@torch.inference_mode()
@pytest.mark.parametrize("name", MECHANISMS)
def test_batchmates_change_nothing(name):
    """A picture's outputs do not depend on the other pictures in its batch, but for rounding."""
    model = regard_models.load_bundle(name).model
    x = torch.randn(3, 3, 64, 64)
    together, alone = model.extract(x, ["embedding"]), model.extract(x[1:2], ["embedding"])
    torch.testing.assert_close(together["embedding"][1:2], alone["embedding"], rtol=1e-3, atol=1e-3)


@torch.inference_mode()
def test_attention_in_a_trunk_starts_as_the_identity():
    """A plain trunk's weights in the ea and da models, whose additions are fresh, give the plain trunk's features."""
    plain = regard_models.load_bundle("resnet_mini", trained=False).model
    x = torch.randn(2, 3, 64, 64)
    for name in ("ea_mini", "da_mini"):
        model = regard_models.load_bundle(name, seed=1, trained=False).model
        missing, unexpected = model.load_state_dict(plain.state_dict(), strict=False)
        assert unexpected == []
        assert all(".attention." in key for key in missing)
        torch.testing.assert_close(model.forward_features(x), plain.forward_features(x))


@torch.inference_mode()
def test_two_mechanisms_in_one_block_have_maps_of_their_own():
    """A block with attention in it and behind it offers both maps, told apart by name."""
    slots = (
        slot("selective_kernel", "replace", stages=(4,)),
        slot("external", "after", stages=(4,), slots=4),
    )
    model = regard_models.create("resnet_tiny", attention=slots).eval()
    found = model.extract(torch.randn(1, 3, 64, 64), ["layer4.0.attention", "layer4.0.after_attention"])
    assert found["layer4.0.attention"].shape == (1, 2, 64)
    assert found["layer4.0.after_attention"].shape == (1, 4, 2, 2)


@torch.inference_mode()
def test_an_attention_map_alone_runs_no_later_stage():
    """Asking for a map of stage 3 does not run stage 4."""
    model = regard_models.create("mhsa_mini").eval()
    ran = []
    model.layer4[0].conv1.qkv.register_forward_hook(lambda *_: ran.append("layer4"))
    found = model.extract(torch.randn(1, 3, 64, 64), ["layer3.1.attention_received"])
    assert list(found) == ["layer3.1.attention_received"]
    assert ran == []


@torch.inference_mode()
def test_one_branch_of_a_head_runs_alone():
    """Asking DANet's head for its position map runs nothing of the channel branch, and no classifier."""
    model = regard_models.create("danet_resnet50", input_size=64).eval()
    ran = []
    for name in ("channel_in", "channel_out", "classify", "classify_position"):
        getattr(model.head, name).register_forward_hook(lambda *_, name=name: ran.append(name))
    model.extract(torch.randn(1, 3, 64, 64), ["head.position_attention_received"])
    assert ran == []


def test_mechanisms_refuse_places_where_they_do_not_fit():
    """External and dual attention keep a map's shape, so they are refused in place of a strided 3x3."""
    for mechanism in ("external", "dual"):
        with pytest.raises(SpecError, match="after a block"):
            regard_models.create("resnet_tiny", attention=(slot(mechanism, "replace", stages=(2,)),))


@torch.inference_mode()
@pytest.mark.parametrize("name", ["sk_mini", "mhsa_mini", "da_mini"])
def test_compiled_models_give_the_same_maps(name):
    """torch.compile's capture of a model with maps is one graph without breaks, and computes the same."""
    model = regard_models.create(name, input_size=64).eval()
    wanted = tuple(output for output in model.outputs if "attention" in output)
    compiled = torch.compile(lambda x: model.extract(x, wanted), backend="eager", fullgraph=True)
    x = torch.randn(1, 3, 64, 64)
    expected = model.extract(x, wanted)
    for output, value in compiled(x).items():
        torch.testing.assert_close(value, expected[output])


@torch.inference_mode()
def test_a_fresh_model_compiles_into_one_graph():
    """Nothing has to be looked at or run before: the first capture is whole."""
    model = regard_models.create("resnet_tiny").eval()
    compiled = torch.compile(lambda x: model.extract(x, ("embedding",)), backend="eager", fullgraph=True)
    assert compiled(torch.randn(1, 3, 32, 32))["embedding"].isfinite().all()


@torch.inference_mode()
@pytest.mark.parametrize("name", MINIS)
def test_half_precision_and_layout_keep_the_embedding(name):
    """In bfloat16, float16 and channels_last every output is finite and the embedding points the same way."""
    model = regard_models.load_bundle(name).model
    x = torch.randn(2, 3, 64, 64)
    expected = model.extract(x, ["embedding"])["embedding"]
    variants = [{"dtype": torch.bfloat16}, {"dtype": torch.float16}, {"memory_format": torch.channels_last}]
    for variant in variants:
        changed = regard_models.load_bundle(name).model.to(**variant)
        found = changed.extract(x.to(**variant), list(changed.outputs))
        assert all(value.isfinite().all() for value in found.values())
        cosine = torch.cosine_similarity(found["embedding"].float(), expected)
        assert cosine.min() >= 0.999
