"""The mechanisms beyond the golden files: quirks, maps, gradients, train mode, sizes."""

import threading

import pytest
import torch
from torch.nn import functional

from regard_models import InputShapeError, SpecError, WeightsError
from regard_models.attention import (
    ChannelAttention,
    DualAttention,
    ExternalAttention,
    MultiHeadAttention,
    PyramidAttention,
    RelativeAttention,
    ResidualDualAttention,
    SelectiveKernel,
    SimplifiedAttention,
    from_original,
    load_original,
)
from regard_models.attention.relative import resize_table
from regard_models.convolution import Branch

CHANNELS = 16
MAKE = {
    "external": lambda: ExternalAttention(CHANNELS, 8),
    "relative": lambda: RelativeAttention(CHANNELS, CHANNELS, (5, 7), heads=2, stride=2),
    "selective": lambda: SelectiveKernel(CHANNELS, CHANNELS, [Branch(3), Branch(3, 2)], 8),
    "split": lambda: SelectiveKernel(
        CHANNELS, CHANNELS, [Branch(3), Branch(5)], 8, split_input=True, stride=2
    ),
    "pyramid": lambda: PyramidAttention(CHANNELS, CHANNELS, groups=(1, 2, 4, 4), reduction=2, stride=2),
    "dual": lambda: DualAttention(CHANNELS, 3, (5, 7), any_size=True),
    "dual residual": lambda: ResidualDualAttention(CHANNELS, 4),
}


def lively(module):
    """Return the module in eval mode with every parameter and statistic drawn at random, so that nothing is 0 or 1."""
    torch.manual_seed(1)
    with torch.no_grad():
        for key, value in module.state_dict().items():
            if key.endswith("running_var"):
                value.uniform_(0.5, 1.5)
            elif value.is_floating_point():
                value.normal_(0, 0.5 if value.ndim < 2 else value[0].numel() ** -0.5)
    return module.eval()


@pytest.fixture(params=MAKE)
def module(request):
    return lively(MAKE[request.param]())


@torch.inference_mode()
@pytest.mark.parametrize("size", [(5, 7), (7, 5), (1, 1), (1, 9), (12, 4)])
def test_any_size_gives_a_finite_result_and_the_declared_maps(module, size):
    """Every mechanism takes a map of any size; its attention maps have the declared shapes."""
    x = torch.randn(2, CHANNELS, *size)
    declared = module.maps(*size)
    out, maps = module.attend(x, declared)
    assert out.isfinite().all()
    assert {name: tuple(value.shape[1:]) for name, value in maps.items()} == {
        name: info.shape for name, info in declared.items()
    }
    for info in declared.values():
        assert len(info.axes) == len(info.shape)


@torch.inference_mode()
def test_asking_for_maps_does_not_change_the_result(module):
    """The result is the same whether maps are wanted or not, and none comes back unasked."""
    x = torch.randn(2, CHANNELS, 5, 7)
    plain, nothing = module.attend(x)
    asked, _ = module.attend(x, module.maps(5, 7))
    assert nothing == {}
    torch.testing.assert_close(plain, asked, rtol=1e-4, atol=1e-5)


AXES_OF_ONE = {"attention": {"slot": 1, "head": 3, "branch": 1}, "position_attention": {"head": 3}}


@torch.inference_mode()
def test_maps_are_distributions(module):
    """Each map sums to one over the axis that its description says."""
    _, maps = module.attend(torch.randn(2, CHANNELS, 5, 7), module.maps(5, 7))
    for name, value in maps.items():
        if name.endswith("received"):
            total = value.sum((1, 2))
        elif name == "channel_attention":
            total = value.sum(-1)
        else:
            first = module.maps(5, 7)[name].axes[0]
            total = value.sum(AXES_OF_ONE[name][first])
        torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-5, atol=1e-5)


def test_gradients_are_right(module):
    """Analytic gradients equal numerical ones, for the input and for every parameter."""
    module = module.double()
    x = torch.randn(1, CHANNELS, 2, 3, dtype=torch.float64, requires_grad=True)
    parameters = [each for each in module.parameters() if each.numel() > 1]

    def function(x, *_):
        return module(x).square().mean()

    assert torch.autograd.gradcheck(function, (x, *parameters), fast_mode=True, atol=1e-6)


def test_train_mode_follows_the_batch(module):
    """In train mode norms use the batch's statistics, and every parameter gets a gradient."""
    module.train()
    module(torch.randn(3, CHANNELS, 5, 7)).square().sum().backward()
    counters = [value for key, value in module.state_dict().items() if key.endswith("num_batches_tracked")]
    assert all(value == 1 for value in counters)
    assert all(each.grad is not None and each.grad.isfinite().all() for each in module.parameters())


@torch.inference_mode()
def test_threads_share_a_module(module):
    """Threads that ask for maps and threads that do not share one module without disturbing each other."""
    x = torch.randn(1, CHANNELS, 5, 7)
    expected = module(x)
    results = []

    def work(wanted):
        with torch.inference_mode():
            results.extend(module.attend(x, wanted) for _ in range(20))

    threads = [threading.Thread(target=work, args=(wanted,)) for wanted in ((), tuple(module.maps(5, 7)))]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(results) == 40
    for out, _ in results:
        torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
    assert sorted({len(maps) for _, maps in results}) == [0, len(module.maps(5, 7))]


@torch.inference_mode()
def test_modules_export_with_their_maps(module):
    """torch.export captures result and maps in one graph: there are no hooks and no hidden state."""
    wanted = tuple(module.maps(5, 7))

    class Both(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.module = module

        def forward(self, x):
            return self.module.attend(x, wanted)

    x = torch.randn(2, CHANNELS, 5, 7)
    exported = torch.export.export(Both().eval(), (x,)).module()
    out, maps = exported(x)
    expected, expected_maps = module.attend(x, wanted)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(maps, expected_maps)


@torch.inference_mode()
def test_a_fully_hidden_query_is_zero_in_service_and_nan_as_published():
    """A query from which every key is hidden gets zero from its head; the published class makes it NaN."""
    args = {"d_model": 8, "d_k": 4, "d_v": 4, "h": 2}
    published = lively(from_original("ScaledDotProductAttention", args))
    ours = MultiHeadAttention(8, 4, 4, 2).eval()
    ours.load_state_dict(published.state_dict())
    tokens = torch.randn(2, 3, 8)
    hidden = torch.zeros(2, 1, 3, 3, dtype=torch.bool)
    hidden[0, 0, 1] = True
    expected = ours(tokens, tokens, tokens)
    found = ours(tokens, tokens, tokens, hidden)
    torch.testing.assert_close(found[0, 1], ours.out.bias)
    torch.testing.assert_close(found[1], expected[1])
    assert published(tokens, tokens, tokens, hidden)[0, 1].isnan().all()
    weighed, maps = ours.attend(tokens, tokens, tokens, hidden, wanted=("attention",))
    torch.testing.assert_close(weighed, found)
    assert not maps["attention"][0, :, 1].any()


def test_a_fully_hidden_query_has_finite_gradients():
    """A fully hidden query does not poison training: gradients stay finite."""
    module = MultiHeadAttention(8, 4, 4, 2)
    tokens = torch.randn(1, 3, 8, requires_grad=True)
    module(tokens, tokens, tokens, torch.ones(1, 1, 3, 3, dtype=torch.bool)).sum().backward()
    assert tokens.grad.isfinite().all()


def test_masks_that_are_not_boolean_are_refused():
    """A float mask, which torch would add to the logits, is refused."""
    tokens = torch.randn(1, 3, 8)
    with pytest.raises(InputShapeError, match="bool"):
        SimplifiedAttention(8, 2)(tokens, tokens, tokens, torch.zeros(1, 1, 3, 3))


MASKS = [(3, 2, 5, 7), (3, 1, 1, 7), (5, 7), (2, 5, 7), (1, 1, 1, 1), (3, 2, 5, 1), (7,)]


@torch.inference_mode()
@pytest.mark.parametrize("shape", MASKS, ids=str)
@pytest.mark.parametrize("width", [4, 3])
def test_masks_broadcast_as_published(shape, width):
    """A mask of any shape that broadcasts hides the same keys in the fused kernel as in the formula written out."""
    module = lively(
        from_original("ScaledDotProductAttention", {"d_model": 8, "d_k": 4, "d_v": width, "h": 2})
    )
    queries, keys = torch.randn(3, 5, 8), torch.randn(3, 7, 8)
    mask = torch.rand(shape) < 0.5
    q, k, v = (
        layer(x).reshape(3, x.shape[1], 2, -1).transpose(1, 2)
        for layer, x in ((module.query, queries), (module.key, keys), (module.value, keys))
    )
    mixed = (q @ k.transpose(2, 3) / 2).masked_fill(mask, -torch.inf).softmax(-1) @ v
    expected = module.out(mixed.transpose(1, 2).flatten(2))
    torch.testing.assert_close(module(queries, keys, keys, mask), expected, equal_nan=True)
    kept, _ = module.attend(queries, keys, keys, mask, wanted=("attention",))
    torch.testing.assert_close(kept, expected, equal_nan=True)


def test_masks_that_do_not_broadcast_are_refused():
    """A mask of padding without the two axes between is refused with the shape that is expected."""
    tokens = torch.randn(3, 5, 8)
    with pytest.raises(InputShapeError, match=r"images, 1, 1, keys"):
        MultiHeadAttention(8, 4, 4, 2)(tokens, tokens, tokens, torch.zeros(3, 5, dtype=torch.bool))


@torch.inference_mode()
def test_multi_head_attention_is_torchs_own():
    """With equal widths it is torch.nn.MultiheadAttention with stacked projections."""
    ours = lively(MultiHeadAttention(12, 4, 4, 3))
    theirs = torch.nn.MultiheadAttention(12, 3, batch_first=True).eval()
    layers = (ours.query, ours.key, ours.value)
    theirs.in_proj_weight.copy_(torch.cat([each.weight for each in layers]))
    theirs.in_proj_bias.copy_(torch.cat([each.bias for each in layers]))
    theirs.out_proj.load_state_dict(ours.out.state_dict())
    tokens = torch.randn(2, 5, 12)
    torch.testing.assert_close(ours(tokens, tokens, tokens), theirs(tokens, tokens, tokens)[0])


def test_dropout_acts_in_train_mode_only():
    """Dropout drops probabilities while training, with or without weights, and nothing in eval mode."""
    module = MultiHeadAttention(8, 4, 4, 2, dropout=0.5)
    tokens, weights = torch.randn(1, 6, 8), torch.ones(1, 1, 1, 1)
    for extra in ((), (None, weights)):
        assert not torch.equal(
            module.train()(tokens, tokens, tokens, *extra), module(tokens, tokens, tokens, *extra)
        )
        assert torch.equal(
            module.eval()(tokens, tokens, tokens, *extra), module(tokens, tokens, tokens, *extra)
        )


@torch.inference_mode()
def test_the_bias_before_external_attention_has_no_effect():
    """External attention's first bias cancels in the softmax over positions."""
    module = lively(ExternalAttention(CHANNELS).double())
    x = torch.randn(2, CHANNELS, 4, 5, dtype=torch.float64)
    before = module(x)
    module.project_in.bias.add_(torch.randn(CHANNELS))
    torch.testing.assert_close(module(x), before)


def external_state(*, same):
    """Return a published state dict of external attention whose memories are one or two."""
    source = from_original("External_attention", {"c": CHANNELS})
    keys = torch.randn(64, CHANNELS, 1)
    values = keys.permute(1, 0, 2) if same else torch.randn(CHANNELS, 64, 1)
    names = {"project_in": "conv1", "project_out": "conv2.0", "norm": "conv2.1"}
    state = {"linear_0.weight": keys, "linear_1.weight": values}
    for key, value in source.state_dict().items():
        owner, _, leaf = key.partition(".")
        if owner in names:
            state[f"{names[owner]}.{leaf}"] = value
    return state


def test_an_untied_checkpoint_never_overwrites():
    """Two independent memories arrive as two, in a fresh module whose memories start equal."""
    state = external_state(same=False)
    module = from_original("External_attention", {"c": CHANNELS})
    assert torch.equal(module.values, module.keys.T)
    load_original(module, state)
    assert torch.equal(module.keys, state["linear_0.weight"][..., 0])
    assert torch.equal(module.values, state["linear_1.weight"][..., 0])
    assert module.values.is_contiguous()


def test_a_tied_module_takes_one_memory_and_refuses_two():
    """A tied module has one memory, takes a checkpoint whose two are equal, and refuses another."""
    tied = ExternalAttention(CHANNELS, tied=True)
    untied = ExternalAttention(CHANNELS)
    assert (
        sum(each.numel() for each in untied.parameters()) - sum(each.numel() for each in tied.parameters())
        == 1024
    )
    state = external_state(same=True)
    load_original(tied, state)
    load_original(untied, state)
    x = torch.randn(1, CHANNELS, 3, 3)
    torch.testing.assert_close(tied.eval()(x), untied.eval()(x))
    with pytest.raises(WeightsError, match="two different memories"):
        load_original(tied, external_state(same=False))


def test_loaded_weights_are_copies():
    """Training a loaded module leaves the checkpoint's tensors alone, aliased or not."""
    state = external_state(same=True)
    before = state["linear_0.weight"].clone()
    module = from_original("External_attention", {"c": CHANNELS})
    load_original(module, state)
    with torch.no_grad():
        module.keys.add_(1)
    assert torch.equal(state["linear_0.weight"], before)
    assert torch.equal(module.values, before[..., 0].T)


@torch.inference_mode()
def test_external_attention_survives_half_precision():
    """In float16, where 1e-9 is zero, a position that no slot looks at is still finite."""
    module = lively(ExternalAttention(CHANNELS)).half()
    x = torch.zeros(1, CHANNELS, 40, 40, dtype=torch.float16)
    x[0, :, 0, 0] = 200
    assert module(x).isfinite().all()


@torch.inference_mode()
def test_channel_attention_is_exact_at_its_size_and_continuous_around_it():
    """With any_size the trained size gives the published result to the bit, and other sizes give one near it."""
    torch.manual_seed(0)
    exact = lively(ChannelAttention(4, 3, (8, 8)))
    flexible = ChannelAttention(4, 3, (8, 8), any_size=True).eval()
    flexible.load_state_dict(exact.state_dict())
    exact.out.weight.copy_(torch.eye(64) + 0.01 * torch.randn(64, 64))
    flexible.out.load_state_dict(exact.out.state_dict())
    x = functional.interpolate(torch.randn(1, 4, 3, 3), (8, 8), mode="bilinear", align_corners=True)
    reference = exact(x)
    assert torch.equal(flexible(x), reference)
    near = functional.interpolate(x, (9, 8), mode="bilinear", align_corners=True)
    back = functional.interpolate(
        flexible(near).reshape(1, 4, 9, 8), (8, 8), mode="bilinear", align_corners=True
    )
    difference = (back.flatten(2) - reference).std() / reference.std()
    assert difference < 0.25
    with pytest.raises(InputShapeError, match=r"8x8.*9x8"):
        exact(near)


@torch.inference_mode()
def test_channel_attention_as_published_takes_its_number_of_positions_in_any_shape():
    """The published class accepts another shape of as many positions; with any_size it is resampled instead."""
    exact = lively(from_original("ChannelAttentionModule", {"d_model": 4, "H": 4, "W": 6}))
    assert exact(torch.randn(1, 4, 6, 4)).shape == (1, 4, 24)
    flexible = ChannelAttention(4, 3, (4, 6), any_size=True).eval()
    flexible.load_state_dict(exact.state_dict())
    x = torch.randn(1, 4, 6, 4)
    assert not torch.allclose(flexible(x), exact(x))


@torch.inference_mode()
def test_position_tables_keep_their_centre_and_ends_when_resized():
    """A table of offsets resized to another side keeps its centre and ends, and its own side changes nothing."""
    table = torch.randn(9, 3)
    assert resize_table(table, 5) is table
    for side in (2, 3, 8):
        wide = resize_table(table, side)
        assert wide.shape == (2 * side - 1, 3)
        torch.testing.assert_close(wide[[0, side - 1, -1]], table[[0, 4, -1]])


@torch.inference_mode()
def test_relative_attention_is_its_formula():
    """Its map is the softmax of q·k/√d + q·height[i'−i+H−1] + q·width[j'−j+W−1], written out position by position."""
    height, width, heads = 3, 4, 2
    module = lively(RelativeAttention(8, 8, (height, width), heads=heads).double())
    x = torch.randn(1, 8, height, width, dtype=torch.float64)
    q, k, _ = module.qkv(x)[0].reshape(3, heads, 4, height, width)
    logits = torch.empty(heads, height * width, height * width, dtype=torch.float64)
    places = [(i, j) for i in range(height) for j in range(width)]
    for m in range(heads):
        for a, (i, j) in enumerate(places):
            for b, (other_i, other_j) in enumerate(places):
                query = q[m, :, i, j]
                code = module.height[other_i - i + height - 1] + module.width[other_j - j + width - 1]
                logits[m, a, b] = query @ k[m, :, other_i, other_j] / 2 + query @ code
    _, maps = module.attend(x, ("attention",))
    torch.testing.assert_close(maps["attention"][0], logits.softmax(-1))


@torch.inference_mode()
def test_residuals_in_a_trunk_start_as_the_identity():
    """Fresh dual attention, and external attention that is asked to, change no rectified map."""
    x = torch.randn(2, CHANNELS, 5, 5).relu()
    assert torch.equal(ResidualDualAttention(CHANNELS, 4).eval()(x), x)
    external = ExternalAttention(CHANNELS, starts_as_identity=True).eval()
    torch.nn.init.zeros_(external.norm.weight)
    assert torch.equal(external(x), x)


@pytest.mark.parametrize(
    ("class_name", "args", "message"),
    [
        ("SKAttentoin", {}, "SKAttention"),
        ("PSAModule", {"inplans": 64}, "planes"),
        ("PSAModule", {"inplans": 64, "planes": 32}, "expected"),
        ("PSAModule", {"inplans": 60, "planes": 64}, "divides"),
        ("SEWeightModule", {"channels": 8}, "16"),
        ("SKAttention", {"channel": 16, "kernels": [3, 4]}, "odd"),
        ("SimplifiedScaledDotProductAttention", {"d_model": 10, "h": 3}, "multiple"),
    ],
)
def test_impossible_modules_are_refused_when_built(class_name, args, message):
    """What the published classes would fail on later, or with another library's error, is refused when built."""
    with pytest.raises(SpecError, match=message):
        from_original(class_name, args)


def test_state_dicts_of_another_class_are_refused():
    """A state dict that does not fit names its keys, and a module of no published class is told apart."""
    module = from_original("SEWeightModule", {"channels": 16})
    with pytest.raises(WeightsError, match=r"missing.*expand\.bias.*unexpected.*linear_0"):
        load_original(module, {"linear_0.weight": torch.zeros(1)})
    with pytest.raises(WeightsError, match="stands for no published class"):
        load_original(torch.nn.Linear(1, 1), {})


def test_even_kernels_grow_the_map_as_published():
    """All-even kernels make the map one larger, as in the published class."""
    module = from_original("SKAttention", {"channel": 8, "kernels": [2, 4]}).eval()
    assert module(torch.randn(1, 8, 5, 6)).shape == (1, 8, 6, 7)


@torch.inference_mode()
def test_no_images_give_no_results(module):
    """A batch of nothing passes through every mechanism, its maps included."""
    x = torch.empty(0, CHANNELS, 5, 7)
    out, maps = module.attend(x, module.maps(5, 7))
    assert len(out) == 0
    assert {name: tuple(each.shape) for name, each in maps.items()} == {
        name: (0, *info.shape) for name, info in module.maps(5, 7).items()
    }


def test_an_exported_mechanism_takes_any_batch(module):
    """torch.export with a free batch axis does not pin the batch it saw, maps included."""
    wrapped = torch.export.export(
        Both(module),
        (torch.randn(2, CHANNELS, 5, 7),),
        dynamic_shapes=({0: torch.export.Dim("images", min=1)},),
    ).module()
    x = torch.randn(3, CHANNELS, 5, 7)
    torch.testing.assert_close(wrapped(x), Both(module)(x))


class Both(torch.nn.Module):
    """A mechanism that gives all its maps with its result."""

    def __init__(self, mechanism):
        super().__init__()
        self.mechanism = mechanism

    def forward(self, x):
        return self.mechanism.attend(x, tuple(self.mechanism.maps(5, 7)))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ({"fcs.x.weight": torch.zeros(3)}, "unexpected .fcs.x.weight"),
        ({"fcs.1.weight": torch.zeros(8, 5)}, r"2 unexpected .fcs.0.weight, fcs.1.weight"),
        ({"fcs.1.bias": torch.tensor(1.0)}, "unexpected .fcs.0.bias"),
        ({"fcs.2.bias": torch.zeros(8)}, r"select.bias .24,. instead of .16,."),
    ],
)
def test_selections_that_cannot_be_stacked_are_refused_by_key(spoil, message):
    """Wrong `fcs` of SK are named, whatever is wrong with them."""
    sk = from_original("SKAttention", {"channel": 8, "kernels": [1, 3]})
    state = {"fc.weight": torch.zeros(32, 8), "fc.bias": torch.zeros(32)}
    for index, kernel in enumerate((1, 3)):
        branch = f"convs.{index}"
        state[f"{branch}.conv.weight"] = torch.zeros(8, 8, kernel, kernel)
        norm = [f"{branch}.bn.{name}" for name in ("weight", "bias", "running_mean", "running_var")]
        state |= {key: torch.zeros(8) for key in (f"{branch}.conv.bias", f"fcs.{index}.bias", *norm)}
        state[f"fcs.{index}.weight"] = torch.zeros(8, 32)
    load_original(sk, state)
    with pytest.raises(WeightsError, match=message):
        load_original(sk, state | spoil)


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("SKAttention", {"channel": "a"}),
        ("SKAttention", {"channel": 8, "kernels": 3}),
        ("SKAttention", {"channel": -8}),
        ("SKAttention", {"channel": 8, "group": 3}),
        ("SimplifiedScaledDotProductAttention", {"d_model": 8, "h": 0}),
    ],
)
def test_arguments_that_describe_no_module_are_refused(name, args):
    """What torch or arithmetic would stumble over is a fault of the arguments, which the message repeats."""
    with pytest.raises(SpecError, match=f"{name} of .* describes no module"):
        from_original(name, args)


@torch.inference_mode()
@pytest.mark.parametrize(
    "module", [MultiHeadAttention(8, 3, 5, 2), SimplifiedAttention(8, 2)], ids=["projected", "plain"]
)
def test_attention_of_tokens_is_handed_out(module):
    """Both forms of multi-head attention give their probabilities where asked; rows sum to 1."""
    queries, keys = torch.randn(2, 4, 8), torch.randn(2, 6, 8)
    out, maps = module.eval().attend(queries, keys, keys, wanted=("attention",))
    torch.testing.assert_close(out, module(queries, keys, keys))
    assert maps["attention"].shape == (2, 2, 4, 6)
    torch.testing.assert_close(maps["attention"].sum(-1), torch.ones(2, 2, 4))
