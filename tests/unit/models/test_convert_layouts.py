"""Conversions for which no golden file exists, against the published forward passes written out by key.

Each network is computed twice: by our model after conversion, and by plain tensor functions that read the
publisher's state dict under the publisher's own names. Nothing is shared between the two but the numbers.
"""

import pytest
import torch
from torch.nn import functional

from regard_models.convert import from_published

DEPTHS = (3, 4, 6, 3)


class Layout:
    """A state dict under construction: random tensors by key, as a publisher's code would save them."""

    def __init__(self):
        self.state = {}
        self.generator = torch.Generator().manual_seed(0)

    def random(self, *shape):
        return torch.randn(shape, generator=self.generator)

    def conv(self, key, c_out, c_in, kernel=1, *, bias=False, scale=1.0):
        fan_in = c_in * kernel**2
        self.state[f"{key}.weight"] = self.random(c_out, c_in, kernel, kernel) * scale * (2 / fan_in) ** 0.5
        if bias:
            self.state[f"{key}.bias"] = 0.1 * self.random(c_out)

    def norm(self, key, channels, scale=1.0):
        self.state[f"{key}.weight"] = scale * (1 + 0.2 * self.random(channels))
        self.state[f"{key}.bias"] = 0.1 * self.random(channels)
        self.state[f"{key}.running_mean"] = 0.1 * self.random(channels)
        self.state[f"{key}.running_var"] = 0.5 + torch.rand(channels, generator=self.generator)

    def stage(self, key, planes, c_in, depth, middle=None):
        for index in range(depth):
            block = f"{key}.{index}"
            self.conv(f"{block}.conv1", planes, c_in)
            self.norm(f"{block}.bn1", planes)
            (middle or self.plain_middle)(block, planes)
            self.conv(f"{block}.conv3", 4 * planes, planes)
            self.norm(f"{block}.bn3", 4 * planes, 0.3)
            if index == 0:
                self.conv(f"{block}.downsample.0", 4 * planes, c_in)
                self.norm(f"{block}.downsample.1", 4 * planes)
            c_in = 4 * planes

    def plain_middle(self, block, planes):
        self.conv(f"{block}.conv2", planes, planes, 3)
        self.norm(f"{block}.bn2", planes)

    def deep_stem(self, conv, norm, channels=(64, 64, 128)):
        """Lay out three 3x3 at conv.0, .3, .6 with norms at conv.1 and .4, the last norm elsewhere."""
        for index, (c_in, c_out) in enumerate(zip((3, *channels[:-1]), channels, strict=True)):
            self.conv(f"{conv}.{3 * index}", c_out, c_in, 3)
            self.norm(f"{conv}.{3 * index + 1}" if index < 2 else norm, c_out)


class Run:
    """The publishers' forward passes, over a state dict."""

    def __init__(self, state):
        self.state = state

    def conv(self, key, x, **options):
        return functional.conv2d(x, self.state[f"{key}.weight"], self.state.get(f"{key}.bias"), **options)

    def norm(self, key, x):
        mean, var, weight, bias = (
            self.state[f"{key}.{name}"] for name in ("running_mean", "running_var", "weight", "bias")
        )
        return functional.batch_norm(x, mean, var, weight, bias)

    def conv3(self, conv, norm, x):
        return self.norm(norm, self.conv(conv, x, padding=1)).relu()

    def deep_stem(self, conv, norm, x):
        x = self.norm(f"{conv}.1", self.conv(f"{conv}.0", x, stride=2, padding=1)).relu()
        x = self.conv3(f"{conv}.3", f"{conv}.4", x)
        return functional.max_pool2d(self.conv3(f"{conv}.6", norm, x), 3, 2, 1)

    def stage(self, key, x, depth, stride=1, *, dilations=(1,), middle=None):
        for index in range(depth):
            block, step = f"{key}.{index}", stride if index == 0 else 1
            out = self.norm(f"{block}.bn1", self.conv(f"{block}.conv1", x)).relu()
            dilation = dilations[min(index, len(dilations) - 1)]
            out = (middle or self.plain_middle)(block, out, step, dilation)
            out = self.norm(f"{block}.bn3", self.conv(f"{block}.conv3", out))
            if index == 0:
                x = self.norm(f"{block}.downsample.1", self.conv(f"{block}.downsample.0", x, stride=step))
            x = (out + x).relu()
        return x

    def plain_middle(self, block, x, stride, dilation):
        out = self.conv(f"{block}.conv2", x, stride=stride, padding=dilation, dilation=dilation)
        return self.norm(f"{block}.bn2", out).relu()

    def dilated(self, names, x, layer4):
        x = self.stage(names[0], x, DEPTHS[0])
        x = self.stage(names[1], x, DEPTHS[1], stride=2)
        x = self.stage(names[2], x, DEPTHS[2], dilations=(1, 2))
        return self.stage(names[3], x, DEPTHS[3], dilations=layer4)

    def position(self, query, key, value, gamma, x):
        b, c, h, w = x.shape
        q, k, v = (self.conv(name, x).reshape(b, -1, h * w) for name in (query, key, value))
        attention = torch.bmm(q.transpose(1, 2), k).softmax(-1)
        return self.state[gamma] * torch.bmm(v, attention.transpose(1, 2)).reshape(b, c, h, w) + x

    def channel(self, gamma, x):
        flat = x.flatten(2)
        energy = torch.bmm(flat, flat.transpose(1, 2))
        attention = (energy.max(-1, keepdim=True)[0] - energy).softmax(-1)
        return self.state[gamma] * torch.bmm(attention, flat).reshape(x.shape) + x


def trunk(layout, names, stem_out):
    for name, planes, c_in, depth in zip(
        names, (64, 128, 256, 512), (stem_out, 256, 512, 1024), DEPTHS, strict=True
    ):
        layout.stage(name, planes, c_in, depth)


def assert_same(found, expected):
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 1e-3 * expected.std()


@torch.inference_mode()
def test_eanet_as_its_authors_save_it():
    """EANet's {net, step} dictionary gives the authors' logits, two independent memories included."""
    names = [f"extractor.{index}" for index in (4, 5, 6, 7)]
    layout = Layout()
    layout.deep_stem("extractor.0", "extractor.1")
    trunk(layout, names, 128)
    layout.conv("fc0.conv", 512, 2048, 3)
    layout.norm("fc0.bn", 512)
    layout.conv("linu.conv1", 512, 512, bias=True)
    layout.state["linu.linear_0.weight"] = layout.random(64, 512, 1) * 0.05
    layout.state["linu.linear_1.weight"] = layout.random(512, 64, 1)
    layout.conv("linu.conv2.0", 512, 512)
    layout.norm("linu.conv2.1", 512)
    layout.conv("fc1.0.conv", 256, 512, 3)
    layout.norm("fc1.0.bn", 256)
    layout.conv("fc2", 21, 256, bias=True)

    run, x = Run(layout.state), layout.random(1, 3, 65, 49)
    y = run.dilated(names, run.deep_stem("extractor.0", "extractor.1", x), (2, 8, 16))
    y = run.conv3("fc0.conv", "fc0.bn", y)
    memory = layout.state["linu.linear_0.weight"][..., 0] @ run.conv("linu.conv1", y).flatten(2)
    memory = memory.softmax(-1)
    memory = memory / (1e-9 + memory.sum(1, keepdim=True))
    attended = (layout.state["linu.linear_1.weight"][..., 0] @ memory).reshape(y.shape)
    y = (run.norm("linu.conv2.1", run.conv("linu.conv2.0", attended)) + y).relu()
    expected = run.conv("fc2", run.conv3("fc1.0.conv", "fc1.0.bn", y))

    model = from_published("official/eanet50", {"net": layout.state, "step": 3})
    assert_same(model(x), expected)


@torch.inference_mode()
@pytest.mark.parametrize("deep", [True, False], ids=["deep stem", "7x7 stem"])
def test_danet_as_its_authors_save_it(deep):
    """DANet under its authors' keys gives their logits, with the deep stem or the plain one."""
    names = [f"pretrained.layer{stage}" for stage in (1, 2, 3, 4)]
    layout = Layout()
    if deep:
        layout.deep_stem("pretrained.conv1", "pretrained.bn1")
    else:
        layout.conv("pretrained.conv1", 64, 3, 7)
        layout.norm("pretrained.bn1", 64)
    trunk(layout, names, 128 if deep else 64)
    for name, c_in in (("conv5a", 2048), ("conv5c", 2048), ("conv51", 512), ("conv52", 512)):
        layout.conv(f"head.{name}.0", 512, c_in, 3)
        layout.norm(f"head.{name}.1", 512)
    for name, width in (("query", 64), ("key", 64), ("value", 512)):
        layout.conv(f"head.sa.{name}_conv", width, 512, bias=True, scale=0.3)
    for name in ("conv6", "conv7", "conv8"):
        layout.conv(f"head.{name}.1", 19, 512, bias=True)
    layout.state |= {"head.sa.gamma": torch.tensor([0.7]), "head.sc.gamma": torch.tensor([0.4])}

    run, x = Run(layout.state), layout.random(1, 3, 57, 72)
    if deep:
        y = run.deep_stem("pretrained.conv1", "pretrained.bn1", x)
    else:
        y = run.norm("pretrained.bn1", run.conv("pretrained.conv1", x, stride=2, padding=3)).relu()
        y = functional.max_pool2d(y, 3, 2, 1)
    y = run.dilated(names, y, (4, 8, 16))
    convs = [f"head.sa.{name}_conv" for name in ("query", "key", "value")]
    position = run.position(*convs, "head.sa.gamma", run.conv3("head.conv5a.0", "head.conv5a.1", y))
    channel = run.channel("head.sc.gamma", run.conv3("head.conv5c.0", "head.conv5c.1", y))
    both = run.conv3("head.conv51.0", "head.conv51.1", position) + run.conv3(
        "head.conv52.0", "head.conv52.1", channel
    )

    state = {f"module.{key}": value for key, value in layout.state.items()}
    state["module.pretrained.fc.weight"] = torch.zeros(1000, 2048)
    model = from_published("junfu1115/danet_resnet50", {"state_dict": state, "epoch": 3})
    assert_same(model(x), run.conv("head.conv8.1", both))


@torch.inference_mode()
def test_danet_as_mmsegmentation_saves_it():
    """DANet of mmsegmentation gives its logits: its narrower stem, its dilations, 0-d scales, no auxiliary head."""
    names = [f"backbone.layer{stage}" for stage in (1, 2, 3, 4)]
    layout = Layout()
    layout.deep_stem("backbone.stem", "backbone.stem.7", (32, 32, 64))
    trunk(layout, names, 64)
    for branch in ("pam", "cam"):
        for place, c_in in (("in", 2048), ("out", 512)):
            layout.conv(f"decode_head.{branch}_{place}_conv.conv", 512, c_in, 3)
            layout.norm(f"decode_head.{branch}_{place}_conv.bn", 512)
        layout.conv(f"decode_head.{branch}_conv_seg", 150, 512, bias=True)
        layout.state[f"decode_head.{branch}.gamma.scale"] = torch.tensor(0.6)
    layout.conv("decode_head.conv_seg", 150, 512, bias=True)
    for name, width in (("query", 64), ("key", 64), ("value", 512)):
        layout.conv(f"decode_head.pam.{name}_project", width, 512, bias=True, scale=0.3)
    layout.conv("auxiliary_head.conv_seg", 150, 256, bias=True)

    run, x = Run(layout.state), layout.random(1, 3, 64, 48)
    y = run.dilated(names, run.deep_stem("backbone.stem", "backbone.stem.7", x), (2, 4))
    ends = {}
    for branch in ("pam", "cam"):
        first, last = (f"decode_head.{branch}_{place}_conv" for place in ("in", "out"))
        z = run.conv3(f"{first}.conv", f"{first}.bn", y)
        convs = [f"decode_head.pam.{name}_project" for name in ("query", "key", "value")]
        scale = f"decode_head.{branch}.gamma.scale"
        z = run.position(*convs, scale, z) if branch == "pam" else run.channel(scale, z)
        ends[branch] = run.conv3(f"{last}.conv", f"{last}.bn", z)

    model = from_published("mmsegmentation/danet_r50-d8", {"meta": {}, "state_dict": layout.state})
    found = model.extract(x, ["logits", "position_logits", "channel_logits"])
    assert_same(found["logits"], run.conv("decode_head.conv_seg", ends["pam"] + ends["cam"]))
    assert_same(found["position_logits"], run.conv("decode_head.pam_conv_seg", ends["pam"]))
    assert_same(found["channel_logits"], run.conv("decode_head.cam_conv_seg", ends["cam"]))


@torch.inference_mode()
def test_sk_resnet_as_pytorchinsight_saves_it():
    """PytorchInsight's SK-ResNet gives its logits: a dense and a grouped branch, rows of the selection branch-major."""

    def lay(block, planes):
        layout.conv(f"{block}.conv2", planes, planes, 3)
        layout.norm(f"{block}.bn2", planes)
        layout.conv(f"{block}.conv2g", planes, planes // 32, 3)
        layout.norm(f"{block}.bn2g", planes)
        layout.conv(f"{block}.conv_fc1", planes // 16, planes)
        layout.norm(f"{block}.bn_fc1", planes // 16)
        layout.conv(f"{block}.conv_fc2", 2 * planes, planes // 16)

    def pass_through(block, x, stride, _):
        dense = run.norm(f"{block}.bn2", run.conv(f"{block}.conv2", x, stride=stride, padding=1)).relu()
        grouped = run.conv(f"{block}.conv2g", x, stride=stride, padding=1, groups=32)
        grouped = run.norm(f"{block}.bn2g", grouped).relu()
        z = dense.mean((2, 3), keepdim=True) + grouped.mean((2, 3), keepdim=True)
        z = run.conv(
            f"{block}.conv_fc2", run.norm(f"{block}.bn_fc1", run.conv(f"{block}.conv_fc1", z)).relu()
        )
        shares = z.reshape(len(z), 2, -1, 1, 1).softmax(1)
        return dense * shares[:, 0] + grouped * shares[:, 1]

    layout = Layout()
    layout.conv("conv1", 64, 3, 7)
    layout.norm("bn1", 64)
    for stage, (planes, c_in) in enumerate(((64, 64), (128, 256), (256, 512), (512, 1024))):
        layout.stage(f"layer{stage + 1}", planes, c_in, DEPTHS[stage], lay)
    layout.state["fc.weight"], layout.state["fc.bias"] = layout.random(7, 2048) * 0.02, layout.random(7)

    run, x = Run(layout.state), layout.random(2, 3, 64, 50)
    y = functional.max_pool2d(run.norm("bn1", run.conv("conv1", x, stride=2, padding=3)).relu(), 3, 2, 1)
    for stage, stride in enumerate((1, 2, 2, 2)):
        y = run.stage(f"layer{stage + 1}", y, DEPTHS[stage], stride, middle=pass_through)
    expected = functional.linear(y.mean((2, 3)), layout.state["fc.weight"], layout.state["fc.bias"])

    assert_same(from_published("pytorchinsight/sk_resnet50", layout.state)(x), expected)
