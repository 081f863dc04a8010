"""The quantiser: what lies on the grid, what does not, what the two backward products see, and what is unbiased."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import plain_quantizer
from torch import nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_input, conv2d_weight

from workbench import WorkbenchError, training
from workbench.quantize import (
    BLOCK,
    POOL,
    QuantConv2d,
    QuantLinear,
    _pool,
    dequantize,
    nearest,
    quantize,
    quantize_activation,
    quantize_error,
    quantize_weight,
    reestimate,
    set_bits,
    span,
    stochastic,
)
from workbench.training import generator

SMALLEST = 3e-35  # a step is TINY too large, so 2^10 of them are off by this at most
bit_widths = st.integers(1, 10)
values = st.lists(st.floats(-1000, 1000, width=32), min_size=1, max_size=40).map(torch.tensor)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=generator("quantise", seed))


def small_net(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        convs = [nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.Conv2d(4, 4, 3, stride=2, padding=1)]
        norms = [nn.BatchNorm2d(4), nn.BatchNorm2d(4)]
        head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(4, 3)]
        return nn.Sequential(convs[0], norms[0], nn.ReLU(), convs[1], norms[1], nn.ReLU(), *head)


# --- the grid ------------------------------------------------------------------------------------------------


def test_levels_start_at_the_low_end_so_zero_need_not_be_one():
    x = torch.tensor([-1.0, 0.0, 0.7])
    torch.testing.assert_close(quantize_activation(x, 2), torch.tensor([-1.0, -1 + 2 * 1.7 / 3, 0.7]))
    torch.testing.assert_close(quantize_activation(x, 3), torch.tensor([-1.0, -1 + 4 * 1.7 / 7, 0.7]))
    assert quantize_activation(x.relu(), 3)[0] == 0  # after a ReLU it is


@given(values, bit_widths)
def test_nearest_has_at_most_two_to_the_bits_levels_within_half_a_step(x, bits):
    low, high = span(x)
    quantised, step = quantize_activation(x, bits), (high - low) / (2**bits - 1)
    assert len(quantised.unique()) <= 2**bits
    assert (quantised - x).abs().max() <= step / 2 + 1e-6 * x.abs().max() + SMALLEST
    torch.testing.assert_close(quantised, plain_quantizer.activation(x, bits), atol=1e-6 * 1000 + step, rtol=0)


@given(values, bit_widths)
def test_nearest_is_idempotent(x, bits):
    low, high = span(x)
    once = nearest(x, low, high, bits)
    assert torch.equal(nearest(once, low, high, bits), once)
    again = quantize_activation(once, bits)  # its range, found anew, may differ in the last digit
    torch.testing.assert_close(again, once, atol=4e-7 * float(x.abs().max()) + SMALLEST, rtol=0)


@given(values, bit_widths, st.integers(0, 10**6))
def test_stochastic_goes_to_one_of_the_two_levels_beside_and_keeps_to_the_levels(x, bits, seed):
    low, high = span(x)
    rounded, step = stochastic(x, bits, generator(seed)), (high - low) / (2**bits - 1)
    assert len(rounded.unique()) <= 2**bits
    slack = 1e-5 * (high - low) + 1e-6 * x.abs().max() + SMALLEST
    assert (rounded - x).abs().max() <= step + slack
    assert rounded.min() >= low
    assert rounded.max() <= high + slack


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
def test_dense_data_uses_every_level(bits):
    x = torch.linspace(-1, 2, 20000)
    assert len(quantize_activation(x, bits).unique()) == 2**bits
    assert len(stochastic(x, bits, generator(bits)).unique()) == 2**bits
    w = quantize_weight(x * torch.tensor([[1.0], [-3.0], [0.01]]), bits)
    assert [len(channel.unique()) for channel in w] == [2**bits] * 3


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_torchs_own_fake_quantisation_agrees_where_zero_is_a_level(bits):
    n, zero, step = 2**bits - 1, 2 ** (bits - 1) - 1, 0.037
    x = normal(5000).clamp_(-zero * step, (n - zero) * step)
    x[0], x[1] = -zero * step, (n - zero) * step
    theirs = torch.fake_quantize_per_tensor_affine(x, step, zero, 0, n)
    torch.testing.assert_close(quantize_activation(x, bits), theirs, atol=1e-6, rtol=0)
    w, zeros = torch.stack([x, 2 * x]), torch.tensor([zero, zero], dtype=torch.int32)
    theirs = torch.fake_quantize_per_channel_affine(w, torch.tensor([step, 2 * step]), zeros, 0, 0, n)
    torch.testing.assert_close(quantize_weight(w, bits), theirs, atol=1e-5, rtol=0)  # steps: 0.037, 0.074


@pytest.mark.parametrize("function", [quantize_weight, quantize_activation, stochastic])
def test_a_constant_tensor_stays_and_a_nan_or_infinity_is_not_hidden(function):
    for value in (0.0, -3.7, 1e-30):
        x = torch.full((2, 5), value)
        assert torch.equal(function(x, 4), x)
    for broken in (torch.nan, torch.inf, -torch.inf):
        x = normal(1, 50)
        x[0, 7] = broken
        assert function(x, 4).isnan().all()
    assert torch.equal(function(x, 32), x) or broken != broken
    with pytest.raises(WorkbenchError, match="bits must be a whole number of at least 1"):
        function(x, 0)


@pytest.mark.parametrize("scale", [1e-30, 1e-9, 1e30])
def test_the_grid_follows_the_scale_of_the_numbers(scale):
    x = normal(1000)
    for function in (quantize_activation, lambda x, bits: stochastic(x, bits, generator(0))):
        torch.testing.assert_close(function(x * scale, 6) / scale, function(x, 6), atol=1e-5, rtol=0)


FLOATS = {torch.float16: 6e4, torch.bfloat16: 3e38, torch.float32: 3e38, torch.float64: 1.7e308}


@given(
    st.sampled_from(list(FLOATS)),
    st.lists(st.integers(1, 4), min_size=2, max_size=4),
    st.integers(1, 16),
    st.sampled_from(["normal", "constant", "a constant channel", "widest", "tiny"]),
    st.sampled_from(["plain", "transposed", "expanded", "strided"]),
    st.sampled_from([quantize_weight, quantize_activation, stochastic]),
    st.integers(0, 99),
)
def test_every_finite_tensor_comes_out_finite_within_a_step_and_within_its_range(
    dtype, shape, bits, kind, layout, function, seed
):
    x = torch.randn(shape, generator=generator("kinds", seed), dtype=torch.float64)
    x = x.clamp(-3, 3) / 3 * {"widest": FLOATS[dtype], "tiny": torch.finfo(dtype).tiny}.get(kind, 1.0)
    x = torch.full_like(x, 0.7) if kind == "constant" else x
    x[0] = 0.3 if kind == "a constant channel" else x[0]
    if kind == "widest":
        x.view(-1)[0], x.view(-1)[-1] = FLOATS[dtype], -FLOATS[dtype]
    x = x.to(dtype)
    x = {
        "plain": lambda: x,
        "transposed": lambda: x.mT.contiguous().mT,
        "expanded": lambda: x[:1].expand(3, *shape[1:]),
        "strided": lambda: torch.stack([x, -x], -1)[..., 0],
    }[layout]()
    before = x.clone()
    found = function(x, bits)
    assert torch.equal(x, before)
    assert found.dtype == dtype
    assert found.shape == x.shape
    assert found.isfinite().all()
    wide, out = x.double() / 2, found.double() / 2  # halves: the range itself may be no number
    rest = tuple(range(1, x.ndim)) if function is quantize_weight else tuple(range(x.ndim))
    low, high = wide.amin(rest, keepdim=True), wide.amax(rest, keepdim=True)
    step, digit = (high - low) / (2**bits - 1), 8 * torch.finfo(dtype).eps * wide.abs().max()
    slack = digit + 2.0**-16 * (high - low) + 2**bits * torch.finfo(torch.float32).tiny
    assert ((out - wide).abs() <= (step if function is stochastic else step / 2) + slack).all()
    assert (out >= low - slack).all()
    assert (out <= high + slack).all()
    for row in out if function is quantize_weight else [out]:
        assert len(row.unique()) <= 2**bits


def test_a_range_beyond_its_type_has_the_right_levels():
    x = torch.tensor([-3e38, -1e38, 0.9e38, 3e38])
    expected = [-3e38, -1e38, 1e38, 3e38]
    assert quantize_activation(x, 2).tolist() == pytest.approx(expected, rel=1e-6)
    assert quantize_weight(x[None], 2)[0].tolist() == pytest.approx(expected, rel=1e-6)
    assert quantize_activation(torch.stack([x, x / 3e38]), torch.tensor([2, 2]))[0].tolist() == pytest.approx(expected)
    inside = torch.tensor([-3e38, 0.5e38, 3e38], requires_grad=True)
    quantize_activation(inside, 2).sum().backward()
    assert inside.grad.tolist() == [1, 1, 1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_what_float32_gives_rounded(dtype):
    x = normal(4, 50).to(dtype)
    for function in (quantize_weight, quantize_activation, lambda x, bits: stochastic(x, bits, generator("half"))):
        assert torch.equal(function(x, 8), function(x.float(), 8).to(dtype))


NUMBERS = normal(2, 3, 4)


BAD_BITS = [0, -3, 2.5, torch.nan, torch.inf, [0, 2], [-3.0, 4], [torch.nan, 2], [2, torch.inf], [2, 3, 4], [[2, 3]]]


@pytest.mark.parametrize("bits", [torch.tensor(b) if isinstance(b, list) else b for b in BAD_BITS], ids=str)
@pytest.mark.parametrize("function", [quantize_weight, quantize_activation, quantize_error, stochastic])
def test_bits_that_make_no_grid_are_refused_in_one_line(function, bits):
    with pytest.raises(WorkbenchError, match="bits") as refused:
        function(NUMBERS, bits)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("x", [torch.empty(0), torch.empty(2, 0, 3), torch.ones(2, 3, dtype=torch.int64)], ids=str)
@pytest.mark.parametrize("function", [quantize_weight, quantize_activation, stochastic])
def test_what_has_no_range_is_refused(function, x):
    with pytest.raises(WorkbenchError, match="cannot be quantised"):
        function(x, 4)


def test_a_weight_without_an_axis_of_inputs_is_refused():
    for x, bits in ((normal(5), 4), (normal(2, 5), torch.tensor([4, 4]))):
        with pytest.raises(WorkbenchError, match="axes or more"):
            quantize_weight(x, bits)
    with pytest.raises(WorkbenchError, match="1 generators for 2 models"):
        stochastic(NUMBERS, torch.tensor([3, 4]), [generator(0)])
    with pytest.raises(WorkbenchError, match="is empty"):
        quantize(small_net())(torch.empty(0, 2, 8, 8))
    for momentum in (-0.1, torch.nan):
        with pytest.raises(WorkbenchError, match="momentum"):
            quantize(small_net(), momentum=momentum)


# --- gradients -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [quantize_weight, quantize_activation])
def test_the_gradient_passes_the_rounding_straight_through(function):
    x, upstream = normal(4, 30).requires_grad_(), normal(4, 30, seed=1)
    function(x, 3).backward(upstream)
    assert torch.equal(x.grad, upstream)
    # The true derivative is zero almost everywhere: without the rule nothing would train.
    x = x.detach()
    inner = (x != x.amin(1, keepdim=True)) & (x != x.amax(1, keepdim=True))
    assert (function(x + 1e-7 * inner, 3) - function(x, 3)).abs().max() < 1e-5


def test_an_error_is_quantised_on_the_way_back_only():
    y, upstream = normal(6, 50).requires_grad_(), normal(6, 50, seed=1)
    out = quantize_error(y, 3, generator("noise"))
    assert torch.equal(out, y)
    out.backward(upstream)
    assert torch.equal(y.grad, stochastic(upstream, 3, generator("noise")))
    assert 2 < len(y.grad.unique()) <= 8


@settings(max_examples=40)
@given(
    bits=st.sampled_from([2, 4, 8, 32]),
    error_bits=st.sampled_from([2, 6, 8, 32]),
    stride=st.integers(1, 2),
    padding=st.integers(0, 2),
    groups=st.sampled_from([1, 2]),
    bias=st.booleans(),
    seed=st.integers(0, 100),
)
def test_both_backward_products_of_a_convolution_see_quantised_operands(
    bits, error_bits, stride, padding, groups, bias, seed
):
    torch.manual_seed(seed)
    conv = nn.Conv2d(4, 6, 3, stride, padding, groups=groups, bias=bias)
    twin = quantize(conv, bits=bits, error_bits=error_bits, generator=generator(seed))
    x = normal(3, 4, 7, 7, seed=seed).requires_grad_()
    y = twin(x)
    G = normal(*y.shape, seed=seed + 1)
    y.backward(G)

    xq, wq = quantize_activation(x.detach(), bits), quantize_weight(conv.weight.detach(), bits)
    gq = stochastic(G, error_bits, generator(seed))
    assert torch.equal(y, F.conv2d(xq, wq, conv.bias, stride, padding, groups=groups))
    assert torch.equal(twin.weight.grad, conv2d_weight(xq, wq.shape, gq, stride, padding, groups=groups))
    assert torch.equal(x.grad, conv2d_input(x.shape, wq, gq, stride, padding, groups=groups))
    if bias:
        torch.testing.assert_close(twin.bias.grad, gq.sum((0, 2, 3)), atol=1e-3, rtol=0)
    if error_bits < 8:  # and not the error as it came in
        exact = conv2d_weight(xq, wq.shape, G, stride, padding, groups=groups)
        assert (twin.weight.grad - exact).norm() > 1e-2 * exact.norm()


@pytest.mark.parametrize("shape", [(5, 8), (2, 5, 8)])
def test_both_backward_products_of_a_linear_layer_see_quantised_operands(shape):
    linear = nn.Linear(8, 6)
    twin = quantize(linear, [nn.Linear], bits=3, error_bits=4, generator=generator(0))
    x, G = normal(*shape).requires_grad_(), normal(*shape[:-1], 6, seed=1)
    y = twin(x)
    y.backward(G)
    xq, wq = quantize_activation(x.detach(), 3), quantize_weight(linear.weight.detach(), 3)
    gq = stochastic(G, 4, generator(0))
    assert torch.equal(y, F.linear(xq, wq, linear.bias))
    torch.testing.assert_close(x.grad, gq @ wq)
    torch.testing.assert_close(twin.weight.grad, gq.flatten(0, -2).T @ xq.flatten(0, -2))


def test_an_in_place_relu_may_follow():
    grads, x = [], normal(3, 2, 8, 8)
    for inplace in (True, False):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(inplace), nn.Conv2d(3, 2, 3))
        twin = quantize(net, generator=generator(0))
        twin(x).square().sum().backward()
        grads.append(twin[0].weight.grad)
    assert torch.equal(*grads)
    assert grads[0].any()


def test_a_network_agrees_with_the_plain_version():
    """All of forward and, with exact errors, backward; rounding differs in the last digit, so nothing is near a tie."""
    net = small_net().double()
    net[8].p = 0.0
    plain, twin = copy.deepcopy(net), quantize(net, bits=4, error_bits=32)
    for module in plain.modules():
        if type(module) is nn.Conv2d:
            module.__class__ = plain_quantizer.PlainConv2d
            module.bits, module.error_bits = 4, 50
    x = normal(5, 2, 8, 8).double()
    for model in (plain, twin):
        F.cross_entropy(model(x), torch.arange(5) % 3).backward()
    for mine, theirs in zip(twin.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-9, rtol=1e-6)


def test_the_weights_that_are_trained_stay_float32():
    twin = quantize(small_net(), bits=2)
    conv = twin[0]
    before = conv.weight.detach().clone()
    optimiser = torch.optim.SGD(twin.parameters(), lr=1e-4)
    twin(normal(8, 2, 8, 8)).square().sum().backward()
    optimiser.step()
    assert torch.equal(conv.weight, before - 1e-4 * conv.weight.grad)
    assert all(len(channel.unique()) > 4 for channel in conv.weight)


# --- stochastic rounding is unbiased ----------------------------------------------------------------------------


def scores(x, bits, draws, function):
    """Mean error of every entry over the draws, in units of its exact standard error; entries on a level left out."""
    low, high = span(x)
    step = (high - low) / (2**bits - 1) * (1 + 2**-18)
    share = ((x - low) / step).frac()
    mean = sum(function(x, bits).double() for _ in range(draws)) / draws
    error = step * (share * (1 - share) / draws).sqrt()
    inside = (share > 0.005) & (share < 0.995)
    return ((mean - x) / error)[inside]


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_mean_over_many_draws_is_the_number_itself(bits):
    x, noise = normal(4096), generator("draws", bits)
    z = scores(x, bits, 2000, lambda x, bits: stochastic(x, bits, noise))
    assert z.square().mean().sqrt() == pytest.approx(1, abs=0.08)
    assert z.abs().max() < 6
    assert abs(z.mean()) < 5 / len(z) ** 0.5
    assert scores(x, bits, 2000, quantize_activation).square().mean().sqrt() > 10  # what a biased rule looks like


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9, 0.99])
def test_how_often_a_number_goes_up_is_how_far_up_it_lies(share):
    x, noise, draws = torch.full((64,), 40 + share), generator("share", share), 2000
    x[0], x[1] = 0.0, 255.0
    up = sum((stochastic(x, 8, noise)[2:] > 40.5).sum().item() for _ in range(draws))
    expected = 62 * draws * share
    assert abs(up - expected) < 5 * (expected * (1 - share)) ** 0.5


def test_over_all_places_in_the_pool_every_entry_gets_exactly_uniform_noise():
    pool = _pool()
    assert torch.equal(pool[POOL:], pool[:BLOCK])  # a place near the end goes on at the start
    uniform = (torch.arange(POOL) + 0.5) / POOL
    assert torch.equal(pool[:POOL].sort().values, uniform)
    assert pool.min() > 0
    assert pool.max() < 1


def test_noise_is_not_shared_by_neighbours_draws_or_blocks():
    x, noise = torch.full((2 * BLOCK + 100,), 0.5), generator("correlation")
    x[0], x[1] = 0.0, 3.0
    first, second = (stochastic(x, 2, noise)[2:] for _ in range(2))
    limit = 5 / BLOCK**0.5

    def correlation(a, b):
        return torch.corrcoef(torch.stack([a, b]))[0, 1].abs()

    assert correlation(first, second) < limit
    assert correlation(first[: BLOCK - 2], first[BLOCK : 2 * BLOCK - 2]) < limit
    for distance in (1, 7, 32, 1024):
        assert correlation(first[:-distance], first[distance:]) < limit


def test_the_sum_of_a_tensor_varies_as_independent_rounding_would():
    x, noise, draws = torch.rand(500, generator=generator("sum")) * 15, generator("sums"), 4000
    low, high = span(x)
    step = (high - low) / 15 * (1 + 2**-18)
    share = ((x - low) / step).frac()
    sums = torch.stack([stochastic(x, 4, noise).double().sum() for _ in range(draws)])
    independent = step**2 * (share * (1 - share)).sum()
    assert sums.var() / independent == pytest.approx(1, abs=5 * (2 / draws) ** 0.5)


# --- models side by side ----------------------------------------------------------------------------------------


def test_models_on_a_leading_axis_get_what_each_would_alone():
    bits = torch.tensor([2, 3, 8])
    w, x, y = normal(3, 5, 4, 3, 3), normal(3, 6, 4, 8, 8, seed=1), normal(3, 6, 5, 8, 8, seed=2)
    x *= torch.tensor([1.0, 10.0, 0.1]).view(3, 1, 1, 1, 1)
    noise = [generator("arm", seed) for seed in (0, 0, 1)]
    together = quantize_weight(w, bits), quantize_activation(x, bits), stochastic(y, bits, noise)
    for k, (seed, b) in enumerate(zip((0, 0, 1), bits.tolist(), strict=True)):
        alone = quantize_weight(w[k], b), quantize_activation(x[k], b), stochastic(y[k], b, generator("arm", seed))
        for mine, theirs in zip(together, alone, strict=True):
            torch.testing.assert_close(mine[k], theirs, rtol=1e-6, atol=1e-5)


def test_models_with_equal_generators_share_their_noise():
    y = normal(1, 4000).expand(2, -1)
    same = stochastic(y, torch.tensor([4, 4]), [generator(0), generator(0)])
    other = stochastic(y, torch.tensor([4, 4]), [generator(0), generator(1)])
    assert torch.equal(same[0], same[1])
    assert not torch.equal(other[0], other[1])
    assert torch.equal(same[0], other[0])


def test_errors_of_models_side_by_side_go_back_quantised():
    y, bits = normal(2, 3, 40).requires_grad_(), torch.tensor([2, 4])
    quantize_error(y, bits, [generator(0), generator(1)]).backward(normal(2, 3, 40, seed=1))
    assert [len(g.unique()) <= 2**b for g, b in zip(y.grad, (2, 4), strict=True)] == [True, True]
    assert len(y.grad[1].unique()) > 4


def test_samples_with_bits_of_their_own_share_the_range_of_their_model():
    x, bits = normal(2, 3, 4000), torch.tensor([[2, 3, 4], [4, 2, 32]])
    for out in (quantize_activation(x, bits), stochastic(x, bits, [generator(0), generator(1)])):
        for k, i in torch.cartesian_prod(torch.arange(2), torch.arange(3)).tolist():
            if bits[k, i] < 32:
                low, high = span(x[k])
                levels = (out[k, i] - low) / (high - low) * (2 ** int(bits[k, i]) - 1)
                torch.testing.assert_close(levels, levels.round(), atol=1e-3, rtol=0)
        torch.testing.assert_close(out[1, 2], x[1, 2], atol=1e-5, rtol=0)  # 32 bits: as it was, to float rounding


# --- layers and whole models ---------------------------------------------------------------------------------


def test_training_uses_the_range_of_the_batch_and_evaluation_the_running_one():
    twin = quantize(nn.Linear(3, 2), [nn.Linear], bits=3, momentum=0.1)
    batches = [normal(20, 3, seed=i) * (i + 1) for i in range(15)]
    low = high = None
    for i, x in enumerate(batches):
        xq = quantize_activation(x, 3)  # of this batch alone
        assert torch.equal(twin(x), F.linear(xq, quantize_weight(twin.weight, 3), twin.bias))
        newest = max(1 / (i + 1), 0.1)  # ten batches make a plain mean, then the newest counts a tenth
        ends = span(x)
        low = ends[0] if i == 0 else (1 - newest) * low + newest * ends[0]
        high = ends[1] if i == 0 else (1 - newest) * high + newest * ends[1]
    assert twin.low.item() == pytest.approx(low, rel=1e-5)
    assert twin.high.item() == pytest.approx(high, rel=1e-5)

    twin.eval()
    x = torch.tensor([[0.1, 1e4, -1e4]])
    ends = twin.low.item(), twin.high.item()
    clipped = nearest(x.clamp(*ends), *ends, 3)
    assert torch.equal(twin(x), F.linear(clipped, quantize_weight(twin.weight, 3), twin.bias))
    assert clipped[0, 1] == pytest.approx(high, rel=1e-4)
    assert twin.batches == 15  # evaluation learns nothing


def test_evaluating_before_any_batch_is_refused():
    with pytest.raises(WorkbenchError, match="seen no input"):
        quantize(small_net()).eval()(normal(2, 2, 8, 8))


def test_a_model_goes_to_its_twin_and_back():
    net = small_net().eval()
    net[0].register_forward_hook(lambda *_: calls.append(1))
    calls, state = [], copy.deepcopy(net.state_dict())
    twin = quantize(net, [nn.Conv2d, nn.Linear], generator=generator(0))
    assert [type(m) for m in twin if isinstance(m, QuantConv2d | QuantLinear)] == [QuantConv2d] * 2 + [QuantLinear]
    assert not any(isinstance(m, QuantConv2d | QuantLinear) for m in net)
    assert not twin.training
    for mine, theirs in zip(twin.parameters(), net.parameters(), strict=True):
        assert torch.equal(mine, theirs)
        assert mine is not theirs
    twin.train()(normal(4, 2, 8, 8))
    assert calls  # hooks come along

    back = dequantize(quantize(net, [nn.Conv2d, nn.Linear]))
    assert list(back.state_dict()) == list(state)
    assert all(torch.equal(value, state[key]) for key, value in back.state_dict().items())
    assert [type(m) for m in back] == [type(m) for m in net]
    assert [vars(m).keys() for m in back] == [vars(m).keys() for m in net]
    x = normal(4, 2, 8, 8)
    assert torch.equal(back(x), net(x))
    trained = dequantize(twin)
    assert torch.equal(trained[0].weight, twin[0].weight)
    torch.testing.assert_close(trained.train()[:8](x), small_net()[:8](x))


def test_a_twins_state_can_be_saved_and_loaded():
    twin = quantize(small_net())
    twin(normal(4, 2, 8, 8))
    other = quantize(small_net(1))
    other.load_state_dict(twin.state_dict())
    x = normal(3, 2, 8, 8)
    assert torch.equal(other.eval()(x), twin.eval()(x))


def test_shared_layers_and_tied_weights_stay_shared():
    layer = nn.Linear(4, 4, bias=False)
    net = nn.Sequential(layer, nn.ReLU(), layer, nn.Linear(4, 4, bias=False))
    net[3].weight = layer.weight
    twin = quantize(net, [nn.Linear])
    assert twin[0] is twin[2]
    assert twin[3].weight is twin[0].weight
    back = dequantize(twin)
    assert back[0] is back[2]
    assert back[3].weight is back[0].weight


def test_from_32_bits_on_the_twin_is_the_model():
    net, x = small_net(), normal(5, 2, 8, 8)
    net[8].p = 0.0
    twin = quantize(net, [nn.Conv2d, nn.Linear], bits=32, error_bits=32)
    for model in (net, twin):
        model(x).square().sum().backward()
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(net.parameters(), twin.parameters(), strict=True))
    assert torch.equal(net.eval()(x), twin.eval()(x))


def test_bits_may_change_with_every_step():
    twin, x = quantize(small_net()), normal(6, 2, 8, 8)
    seen = []
    twin[0].register_forward_hook(lambda module, args, out: seen.append(out.detach()))
    for bits in (2, 3, 8):
        set_bits(twin, bits, 6)
        twin(x)
        assert (twin[3].bits, twin[3].error_bits) == (bits, 6)
        expected = F.conv2d(quantize_activation(x, bits), quantize_weight(twin[0].weight, bits), None, 1, 1)
        assert torch.equal(seen[-1], expected)
    set_bits(twin[3], 4, 8)  # one layer
    assert [twin[0].bits, twin[3].bits] == [8, 4]


def test_what_cannot_be_quantised_is_refused():
    with pytest.raises(WorkbenchError, match="no Conv2d to quantise"):
        quantize(nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(WorkbenchError, match="cannot quantise Conv1d"):
        quantize(nn.Sequential(nn.Conv1d(2, 2, 1)), [nn.Conv1d])
    for hidden in (nn.LSTM(2, 2), nn.TransformerEncoderLayer(4, 2)):
        with pytest.raises(WorkbenchError, match=r"write it with nn\.Linear"):
            quantize(nn.Sequential(hidden, nn.Linear(2, 2)), [nn.Linear])
    with pytest.raises(WorkbenchError, match="convert it with quantize"):
        set_bits(small_net(), 8, 8)
    twin = quantize(small_net())
    for forward, backward in ((0, 8), (8, 0), (-1, 8)):
        with pytest.raises(WorkbenchError, match="bits must be a whole number of at least 1"):
            set_bits(twin, forward, backward)
    assert twin[0].bits == 8


# --- re-estimation and whole runs ------------------------------------------------------------------------------


def test_reestimation_takes_plain_means_at_the_precision_now_set():
    twin = quantize(small_net())
    for i in range(5):
        twin(100 * normal(6, 2, 8, 8, seed=i))  # statistics that must be forgotten
    twin[1].eval()
    modes = [m.training for m in twin.modules()]
    set_bits(twin, 3, 8)
    batches = [normal(6, 2, 8, 8, seed=10 + i) for i in range(3)]
    grads = [p.grad for p in twin.parameters()]
    reestimate(twin, iter(batches))
    with torch.no_grad():
        w = quantize_weight(twin[0].weight, 3)
        maps = [F.conv2d(quantize_activation(x, 3), w, None, 1, 1).transpose(0, 1).flatten(1) for x in batches]
    torch.testing.assert_close(twin[1].running_mean, sum(m.mean(1) for m in maps) / 3)
    torch.testing.assert_close(twin[1].running_var, sum(m.var(1) for m in maps) / 3)
    assert twin[0].low.item() == pytest.approx(sum(x.min().item() for x in batches) / 3, rel=1e-5)
    assert twin[0].high.item() == pytest.approx(sum(x.max().item() for x in batches) / 3, rel=1e-5)
    assert [m.training for m in twin.modules()] == modes
    assert (twin[1].momentum, twin[0].momentum) == (0.1, 0.1)
    assert [p.grad for p in twin.parameters()] == grads


def test_reestimation_leaves_dropout_off_and_wants_batches():
    twin, x = quantize(small_net()), normal(6, 2, 8, 8)
    modes = []
    twin[8].register_forward_hook(lambda module, *_: modes.append(module.training))
    reestimate(twin, [x])
    assert modes == [False]
    before = copy.deepcopy(twin.state_dict())
    with pytest.raises(WorkbenchError, match="got no batch"):
        reestimate(twin, [])
    assert all(torch.equal(value, before[key]) for key, value in twin.state_dict().items())
    assert twin[1].momentum == 0.1


def trained(seed, bits=(3, 8)):
    twin = quantize(small_net(), generator=generator(seed, "errors"))
    twin[8].p = 0.0
    optimiser = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9)
    x = normal(12, 2, 8, 8)
    labels, losses = torch.arange(12) % 3, []

    def loss(step):
        set_bits(twin, bits[step % 2], 6)
        value = F.cross_entropy(twin(x), labels)
        losses.append(value.item())
        return value

    training.train(loss, optimiser, 30)
    return losses


def test_a_run_is_given_by_its_generator_and_learns():
    first, second, other = trained(0), trained(0), trained(1)
    assert first == second
    assert first != other
    assert sum(first[-4:]) < 0.7 * sum(first[:4])


def test_a_broken_number_stops_the_training_loop():
    twin = quantize(small_net())
    x = normal(4, 2, 8, 8)
    x[0, 0, 0, 0] = torch.nan
    with pytest.raises(FloatingPointError, match="not finite at step 0"):
        training.train(lambda _: twin(x).sum(), torch.optim.SGD(twin.parameters(), lr=0.1), 1)
