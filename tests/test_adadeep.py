"""AdaDeep's techniques: what is instantiated is what the formula counts, and begins where the trained layer ended."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from workbench import WorkbenchError, cost
from workbench.papers.adadeep import techniques
from workbench.papers.adadeep.techniques import CONV, FC, Conv, Dense, Net, Part, Shape, compress, parts, transform

CHANNELS = st.integers(1, 24)


def layer_of(shape, seed=0):
    torch.manual_seed(seed)
    if shape.kind == "linear":
        return Dense(shape.inputs, shape.outputs), torch.randn(40, shape.inputs)
    layer = Conv(shape.inputs, shape.outputs, shape.kernel)
    return layer, torch.randn(6, shape.inputs, shape.side, shape.side)


def leaves(module):
    return [m for m in module.modules() if isinstance(m, Conv | Dense)]


def check(module, found, x):
    """Each part against its own module: parameters, non-zeros, bits; and MACs as torch runs them."""
    counted = cost.count(module.eval(), x[:1])
    assert [part.weights for part in found] == [leaf.weight.numel() for leaf in leaves(module)]
    assert counted["forward"].sum() == sum(part.macs for part in found)
    for part, leaf in zip(found, leaves(module), strict=True):
        _, weight, _ = leaf.operands(x)
        assert int((weight != 0).sum()) <= part.nonzero
        assert leaf.bits == part.bits
        assert (leaf.mask is not None) == (part.nonzero < part.weights)
        if leaf.mask is not None:
            assert int(leaf.mask.sum()) == part.nonzero
        for row in weight.flatten(1) if part.bits < 32 else ():
            assert len(row.unique()) <= 2**part.bits - 1


@pytest.mark.parametrize("technique", CONV)
@settings(max_examples=12)
@given(inputs=CHANNELS, outputs=st.integers(2, 24), kernel=st.sampled_from([1, 3, 5]), side=st.integers(1, 6))
def test_a_convolutions_module_is_what_the_formula_counts(technique, inputs, outputs, kernel, side):
    shape = Shape("conv", inputs, outputs, kernel, side)
    layer, x = layer_of(shape)
    module = transform(layer, technique, x)
    check(module, parts(technique, shape), x)
    assert module(x).shape == layer(x).shape


def test_features_of_which_none_fires_are_given_no_weight():
    assert not techniques._solve(torch.zeros(6, 3), torch.randn(6, 2)).any()


@pytest.mark.parametrize("technique", [t for t in FC if t != "gap"])
@settings(max_examples=12)
@given(inputs=CHANNELS, outputs=CHANNELS)
def test_a_linear_layers_module_is_what_the_formula_counts(technique, inputs, outputs):
    shape = Shape("linear", inputs, outputs)
    layer, x = layer_of(shape)
    module = transform(layer, technique, x)
    check(module, parts(technique, shape), x)
    assert module(x).shape == layer(x).shape


def test_formulas_of_the_paper_by_hand():
    wide = Shape("conv", 64, 128, 3, 16)
    base = sum(p.weights for p in parts("none", wide))
    assert base == 73_728
    separable = parts("separable", wide)
    assert sum(p.weights for p in separable) == 9 * 64 + 64 * 128 == 8_768
    assert base / 8_768 == pytest.approx(9 * 128 / (9 + 128), abs=0.01) == pytest.approx(8.41, abs=0.01)
    assert sum(p.macs for p in separable) == 8_768 * 256
    fire = parts("fire", wide)
    assert sum(p.weights for p in fire) == 64 * 16 + 16 * 64 + 9 * 16 * 64 == 11_264
    assert base / 11_264 == pytest.approx(6.55, abs=0.005)
    r, m = 128 // 6, 32
    assert sum(p.weights for p in parts("svd", wide)) == 9 * 64 * r + r * 128
    assert sum(p.weights for p in parts("mlpconv", wide)) == 9 * 64 * m + m * m + m * 128


def test_stored_bits_by_hand():
    assert Part(10, 20, bias=True).stored_bits == 32 * 200 + 32 * 20
    assert Part(10, 20, kept=0.1).stored_bits == 20 * 32 + 200
    assert Part(10, 20, bits=4).stored_bits == 200 * 4 + 20 * 32
    assert Part(10, 20, kept=0.1, bits=4).stored_bits == 20 * 4 + 200 + 20 * 32


# --- beginnings ------------------------------------------------------------------------------------------------


def test_svd_and_separable_are_exact_where_the_weights_allow():
    torch.manual_seed(1)
    conv, x = Conv(4, 12, 3), torch.randn(3, 4, 5, 5)
    conv.weight.data = torch.einsum("or,rckl->ockl", torch.randn(12, 2), torch.randn(2, 4, 3, 3))  # rank 12 // 6
    torch.testing.assert_close(transform(conv, "svd", x)(x), conv(x), atol=1e-4, rtol=1e-4)
    conv.weight.data = torch.einsum("oc,ckl->ockl", torch.randn(12, 4), torch.randn(4, 3, 3))
    torch.testing.assert_close(transform(conv, "separable", x)(x), conv(x), atol=1e-4, rtol=1e-4)
    dense, x = Dense(30, 20), torch.randn(7, 30)
    dense.weight.data = torch.randn(20, 12) @ torch.randn(12, 30)
    torch.testing.assert_close(transform(dense, "svd", x)(x), dense(x), atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("technique", ["svd", "separable"])
def test_no_small_change_fits_better(technique):
    """Best fits: any perturbation of the factors is farther from the weights."""
    torch.manual_seed(2)
    conv, x = Conv(5, 12, 3), torch.randn(2, 5, 6, 6)
    module = transform(conv, technique, x)
    eye = torch.eye(5 * 9).view(45, 5, 3, 3)  # every weight seen in the middle of a 3x3 input

    def error():
        return float((module(eye)[:, :, 1, 1] - conv(eye)[:, :, 1, 1]).detach().square().sum())

    best = error()
    for trial in range(20):
        torch.manual_seed(trial)
        for leaf in leaves(module):
            noise = 0.02 * torch.randn_like(leaf.weight)
            leaf.weight.data += noise
            assert error() > best
            leaf.weight.data -= noise


def test_pruning_keeps_the_largest_and_rounding_is_to_the_nearest():
    torch.manual_seed(3)
    dense, x = Dense(20, 10), torch.randn(4, 20)
    module = transform(dense, "prune", x)
    kept = dense.weight.detach().abs()[module.mask]
    assert kept.min() >= dense.weight.detach().abs()[~module.mask].max()
    step = dense.weight.detach().abs().amax(1, keepdim=True) / 7
    grid = step * torch.arange(-7, 8)
    nearest = (dense.weight.detach()[:, :, None] - grid[:, None]).abs().amin(-1)
    _, weight, _ = transform(dense, "bits4", x).operands(x)
    torch.testing.assert_close((step * weight - dense.weight).abs(), nearest, atol=1e-6, rtol=0)
    _, deep, _ = transform(dense, "deep", x).operands(x)
    assert ((deep != 0) <= module.mask).all()


@pytest.mark.parametrize("kind", ["conv", "linear"])
@pytest.mark.parametrize(("technique", "bits"), [("bits8", 8), ("bits4", 4), ("deep", 4)])
def test_a_rounded_layer_multiplies_integers_and_answers_as_rounded_numbers_would(kind, technique, bits):
    layer, x = layer_of(Shape(kind, 20, 10, 3 if kind == "conv" else 1, 5 if kind == "conv" else 1))
    x, module = F.relu(x), transform(layer, technique, x)
    levels, weight, _ = (t.detach() for t in module.operands(x))
    for whole, top in ((levels, 255), (weight, 2 ** (bits - 1) - 1)):
        assert torch.equal(whole, whole.round())
        assert float(whole.abs().max()) == top
    kept = layer.weight.detach() if module.mask is None else layer.weight.detach() * module.mask
    step = kept.flatten(1).abs().amax(1).clamp(min=1e-9).view(-1, *[1] * (kept.ndim - 1)) / (2 ** (bits - 1) - 1)
    known = (x * 255 / x.max()).round() * x.max() / 255, (kept / step).round() * step
    known = F.conv2d(*known, padding=1) if kind == "conv" else F.linear(*known, layer.bias)
    torch.testing.assert_close(module(x), known, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("technique", ["prune", "bits4", "deep"])
def test_zeros_stay_zero_and_gradients_pass_the_rounding(technique):
    dense, x = layer_of(Shape("linear", 20, 10))
    module = transform(dense, technique, x)
    optimiser = torch.optim.SGD(module.parameters(), 0.5, momentum=0.9)
    before = module.weight.detach().clone()
    for _ in range(3):
        optimiser.zero_grad()
        module(x).square().mean().backward()
        optimiser.step()
    _, weight, _ = module.operands(x)
    assert (module.weight.detach() != before).any()
    if module.mask is not None:
        assert (weight[~module.mask] == 0).all()


@pytest.mark.parametrize("technique", ["fire", "mlpconv"])
def test_fitted_modules_answer_better_than_fresh_ones(technique):
    torch.manual_seed(4)
    conv, x = Conv(8, 24, 3), F.relu(torch.randn(30, 8, 6, 6))
    module = transform(conv, technique, x)
    fresh = transform(Conv(8, 24, 3), technique, x)
    answer = conv(x).detach()
    error, other = (float((m(x).detach() - answer).square().mean() / answer.square().mean()) for m in (module, fresh))
    assert error < 0.8 < other
    last = leaves(module)[-1]
    residual = (module(x) - conv(x))[:, -last.out_channels :]
    torch.autograd.backward(residual.square().sum())
    assert last.weight.grad.abs().max() < 0.05 * residual.square().sum() / last.weight.abs().max(), "least squares"


@pytest.mark.parametrize("technique", ["fire", "mlpconv"])
def test_the_sign_of_a_singular_vector_does_not_matter(technique, monkeypatch):
    """Libraries differ in it."""
    torch.manual_seed(6)
    conv, x = Conv(8, 24, 3), F.relu(torch.randn(10, 8, 6, 6))
    before = transform(conv, technique, x)(x)
    svd = torch.linalg.svd

    def other(*args, **options):
        u, s, v = svd(*args, **options)
        return torch.return_types.linalg_svd((-u, s, -v))

    monkeypatch.setattr(torch.linalg, "svd", other)
    torch.testing.assert_close(transform(conv, technique, x)(x), before)


# --- designs ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(5)
    return Net(widths=(8, 16, 16), hidden=40).eval()


@pytest.mark.parametrize("design", [("none",) * 3, ("deep", "fire", "svd"), ("separable", "mlpconv", "gap")])
def test_a_design_costs_what_its_network_costs(net, design):
    x = torch.rand(30, 1, 8, 8)
    twin, found = compress(net, design, x), techniques.design_parts(techniques.shapes(net), design)
    flat = [part for layer in found for part in layer]
    assert [p.weights for p in flat] == [leaf.weight.numel() for leaf in leaves(twin)]
    assert cost.count(twin.eval(), x[:1])["forward"].sum() == sum(p.macs for p in flat)
    # Biases: batch normalisation folds into one a filter.
    biases = sum(n.num_features for n in twin.norms) + sum(m.out_features for m in leaves(twin) if m.bias is not None)
    assert sum(p.outputs for p in flat if p.bias) == biases
    assert twin(x).shape == (30, 10)


def test_without_techniques_nothing_changes_and_the_net_itself_never_does(net):
    x = torch.rand(30, 1, 8, 8)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    answer = net(x)
    torch.testing.assert_close(compress(net, ("none",) * 3, x)(x), answer)
    for design in (("deep", "fire", "svd"), ("svd", "mlpconv", "gap")):
        assert not torch.allclose(compress(net, design, x)(x), answer)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_average_pooling_is_fitted_to_the_nets_own_logits(net):
    x = torch.rand(60, 1, 8, 8)
    twin = compress(net, ("none", "none", "gap"), x)
    means, logits = net.inner(x)[-1].mean((2, 3)), net(x)
    features = torch.cat([means, torch.ones(60, 1)], 1)
    best = torch.linalg.lstsq(features, logits).solution
    error, least = ((y - logits).square().mean().item() for y in (twin(x), features @ best))
    assert error < 1.5 * least + 1e-4


def test_unknown_techniques_are_refused():
    with pytest.raises(WorkbenchError, match="no technique for a linear layer"):
        parts("fire", Shape("linear", 3, 3))
    with pytest.raises(WorkbenchError, match="no technique for a conv layer"):
        parts("gap", Shape("conv", 3, 3))


def test_every_technique_has_a_smaller_module_than_the_layer_it_replaces():
    shapes = techniques.shapes(Net())
    for shape in shapes[1:3]:
        for technique in CONV[1:]:
            assert sum(p.stored_bits for p in parts(technique, shape)) < parts("none", shape)[0].stored_bits
    for technique in FC[1:]:
        assert sum(p.stored_bits for p in parts(technique, shapes[3])) < parts("none", shapes[3])[0].stored_bits
    assert isinstance(Net().head[1], nn.Linear)


# --- layers and networks of others -----------------------------------------------------------------------------


@pytest.mark.parametrize("technique", [t for t in CONV if t != "none"])
@given(stride=st.integers(1, 3), padding=st.integers(0, 2), dilation=st.integers(1, 2), groups=st.sampled_from([1, 2]),
       bias=st.booleans(), mode=st.sampled_from(["zeros", "reflect"]))  # fmt: skip
def test_a_convolution_of_torch_is_refused(technique, stride, padding, dilation, groups, bias, mode):
    layer = nn.Conv2d(4, 16, 3, stride, padding, dilation, groups, bias, mode)
    with pytest.raises(WorkbenchError, match="cannot transform a Conv2d"):
        transform(layer, technique, torch.randn(2, 4, 8, 8))


@pytest.mark.parametrize("layer", [nn.Linear(4, 16), nn.ReLU(), Conv(4, 16, 3, groups=2), Conv(4, 16, 2)])
def test_other_layers_are_refused(layer):
    with pytest.raises(WorkbenchError, match="cannot transform"):
        transform(layer, "prune", torch.randn(2, 4, 8, 8))


@pytest.mark.parametrize("technique", CONV)
@given(stride=st.integers(1, 3), padding=st.integers(0, 2), dilation=st.integers(1, 2),
       mode=st.sampled_from(["zeros", "reflect"]), kernel=st.sampled_from([1, 3]))  # fmt: skip
def test_a_convolution_changed_after_it_was_built_is_refused(technique, stride, padding, dilation, mode, kernel):
    layer, x = Conv(4, 16, kernel), torch.randn(2, 4, 8, 8)
    layer.stride, layer.padding, layer.dilation = (stride,) * 2, (padding,) * 2, (dilation,) * 2
    layer.padding_mode = mode
    if (stride, padding, dilation, mode) == (1, kernel // 2, 1, "zeros"):
        assert transform(layer, technique, x)(x).shape == layer(x).shape
        return
    with pytest.raises(WorkbenchError, match="was changed after it was built"):
        transform(layer, technique, x)


def test_other_networks_are_refused():
    net = nn.Sequential(nn.Conv2d(1, 4, 3))
    for call in (lambda: compress(net, ("none",), torch.randn(1, 1, 8, 8)), lambda: techniques.shapes(net)):
        with pytest.raises(WorkbenchError, match="cannot compress a Sequential"):
            call()
