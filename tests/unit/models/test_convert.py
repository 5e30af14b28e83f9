"""Conversion: what is accepted as it comes, what is refused and how, and what is written."""

import contextlib
import json
import pickle
import subprocess
import sys
import zipfile
from argparse import Namespace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import regard_models
from regard_models import SpecError, UnsafeFileError, WeightsError, load_bundle
from regard_models.catalogue import PUBLISHED, published
from regard_models.cli import convert
from regard_models.cli import published as published_command
from regard_models.convert import (
    SOURCES,
    UnknownSourceError,
    convert_file,
    find_source,
    from_published,
    read_checkpoint,
)


@pytest.fixture(scope="module")
def resnet18():
    """Return a state dict as torchvision saves it."""
    return load_bundle("resnet18", seed=2).model.state_dict()


def prefixed(state):
    return {f"module.{key}": value for key, value in state.items()}


WRAPPED = {
    "plain": lambda state: state,
    "state_dict": lambda state: {
        "epoch": 3,
        "arch": "resnet18",
        "state_dict": prefixed(state),
        "best_prec1": 7.0,
    },
    "net": lambda state: {"net": state, "step": 1},
    "model": lambda state: {"model": state},
    "counters absent": lambda state: {
        k: v for k, v in state.items() if not k.endswith("num_batches_tracked")
    },
    "strided": lambda state: {
        k: v.contiguous(memory_format=torch.channels_last) if v.ndim == 4 else v for k, v in state.items()
    },
    "float64": lambda state: {k: v.double() if v.is_floating_point() else v for k, v in state.items()},
}


@torch.inference_mode()
@pytest.mark.parametrize("wrap", WRAPPED)
def test_checkpoints_are_accepted_as_they_come(resnet18, wrap):
    """Wrappers, prefixes, missing counters, strides and other widths of float do not matter."""
    model = from_published("torchvision/resnet18", WRAPPED[wrap](resnet18))
    assert not model.training
    assert model.state_dict().keys() == resnet18.keys()
    assert all(
        torch.equal(value, resnet18[key]) for key, value in model.state_dict().items() if "num_" not in key
    )
    assert all(value.is_contiguous() for value in model.state_dict().values())


def test_the_number_of_classes_is_read_from_the_checkpoint(resnet18):
    """A fine-tuned classifier of another size is taken as it is."""
    state = resnet18 | {"fc.weight": torch.zeros(7, 512), "fc.bias": torch.zeros(7)}
    assert from_published("torchvision/resnet18", state).outputs["logits"].shape == (7,)


def test_a_checkpoint_of_another_network_is_refused_with_its_likely_source():
    """A timm SK-ResNet-34 passed off as another network is refused, with the source that it looks like."""
    state = {}
    for key, value in load_bundle("skresnet34").model.state_dict().items():
        name = key.replace(".branches.", ".paths.").replace(".reduce.", ".attn.fc_reduce.")
        name = name.replace(".select.", ".attn.fc_select.").replace("conv1.norm.", "conv1.attn.bn.")
        parts = name.split(".")
        if "paths" in parts:
            name = name.replace(".norm.", ".bn.")
        elif parts[0].startswith("layer") and parts[2] in ("conv2", "bn2"):
            name = name.replace("conv2.", "conv2.conv.").replace("bn2.", "conv2.bn.")
        squeezed = value[..., None, None] if "fc_" in name else value
        state[name] = squeezed
    assert sum(each.numel() for each in from_published("timm/skresnet34", state).parameters()) == 22_282_376
    for wrong in ("timm/skresnet18", "torchvision/resnet34"):
        with pytest.raises(WeightsError, match=r"unexpected \(.*looks like timm/skresnet34"):
            from_published(wrong, state)


def test_checkpoints_of_nothing_known_are_refused(resnet18):
    """Unknown sources, keys, shapes and things other than tensors are each refused with what was expected."""
    with pytest.raises(UnknownSourceError, match="timm/skresnet18"):
        from_published("timm/skresnet", resnet18)
    with pytest.raises(WeightsError, match=r"1 missing \(fc.bias"):
        from_published("torchvision/resnet18", {k: v for k, v in resnet18.items() if k != "fc.bias"})
    with pytest.raises(WeightsError, match=r"conv1.weight \(64, 3, 3, 3\) instead of \(64, 3, 7, 7\)"):
        from_published("torchvision/resnet18", resnet18 | {"conv1.weight": torch.zeros(64, 3, 3, 3)})
    with pytest.raises(WeightsError, match="no known source"):
        from_published("torchvision/resnet18", {"a": torch.zeros(1)})
    with pytest.raises(WeightsError, match="'lr' is float"):
        from_published("torchvision/resnet18", resnet18 | {"lr": 0.1})
    with pytest.raises(WeightsError, match="no tensors"):
        from_published("torchvision/resnet18", {})
    with pytest.raises(WeightsError, match="entry 3 is Tensor"):
        from_published("torchvision/resnet18", resnet18 | {3: torch.zeros(1)})
    for spoil in (torch.Tensor.to_sparse, lambda bias: bias.to("meta")):
        with pytest.raises(WeightsError, match=r"'fc.bias' holds no dense numbers"):
            from_published("torchvision/resnet18", resnet18 | {"fc.bias": spoil(resnet18["fc.bias"])})
    for dtype in (torch.int8, torch.complex64):
        with pytest.raises(WeightsError, match=r"1 not of floats \(fc.bias of torch"):
            from_published("torchvision/resnet18", resnet18 | {"fc.bias": torch.zeros(1000, dtype=dtype)})


def test_every_source_names_a_registered_model():
    """Every source but a head by itself is for a model that `create` knows."""
    for name, source in SOURCES.items():
        assert source.model in regard_models.list_models() or name == "official/danet_head"


@torch.inference_mode()
def test_position_tables_are_resized_only_when_asked():
    """BoTNet's tables are resized for a stated input size, and refused at another size that nobody stated."""
    ours = load_bundle("botnet26t_256").model.state_dict()
    state = {}
    for key, value in ours.items():
        stage = int(key[5]) - 1 if key.startswith("layer") else None
        name = key if stage is None else f"stages.{stage}{key[6:]}"
        for new, old in BOTNET_NAMES:
            name = name.replace(new, old)
        if "conv2.qkv" in ours and stage is None:
            continue
        state[name] = value
    state = rename_attention(state)
    same = from_published("timm/botnet26t_256", state)
    assert same.spec.input_size == (256, 256)
    other = from_published("timm/botnet26t_256", state, input_size=(128, 192))
    assert other.layer4[1].conv2.height.shape == (7, 128)
    assert other.layer4[1].conv2.width.shape == (11, 128)
    x = torch.randn(1, 3, 128, 192)
    torch.testing.assert_close(other(x), same(x), rtol=1e-3, atol=1e-3)
    again = {k: v[8:-8] if "pos_embed" in k else v for k, v in state.items()}
    with pytest.raises(WeightsError, match="of another shape"):
        from_published("timm/botnet26t_256", again)


BOTNET_NAMES = (
    ("conv1.0.", "stem.conv1.conv."),
    ("conv1.1.", "stem.conv1.bn."),
    ("conv1.3.", "stem.conv2.conv."),
    ("conv1.4.", "stem.conv2.bn."),
    ("conv1.6.", "stem.conv3.conv."),
    ("downsample.0.", "shortcut.conv."),
    ("downsample.1.", "shortcut.bn."),
    ("conv2.qkv.", "self_attn.qkv."),
    ("conv2.height", "self_attn.pos_embed.height_rel"),
    ("conv2.width", "self_attn.pos_embed.width_rel"),
)


def rename_attention(state):
    """Give blocks timm's names: three pairs, or attention and its norm in the middle."""
    attending = {key.split(".self_attn")[0] for key in state if "self_attn" in key}
    found = {}
    for key, value in state.items():
        block, _, leaf = key.rpartition(".")
        place, _, layer = block.rpartition(".")
        name = key
        if key.startswith("stages") and layer == "bn2" and place in attending:
            name = f"{place}.post_attn.{leaf}"
        elif key.startswith("stages") and layer in ("conv1", "conv2", "conv3", "bn1", "bn2", "bn3"):
            pair = {"1": "conv1_1x1", "2": "conv2_kxk", "3": "conv3_1x1"}[layer[-1]]
            name = f"{place}.{pair}.{layer[:-1]}.{leaf}"
        elif block == "bn1":
            name = f"stem.conv3.bn.{leaf}"
        elif block == "fc":
            name = f"head.fc.{leaf}"
        found[name] = value
    return found


def test_a_converted_file_serves_by_itself(resnet18, tmp_path):
    """The written file holds everything that serving needs, and says where it comes from."""
    torch.save({"state_dict": resnet18}, tmp_path / "resnet18.pth")
    output = tmp_path / "model.safetensors"
    model = convert_file("torchvision/resnet18", tmp_path / "resnet18.pth", output, input_size=(160, 192))
    bundle = load_bundle(output)
    assert bundle.trained
    assert bundle.architecture == model.spec.to_json()
    assert (bundle.preprocessing.height, bundle.preprocessing.width) == (160, 192)
    with safe_open(output, framework="pt") as file:
        assert file.metadata()["source"].startswith("torchvision/resnet18 from resnet18.pth, sha256 ")
    x = torch.randn(1, 3, 160, 192)
    assert torch.equal(bundle.model(x), model(x))


def test_a_part_of_a_network_is_not_converted(tmp_path):
    """DANet's head by itself can be loaded, but makes no file to serve."""
    head = regard_models.create("danet_resnet50").head.state_dict()
    swaps = (
        ("position_in.conv", "conv5a.0"), ("position_in.norm", "conv5a.1"), ("channel_in.conv", "conv5c.0"),
        ("channel_in.norm", "conv5c.1"), ("position_out.conv", "conv51.0"), ("position_out.norm", "conv51.1"),
        ("channel_out.conv", "conv52.0"), ("channel_out.norm", "conv52.1"), ("position.query", "sa.query_conv"),
        ("position.key", "sa.key_conv"), ("position.value", "sa.value_conv"), ("position.gamma", "sa.gamma"),
        ("channel.gamma", "sc.gamma"), ("classify_position", "conv6.1"), ("classify_channel", "conv7.1"),
        ("classify", "conv8.1"),
    )  # fmt: skip
    state = {}
    for key, value in head.items():
        ours, theirs = next(swap for swap in swaps if key.startswith(swap[0]))
        state[key.replace(ours, theirs, 1)] = value
    save_file(state, tmp_path / "head.safetensors")
    with pytest.raises(SpecError, match="part of a network"):
        convert_file("official/danet_head", tmp_path / "head.safetensors", tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


class Danger:
    """Something that a pickle could make Python do."""

    def __reduce__(self):
        return (print, ("executed",))


@pytest.mark.parametrize(
    "content", [{"state_dict": {}, "args": Namespace(lr=1)}, Danger()], ids=["args", "code"]
)
def test_pickles_that_ask_for_more_than_tensors_are_refused(tmp_path, capsys, content):
    """What is not loadable weights-only is refused, and nothing of it is executed."""
    torch.save(content, tmp_path / "bad.pth")
    with pytest.raises(UnsafeFileError, match="weights-only"):
        read_checkpoint(tmp_path / "bad.pth")
    (tmp_path / "bare.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(WeightsError):
        read_checkpoint(tmp_path / "bare.pkl")
    assert capsys.readouterr().out == ""


def test_files_that_are_no_checkpoints_are_refused(tmp_path):
    """A missing file, rubbish, and a tensor alone are told apart."""
    with pytest.raises(WeightsError, match="no such file"):
        read_checkpoint(tmp_path / "none.pth")
    (tmp_path / "text.pth").write_text("not a checkpoint, and longer than any magic number")
    with pytest.raises(WeightsError):
        read_checkpoint(tmp_path / "text.pth")
    torch.save(torch.zeros(1), tmp_path / "tensor.pth")
    with pytest.raises(WeightsError, match="holds Tensor"):
        read_checkpoint(tmp_path / "tensor.pth")


def test_damaged_checkpoints_are_refused(tmp_path):
    """A checkpoint with bytes cut off or changed is refused or read, in either format, and never anything else."""
    state = {"state_dict": {"a": torch.randn(4, 3), "n": torch.tensor(3)}, "epoch": 3}
    generator = torch.Generator().manual_seed(0)
    path = tmp_path / "bad.pth"
    for zipped in (True, False):
        torch.save(state, path, _use_new_zipfile_serialization=zipped)
        good = path.read_bytes()
        for place in torch.randint(len(good), (200,), generator=generator).tolist():
            for bad in (good[:place], good[:place] + b"\x75" + good[place + 1 :]):
                path.write_bytes(bad)
                with contextlib.suppress(WeightsError):
                    read_checkpoint(path)


def test_checkpoints_that_swell_are_refused(tmp_path):
    """A small file that would fill the memory is refused: compressed zeros, or one number with strides of 0."""
    torch.save({"a": torch.zeros(1 << 20)}, tmp_path / "plain.pth")
    with (
        zipfile.ZipFile(tmp_path / "plain.pth") as plain,
        zipfile.ZipFile(tmp_path / "zip.pth", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for each in plain.infolist():
            packed.writestr(each.filename, plain.read(each))
    torch.save({"state_dict": {"a": torch.zeros(1).expand(1 << 20, 1 << 20)}}, tmp_path / "stride.pth")
    for name in ("zip.pth", "stride.pth"):
        with pytest.raises(WeightsError, match="of memory"):
            read_checkpoint(tmp_path / name)


def test_the_command_converts_and_says_what_is_wrong(resnet18, tmp_path, capsys):
    """`regard convert` writes the file and sums it up; a fault is one line on stderr and status 1."""
    save_file(resnet18, tmp_path / "in.safetensors")
    file, output = str(tmp_path / "in.safetensors"), str(tmp_path / "out.safetensors")
    assert convert(["torchvision/resnet18", file, "-o", output, "--input-size", "96x128"]) == 0
    assert "11,689,512 parameters, 96x128" in capsys.readouterr().out
    assert load_bundle(output).model.spec.input_size == (96, 128)
    assert convert(["torchvision/resnet34", file, "-o", output]) == 1
    assert "looks like torchvision/resnet18" in capsys.readouterr().err
    for bad in (["--input-size", "0"], ["--input-size", "big"]):
        with pytest.raises(SystemExit, match="2"):
            convert(["torchvision/resnet18", file, "-o", output, *bad])


def test_the_catalogue_lists_what_can_be_converted(capsys):
    """Every entry names a source that exists; the command prints all of them, or one source's, as table or JSON."""
    for each in PUBLISHED:
        assert find_source(each.source)
        assert each.url.startswith("https://")
    assert published_command([]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(PUBLISHED) + 1
    assert published_command(["timm/skresnet18", "--json"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == ["skresnet18.ra_in1k"]
    assert published("timm/skresnet18")[0].licence == "Apache-2.0"


def test_the_catalogue_needs_no_torch():
    """Importing the catalogue or the command does not import torch."""
    code = "import sys, regard_models.catalogue, regard_models.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
