"""Shift and adder layers against integers, broadcasting and closed forms; what a layer does, not what it is called."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import broadcast_adder, integer_shift
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from workbench import WorkbenchError
from workbench.papers.shiftaddnet import method
from workbench.papers.shiftaddnet.adder import RATE, Adder2d, distances
from workbench.papers.shiftaddnet.method import KINDS, SmallNet, convert, layers
from workbench.papers.shiftaddnet.shift import FixedShift2d, ShiftPS2d, ShiftQ2d, fixed_point, round_power
from workbench.resnets import cifar_resnet
from workbench.training import generator

SHIFTS = {"Q": ShiftQ2d, "PS": ShiftPS2d, "fixed": FixedShift2d}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(4)


def draw(*shape, stream="x"):
    return torch.randn(shape, generator=generator("shiftaddnet test", stream, shape))


# --- shift layers --------------------------------------------------------------------------------------------------


def exponents(weights):
    """Of the nonzero weights; each must be a power of two to the last bit."""
    mantissa, exponent = torch.frexp(weights[weights != 0].abs())
    assert (mantissa == 0.5).all()
    return exponent - 1


@pytest.mark.parametrize("bits", [3, 4, 5])
@pytest.mark.parametrize("name", ["Q", "PS"])
def test_every_weight_is_zero_or_a_power_of_two_in_range(name, bits):
    layer = SHIFTS[name](8, 16, 3, bits=bits)
    with torch.no_grad():
        for p in layer.parameters():
            p.add_(draw(*p.shape, stream="spread") * 3)
    found = exponents(layer.weights())
    least = -(2 ** (bits - 1)) + (2 if name == "PS" else 1)
    assert layer.low == least
    assert found.max() <= 0
    assert found.min() >= least
    assert set(exponents(round_power(2.0 ** torch.arange(least, 1), least)).tolist()) == set(range(least, 1))


@pytest.mark.parametrize("name", SHIFTS)
@pytest.mark.parametrize(("stride", "padding", "kernel"), [(1, 1, 3), (2, 1, 3), (1, 0, 1), (2, 0, 3)])
def test_integers_and_bit_shifts_give_the_same_sums(name, stride, padding, kernel):
    layer, x = SHIFTS[name](3, 4, kernel, stride, padding), 3 * draw(2, 3, 6, 6)
    weights = layer.weights().detach()
    exponent, sign = torch.zeros_like(weights, dtype=torch.int32), weights.sign().int()
    exponent[weights != 0] = exponents(weights).int()
    integers = (x.double() * 2**16).floor().int()
    exact = F.conv2d(fixed_point(x).double(), weights.double(), None, stride, padding)
    guarded = integer_shift.shift_conv2d(integers, exponent, sign, stride, padding, guard=15)
    assert torch.equal(guarded.double() * 2.0**-31, exact)
    torch.testing.assert_close(layer(x).double(), exact, rtol=1e-5, atol=1e-5)
    truncated = integer_shift.shift_conv2d(integers, exponent, sign, stride, padding).double() * 2.0**-16
    assert (truncated - exact).abs().max() <= 3 * kernel**2 * 2.0**-16


def test_inputs_are_fixed_point():
    x = torch.tensor([0.3, -0.3, 1e-6, -1e-6, 7e4, -7e4])
    found = fixed_point(x)
    assert torch.equal(found * 2**16, (found * 2**16).round())
    assert found[2] == 0
    assert found[3] == -(2.0**-16)  # down, not to the nearest
    assert found[4:].tolist() == [2**15 - 1, -(2**15)]
    assert ((x[:4] - found[:4]) >= 0).all()
    x.requires_grad_()
    fixed_point(x).sum().backward()
    assert torch.equal(x.grad, torch.ones(6))


@pytest.mark.parametrize(("w", "log", "linear"), [(0.36, 0.5, 0.25), (0.73, 1.0, 0.5), (-0.36, -0.5, -0.25), (0, 0, 0)])
def test_log_and_linear_rounding_differ(w, log, linear):
    w = torch.tensor([float(w)])
    assert round_power(w, -7).item() == log
    assert round_power(w, -7, "linear").item() == linear


@given(st.lists(st.floats(-3, 3, width=32), min_size=1, max_size=20), st.integers(-15, -1))
def test_rounding_is_the_nearest_level_in_its_own_domain(values, low):
    w = torch.tensor(values)
    levels = 2.0 ** torch.arange(low, 1)
    for domain, of in (("log", torch.log2), ("linear", lambda v: v)):
        found = round_power(w, low, domain)
        assert ((found == 0) == (w == 0)).all()
        assert (found * w >= 0).all()
        size = w[w != 0].abs().double()
        off = (of(found[w != 0].abs().double()) - of(size)).abs()
        best = (of(levels.double())[:, None] - of(size)).abs().min(0).values
        assert (off <= best + 1e-6).all()


def test_share_of_weights_on_which_the_domains_differ():
    w = torch.empty(20_000).uniform_(0.005, 0.995, generator=generator("domains"))
    differ = (round_power(w, -15) != round_power(w, -15, "linear")).double().mean()
    # Between sqrt(2) 2^k and 1.5 2^k: a length of 0.0858 2^k of each octave 2^k, so 8.6 % of a uniform density.
    assert differ == pytest.approx(1.5 - math.sqrt(2), abs=0.006)


def test_q_keeps_its_stored_weights_in_range_and_passes_the_gradient():
    layer = ShiftQ2d(1, 1, 3, bits=4)
    layer.weight.data = torch.tensor([[[[0.0, 2.0, -3.0], [1e-9, -1e-9, 0.3], [0.5, -0.5, 1.0]]]])
    layer.weights().backward(3 * torch.ones(1, 1, 3, 3))
    assert layer.weight.flatten().tolist() == pytest.approx([0, 1, -1, 2**-7, -(2**-7), 0.3, 0.5, -0.5, 1])
    assert torch.equal(layer.weight.grad, 3 * torch.ones(1, 1, 3, 3))


def test_ps_gradients_leave_the_power_out_of_the_signs():
    layer = ShiftPS2d(2, 2, 1)
    shift, sign = torch.tensor([-3.0, -1.2, 0.0, -9.0]), torch.tensor([0.2, -0.8, 1.0, -0.4])
    layer.shift.data, layer.sign.data = shift.view(2, 2, 1, 1).clone(), sign.view(2, 2, 1, 1).clone()
    weights = layer.weights()
    assert weights.flatten().tolist() == [0, -0.5, 1, 0]
    g = torch.tensor([5.0, -2.0, 0.5, 7.0])
    weights.backward(g.view(2, 2, 1, 1))
    assert torch.equal(layer.sign.grad.flatten(), g)  # g, not g 2^p; and where the sign is 0, too
    powers = torch.tensor([2.0**-3, 2.0**-1, 1, 2.0**-9])
    expected = g * torch.tensor([0.0, -1, 1, 0]) * powers * math.log(2)
    torch.testing.assert_close(layer.shift.grad.flatten(), expected)


def test_ps_starts_uniform_with_half_of_the_weights_zero_and_snaps_to_what_it_computes():
    layer = ShiftPS2d(64, 64, 3)
    before = layer.weights().detach()
    assert (before == 0).double().mean() == pytest.approx(0.5, abs=0.02)
    assert layer.shift.min() > -14
    assert layer.shift.mean().item() == pytest.approx(-7, abs=0.1)
    layer.snap()
    assert torch.equal(layer.weights(), before)
    assert torch.equal(layer.shift, layer.shift.round())
    assert set(layer.sign.unique().tolist()) == {-1, 0, 1}


def test_fixed_shifts_are_drawn_once_and_never_trained():
    layer = FixedShift2d(64, 64, 3)
    weights = layer.weights().detach().clone()
    found = exponents(weights)
    assert (weights == 0).double().mean() == pytest.approx(0.5, abs=0.02)
    assert found.min() >= -7
    assert found.max() <= 0
    assert found.double().mean().item() == pytest.approx(-3.5, abs=0.05)
    net = nn.Sequential(layer, Adder2d(64, 4, 1))
    optimiser = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9, weight_decay=0.1)
    net(draw(1, 64, 3, 3)).sum().backward()
    optimiser.step()
    assert torch.equal(layer.weights(), weights)


# --- adder layers --------------------------------------------------------------------------------------------------


def differ_from_broadcast(x, layer, g):
    """Output and both gradients beside those of the broadcast formulation."""
    own, w = x.clone().requires_grad_(), layer.weight.detach().clone().requires_grad_()
    theirs = x.clone().requires_grad_()
    expected = broadcast_adder.adder2d(theirs, w, layer.stride[0], layer.padding[0])
    found = layer(own)
    layer.weight.grad = None
    found.backward(g(expected))
    expected.backward(g(expected))
    pairs = (found, expected), (own.grad, theirs.grad), (layer.weight.grad, w.grad)
    return [((a - b).abs().max() / b.abs().max()).item() for a, b in pairs]


@settings(max_examples=40)
@given(
    st.integers(1, 3), st.integers(1, 4), st.integers(1, 5), st.sampled_from([1, 3]), st.sampled_from([1, 2]),
    st.sampled_from([0, 1]), st.integers(3, 7), st.integers(3, 6), st.integers(0, 10**6),
)  # fmt: skip
def test_an_adder_layer_is_the_broadcast_one(n, inputs, outputs, kernel, stride, padding, height, width, seed):
    torch.manual_seed(seed)
    layer, x = Adder2d(inputs, outputs, kernel, stride, padding), 2 * torch.randn(n, inputs, height, width)
    noise = torch.Generator().manual_seed(seed)
    g = torch.randn(layer(x).shape, generator=noise)
    assert max(differ_from_broadcast(x, layer, lambda _: g)) < 1e-5


def test_many_tiles_are_the_broadcast_layer_too():
    layer, x = Adder2d(48, 40, 3, 1, 1), draw(6, 48, 8, 8)
    g = draw(6, 40, 8, 8, stream="g")
    assert 600_000 // layer.weight.numel() < 384 / 4  # so that there are many, and the last is not full
    assert max(differ_from_broadcast(x, layer, lambda _: g)) < 1e-5


def test_w_gradient_is_the_closed_form_and_not_the_sign():
    layer, x = Adder2d(3, 5, 3, 1, 1, rate=None), 3 * draw(2, 3, 6, 6)
    g = draw(2, 5, 6, 6, stream="g")
    layer(x).backward(g)
    rows, errors = F.unfold(x, 3, padding=1), g.flatten(2)  # [n, K, L], [n, O, L]
    w = layer.weight.detach().flatten(1)
    closed = torch.einsum("nol,nkl->ok", errors, rows) - w * errors.sum((0, 2))[:, None]
    torch.testing.assert_close(layer.weight.grad.flatten(1), closed, rtol=1e-4, atol=1e-4)
    difference = rows[:, None] - w[None, :, :, None]
    assert (difference.abs() > 1).any()
    assert not torch.allclose(closed, torch.einsum("nol,nokl->ok", errors, difference.sign()), rtol=0.1)
    clipped = torch.einsum("nol,nokl->ok", errors, difference.clamp(-1, 1))
    assert not torch.allclose(closed, clipped, rtol=0.1)


def test_x_gradient_is_clipped():
    layer = Adder2d(1, 1, 1, rate=None)
    layer.weight.data.fill_(0.5)
    x = torch.tensor([-3.0, 0.1, 0.5, 0.9, 8.0]).view(1, 1, 1, 5).requires_grad_()
    layer(x).sum().backward()
    assert x.grad.flatten().tolist() == pytest.approx([1, 0.4, 0, -0.4, -1])
    assert layer.weight.grad.item() == pytest.approx(-3 + 0.1 + 0.5 + 0.9 + 8 - 5 * 0.5)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1000.0])
def test_the_local_rate_sets_the_length_whatever_the_loss(scale):
    layer, x, g = Adder2d(4, 6, 3, 1, 1), draw(2, 4, 5, 5), draw(2, 6, 5, 5, stream="g")
    layer(x).backward(g)
    once, layer.weight.grad = layer.weight.grad, None
    layer(x).backward(scale * g)
    assert layer.weight.grad.norm().item() == pytest.approx(RATE * layer.weight.numel() ** 0.5, rel=1e-5)
    torch.testing.assert_close(layer.weight.grad, once, rtol=1e-5, atol=1e-6)


def test_no_gradient_is_no_step_and_not_nan():
    layer = Adder2d(2, 3, 3)
    layer(draw(1, 2, 4, 4)).backward(torch.zeros(1, 3, 2, 2))
    assert torch.equal(layer.weight.grad, torch.zeros_like(layer.weight))


def test_zeros_around_the_image_count():
    layer = Adder2d(3, 4, 3, 1, 1)
    layer.weight.data = (layer.weight.data * 64).round() / 64  # so that sums are exact
    out = layer(torch.zeros(1, 3, 5, 5))
    assert torch.equal(out, -layer.weight.abs().sum((1, 2, 3)).view(1, 4, 1, 1).expand(1, 4, 5, 5))


class Trace(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.overloadpacket.__name__.rstrip("_"))
        return func(*args, **(kwargs or {}))


MULTIPLY = {"mul", "mm", "addmm", "bmm", "baddbmm", "matmul", "convolution", "dot", "mv", "div", "pow", "einsum"}


def test_an_adder_layer_multiplies_only_backwards():
    layer, x = Adder2d(4, 6, 3, 1, 1), draw(2, 4, 5, 5).requires_grad_()
    with Trace() as forward:
        out = layer(x)
    assert forward.names.isdisjoint(MULTIPLY)
    assert {"maximum", "sum"} <= forward.names
    with Trace() as backward:
        out.sum().backward()
    assert {"mm", "bmm"} <= backward.names
    with Trace() as conv:  # the trace would see one
        nn.Conv2d(4, 6, 3)(x)
    assert "convolution" in conv.names


def test_distances_are_those_of_cdist():
    a, b = draw(300, 20), draw(7, 20, stream="b")
    torch.testing.assert_close(distances(a, b), torch.cdist(a, b, p=1), rtol=1e-5, atol=1e-5)


def test_an_adder_counts_two_additions_a_mac_and_multiplies_backwards():
    layer, x = Adder2d(4, 6, 3, 2, 1), torch.empty(2, 4, 8, 8)
    out = layer(x)
    forward, dx, dw = layer.training_operations(x, out)
    macs = out.numel() * 4 * 9
    assert forward == (0, 2 * macs, 0, 0)
    assert dx.multiplies == macs
    assert dw.multiplies == macs + layer.weight.numel()


@pytest.mark.parametrize("name", SHIFTS)
def test_a_shift_layer_counts_a_shift_and_an_addition_a_mac(name):
    layer, x = SHIFTS[name](4, 6, 3, 2, 1), torch.empty(2, 4, 8, 8)
    macs = 2 * 6 * 4 * 4 * 4 * 9
    forward, dx, dw = layer.training_operations(x, layer(x))
    assert forward == dx == (0, macs, macs, 0)
    assert dw == (macs, macs, 0, 0)


# --- networks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_small_net_trains_a_step(kind):
    net, x = SmallNet(kind, 4), draw(6, 1, 8, 8)
    F.cross_entropy(net(x), torch.arange(6)).backward()
    for name, p in net.named_parameters():
        assert not p.requires_grad or p.grad.isfinite().all(), name
    assert net(x).shape == (6, 10)


def test_a_unit_is_shift_then_adder_of_the_new_width_then_norm():
    shift, adder, norm, relu = method.unit("shift-PS+add", 4, 8, 2)
    assert isinstance(shift, ShiftPS2d)
    assert (shift.in_channels, shift.out_channels, shift.stride) == (4, 8, (2, 2))
    assert (adder.in_channels, adder.out_channels, adder.stride) == (8, 8, (1, 1))
    assert isinstance(norm, nn.BatchNorm2d)
    assert isinstance(relu, nn.ReLU)


def test_conversion_swaps_every_convolution_and_no_linear_layer():
    net = convert(cifar_resnet(8), "shift-Q+add")
    kinds = [type(m) for m in net.modules()]
    assert nn.Conv2d not in kinds
    assert kinds.count(ShiftQ2d) == 9  # stem, six in blocks, two shortcuts
    assert kinds.count(Adder2d) == 8  # none behind the stem
    assert kinds.count(nn.Linear) == 1
    assert net(draw(2, 3, 8, 8)).shape == (2, 10)
    assert [method.edge(kind) for kind in ("add", "fixed+add", "shift-PS+add", "mult")] == [
        "mult", "mult", "shift-PS", "mult",
    ]  # fmt: skip


def test_an_unknown_kind_is_refused_by_naming_the_known_ones():
    with pytest.raises(WorkbenchError, match="shift-PS"):
        layers("xor", 1, 1, 3)
