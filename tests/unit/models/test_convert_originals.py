"""The published classes as sources: arguments read from shapes, asked for, written down and read back."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from regard_models import SpecError, WeightsError, load_bundle
from regard_models.attention import from_original, load_original
from regard_models.cli import convert
from regard_models.convert import UnknownSourceError, convert_file, from_published, load_module

FILES = sorted((Path(__file__).parents[2] / "golden" / "modules").glob("*.safetensors"))
UNREADABLE = {
    "ScaledDotProductAttention": ("h",),
    "SimplifiedScaledDotProductAttention": ("h",),
    "PSAModule": ("inplans", "stride"),
    "ChannelAttentionModule": ("H", "W"),
    "DAModuleFixed": ("H", "W"),
}
"""What shapes do not say of a class's arguments; stride alone has a published default."""


def read(path):
    with safe_open(path, framework="pt") as file:
        about = file.metadata()
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
    state = {key.removeprefix("state."): value for key, value in tensors.items() if key.startswith("state.")}
    args = json.loads(about["args"])
    return about["class"], args, state, [tensors[f"input.{name}"] for name in json.loads(about["call"])]


@torch.inference_mode()
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_shapes_say_what_a_module_is(path, tmp_path):
    """Every golden module comes out the same from its weights and what shapes cannot say, through a file too."""
    name, args, state, inputs = read(path)
    known = {key: args[key] for key in UNREADABLE.get(name, ()) if key in args}
    expected = from_original(name, args)
    load_original(expected, state)
    answer = expected.eval()(*inputs)
    found = from_published(f"original/{name}", {"state_dict": state}, args=known)
    torch.testing.assert_close(found(*inputs), answer, equal_nan=True)
    save_file(state, tmp_path / "in.safetensors")
    convert_file(f"original/{name}", tmp_path / "in.safetensors", tmp_path / "out.safetensors", args=known)
    torch.testing.assert_close(load_module(tmp_path / "out.safetensors")(*inputs), answer, equal_nan=True)


def test_what_shapes_do_not_say_is_asked_for():
    """The number of heads, the channels in of EPSA and the sides of a map that is no square must be given."""
    for prefix, missing in (("mhsa_d32", "h"), ("epsa_64_64", "inplans"), ("da_cam", "H, W")):
        name, _, state, _ = read(next(path for path in FILES if path.stem.startswith(prefix)))
        with pytest.raises(SpecError, match=f"do not say {missing}: give it"):
            from_published(f"original/{name}", state)


def test_other_peoples_weights_are_refused():
    """Weights of another class, unknown classes and options that mean nothing are refused by name."""
    _, _, state, _ = read(FILES[0])
    _, _, pyramid, _ = read(next(path for path in FILES if path.stem.startswith("epsa_64_64")))
    with pytest.raises(WeightsError, match=r"not look like SKAttention's"):
        from_published("original/SKAttention", state)
    with pytest.raises(SpecError, match="did you mean SKAttention"):
        from_published("original/SKAttn", state)
    with pytest.raises(UnknownSourceError, match="original/SKAttention"):
        from_published("orginal/SKAttention", state)
    with pytest.raises(SpecError, match="takes no args"):
        from_published("torchvision/resnet18", state, args={"h": 8})
    with pytest.raises(SpecError, match="takes no input_size"):
        from_published("original/SKAttention", state, input_size=64)
    with pytest.raises(SpecError, match="describes no module"):
        from_published("original/PSAModule", pyramid, args={"inplans": 64, "conv_kernels": 3})


def test_the_command_converts_a_module_and_serving_refuses_it(tmp_path, capsys):
    """`regard convert original/…` takes arguments as JSON; the file is refused as a model, by what it is."""
    name, _, state, _ = read(next(path for path in FILES if path.stem.startswith("mhsa_d32")))
    save_file(state, tmp_path / "in.safetensors")
    command = [f"original/{name}", str(tmp_path / "in.safetensors"), "-o", str(tmp_path / "out.safetensors")]
    assert convert(command) == 1
    assert "--args" in capsys.readouterr().err
    assert convert([*command, "--args", '{"h": 4}']) == 0
    assert "not to be served" in capsys.readouterr().out
    assert load_module(tmp_path / "out.safetensors").heads == 4
    with pytest.raises(WeightsError, match="one module, not a network"):
        load_bundle(tmp_path / "out.safetensors")
    for bad in ("h=4", "[1]", "3"):
        with pytest.raises(SystemExit, match="2"):
            convert([*command, "--args", bad])


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"format": "regard-module-1"},
        {"format": "regard-module-1", "class": "SKAttention", "args": "3"},
        {"format": "regard-module-1", "class": "SKAttention", "args": "["},
        {"format": "regard-module-1", "class": "SKAttention", "args": '{"channel": 1000000000}'},
        {"format": "regard-module-1", "class": "SKAttention", "args": '{"channel": 8}'},
    ],
)
def test_files_that_are_no_modules_are_refused(tmp_path, metadata):
    """A module's file with missing or lying metadata is refused before anything large is made."""
    save_file({"a": torch.zeros(1)}, tmp_path / "m.safetensors", metadata or None)
    with pytest.raises((WeightsError, SpecError)):
        load_module(tmp_path / "m.safetensors")
