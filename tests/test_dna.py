"""DNA's spaces, prices and searches against loops over every design, closed forms and finite differences."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.dna_by_hand import expected_cost, plain_network
from torch import nn

from workbench import WorkbenchError, cost
from workbench.dataflow import Layer
from workbench.papers.dna import accelerators, baselines, checks, cifar10, method, nets, oneshot, space
from workbench.papers.dna.accelerators import RULES, TEMPLATES, Costs, Design, chunk_of, itemised
from workbench.papers.dna.method import Logits, Objective
from workbench.training import generator

SMALL = space.digits(4)
BIG = space.digits().scaled(4, 4, 3)
OBJECTIVE = Objective("edp", 3.0)
RIVALS = [f"random {i + 1}" for i in range(cifar10.RANDOM)]


@pytest.fixture(scope="module")
def priced():
    return {name: accelerators.costs(BIG, template) for name, template in TEMPLATES.items()}


def logits(template, seed=0, spread=1.0, free=BIG):
    return Logits.start(free.choices, len(RULES), TEMPLATES[template].factors, generator(seed, "dna test"), spread)


def toy(configurations=3, slots=2, operators=2, seed=0):
    """Random costs of a space small enough to walk over, with one pair and one configuration over the limits."""
    stream = generator(seed, "toy")

    def some(*shape):
        return 1 + 9 * torch.rand(shape, generator=stream, dtype=torch.float64)

    resources = torch.linspace(0.3, 0.8, configurations, dtype=torch.float64)[:, None]
    tables = some(2, len(RULES), 2, slots, operators, configurations)
    fixed = some(2, len(RULES), 2, configurations)
    tables[:, 0, 1], fixed[:, 0, 1] = 0, 0
    return Costs(tables[0], tables[1], fixed[0], fixed[1], resources, 200)


# --- networks ----------------------------------------------------------------------------------------------------


def test_spaces_are_as_large_as_they_say():
    assert SMALL.count == 4**4 == len(SMALL.designs())
    whole = space.fbnet()
    assert len(whole.free) == 22
    assert {len(whole.slots[at].operators) for at in whole.free} == {8, 9}
    assert whole.slots[-1].outputs == 352
    assert whole.slots[-1].size == 4


@pytest.mark.parametrize("design", [(0, 0, 0, 0), (1, 2, 3, 1), (3, 3, 3, 3), (2, 1, 0, 3)])
def test_loop_nests_have_the_macs_that_modules_do(design):
    net = nets.Stacked(SMALL, torch.tensor([design]), 0)
    rows = cost.record(net, torch.zeros(1, 1, 8, 8))
    counted = sum(row.work[0].macs for row in rows if row.product)
    assert counted == SMALL.macs(design)


def test_an_inverted_residuals_macs_by_hand():
    slot = space.Slot(16, 16, 8, ("ir3x6", "skip"))
    expand, depthwise, project = slot.layers("ir3x6")
    assert [layer.macs for layer in (expand, depthwise, project)] == [16 * 96 * 64, 9 * 96 * 64, 96 * 16 * 64]
    halved = [layer.macs for layer in slot.layers("ir3x1g2")]
    assert halved == [16 * 8 * 64, 9 * 16 * 64, 16 * 8 * 64]
    strided = space.Slot(16, 24, 4, ("ir3x6",), 2).layers("ir3x6")
    assert [layer.Y for layer in strided] == [8, 4, 4]
    assert slot.layers("skip") == []


@pytest.mark.parametrize("name", ["ir3", "conv", "sep3x", "pool"])
def test_an_unknown_operator_is_refused(name):
    with pytest.raises(WorkbenchError, match="no operator"):
        space.convolutions(name, 8, 8)
    with pytest.raises(WorkbenchError, match="changes no shape"):
        space.convolutions("skip", 8, 16)


def test_nets_side_by_side_are_nets_alone():
    designs = torch.tensor([(0, 1, 2, 3), (3, 3, 0, 1), (2, 2, 2, 2), (0, 0, 3, 3)])
    stack = nets.Stacked(SMALL, designs, 5)
    x = torch.randn(6, 1, 8, 8, generator=generator("x"))
    together = stack(x)
    assert together.shape == (4, 6, 10)
    for member, design in enumerate(designs.tolist()):
        forward, _ = plain_network(SMALL, design, stack, member)
        torch.testing.assert_close(together[member], forward(x), rtol=1e-4, atol=1e-4)
        alone = nets.Stacked(SMALL, designs[member : member + 1], 5)
        torch.testing.assert_close(together[member], alone(x)[0], rtol=1e-4, atol=1e-4)


def test_nets_side_by_side_learn_as_nets_alone():
    designs = torch.tensor([(0, 1, 2, 3), (3, 2, 0, 1)])
    split = nets.digits_split()
    few = split.train[0][:100], split.train[1][:100]
    together, alone = (nets.Stacked(SMALL, part, 3) for part in (designs, designs[1:]))
    for net in (together, alone):
        nets.fit(net, few, 3, epochs=2, batch=50, lr=0.05)
    torch.testing.assert_close(together.head[1], alone.head[0], rtol=1e-3, atol=1e-3)


def test_the_parts_of_the_data_are_disjoint():
    split = nets.digits_split()
    rows = [set(map(tuple, part[0].flatten(1).tolist())) for part in (split.train, split.val, split.test)]
    assert [len(part[1]) for part in (split.train, split.val, split.test)] == [400, 699, 698]
    assert sum(map(len, rows)) == len(set().union(*rows))


# --- accelerators ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TEMPLATES)
def test_sums_over_layers_priced_one_by_one_are_the_tables(name, priced):
    stream, template = generator(name), TEMPLATES[name]
    for rule in range(len(RULES)):
        net = tuple(int(torch.randint(4, (1,), generator=stream)) for _ in range(4))
        pair = torch.randint(len(template.configurations), (2,), generator=stream)
        items = itemised(BIG, template, Design(net, rule, tuple(pair.tolist())))
        ms, uj = priced[name].evaluate(torch.tensor([net]), torch.tensor([rule]), pair[None])
        layers = items.drop_duplicates("layer")
        assert float(ms) == pytest.approx(layers.groupby("chunk")["cycles"].sum().max() / 2e5, rel=1e-12)
        assert float(uj) == pytest.approx(items["pj"].sum() / 1e6, rel=1e-12)
        assert set(layers["chunk"]) <= ({0} if rule == 0 else {0, 1})


@given(
    st.sampled_from(sorted(TEMPLATES)), st.integers(1, 70), st.integers(1, 70), st.integers(1, 33),
    st.sampled_from([1, 3, 5]), st.booleans(),
)  # fmt: skip
@settings(max_examples=15)
def test_utilisation_stays_below_one_and_ragged_tiles_are_rounded_up(name, k, c, rows, kernel, depthwise):
    layer = Layer("x", G=c if depthwise else 1, K=1 if depthwise else k, C=1 if depthwise else c, Y=rows, X=rows)
    layer = Layer("x", **{d: getattr(layer, d) for d in "GKCYX"}, R=kernel, S=kernel)
    template = TEMPLATES[name]
    cycles, energy, used = accelerators.priced(layer, template)
    pes = torch.tensor([a[0] * a[1] for a, *_ in template.configurations]).double()
    assert (used <= 1 + 1e-12).all()
    assert (used > 0).all()
    assert (cycles * pes >= layer.macs * (1 - 1e-12)).all()
    assert (cycles >= math.ceil(layer.macs / float(pes.max()))).all()
    assert (cycles[1] >= cycles[0] - 1e-9).all(), "half of the bandwidth is no faster"
    assert (energy > 0).all()
    more = accelerators.priced(
        Layer("x", **{d: getattr(layer, d) for d in "GKCX"}, Y=rows + 1, R=kernel, S=kernel), template
    )
    assert (more[0].amin(-1) >= cycles.amin(-1) - 1e-9).all(), "one row more is never faster on the best machine"


def test_resources_by_hand():
    asic, fpga = TEMPLATES["asic"], TEMPLATES["fpga"]
    at = asic.configurations.index(((16, 16), "row", 64, "GKCNY"))
    area = (256 * (282 + 108 + 0.75 * 4096) + 0.75 * 8 * 65536) / 1e6
    assert float(asic.resources()[at, 0]) == pytest.approx(area / 2.5, rel=1e-6)
    blocks = 2 * math.ceil(8 * 65536 / 36864)
    assert fpga.resources()[at].tolist() == pytest.approx([256 / 220, blocks / 140], rel=1e-6)
    assert blocks == 30


@pytest.mark.parametrize("name", TEMPLATES)
def test_limits_bind(name, priced):
    share = priced[name].pairs.double().mean()
    assert 0.1 < share < 0.9
    assert priced[name].pairs.equal(priced[name].pairs.T)


def test_rules_allot_every_layer():
    depthwise, point, late = Layer(G=8, Y=32, X=32, R=3, S=3), Layer(K=4, C=4, Y=32, X=32), Layer(K=4, C=4, Y=16, R=3)
    assert [chunk_of(rule, depthwise, 32) for rule in RULES] == [0, 1, 0, 0]
    assert [chunk_of(rule, point, 32) for rule in RULES] == [0, 0, 1, 0]
    assert [chunk_of(rule, late, 32) for rule in RULES] == [0, 0, 0, 1]
    with pytest.raises(WorkbenchError, match="no rule"):
        chunk_of("none", late, 32)


def test_latency_is_the_slowest_chunk_and_energy_is_everything():
    found = toy()
    net, pair = torch.tensor([[1, 0]]), torch.tensor([[0, 1]])
    for rule in (1, 2, 3):
        ms, uj = found.evaluate(net, torch.tensor([rule]), pair)

        def chunks(fixed, table, rule=rule):
            return [float(fixed[rule, k, k] + table[rule, k, 0, 1, k] + table[rule, k, 1, 0, k]) for k in (0, 1)]

        cycles, energy = chunks(found.fixed_cycles, found.cycles), chunks(found.fixed_energy, found.energy)
        assert float(ms) == pytest.approx(max(cycles) / 2e5)
        assert float(uj) == pytest.approx(sum(energy))


def test_the_best_accelerator_is_found_by_trying_all():
    found = toy(configurations=4)
    every = torch.tensor(list(itertools.product((0, 1), (0, 1))))
    best = found.best(every)
    for n, net in enumerate(every):
        tried = {}
        for rule, a, b in itertools.product(range(4), range(4), range(4)):
            choice = torch.tensor([rule]), torch.tensor([[a, b]])
            if found.allowed(*choice):
                ms, uj = found.evaluate(net[None], *choice)
                tried[rule, a, b] = float(ms), float(ms * uj)
        for at, name in enumerate(("latency", "edp")):
            assert float(best[name][0][n]) == pytest.approx(min(t[at] for t in tried.values()))
            rule, (a, b) = int(best[name][1][n]), best[name][2][n].tolist()
            assert tried[rule, a, b][at] == pytest.approx(float(best[name][0][n]))


# --- the joint search --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_expected_costs_are_the_mean_over_every_design(seed):
    found, stream = toy(seed=seed), generator(seed, "odds")
    own = Logits.start((2, 2), 4, (3,), stream, spread=1.0)
    ms, uj = method.expected_costs(found, own, sharpness=8.0)
    odds = [x.softmax(-1).detach() for x in own.operators]
    chunks = [own.configurations(k).detach() for k in (0, 1)]
    wanted = expected_cost(found, odds, own.rule.softmax(-1).detach(), chunks, 8.0)
    assert (ms.item(), uj.item()) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_derivative_is_what_differences_say(name):
    table = checks.compared(BIG, TEMPLATES[name], seed=3)
    assert table["error"].max() < 1e-4
    assert table["derivative"].abs().max() > 0.1
    assert (table.groupby("kind")["derivative"].apply(lambda d: d.abs().max()) > 1e-3).all()


def test_in_the_released_codes_space_nothing_is_enumerated_and_all_is_exact():
    """22 slots of up to 9 operators: where every choice is decided the expectation is that design's cost, and a
    derivative is what a difference says."""
    whole, template = space.fbnet(), replace(TEMPLATES["asic"], arrays=((8, 8), (16, 16)), buffers=(64,))
    assert whole.count > 1e20
    found, stream = accelerators.costs(whole, template), generator("fbnet")
    own = Logits.start(whole.choices, len(RULES), template.factors, stream, 1.0)
    ms, uj = method.expected_costs(found, own)
    (ms * uj).backward()
    for x in (own.operators[5], own.operators[20], own.rule, own.chunks[1][0]):
        (slope,) = checks.finite_differences(lambda: math.prod(method.expected_costs(found, own)), [x])
        assert ((x.grad - slope).abs() / slope.abs().max()).max() < 1e-4
    with torch.no_grad():
        for x in own.all:
            x[int(torch.randint(len(x), (1,), generator=stream))] = 60.0
        design = method.derive(found, own)
        ms, uj = method.expected_costs(found, own, 64.0)
    exact = found.evaluate(torch.tensor([design.net]), torch.tensor([design.rule]), torch.tensor([design.chunks]))
    assert float(uj) == pytest.approx(float(exact[1]), rel=1e-9)
    assert float(exact[0]) <= float(ms) * (1 + 1e-9) <= float(exact[0]) * 2 ** (1 / 64) * (1 + 1e-6)


def test_the_smooth_maximum_is_as_near_as_stated(priced):
    own = logits("asic", spread=0.5)
    sharp, soft = (method.expected_costs(priced["asic"], own, s)[0] for s in (512.0, method.SHARPNESS))
    assert sharp <= soft <= sharp * 2 ** (1 / method.SHARPNESS) * (1 + 1e-6)


@given(st.sampled_from(sorted(TEMPLATES)), st.integers(0, 10**6), st.floats(0.1, 12))
@settings(max_examples=25)
def test_a_derived_design_keeps_to_the_limits_whatever_the_logits(name, seed, spread):
    found = COSTS.setdefault(name, accelerators.costs(BIG, TEMPLATES[name]))
    design = method.derive(found, logits(name, seed, spread))
    assert bool(found.allowed(torch.tensor([design.rule]), torch.tensor([design.chunks])))
    used = found.resources[list(design.chunks[: 1 if design.rule == 0 else 2])].sum(0)
    assert (used <= 1 + 1e-9).all()


COSTS: dict[str, Costs] = {}


def test_where_the_most_probable_pair_fits_it_is_derived(priced):
    own = logits("asic", spread=0.0)
    with torch.no_grad():
        own.rule[3] = 5
        for chunk, array in zip(own.chunks, (0, 4), strict=True):
            chunk[0][array], chunk[1][2], chunk[2][1] = 5, 5, 5
    design = method.derive(priced["asic"], own)
    shown = [TEMPLATES["asic"].configurations[c][:3] for c in design.chunks]
    assert shown == [((4, 4), "output", 64), ((8, 8), "output", 64)]


def test_the_search_climbs_decides_and_comes_near_the_optimum(priced):
    stream = generator("accuracy")
    accuracy = 90 + torch.stack([torch.randn(4, generator=stream) for _ in range(4)]).double()
    table = sum(accuracy[s].view(*(-1 if i == s else 1 for i in range(4))) for s in range(4)) / 4
    found, template = priced["asic"], TEMPLATES["asic"]

    def gain(x):
        return method.expected_objective(found, table, OBJECTIVE, x)

    best = found.best(BIG.designs())["edp"][0]
    optimum = float((table.flatten() - 3 * best.log10()).max())
    worths, budgets = [], set()
    for seed in range(3):
        design, history = method.search(found, template.factors, BIG.choices, gain, generator(seed), 100, 0.2)
        assert history[-1]["gain"] > history[0]["gain"] + 1
        assert history[-1]["entropy"] < 0.5 * history[0]["entropy"]
        ms, uj = found.evaluate(torch.tensor([design.net]), torch.tensor([design.rule]), torch.tensor([design.chunks]))
        worths.append(float(table[design.net] - 3 * (ms * uj).log10()))
    assert max(worths) > optimum - 0.5
    assert max(worths) <= optimum + 1e-9
    for weight in (0.5, 30.0):
        objective = Objective("edp", weight)
        design, _ = method.search(
            found, template.factors, BIG.choices,
            lambda x, o=objective: method.expected_objective(found, table, o, x), generator(0), 100, 0.2,
        )  # fmt: skip
        budgets.add(BIG.macs(design.net))
    assert len(budgets) == 2, "another weight finds another network"


# --- searches that ask -------------------------------------------------------------------------------------------


def oracle(priced, questions, name="asic", objective=OBJECTIVE):
    stream = generator("table")
    accuracy = 90 + 5 * torch.rand(256, generator=stream, dtype=torch.float64)
    macs = torch.tensor([BIG.macs(d) for d in BIG.designs().tolist()])
    return baselines.Oracle(space.digits(), TEMPLATES[name], priced[name], accuracy, macs, objective, questions)


@pytest.mark.parametrize("name", baselines.METHODS)
def test_a_search_asks_no_more_than_it_may_and_keeps_to_the_limits(name, priced):
    asked = oracle(priced, 64)
    baselines.METHODS[name](asked, generator(name))
    assert 60 <= asked.asked <= 64
    best = asked.best
    assert bool(asked.costs.allowed(torch.tensor([best.rule]), torch.tensor([best.chunks])))
    ms, uj = asked.costs.evaluate(torch.tensor([best.net]), torch.tensor([best.rule]), torch.tensor([best.chunks]))
    place = asked.place(torch.tensor([best.net]))
    assert asked.worth == pytest.approx(float(OBJECTIVE.value(asked.accuracy[place], ms, uj)))
    assert BIG.designs()[place].tolist() == [list(best.net)]


def test_an_oracle_refuses_a_question_too_many_and_counts_no_design_over_the_limits(priced):
    asked = oracle(priced, 8)
    nets_only = torch.zeros(9, 4, dtype=torch.long)
    with pytest.raises(ValueError, match="9 questions"):
        asked.ask_network(nets_only)
    asked = oracle(priced, 8)
    over = torch.tensor([[0, 0, 0, 0, 3, 8, 0, 2, 0, 8, 0, 2, 0]])  # two arrays of 16 x 16 with 256 KB
    assert asked.ask(over).isinf().all()
    assert asked.asked == 0
    assert asked.best is None


def test_the_score_function_is_unbiased():
    own = [torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64, requires_grad=True)]
    worth = torch.tensor([1.0, 5.0, 2.0], dtype=torch.float64)
    p = own[0].softmax(-1)
    true = torch.autograd.grad((p * worth).sum(), own[0])[0]
    designs = torch.arange(3)[:, None]
    each = [
        torch.autograd.grad(method._log_probabilities(own, designs[i : i + 1])[0], own[0])[0] * worth[i]
        for i in range(3)
    ]
    torch.testing.assert_close(sum(pi * e for pi, e in zip(p.detach(), each, strict=True)), true)


def test_the_disguised_gradient_is_the_cost_and_pushes_down_what_was_sampled():
    table = checks.slopes(4, count=20)
    assert [row["slope"] for row in table] == pytest.approx([row["cost"] for row in table])
    assert min(row["slope"] for row in table) > 0
    x = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    method.disguised_loss(torch.tensor(7.0), [x.softmax(-1)[1]]).backward()
    assert x.grad[1] > 0  # descent lowers the logit of what was sampled, good or bad


def test_at_the_released_rate_the_disguised_search_is_a_random_one(priced):
    designs = []
    for lr in (1e-7, 0.0):
        asked, seen = oracle(priced, 64), []
        plain = asked.ask
        asked.ask = lambda choices, plain=plain, seen=seen: (seen.append(choices.clone()), plain(choices))[1]
        method.disguised(asked, generator("same"), baselines.WORST, lr)
        designs.append(torch.cat(seen))
    assert torch.equal(*designs)


# --- the supernet ------------------------------------------------------------------------------------------------


def test_a_supernet_along_one_path_is_that_network():
    own = oneshot.Supernet(SMALL, 0)
    x = torch.randn(5, 1, 8, 8, generator=generator("x"))
    design = (0, 1, 3, 2)
    own.train()
    picked = [oneshot.Chosen(torch.eye(4)[i], (i,)) for i in design]
    found = own(x, picked)
    left, z = iter(design), x
    for at, slot in enumerate(own.slots):
        z = slot[next(left)](z) if at in own.free else slot[0](z)
    torch.testing.assert_close(found, own.head(z.mean((2, 3))))
    (convs,) = {sum(isinstance(m, nn.Conv2d) for m in own.slots[1].modules())}
    assert convs == 4


@settings(max_examples=20)
@given(st.integers(0, 10**6))
def test_computing_one_path_gives_the_gradients_of_computing_all(seed):
    """The others have the weight 0: nothing of them reaches the loss."""
    x, gradients = torch.randn(5, 1, 8, 8, generator=generator("x")), []
    for paths in (1, None):
        net, draws = oneshot.Supernet(SMALL, 0), generator(seed)
        chosen = [oneshot.choose_hard(torch.zeros(4), 2.0, draws, paths) for _ in SMALL.free]
        net(x, chosen).square().sum().backward()
        gradients.append([torch.zeros_like(p) if p.grad is None else p.grad for p in net.parameters()])
    for one, all_of_them in zip(*gradients, strict=True):
        torch.testing.assert_close(one, all_of_them)


def test_co_search_moves_all_logits_and_halves_are_disjoint(priced, monkeypatch):
    seen = []
    plain = oneshot.Supernet.forward
    monkeypatch.setattr(oneshot.Supernet, "forward", lambda net, x, c: (seen.append(x), plain(net, x, c))[1])
    split, template = nets.digits_split(), TEMPLATES["asic"]
    few = split.train[0][:80], split.train[1][:80]
    plan = oneshot.Schedule(epochs=4, warm_up=1, batch=20)
    starts = []
    keep = Logits.start.__func__
    monkeypatch.setattr(Logits, "start", classmethod(lambda cls, *a: (starts.append(keep(cls, *a)), starts[-1])[1]))
    gain = oneshot.hardware_gain(priced["asic"], OBJECTIVE)
    design, history = oneshot.co_search(space.digits(), priced["asic"], template.factors, gain, few, 0, plan)
    assert bool(priced["asic"].allowed(torch.tensor([design.rule]), torch.tensor([design.chunks])))
    assert len(history) == 4
    assert len(seen) == plan.updates(80) == 2 * (2 * 4 - 1)
    weights = {tuple(i.flatten().tolist()) for x in (seen[0], seen[1], *seen[2::2]) for i in x}
    choices = {tuple(i.flatten().tolist()) for x in seen[3::2] for i in x}
    assert not weights & choices
    assert len(weights) == len(choices) == 40
    for x in starts[0].all:
        assert x.grad is not None
        assert x.detach().abs().max() > 0.02


# --- CIFAR-10 ----------------------------------------------------------------------------------------------------


@given(st.integers(0, 10**6))
def test_every_image_is_moved_by_few_pixels_and_perhaps_mirrored(step):
    x = torch.rand(3, 2, 5, 5, generator=generator("pixels"))
    padded = torch.nn.functional.pad(x, (2, 2, 2, 2))
    for image, moved in zip(padded, cifar10.shifted(x, step, most=2), strict=True):
        windows = image.unfold(1, 5, 1).unfold(2, 5, 1).permute(1, 2, 0, 3, 4).flatten(0, 1)
        assert any(torch.equal(w, moved) or torch.equal(w.flip(-1), moved) for w in windows)


def test_an_arm_runs_from_search_to_row(monkeypatch):
    images = torch.randn(80, 3, 32, 32, generator=generator("images"))
    labels = torch.arange(80) % 10
    parts = [(images[a:b], labels[a:b]) for a, b in ((0, 48), (48, 64), (64, 80))]
    monkeypatch.setattr(cifar10, "split", lambda device: nets.Split(*parts))
    monkeypatch.setattr(cifar10, "SEARCH", replace(cifar10.SEARCH, epochs=2, warm_up=1, batch=12))
    monkeypatch.setattr(cifar10, "TRAINING", {"epochs": 1, "batch": 12, "lr": 0.1})
    table, threads = accelerators.costs(cifar10.space(), cifar10.TEMPLATE), torch.get_num_threads()
    for name, epochs in (("joint", 2), ("network first", 2), ("random 1", 0)):
        row, course = cifar10.arm(name, 0, "cpu")
        assert len(course) == epochs
        assert 0 <= row["val"] <= 100
        assert row["ms"] >= row["best_ms"] - 1e-12
        assert (row["ms"] == row["best_ms"]) or name == "joint"
        assert bool(table.allowed(torch.tensor([row["rule"]]), torch.tensor([[row["first"], row["second"]]])))
    torch.set_num_threads(threads)


def test_recorded_arms_cost_what_the_model_says():
    found, whole = cifar10.recorded(), cifar10.space()
    table = accelerators.costs(whole, cifar10.TEMPLATE)
    assert found.groupby("seed")["arm"].apply(set).eq({"joint", "network first", *RIVALS}).all()
    for row in found.to_dict("records"):
        names = row["net"].split()
        free = [whole.slots[at].operators.index(names[at - 1]) for at in whole.free]
        at = torch.tensor([row["rule"]]), torch.tensor([[row["first"], row["second"]]])
        ms, uj = table.evaluate(torch.tensor([free]), *at)
        assert (float(ms), float(uj)) == pytest.approx((row["ms"], row["uj"]), rel=1e-9)
        assert whole.macs(free) == pytest.approx(1e6 * row["mmacs"])
        if row["arm"].startswith("random"):
            drawn = cifar10.drawn(whole, table, row["seed"], int(row["arm"].split()[1]))
            assert list(drawn.net) == free


def test_the_best_of_the_random_networks_is_chosen_on_validation():
    found = cifar10.recorded()
    wide = cifar10.compared(found)
    for seed, row in wide.iterrows():
        own = found[(found["seed"] == seed) & found["arm"].isin(RIVALS)]
        assert row["random, mean"] == pytest.approx(own["worth"].mean())
        assert row["random, best of 4"] == own.sort_values("val_worth")["worth"].iloc[-1]
        assert row["joint"] == found.query("seed == @seed and arm == 'joint'")["worth"].item()


def test_expected_macs_are_the_mean(priced):
    own = logits("asic")
    gain = oneshot.macs_gain(BIG, Objective("latency", 1.0))(own)
    odds = own.probabilities().detach()
    mean = sum(
        math.prod(float(odds[s, o]) for s, o in enumerate(net)) * BIG.macs(net) for net in BIG.designs().tolist()
    )
    assert 10 ** -gain.item() == pytest.approx(mean, rel=1e-9)
