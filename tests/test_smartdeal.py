"""SmartDeal's method against numpy block by block, its stored bytes, and what bucket switching may and may not do."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from oracles import loop_smartdeal
from oracles.loop_smartdeal import decompose_block, nearest_power
from torch import nn

from workbench import WorkbenchError
from workbench.papers.smartdeal import controls
from workbench.papers.smartdeal.bucket import (
    BucketSwitch,
    Product,
    basis,
    coefficients,
    deal,
    dealt,
    is_dealt,
    smallest_coefficient,
    switched,
)
from workbench.papers.smartdeal.decompose import (
    LARGEST,
    Decomposition,
    alternate,
    applies,
    basis_step,
    block_shape,
    code_block_shape,
    decompose,
    eight_bits,
    fit_basis,
    fit_coefficients,
    from_blocks,
    has_rows,
    power_of_two,
    sparsify,
    to_blocks,
)
from workbench.papers.smartdeal.storage import (
    OFFSET,
    BitReader,
    BitWriter,
    code_width,
    exponents,
    formula,
    pack,
    stored_bits,
    unpack,
)
from workbench.training import generator

SHAPES = [(4, 16, 3, 3), (3, 65, 3, 3), (5, 1, 3, 3), (6, 20, 1, 1), (4, 1024), (7, 10)]


def draw(*shape, name="w", scale=0.1, dtype=torch.float32):
    return scale * torch.randn(shape, generator=generator("smartdeal test", name, shape), dtype=dtype)


def is_power_of_two(x):
    mantissa = torch.frexp(x[x != 0]).mantissa
    return bool((mantissa.abs() == 0.5).all())


# --- blocks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_blocks_hold_every_weight_once_and_nothing_else(shape):
    weight = torch.arange(1.0, 1 + math.prod(shape)).view(shape)
    blocks = to_blocks(weight)
    count, height, padding = block_shape(shape)
    assert blocks.shape == (shape[0] * count, height, 3)
    assert height <= 192
    assert blocks.numel() == weight.numel() + shape[0] * padding
    assert blocks[blocks != 0].sort().values.equal(weight.flatten())
    assert torch.equal(from_blocks(blocks, shape), weight)


def test_a_row_is_one_row_of_one_channels_kernel():
    weight = draw(2, 5, 3, 3)
    blocks = to_blocks(weight)
    assert torch.equal(blocks[1, 3 * 4 + 2], weight[1, 4, 2])


@pytest.mark.parametrize(
    ("inputs", "blocks", "height"), [(512, 1, 171), (1024, 2, 171), (1280, 3, 143), (2048, 4, 171)]
)
def test_long_filters_are_cut_as_the_codes_table_says(inputs, blocks, height):
    assert block_shape((8, inputs, 1, 1))[:2] == (blocks, height)
    assert block_shape((8, inputs))[:2] == (blocks, height)
    assert block_shape((8, 64 * blocks, 3, 3))[:2] == (blocks, 192)


@pytest.mark.parametrize(
    ("shape", "cut"),
    [
        ((1, 130, 3, 3), (6, 65)),
        ((1, 160, 3, 3), (4, 120)),
        ((1, 192, 3, 3), (4, 144)),
        ((1, 320, 3, 3), (8, 120)),
        ((1, 1024, 3, 3), (16, 192)),
        ((1, 1536, 1, 1), (4, 128)),
        ((1, 512), (1, 171)),
        ((1, 960), (2, 160)),
        ((1, 1024), (2, 171)),
        ((1, 1280), (3, 143)),
        ((1, 2048), (4, 171)),
        ((1, 4096), (8, 171)),
        ((1, 512 * 49), (1, 8363)),  # a prime number of rows
    ],
)
def test_the_codes_own_cut_at_widths_that_it_was_run_at(shape, cut):
    assert code_block_shape(shape)[:2] == cut


@given(st.integers(1, 700), st.sampled_from([(), (1, 1), (3, 3)]))
def test_the_codes_own_cut_divides_the_rows_by_their_smallest_primes(inputs, kernel):
    shape, size = (4, inputs, *kernel), inputs * math.prod(kernel)
    blocks, height, padding = code_block_shape(shape)
    assert height == loop_smartdeal.official_height(math.ceil(size / 3))
    assert 3 * blocks * height == size + padding
    assert 0 <= padding < 3
    assert blocks >= block_shape(shape)[0] or height > 192


@pytest.mark.parametrize("shape", [(8, 3, 7, 7), (8, 3, 5, 5), (8,), (8, 3, 3)])
def test_other_kernels_stay_as_they_are(shape):
    assert not applies(shape)
    with pytest.raises(WorkbenchError, match="not decomposed"):
        to_blocks(torch.zeros(shape))


# --- powers of two -----------------------------------------------------------------------------------------------


@given(st.floats(-1e6, 1e6, allow_subnormal=False), st.sampled_from([torch.float32, torch.float64]))
@settings(max_examples=300)
def test_the_nearest_power_of_two_is_found_by_trying(value, dtype):
    value = torch.tensor(value, dtype=dtype).item()
    assume(value == 0 or abs(value) > 1e-30)
    assert power_of_two(torch.tensor([value], dtype=dtype)).item() == nearest_power(value)


def test_ties_go_down_and_distance_is_linear():
    x = torch.tensor([1.5, -1.5, 1.5001, 0.36, 0.376, 0.73, 100.0, 0.0])
    assert power_of_two(x).tolist() == [1, -1, 2, 0.25, 0.5, 0.5, LARGEST, 0]
    assert power_of_two(x, 0.5).tolist() == [1, -1, 2, 0.5, 0.5, 0.5, LARGEST, 0]
    assert power_of_two(torch.tensor([0.25, -0.26, 0.2]), 0.5).tolist() == [0, -0.5, 0]
    with pytest.raises(WorkbenchError, match="float32 or float64"):
        power_of_two(torch.tensor([1]))
    assert power_of_two(torch.tensor([torch.nan]), 0.5).isnan()
    assert power_of_two(torch.tensor([torch.nan])).isnan()


@given(
    arrays(np.float32, (7, 3), elements=st.floats(-40, 40, width=32, allow_subnormal=False)),
    st.sampled_from([0.0, 2.0**-8, 0.25]),
)
@settings(max_examples=100)
def test_rounding_is_idempotent_odd_and_on_the_grid(x, smallest):
    x = torch.from_numpy(x)
    once = power_of_two(x, smallest)
    assert is_power_of_two(once)
    assert torch.equal(power_of_two(once, smallest), once)
    assert torch.equal(power_of_two(-x, smallest), -once)
    assert once.abs().max() <= LARGEST
    assert not ((once != 0) & (once.abs() < smallest)).any()


# --- the alternation ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "threshold", "rows"),
    [
        ((12, 16, 3, 3), 0.02, True),
        ((12, 16, 3, 3), 0.06, False),
        ((9, 300), 0.05, False),
        ((40, 1, 3, 3), 0.047, True),  # not 0.05: rows of powers of two would tie with 5 x 0.05
        ((16, 8, 3, 3), 0.12, True),
    ],
)
def test_all_blocks_at_once_give_what_each_gives_alone(shape, threshold, rows):
    blocks = to_blocks(draw(*shape, dtype=torch.float64))
    *_, (found, bases) = alternate(blocks, threshold, rows, iterations=30)
    for own, c, b in zip(blocks, found, bases, strict=True):
        expected, basis_alone = decompose_block(own.numpy(), threshold, rows, 30)
        np.testing.assert_array_equal(c.numpy(), expected)
        np.testing.assert_allclose(b.numpy(), basis_alone, rtol=1e-6, atol=1e-9)


def test_where_columns_vanish_the_smallest_solution_is_taken():
    blocks = draw(3, 9, 3, dtype=torch.float64)
    c = power_of_two(blocks)
    c[0] = 0
    c[1, :, 2] = 0
    c[2, :, 1] = c[2, :, 0]
    b = fit_basis(c, blocks)
    for own, ours, w in zip(c, b, blocks, strict=True):
        np.testing.assert_allclose(ours, np.linalg.lstsq(own, w, rcond=None)[0], atol=1e-12)
    back = fit_coefficients(b, blocks)
    for own, ours, w in zip(b, back, blocks, strict=True):
        np.testing.assert_allclose(ours, np.linalg.lstsq(own.T, w.T, rcond=None)[0].T, atol=1e-9)


@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.02, 0.1, 0.3]), st.booleans())
@settings(max_examples=40)
def test_only_the_refit_of_b_cannot_raise_the_error(seed, threshold, rows):
    """For the same Ce: of iterations nothing of the kind is true (next test)."""
    blocks = 0.1 * torch.randn(6, 24, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    old = torch.eye(3, dtype=torch.float64).expand(6, 3, 3)
    for c, b in alternate(blocks, threshold, rows, iterations=6):
        before, after = ((c @ basis - blocks).square().sum((1, 2)) for basis in (old, b))
        assert (after <= before * (1 + 1e-9) + 1e-12).all()
        old = b


def test_the_error_of_iterations_may_rise_and_begins_dense():
    blocks = to_blocks(draw(32, 16, 3, 3, dtype=torch.float64))
    errors, zeros = [], []
    for c, b in alternate(blocks, 0.05, True):
        errors.append(float((c @ b - blocks).norm()))
        zeros.append(float((c == 0).double().mean()))
    assert zeros[0] == 0
    assert zeros[1] > 0.3
    assert errors[1] > errors[0]


def test_a_planted_decomposition_is_found_at_once():
    g = generator("planted")
    planted = 2.0 ** torch.randint(-4, 1, (8, 40, 3), generator=g).double()
    planted *= torch.randint(0, 2, planted.shape, generator=g) * 2 - 1
    planted *= torch.rand(planted.shape, generator=g) < 0.4
    c, b = next(alternate(planted, 2.0**-5))
    assert torch.equal(c, planted)
    torch.testing.assert_close(c @ b, planted, rtol=0, atol=1e-12)


def test_rows_go_whole_and_only_where_they_are_wanted():
    weight = draw(8, 16, 3, 3)
    share = lambda found: float((found.coefficients == 0).all(-1).double().mean())  # noqa: E731
    assert share(decompose(weight, 0.05, rows=True)) > 0.3
    assert share(decompose(weight, 1e-6)) == 0
    with_rows, without = (decompose(weight, 0.05, rows) for rows in (True, False))
    assert share(without) < share(with_rows)
    linear = weight.flatten(1)
    assert not has_rows(linear.shape)
    assert torch.equal(
        decompose(linear, 0.05, rows=True).coefficients, decompose(linear, 0.05, rows=False).coefficients
    )
    c = torch.tensor([[[1.0, 1, 1], [5, 0, 0.5], [2, 2, 0.9]]])
    assert sparsify(c, 1.0, rows=True).tolist() == [[[0, 0, 0], [5, 0, 0], [0, 0, 0]]]
    assert sparsify(c, 1.0, rows=False).tolist() == [[[1, 1, 1], [5, 0, 0], [2, 2, 0]]]


@given(st.sampled_from(SHAPES), st.integers(0, 1000), st.sampled_from([0.0, 0.03, 0.2, 10.0]), st.booleans())
@settings(max_examples=60)
def test_whatever_the_weights_the_form_holds_and_bytes_give_it_back(shape, seed, threshold, rows):
    weight = 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    layer = decompose(weight, threshold, rows, iterations=4)
    assert is_power_of_two(layer.coefficients)
    assert torch.equal(layer.weight, from_blocks(layer.coefficients @ layer.basis, shape))
    packed = pack([layer, layer])
    (_, again) = unpack(packed, [shape, shape])
    assert torch.equal(again.coefficients, layer.coefficients)
    assert torch.equal(again.basis, layer.basis)
    assert torch.equal(again.weight, layer.weight)
    assert len(packed) == math.ceil(stored_bits([layer, layer]) / 8)


def test_few_exponents_only():
    layer = decompose(draw(8, 16, 3, 3), 0.0, smallest=2.0**-5)
    assert min(exponents([layer])) == -5
    assert len(exponents([decompose(draw(8, 16, 3, 3), 0.0)])) > len(exponents([layer]))


def test_a_network_of_zeros_is_stored():
    layer = decompose(torch.zeros(4, 16, 3, 3), 0.01, True)
    assert not layer.weight.any()
    (again,) = unpack(pack([layer]), [layer.shape])
    assert not again.weight.any()


# --- storage -----------------------------------------------------------------------------------------------------


def test_the_formula_by_hand():
    """Two filters of 4 channels: 24 rows, 72 coefficients, two bases; say 30 stay, with 3 exponents."""
    assert code_width(3) == 3
    assert formula(30, 72, 18, 3) == 90 + 72 + 144
    assert [code_width(n) for n in (0, 1, 2, 5, 8, 9)] == [1, 1, 2, 4, 4, 5]


def test_bits_are_those_of_the_exponents_that_occur():
    layer = Decomposition(torch.zeros(2, 12, 3), eight_bits(torch.eye(3).expand(2, 3, 3)), (2, 4, 3, 3))
    layer.coefficients.view(-1)[:5] = torch.tensor([0.5, -4.0, 0.5, 1.0, -0.5])
    assert exponents([layer]) == [-1, 0, 2]
    assert stored_bits([layer]) == 3 * 5 + 72 + 8 * 18 + 8 * (1 + 3 + 1)


@given(st.lists(st.tuples(st.integers(0, 2**13 - 1), st.integers(1, 13)), max_size=30))
@settings(max_examples=100)
def test_bits_written_are_bits_read(pairs):
    out = BitWriter()
    for value, width in pairs:
        out.write([value % 2**width], width)
    assert len(out.bytes()) == math.ceil(out.bits / 8)
    reader = BitReader(out.bytes())
    assert [int(reader.read(1, width)) for _, width in pairs] == [value % 2**width for value, width in pairs]


def test_what_cannot_be_packed_or_read_is_refused():
    layer = decompose(draw(4, 16, 3, 3), 0.05)
    with pytest.raises(WorkbenchError, match="only powers of two"):
        pack([Decomposition(1.1 * layer.coefficients, layer.basis, layer.shape)])
    with pytest.raises(WorkbenchError, match="8-bit basis"):
        pack([Decomposition(layer.coefficients, layer.basis * 1.01, layer.shape)])
    with pytest.raises(WorkbenchError, match="cut off"):
        unpack(pack([layer])[:-9], [layer.shape])
    with pytest.raises(WorkbenchError, match="threshold must be a number of at least 0"):
        decompose(draw(4, 16, 3, 3), -1.0)


@given(arrays(np.float32, (2, 3, 3), elements=st.floats(-8, 8, width=32, allow_subnormal=False)))
@settings(max_examples=100)
def test_eight_bits_are_integers_times_one_power_of_two(b):
    b = torch.from_numpy(b)
    assume(b.abs().max() > 1e-6)
    step, rounded = 2.0 ** basis_step(b), eight_bits(b)
    integers = rounded / step
    assert torch.equal(integers, integers.round())
    assert integers.abs().max() <= 127
    assert b.abs().max() / (step / 2) > 127  # the least step
    assert (rounded - b).abs().max() <= step / 2
    assert torch.equal(eight_bits(rounded), rounded)


# --- controls ----------------------------------------------------------------------------------------------------


def read_power_of_two(packed, shapes):
    reader, found = BitReader(packed), []
    for shape in shapes:
        top = int(reader.read(1, 8)) - OFFSET
        kept = reader.read(math.prod(shape), 1).bool()
        sign = 1 - 2 * reader.read(int(kept.sum()), 1)
        weight = torch.zeros(math.prod(shape))
        weight[kept] = sign * 2.0 ** (top - reader.read(len(sign), 3)).float()
        found.append(weight.view(shape))
    return found


def read_rows(packed, shapes):
    reader, found = BitReader(packed), []
    for shape in shapes:
        top = int(reader.read(1, 8)) - OFFSET
        blocks, height, _ = block_shape(shape)
        kept = reader.read(shape[0] * blocks * height, 1).bool()
        count = 3 * int(kept.sum())
        sign, code = 1 - 2 * reader.read(count, 1), reader.read(count, 3)
        rows = torch.zeros(len(kept), 3)
        rows[kept] = torch.where(code == 0, 0, sign * 2.0 ** (top + 1 - code).float()).view(-1, 3)
        found.append(from_blocks(rows.view(-1, height, 3), shape))
    return found


def read_uniform(packed, shapes, bits, masked):
    reader, found = BitReader(packed), []
    for shape in shapes:
        scale = torch.from_numpy(reader.read(shape[0], 16).numpy().astype(np.uint16).view(np.float16)).float()
        n = math.prod(shape)
        kept = reader.read(n, 1).bool() if masked else torch.ones(n, dtype=torch.bool)
        codes = torch.zeros(n)
        codes[kept] = (reader.read(int(kept.sum()), bits) - (2 ** (bits - 1) - 1)).float()
        found.append((codes.view(shape[0], -1) * scale[:, None]).view(shape))
    return found


LAYERS = [draw(16, 16, 3, 3), draw(24, 16, 3, 3, scale=0.3), draw(8, 100, scale=0.2)]
READERS = {
    "power of two": read_power_of_two,
    "power of two, rows": read_rows,
    "uniform 4 bit": lambda packed, shapes: read_uniform(packed, shapes, 4, True),
    "uniform 3 bit": lambda packed, shapes: read_uniform(packed, shapes, 3, True),
}


@pytest.mark.parametrize("name", controls.CONTROLS)
@pytest.mark.parametrize("level", [0.9, 1.1])
def test_controls_fill_the_same_bits_and_are_read_back(name, level):
    deal_ = controls.smartdeal([decompose(w, level * float(w.std())) for w in LAYERS])
    found = controls.CONTROLS[name](LAYERS, deal_.bits)
    assert deal_.bits - 12 < found.bits <= deal_.bits, "full to the last weight, or row"
    assert len(found.packed) == math.ceil(found.bits / 8)
    for ours, read in zip(found.weights, READERS[name](found.packed, [w.shape for w in LAYERS]), strict=True):
        assert torch.equal(ours, read)


def test_uniform_without_pruning_has_no_mask():
    total, filters = sum(w.numel() for w in LAYERS), sum(len(w) for w in LAYERS)
    found = controls.CONTROLS["uniform 3 bit"](LAYERS, 10 * total)
    assert found.bits == 3 * total + 16 * filters
    for ours, read in zip(found.weights, read_uniform(found.packed, [w.shape for w in LAYERS], 3, False), strict=True):
        assert torch.equal(ours, read)
    for weight, ours in zip(LAYERS, found.weights, strict=True):
        assert all(len(row.unique()) <= 7 for row in ours.flatten(1))
        plain = weight.flatten(1).abs().amax(1, keepdim=True) / 3  # the range to its end is one of the three tried
        full = ((weight.flatten(1) / plain).round() * plain - weight.flatten(1)).norm()
        assert (ours - weight).norm() <= full * 1.001


@pytest.mark.parametrize("name", controls.CONTROLS)
def test_the_largest_weights_stay(name):
    budget = sum(w.numel() for w in LAYERS) * 2
    found = controls.CONTROLS[name](LAYERS, budget).weights
    scores = lambda w: to_blocks(w).abs().sum(-1) if "rows" in name else w.abs()  # noqa: E731
    units = [w.std() for w in LAYERS]
    kept = torch.cat([(scores(w) / u)[scores(f) > 0] for w, f, u in zip(LAYERS, found, units, strict=True)])
    gone = torch.cat([(scores(w) / u)[scores(f) == 0] for w, f, u in zip(LAYERS, found, units, strict=True)])
    assert kept.min() >= gone.max() * 0.95  # rows of padding have another deviation
    with pytest.raises(WorkbenchError, match="raise the budget"):
        controls.CONTROLS[name](LAYERS, 100)


def test_ties_are_kept_exactly_as_many_as_fit():
    masks = controls.largest([torch.ones(3, 3), torch.ones(5)], 7)
    assert sum(int(m.sum()) for m in masks) == 7


# --- SD-training -------------------------------------------------------------------------------------------------

SMALLEST = 2.0**-4


def dealt_layer(threshold=0.05):
    layer = nn.Conv2d(16, 8, 3, padding=1, bias=False)
    layer.weight.data = draw(8, 16, 3, 3, name="dealt")
    start = decompose(layer.weight, threshold)
    deal(layer, start)
    return layer, start


def test_the_model_computes_with_ce_times_b_bit_for_bit():
    layer, start = dealt_layer()
    assert is_dealt(layer)
    assert isinstance(layer.parametrizations.weight[0], Product)
    assert torch.equal(layer.weight, start.weight)
    with torch.no_grad():
        basis(layer).mul_(2)
        coefficients(layer)[0, 0] = torch.tensor([0.5, 0, -2])
    product = coefficients(layer) @ basis(layer)
    assert torch.equal(layer.weight, from_blocks(product, start.shape))
    x = draw(2, 16, 5, 5, name="x")
    assert torch.equal(layer(x), nn.functional.conv2d(x, from_blocks(product, start.shape), padding=1))
    assert {name.rsplit(".", 1)[1] for name, _ in layer.named_parameters()} == {"original0", "original1"}
    assert torch.equal(dealt(layer).coefficients, coefficients(layer))
    with pytest.raises(WorkbenchError, match="is not one of a weight"):
        deal(nn.Conv2d(4, 8, 3), start)


def test_gradients_of_c_and_b_are_those_of_a_product():
    layer, start = dealt_layer()
    upstream = draw(*start.shape, name="g")
    (layer.weight * upstream).sum().backward()
    g = to_blocks(upstream)
    torch.testing.assert_close(coefficients(layer).grad, g @ start.basis.mT)
    torch.testing.assert_close(basis(layer).grad, start.coefficients.mT @ g)


def random_steps(steps, seed, **settings_):
    """C before and after each of some steps under random gradients."""
    c = nn.Parameter(power_of_two(draw(4, 30, 3, name="c", scale=0.5), SMALLEST))
    with torch.no_grad():
        c[:, ::3] = 0
    optimiser, g, seen = BucketSwitch([c], SMALLEST, **settings_), generator("steps", seed), [c.detach().clone()]
    for step in range(steps):
        if step % 25 == 0:
            optimiser.new_epoch()
        c.grad = torch.randn(c.shape, generator=g) + 0.5 * torch.randn(c.shape, generator=generator("drift"))
        optimiser.step(0.05)
        seen.append(c.detach().clone())
    return optimiser, seen


@given(st.integers(0, 100), st.integers(1, 7))
@settings(max_examples=25)
def test_every_change_is_a_doubling_a_halving_or_by_way_of_zero(seed, bar):
    optimiser, seen = random_steps(100, seed, bar=bar)
    moved = 0
    for before, after in pairwise(seen):
        at = before != after
        moved += int(at.sum())
        a, b = before[at], after[at]
        ratio = (b / a)[a != 0]
        to_zero = (b == 0) & (a.abs() == SMALLEST)
        assert (to_zero[a != 0] | (ratio == 2) | (ratio == 0.5)).all()
        assert (b[a == 0].abs() == SMALLEST).all()
        assert not (a * b < 0).any(), "no sign flips at once"
    assert moved
    assert is_power_of_two(seen[-1])
    assert not seen[-1][~optimiser.masks[0]].any(), "what is masked out stays out"
    assert seen[-1].abs().max() <= LARGEST


def test_a_bucket_is_counted_by_hand():
    """Constant gradients, no momentum: every step is 1e-3 long."""
    c = nn.Parameter(torch.tensor([[[1.0, 1.0, -0.5], [0.0625, 32.0, 0.0]]]))
    optimiser = BucketSwitch([c], SMALLEST, bar=3, ignore=5e-4, momentum=0.0)
    gradient = torch.tensor([[[1.0, -1.0, 1.0], [1.0, -1.0, -1.0]]]) * 1e-3

    def steps(n, factor=1.0):
        for _ in range(n):
            c.grad = factor * gradient
            optimiser.step(1.0)

    steps(2)
    assert c.tolist() == [[[1, 1, -0.5], [0.0625, 32, 0]]]
    steps(1)  # downwards: 1 halves, -0.5 doubles, the smallest goes to zero; 32 is the largest; the masked one stays
    assert c.tolist() == [[[0.5, 2, -1], [0, 32, 0]]]
    assert not optimiser.counters[0].any()
    steps(3)
    assert c.tolist() == [[[0.25, 4, -2], [-0.0625, 32, 0]]]
    steps(2)
    optimiser.new_epoch()
    steps(2)  # the epoch began anew: two steps are not four
    assert c.tolist() == [[[0.25, 4, -2], [-0.0625, 32, 0]]]
    steps(5, factor=0.4)  # too small to count
    assert c.tolist() == [[[0.25, 4, -2], [-0.0625, 32, 0]]]
    steps(1, factor=-1.0)
    assert optimiser.counters[0].flatten()[:2].tolist() == [-1, 1]  # two down and one up


def test_the_step_that_is_counted_is_sgds():
    c = nn.Parameter(torch.full((1, 2, 3), 0.5))
    twin = nn.Parameter(c.detach().clone())
    ours, sgd = BucketSwitch([c], SMALLEST, bar=10**6, ignore=0.0), torch.optim.SGD([twin], 0.1, 0.9)
    for step in range(4):
        before = twin.detach().clone()
        c.grad = twin.grad = draw(1, 2, 3, name=step)
        ours.step(0.1)
        sgd.step()
        torch.testing.assert_close(-0.1 * ours.velocity[0], twin.detach() - before)


def test_switched_and_smallest():
    c = torch.tensor([4.0, -4.0, 0.0, 0.0, SMALLEST, -SMALLEST, 32.0])
    up = switched(c, torch.ones(7), SMALLEST)
    assert up.tolist() == [8, -2, SMALLEST, SMALLEST, 2 * SMALLEST, 0, 32]
    assert [smallest_coefficient(t) for t in (0.02, 0.25, 0.26)] == [0.03125, 0.25, 0.5]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bar": 0}, "bar 0"),
        ({"ignore": -1.0}, "ignore"),
        ({"smallest": 0.3}, "powers of two"),
        ({"c": 0.3}, "powers of two"),
    ],
)
def test_bucket_switching_refuses_what_makes_no_sense(change, message):
    c = nn.Parameter(torch.full((1, 2, 3), change.pop("c", 0.5)))
    with pytest.raises(WorkbenchError, match=message):
        BucketSwitch([c], **({"smallest": SMALLEST} | change))


def test_what_training_keeps_is_counted():
    c = nn.Parameter(torch.tensor([[[1.0, 0.0, 0.5]]]))
    assert BucketSwitch([c], SMALLEST, bar=7).state_bits() == {"velocity": 64, "counters": 8}
