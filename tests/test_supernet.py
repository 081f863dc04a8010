"""Supernets: every logit gets a gradient, expected costs equal enumeration, and the derived design keeps its budget."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from workbench import WorkbenchError, supernet
from workbench.supernet import Chosen, Mixed, Pressure, SlicedConv2d, SlicedLinear, Space
from workbench.training import generator


def random_space(seed, sizes=(3, 2, 4, 3), spans=((0,), (0, 1), (1, 2, 3), (3,))):
    stream = generator(seed, "space")
    tables = [torch.rand([sizes[c] for c in span], generator=stream) * 10 + 1 for span in spans]
    return Space(sizes, tuple(zip(spans, tables, strict=True)))


def random_logits(seed, sizes, scale=1.0):
    return [scale * torch.randn(size, generator=generator(seed, "logits", c)) for c, size in enumerate(sizes)]


def slow_cost(space, design):
    return sum(float(table[tuple(design[c] for c in choices)]) for choices, table in space.terms)


# --- choices -------------------------------------------------------------------------------------------------


def test_soft_choice_is_the_softmax_at_its_temperature():
    logits = torch.tensor([0.0, math.log(2), math.log(5)])
    chosen = supernet.choose_soft(logits)
    torch.testing.assert_close(chosen.weights, torch.tensor([1, 2, 5]) / 8)
    assert chosen.paths == (0, 1, 2)
    torch.testing.assert_close(supernet.choose_soft(logits, tau=0.5).weights, torch.tensor([1.0, 4, 25]) / 30)


@pytest.mark.parametrize("tau", [0.5, 5.0])
def test_hard_choice_draws_with_the_softmax_probability_whatever_the_temperature(tau):
    logits, stream = torch.tensor([0.0, 1.0, 2.0, -1.0]), generator(0, "draws", tau)
    drawn = torch.tensor([supernet.choose_hard(logits, tau, stream).index for _ in range(4000)])
    wanted = 4000 * logits.softmax(0)
    chi_square = ((torch.bincount(drawn, minlength=4) - wanted).square() / wanted).sum()
    assert chi_square < 16.3  # 3 degrees of freedom, 0.1 %


def test_hard_choice_is_exactly_one_forward_and_the_soft_one_backward():
    logits = torch.tensor([0.3, -0.2, 0.8], requires_grad=True)
    values = torch.tensor([1.0, 5.0, -2.0])
    chosen = supernet.choose_hard(logits, 0.7, generator(3))
    assert sorted(chosen.weights.tolist()) == [0.0, 0.0, 1.0]
    (got,) = torch.autograd.grad(chosen.weights @ values, logits)
    uniform = torch.rand(3, generator=generator(3), dtype=torch.float64)
    soft = ((logits - (-uniform.log()).log().float()) / 0.7).softmax(0)
    (wanted,) = torch.autograd.grad(soft @ values, logits)
    torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("active", [1, 2, 3])
def test_only_the_active_paths_reach_the_gradient(active):
    logits = torch.randn(5, generator=generator(1), requires_grad=True)
    chosen = supernet.choose_hard(logits, 1.0, generator(2), active)
    assert len(chosen.paths) == active
    assert chosen.index in chosen.paths
    for i in range(5):
        (gradient,) = torch.autograd.grad(chosen.weights[i], logits, retain_graph=True)
        assert bool(gradient.any()) == (i in chosen.paths)


def test_temperature_falls_in_steps():
    assert supernet.temperature(99, 5.0, 0.98, 100) == 5.0
    assert supernet.temperature(250, 5.0, 0.98, 100) == pytest.approx(5 * 0.98**2)


def test_entropy_is_log_n_where_nothing_is_decided_and_zero_where_all_is():
    assert supernet.entropy([torch.zeros(4), torch.zeros(4)]) == pytest.approx(math.log(4))
    assert supernet.entropy([torch.tensor([0.0, 90.0])]) == pytest.approx(0, abs=1e-6)
    mixed = supernet.entropy([torch.zeros(2), torch.tensor([0.0, 90.0])])
    assert mixed == pytest.approx(math.log(2) / 2, abs=1e-6)


# --- what a choice passes through ----------------------------------------------------------------------------


class Counting(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor, self.calls = factor, 0

    def forward(self, x):
        self.calls += 1
        return self.factor * x


def test_mixed_sums_by_weight_and_computes_only_the_paths():
    mixed, x = Mixed([Counting(1), Counting(10), Counting(100)]), torch.ones(2)
    out = mixed(x, Chosen(torch.tensor([0.2, 0.3, 0.5]), (0, 1, 2)))
    torch.testing.assert_close(out, torch.full((2,), 53.2))
    assert mixed(x, supernet.fixed(1, 3)).tolist() == [10, 10]
    assert [op.calls for op in mixed] == [1, 2, 1]


@pytest.mark.parametrize("kind", ["plain", "depthwise"])
def test_a_sliced_convolution_is_the_narrow_convolution_of_the_leading_weights(kind):
    depthwise = kind == "depthwise"
    conv = SlicedConv2d(6, 6, 3, padding=1, groups=6 if depthwise else 1)
    x = torch.randn(2, 4, 5, 5)
    narrow = nn.Conv2d(4, 4 if depthwise else 3, 3, padding=1, groups=4 if depthwise else 1)
    out = conv(x) if depthwise else conv(x, 3)
    with torch.no_grad():
        narrow.weight.copy_(conv.weight[: narrow.out_channels, : narrow.weight.shape[1]])
        narrow.bias.copy_(conv.bias[: narrow.out_channels])
    torch.testing.assert_close(out, narrow(x))
    out.sum().backward()
    touched = conv.weight.grad.abs().sum((2, 3)) > 0
    assert touched[: narrow.out_channels, : narrow.weight.shape[1]].all()
    assert touched.sum() == narrow.weight.shape[0] * narrow.weight.shape[1]


def test_at_full_width_sliced_layers_are_the_plain_ones():
    conv, linear, x = SlicedConv2d(3, 8, 3, stride=2), SlicedLinear(12, 5, bias=False), torch.randn(2, 3, 9, 9)
    torch.testing.assert_close(conv(x), F.conv2d(x, conv.weight, conv.bias, stride=2))
    y = torch.randn(4, 12)
    torch.testing.assert_close(linear(y), y @ linear.weight.T)
    torch.testing.assert_close(linear(y[:, :7], 2), y[:, :7] @ linear.weight[:2, :7].T)


OPERATORS, WIDTHS = 3, (2, 4, 6)


class Toy(nn.Module):
    """Two layers, each of an operator and a width."""

    def __init__(self):
        super().__init__()
        operators = [[SlicedConv2d(6, 6, k, padding=k // 2) for k in (1, 3, 5)] for _ in range(2)]
        self.layers = nn.ModuleList(Mixed(each) for each in operators)
        self.head = SlicedLinear(6, 1)
        self.logits = nn.ParameterList(torch.zeros(n) for n in (OPERATORS, len(WIDTHS)) * 2)

    def forward(self, x, choose_operator, choose_width):
        for layer, operator, width in zip(self.layers, self.logits[::2], self.logits[1::2], strict=True):
            chosen = choose_width(width)
            x = layer(x, choose_operator(operator), WIDTHS[chosen.index]).relu() * chosen.score
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("operators", ["soft", "hard", "two paths"])
def test_gradients_reach_every_architecture_parameter(operators):
    torch.manual_seed(0)
    net, x, stream = Toy(), torch.randn(8, 6, 6, 6), generator(0)
    ways = {
        "soft": supernet.choose_soft,
        "hard": lambda logits: supernet.choose_hard(logits, 1.0, stream),
        "two paths": lambda logits: supernet.choose_hard(logits, 1.0, stream, active=2),
    }
    for _ in range(4):
        net(x, ways[operators], lambda logits: supernet.choose_hard(logits, 1.0, stream)).square().mean().backward()
    for logits in net.logits:
        assert (logits.grad != 0).all()


def test_without_its_score_a_sliced_width_gets_no_gradient():
    net, x = Toy(), torch.randn(8, 6, 6, 6)
    net(x, supernet.choose_soft, lambda logits: supernet.fixed(1, 3)).sum().backward()
    assert all(logits.grad is not None for logits in net.logits[::2])
    assert all(logits.grad is None for logits in net.logits[1::2])


# --- cost ----------------------------------------------------------------------------------------------------


@given(st.integers(0, 10_000))
@settings(max_examples=30)
def test_expected_cost_is_the_sum_over_all_designs_of_probability_times_cost(seed):
    space = random_space(seed)
    logits = random_logits(seed, space.sizes)
    probabilities = [each.double().softmax(0) for each in logits]
    wanted = 0.0
    for design in itertools.product(*map(range, space.sizes)):
        wanted += math.prod(float(p[i]) for p, i in zip(probabilities, design, strict=True)) * slow_cost(space, design)
    assert float(space.expected(probabilities)) == pytest.approx(wanted)
    designs = space.designs()
    weights = supernet.log_probability([each.double() for each in logits], designs).exp()
    assert float(weights.sum()) == pytest.approx(1)
    assert float(weights @ space.cost(designs)) == pytest.approx(wanted)


def test_the_gradient_of_the_expected_cost_agrees_with_finite_differences():
    space = random_space(1)
    logits = [each.double().requires_grad_() for each in random_logits(1, space.sizes)]
    assert torch.autograd.gradcheck(lambda *each: space.expected([one.softmax(0) for one in each]), logits)


def test_designs_and_their_costs_are_all_there():
    space = random_space(2)
    designs = space.designs()
    assert designs.tolist() == [list(d) for d in itertools.product(*map(range, space.sizes))]
    torch.testing.assert_close(
        space.cost(designs), torch.tensor([slow_cost(space, d) for d in designs.tolist()], dtype=torch.float64)
    )
    assert space.cost(designs.view(2, -1, 4)).shape == (2, 36)


def test_a_table_of_another_shape_and_too_many_designs_are_refused():
    with pytest.raises(WorkbenchError, match=r"\[2, 3\]"):
        Space((3, 2), (((0, 1), torch.zeros(2, 3)),))
    with pytest.raises(WorkbenchError, match="too many to list"):
        Space((10,) * 7, (((0,), torch.zeros(10)),)).designs()


# --- budget --------------------------------------------------------------------------------------------------


def test_the_budget_term_pulls_from_both_sides_and_vanishes_on_the_budget():
    for expected, sign in ((50.0, -1), (200.0, 1)):
        cost = torch.tensor(expected, requires_grad=True)
        supernet.budget_term(cost, 100.0).backward()
        assert math.copysign(1, cost.grad) == sign
    assert float(supernet.budget_term(torch.tensor(100.0), 100.0)) == 0
    halved, doubled = (float(supernet.budget_term(torch.tensor(c), 100.0)) for c in (50.0, 200.0))
    assert halved == pytest.approx(doubled)


def searched(term, space, steps=300):
    logits = [torch.zeros(size, requires_grad=True) for size in space.sizes]
    optimiser = torch.optim.Adam(logits, lr=0.1)
    for _ in range(steps):
        optimiser.zero_grad()
        term(space.expected([each.softmax(0) for each in logits])).backward()
        optimiser.step()
    return logits


def test_a_plain_cost_term_collapses_to_the_cheapest_design_and_the_budget_term_does_not():
    space = random_space(4, spans=((0,), (1,), (2,), (3,)))  # no local optimum
    costs = space.cost(space.designs())
    budget = float(costs.median())
    collapsed = searched(lambda cost: cost, space)
    assert float(space.cost(supernet.argmax_design(collapsed))) == pytest.approx(float(costs.min()))
    held = searched(lambda cost: supernet.budget_term(cost, budget), space)
    assert space.expected([each.softmax(0) for each in held]).item() == pytest.approx(budget, rel=0.01)


def test_pressure_doubles_above_halves_below_and_rests_inside():
    pressure = Pressure(1.0, low=10, high=20)
    for cost, weight in ((25, 2), (25, 4), (15, 4), (20, 4), (5, 2)):
        pressure.update(cost)
        assert pressure.weight == weight


# --- deriving ------------------------------------------------------------------------------------------------


@given(st.integers(0, 10_000), st.floats(0.1, 6), st.floats(0, 0.9))
@settings(max_examples=60)
def test_the_most_probable_design_in_a_band_is_the_one_that_enumeration_finds(seed, scale, where):
    space = random_space(seed)
    logits, designs = random_logits(seed, space.sizes, scale), space.designs()
    costs = space.cost(designs)
    low, high = (float(costs.quantile(q)) for q in (where, where + 0.1))
    found = supernet.most_probable(logits, space, low, high)
    assert low <= slow_cost(space, found.tolist()) <= high
    probability = supernet.log_probability([each.double() for each in logits], designs)
    best = probability[(costs >= low) & (costs <= high)].max()
    ours = supernet.log_probability([each.double() for each in logits], found)
    assert float(ours) == pytest.approx(float(best))


def test_without_a_band_the_most_probable_design_is_the_argmax():
    space = random_space(5)
    logits = random_logits(5, space.sizes)
    found = supernet.most_probable(logits, space, 0, math.inf)
    assert torch.equal(found, supernet.argmax_design(logits))


def test_an_empty_band_is_refused_in_one_line():
    space = random_space(6)
    logits = random_logits(6, space.sizes)
    with pytest.raises(WorkbenchError, match="widen the band"):
        supernet.most_probable(logits, space, 1e6, 2e6)
    with pytest.raises(WorkbenchError, match="only 0 designs"):
        supernet.random_designs(space, 1e6, 2e6, 1, generator(0))


def test_random_designs_lie_in_the_band_are_different_and_equally_likely():
    space = random_space(7)
    designs = space.designs()
    costs = space.cost(designs)
    low, high = float(costs.quantile(0.4)), float(costs.quantile(0.6))
    band = designs[(costs >= low) & (costs <= high)]
    every = supernet.random_designs(space, low, high, len(band), generator(0))
    assert sorted(every.tolist()) == sorted(band.tolist())
    first = [tuple(supernet.random_designs(space, low, high, 1, generator(i))[0].tolist()) for i in range(300)]
    counts = torch.tensor([first.count(tuple(design)) for design in band.tolist()])
    expected = 300 / len(band)
    freedom = len(band) - 1
    assert ((counts - expected).square() / expected).sum() < freedom + 4 * (2 * freedom) ** 0.5


def test_a_space_too_large_to_list_is_searched_all_the_same():
    sizes = (4,) * 20
    space = Space(sizes, tuple(((c,), torch.arange(1.0, 5)) for c in range(20)))
    logits = random_logits(8, sizes)
    found = supernet.most_probable(logits, space, 44, 45)
    assert 44 <= float(space.cost(found)) <= 45
    assert len(supernet.random_designs(space, 44, 45, 30, generator(1))) == 30


# --- bounds ------------------------------------------------------------------------------------------------------


TWO = Space((2, 3), (((0, 1), torch.arange(6.0).view(2, 3)),))
LINES = {
    "tau must be a number above 0; got 0": [
        lambda: supernet.choose_soft(torch.zeros(3), 0),
        lambda: supernet.choose_hard(torch.zeros(3), 0, generator(0)),
    ],
    "active must be a whole number of at least 1 and at most 3; got 0": [
        lambda: supernet.choose_hard(torch.zeros(3), 1.0, generator(0), active=0),
    ],
    "index must be a whole number of at least 0 and at most 2; got 3": [lambda: supernet.fixed(3, 3)],
    "every must be a whole number of at least 1; got 0": [lambda: supernet.temperature(1, 5.0, 0.98, 0)],
    "one group, or one a channel, and pads with zeros": [
        lambda: SlicedConv2d(4, 4, 3, groups=2),
        lambda: SlicedConv2d(4, 4, 3, padding=1, padding_mode="reflect"),
    ],
    "outputs must be a whole number of at least 1 and at most 4; got 5": [
        lambda: SlicedConv2d(3, 4, 1)(torch.zeros(1, 3, 2, 2), 5),
        lambda: SlicedLinear(3, 4)(torch.zeros(1, 3), 5),
    ],
    "outputs must be a whole number of at least 1 and at most 4; got 0": [
        lambda: SlicedConv2d(3, 4, 1)(torch.zeros(1, 3, 2, 2), 0),
        lambda: SlicedLinear(3, 4)(torch.zeros(1, 3), 0),
    ],
    "that come must be a number of at least 1 and at most 3; got 4": [
        lambda: SlicedConv2d(3, 3, 1, groups=3)(torch.zeros(1, 4, 2, 2)),
        lambda: SlicedLinear(3, 4)(torch.zeros(1, 4)),
    ],
    r"a term is of different choices from 0 to 1; got \(0, 0\)": [
        lambda: Space((2, 2), (((0, 0), torch.zeros(2, 2)),))
    ],
    r"a term is of different choices from 0 to 1; got \(-1,\)": [lambda: Space((2, 2), (((-1,), torch.zeros(2)),))],
    "costs that float32 cannot hold: scale them": [
        lambda value=value: Space((2,), (((0,), torch.tensor([1.0, value], dtype=torch.float64)),))
        for value in (math.nan, math.inf, 1e39)
    ],
    r"probabilities must be of \(2, 3\); got \[3, 2\]": [lambda: TWO.expected([torch.ones(3) / 3, torch.ones(2) / 2])],
    r"logits must be of \(2, 3\); got \[2, 3, 2\]": [
        lambda: supernet.most_probable([torch.zeros(2), torch.zeros(3), torch.zeros(2)], TWO, 0, 9),
    ],
    "budget must be a number above 0; got -1": [lambda: supernet.budget_term(torch.tensor(1.0), -1)],
    "high must be a number of at least 2; got 1": [
        lambda: Pressure(1.0, 2, 1),
        lambda: supernet.most_probable([torch.zeros(2), torch.zeros(3)], TWO, 2, 1),
        lambda: supernet.random_designs(TWO, 2, 1, 1, generator(0)),
    ],
    "count must be a whole number of at least 1; got -1": [
        lambda: supernet.random_designs(TWO, 0, 9, -1, generator(0)),
    ],
}


@pytest.mark.parametrize(("line", "call"), [(line, call) for line, calls in LINES.items() for call in calls])
def test_what_is_wrong_is_said_in_one_line(line, call):
    with pytest.raises(WorkbenchError, match=line) as error:
        call()
    assert len(str(error.value).splitlines()) == 1


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(-30, 30), st.integers(0, 2**20))
def test_the_expected_cost_is_exact_in_rationals_at_every_scale(sizes, exponent, seed):
    """Dyadic probabilities and tables of small whole numbers times a power of two round nowhere."""
    draws, names = generator(seed), range(len(sizes))
    tables = [((c,), torch.randint(0, 64, (size,), generator=draws)) for c, size in enumerate(sizes)]
    tables.append((tuple(names), torch.randint(0, 64, sizes, generator=draws)))
    space = Space(tuple(sizes), tuple((choices, table * 2.0**exponent) for choices, table in tables))
    shares = [torch.randint(0, 2, (size,), generator=draws) for size in sizes]
    probabilities = [share.float() for share in shares]  # any weights: the form is multilinear
    found = float(space.expected(probabilities))
    expected = 0
    for choices, table in tables:
        for at in itertools.product(*(range(sizes[c]) for c in choices)):
            expected += int(table[at]) * math.prod(int(shares[c][i]) for c, i in zip(choices, at, strict=True))
    assert found == expected * 2.0**exponent
