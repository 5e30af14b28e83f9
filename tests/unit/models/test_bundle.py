"""Bundles: weights from a seed, weights in a file, and files that are refused."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

import regard_models
from regard_models import (
    ModelError,
    Preprocessing,
    UnknownModelError,
    WeightsError,
    load_bundle,
    save_bundle,
)
from regard_models.bundle import SHIPPED, shipped_weights
from regard_models.registry import entry


def test_a_seed_decides_the_weights_and_nothing_else_does():
    """The same seed gives the same weights, and drawing them leaves torch's random state alone."""
    state = torch.random.get_rng_state()
    first = load_bundle("resnet_tiny", seed=3)
    assert torch.equal(state, torch.random.get_rng_state())
    torch.manual_seed(99)
    assert load_bundle("resnet_tiny", seed=3).weights_sha256 == first.weights_sha256
    assert load_bundle("resnet_tiny", seed=4).weights_sha256 != first.weights_sha256


def test_create_follows_torchs_seed():
    """`create` draws its weights from torch's global random state, as a module does."""
    weights = []
    for _ in range(2):
        torch.manual_seed(5)
        weights.append(regard_models.create("resnet_tiny").fc.weight)
    assert torch.equal(*weights)
    assert not torch.equal(weights[0], regard_models.create("resnet_tiny").fc.weight)


@torch.inference_mode()
@pytest.mark.parametrize("name", [name for name in regard_models.list_models() if name.endswith("_mini")])
def test_untrained_features_are_finite_and_tell_pictures_apart(name):
    """A small model's seeded weights give finite features that differ from picture to picture."""
    bundle = load_bundle(name, trained=False)
    assert (bundle.trained, bundle.weights) == (False, "seed 0, untrained")
    features = bundle.model.extract(torch.randn(3, 3, 64, 64), ["embedding"])["embedding"]
    assert features.isfinite().all()
    assert features.std(0).mean() > 0.01 * features.std()


def test_a_saved_model_comes_back_the_same(tmp_path):
    """A file carries weights, spec, preprocessing and whether they were trained."""
    model = regard_models.create("resnet_tiny", num_classes=4, input_size=48).eval()
    ready = Preprocessing(48, 48, 56, "bicubic", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    save_bundle(tmp_path / "mine.safetensors", model, preprocessing=ready, source="here", trained=True)
    bundle = load_bundle(tmp_path / "mine.safetensors")
    assert (bundle.name, bundle.trained, bundle.weights) == ("mine", True, "mine.safetensors")
    assert bundle.preprocessing == ready
    assert bundle.model.spec == model.spec
    assert bundle.architecture == model.spec.to_json()
    assert bundle.parameters == sum(each.numel() for each in model.parameters())
    x = torch.randn(1, 3, 48, 48)
    assert torch.equal(bundle.model(x), model(x))
    assert (
        load_bundle(str(tmp_path / "mine.safetensors"), name="other").weights_sha256 == bundle.weights_sha256
    )


def test_preprocessing_follows_an_overridden_input_size(tmp_path):
    """Without a preprocessing of its own a file gets ImageNet's usual at the model's input size."""
    save_bundle(tmp_path / "m.safetensors", regard_models.create("resnet_tiny", input_size=(32, 64)))
    ready = load_bundle(tmp_path / "m.safetensors").preprocessing
    assert (ready.height, ready.width, ready.resize) == (32, 64, 64)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda tensors: tensors.pop("fc.bias"), r"1 missing \(fc.bias\)"),
        (lambda tensors: tensors.update(extra=torch.zeros(1)), r"1 unexpected \(extra\)"),
        (lambda tensors: tensors.update({"fc.bias": torch.zeros(9)}), r"fc.bias \(9,\) instead of \(10,\)"),
    ],
    ids=["missing", "unexpected", "shape"],
)
def test_files_that_do_not_fit_are_refused_by_key(tmp_path, spoil, message):
    """A file whose tensors do not fit its spec is refused, naming the keys that differ."""
    model = regard_models.create("resnet_tiny")
    path = tmp_path / "m.safetensors"
    save_bundle(path, model)
    tensors = load_file(path)
    spoil(tensors)
    metadata = {
        "format": "regard-model-1",
        "spec": model.spec.to_json(),
        "preprocessing": Preprocessing().resized(model.spec.input_size).to_json(),
        "trained": "false",
    }
    save_file(tensors, path, metadata)
    with pytest.raises(WeightsError, match=message):
        load_bundle(path)


def test_what_is_no_model_file_is_refused(tmp_path):
    """Unknown names, missing files, other people's safetensors and rubbish are told apart."""
    with pytest.raises(UnknownModelError, match="did you mean resnet_tiny"):
        load_bundle("resnet_tinny")
    with pytest.raises(WeightsError, match="no such file"):
        load_bundle(tmp_path / "none.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="regard convert"):
        load_bundle(tmp_path / "other.safetensors")
    (tmp_path / "rubbish.safetensors").write_bytes(b"rubbish")
    with pytest.raises(WeightsError, match="not a safetensors file"):
        load_bundle(tmp_path / "rubbish.safetensors")


SLOT = {"mechanism": "external", "place": "after"}
LIES = [
    {"width": 1 << 40}, {"depths": [10**9, 1, 1, 1]}, {"depths": [1, 1, 1]}, {"input_size": [10**9, 10**9]},
    {"num_classes": True}, {"num_classes": 10**12}, {"stem_channels": [-1]}, {"stem_channels": 5},
    {"stem_channels": ["a"]}, {"groups": 0}, {"block": "bottleneck", "groups": 3}, {"dilations": [1, 2, 3, 4]},
    {"dilations": [[0], [], [], []]}, {"dilations": "abcd"}, {"strides": [1.5, 2, 2, 2]}, {"attention": 5},
    {"attention": [SLOT | {"blocks": ["a"]}]}, {"attention": [SLOT | {"args": {"slots": 3}}]},
    {"attention": [SLOT | {"args": [["slots", "a"]]}]}, {"attention": [SLOT | {"args": [["slots", -1]]}]},
    {"attention": [SLOT | {"args": [["slots", [1] * 10**5]]}]}, {"attention": [SLOT | {"args": [["site", 1]]}]},
    {"attention": [{"mechanism": "relative", "place": "replace", "args": [["heads", 0]]}]},
    {"attention": [{"mechanism": "dual", "place": "head", "args": [["reduction", 0]]}]},
]  # fmt: skip


@pytest.mark.parametrize("lie", LIES, ids=str)
def test_specs_that_lie_are_refused_at_once(tmp_path, lie):
    """A file whose spec asks for the impossible or the enormous is refused before anything large is made."""
    model = regard_models.create("resnet_tiny")
    spec = json.dumps(json.loads(model.spec.to_json()) | lie)
    write(tmp_path / "m.safetensors", model, spec=spec)
    with pytest.raises(ModelError):
        load_bundle(tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    "lie",
    [
        {"spec": "[" * 100_000}, {"spec": None}, {"preprocessing": None}, {"trained": None},
        *({"preprocessing": json.dumps(json.loads(Preprocessing(32, 32, 32).to_json()) | each)} for each in (
            {"height": 10**9}, {"height": 48}, {"height": "a"}, {"resize": 0}, {"mean": [1]}, {"std": [0, 1, 1]},
            {"std": ["a", "b", "c"]}, {"std": [float("nan")] * 3}, {"interpolation": "x"},
        )),
    ],
    ids=lambda lie: str(lie)[:80],
)  # fmt: skip
def test_descriptions_that_make_no_sense_are_refused(tmp_path, lie):
    """Metadata that is missing, or prepares images as no network wants them, is refused by name."""
    write(tmp_path / "m.safetensors", regard_models.create("resnet_tiny"), **lie)
    with pytest.raises(ModelError):
        load_bundle(tmp_path / "m.safetensors")


def write(path, model, **changes):
    """Write a model's file with some of its metadata changed, or left out where the change is None."""
    save_bundle(path, model)
    metadata = {
        "format": "regard-model-1",
        "spec": model.spec.to_json(),
        "preprocessing": Preprocessing(32, 32, 32).to_json(),
        "trained": "false",
    } | changes
    kept = {key: value for key, value in metadata.items() if value is not None}
    save_file(load_file(path), path, kept)


def test_images_of_another_size_than_the_models_are_not_saved(tmp_path):
    """A file that would prepare images of another size than its outputs are stated for is not written."""
    with pytest.raises(WeightsError, match="224x224 for a network of 32x32"):
        save_bundle(
            tmp_path / "m.safetensors", regard_models.create("resnet_tiny"), preprocessing=Preprocessing()
        )
    assert not (tmp_path / "m.safetensors").exists()


@torch.inference_mode()
@pytest.mark.parametrize("name", [name for name in regard_models.list_models() if name.endswith("_mini")])
def test_shipped_weights_are_taken_by_name(name):
    """Each small model comes trained, at most 6 MB, for the registered spec, and says how good it is."""
    path = shipped_weights(name)
    assert path.stat().st_size <= 6e6
    bundle = load_bundle(name)
    assert (bundle.name, bundle.trained) == (name, True)
    assert bundle.weights.startswith(f"{name}.safetensors: distilled, recall@1 0.")
    assert (bundle.model.spec, bundle.preprocessing) == (entry(name).spec, entry(name).preprocessing)
    assert {each.dtype for each in bundle.model.parameters()} == {torch.float32}
    assert load_bundle(name, trained=False).weights == "seed 0, untrained"


def test_shipped_weights_are_small_together():
    """What everyone who installs the package downloads is at most 25 MB."""
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) <= 25e6


@pytest.mark.parametrize("name", ["ea_mini", "mhsa_mini"])
def test_loading_a_model_does_not_import_what_compilers_need(name):
    """Weights are taken from the file without torch's symbolic machinery, 70 MB that a server would keep."""
    program = (
        f"import sys, regard_models; regard_models.load_bundle({name!r}); sys.exit('sympy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
