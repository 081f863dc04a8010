"""FracTrain: the indicator by hand, gates against torch and against running every choice, costs from the masks."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from workbench import WorkbenchError, resnets
from workbench.papers.fractrain import cost, experiment, method, views
from workbench.papers.fractrain.experiment import BOTH, CHOICES, PFQ, STATIC, Config
from workbench.papers.fractrain.method import Gates, Indicator, Schedule, Task
from workbench.papers.fractrain.nets import BLOCKS, ResNet8, Uniform
from workbench.quantize import nearest, quantize, quantize_activation, reestimate, span
from workbench.training import generator

NONE = torch.empty(0, dtype=torch.long)


def streams(K: int, *name: object) -> list[torch.Generator]:
    return [generator(k, *name) for k in range(K)]


# --- the indicator ---------------------------------------------------------------------------------------------------


def switches(losses, epsilon: float = 0.15, alpha: float = 0.4) -> list[int]:
    """Periods after which the stage rises."""
    stages = method.staircase([*losses, losses[-1]], epsilon, alpha)
    return [period for period in range(1, len(stages)) if stages[period] > stages[period - 1]]


@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1), st.floats(0.05, 1))
def test_a_constant_loss_switches_after_periods_5_10_and_15_and_never_again(loss, epsilon, alpha):
    assert switches([loss] * 40, epsilon, alpha) == [5, 10, 15]


@given(st.integers(6, 60), st.floats(0.01, 0.5))
def test_a_loss_that_falls_steadily_by_more_than_the_threshold_never_switches(periods, epsilon):
    scale = 1.0  # the first losses are at most 1, and so is their mean
    fall = 1.01 * epsilon * scale
    assert switches([1 - fall * t for t in range(min(periods, int(1 / fall)))] or [1.0], epsilon) == []


def test_the_indicator_by_hand():
    # The window's oldest loss leaves at period 6; from 2.0, 1.0 x 5 the differences then vanish.
    assert switches([2.0] + [1.0] * 5) == [6]
    # Only the distance to the newest counts: 1.0 and 1.2 are 0.2 apart, both within 0.15 of the newest, 1.1.
    wiggle, scale = [1.0, 1.2, 1.0, 1.2, 1.1], 1.1
    assert max(abs(loss - 1.1) for loss in wiggle) / scale < 0.15
    assert switches(wiggle) == [5]
    # alpha: after one switch the threshold is 0.06, which the same wiggle exceeds.
    assert switches(wiggle * 4) == [5]
    assert switches(wiggle * 4, alpha=1.0) == [5, 10, 15]


def test_the_scale_is_the_mean_of_the_first_ten_losses():
    indicator = Indicator(0.15, 0.4)
    for loss in [*range(20, 0, -1)]:
        indicator.see(float(loss))
    assert indicator.scale == pytest.approx(np.mean(range(20, 10, -1)))


@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=60), st.floats(0.01, 0.5), st.floats(0.1, 1))
def test_the_staircase_only_rises_one_step_at_a_time_and_every_stage_lasts(losses, epsilon, alpha):
    stages = method.staircase(losses, epsilon, alpha)
    rises = stages.diff()
    assert ((rises == 0) | (rises == 1)).all()
    at = [0, *(rises.nonzero().flatten() + 1).tolist()]
    assert all(b - a >= method.WINDOW for a, b in pairwise(at))
    assert len(stages) == len(losses)
    assert stages[0] == 0


def test_what_a_reader_sees_of_the_indicator_is_what_it_did():
    losses = (2 * torch.rand(50, generator=generator("losses")) / torch.arange(1, 51)).tolist()
    seen = views.watched(losses, 0.3, 0.7)
    bits = torch.tensor([b for b, _ in method.STAGES])[method.staircase(losses, 0.3, 0.7)]
    assert seen["bits"].tolist() == bits.tolist()
    turned = np.flatnonzero(np.diff(seen["bits"]))
    below = np.flatnonzero(seen["difference"] <= seen["threshold"])
    assert len(turned)
    assert turned.tolist() == below[below < 49].tolist()


# --- the network -----------------------------------------------------------------------------------------------------


def as_torch(net: ResNet8, parameters, k: int) -> nn.Module:
    """Slice k as a torch model."""
    model = resnets.cifar_resnet(8, net.classes, net.width, net.channels)
    names = [name.removesuffix(".weight") for name in parameters if name.endswith(".weight")]
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    state = model.state_dict()
    for name, conv, norm in zip(names[:-1], convolutions, norms, strict=True):
        conv.weight.data = parameters[f"{name}.weight"][k].detach().clone()
        norm.weight.data = parameters[f"{name}.scale"][k].detach().clone()
        norm.bias.data = parameters[f"{name}.shift"][k].detach().clone()
    model.head[-1].weight.data = parameters["head.weight"][k].detach().clone()
    model.head[-1].bias.data = parameters["head.bias"][k].detach().clone()
    assert len(state) == len(model.state_dict())
    return model


def test_each_slice_is_the_quantised_cifar_resnet_forward_and_backward():
    net, K = ResNet8(3, 4, 7), 3
    parameters = {n: p.requires_grad_() for n, p in net.init(streams(K, "start")).items()}
    x = torch.randn(6, K, 3, 8, 8, generator=generator("x"))
    bits, wide = torch.tensor([3, 5, 8]), torch.tensor([24, 24, 24])  # errors all but exact: rounding is random
    logits = net.logits(parameters, x, Uniform(bits, wide, streams(K)))
    logits.square().sum().backward()
    for k in range(K):
        twin = quantize(as_torch(net, parameters, k), bits=int(bits[k]), error_bits=24).train()
        expected = twin(x[:, k])
        assert torch.allclose(logits[k], expected, atol=1e-4)
        expected.square().sum().backward()
        last = [m for m in twin.modules() if isinstance(m, nn.Conv2d)][-2]
        grad = parameters["2.second.weight"].grad[k]
        assert torch.allclose(grad, last.weight.grad, rtol=1e-3, atol=1e-3 * float(grad.abs().max()))


def test_evaluation_is_the_quantised_cifar_resnets_beyond_the_range_too():
    net, K = ResNet8(1, 4), 2
    parameters, bits = net.init(streams(K, "start")), torch.tensor([4, 8])
    x, kept = torch.randn(20, K, 1, 8, 8, generator=generator("x")), {}
    uniform = Uniform(bits, bits, streams(K))
    net.logits(parameters, x, uniform, kept)
    logits = net.logits(parameters, 4 * x[:5], uniform, kept)
    for k in range(K):
        twin = quantize(as_torch(net, parameters, k), bits=int(bits[k]))
        reestimate(twin, [x[:, k]])
        assert torch.allclose(logits[k], twin.eval()(4 * x[:5, k]), atol=1e-4)


def test_evaluation_uses_the_statistics_that_were_kept_and_no_others():
    net, K = ResNet8(1, 4), 2
    parameters, uniform = net.init(streams(K, "start")), Uniform(torch.full((K,), 8), torch.full((K,), 8), streams(K))
    x = torch.randn(12, K, 1, 8, 8, generator=generator("x"))
    kept: dict = {}
    net.logits(parameters, x, uniform, kept)
    together = net.logits(parameters, x, uniform, kept)
    alone = torch.cat([net.logits(parameters, x[at : at + 1], uniform, kept) for at in range(12)], 1)
    assert torch.allclose(together, alone, atol=1e-5)
    assert not torch.allclose(net.logits(parameters, x, uniform), 0 * together)


# --- the gates -------------------------------------------------------------------------------------------------------


def some_gates(own: int = 2, twins: int = 0, fixed: int = 0, target: float = 2.6) -> Gates:
    net = ResNet8(1, 4)
    K = own + twins + fixed
    return Gates(
        method.init_gates(net, len(CHOICES), streams(own, "gates")),
        torch.arange(twins),
        torch.arange(fixed) % len(CHOICES),
        torch.full((own, 1), target),
        [None] * own,
        [*range(own), *range(twins), *range(fixed)][:K],
        4,
        CHOICES,
    )


def decisive(*counts: int) -> Gates:
    """Gates whose choices differ between samples: a new gate's hardly do."""
    gates = some_gates(*counts)
    for name, p in gates.parameters.items():
        p.mul_(0 if name == "gate.choice.bias" else 6)
    return gates


def passed(gates: Gates, x: torch.Tensor):
    """Logits of a new network and the decision made on the way."""
    net, K = ResNet8(1, 4), x.shape[1]
    decision = gates.at(0, len(x))
    return net.logits(net.init(streams(K, "start")), x, decision), decision


def test_masks_are_one_hot_and_cost_is_theirs():
    gates = some_gates(2, 2, 3)
    _, decision = passed(gates, torch.randn(16, 7, 1, 8, 8, generator=generator("x")))
    masks = torch.stack(decision.masks)
    assert masks.shape == (BLOCKS, 7, 16, len(CHOICES))
    assert set(masks.unique().tolist()) == {0.0, 1.0}
    assert (masks.sum(-1) == 1).all()
    by_hand = torch.zeros(7)
    for block in range(BLOCKS):
        for k in range(7):
            for sample in range(16):
                b, g = CHOICES[int(masks[block, k, sample].argmax())]
                by_hand[k] += 100 * (4 * b + 4 * g + b * g) / (3 * 1024) / (16 * BLOCKS)
    assert torch.allclose(gates.cost(decision), by_hand, atol=1e-4)


def test_the_gate_is_torchs_lstm_behind_two_linear_layers():
    gates = decisive(2)
    decision, p = gates.at(0, 5), gates.parameters
    inputs = [torch.randn(2, 5, c, 4, 4, generator=generator("x", b)) for b, c in enumerate((4, 4, 8))]
    for block, x in enumerate(inputs):
        decision.choose(block, x)
    for k in range(2):
        lstm = nn.LSTM(method.EMBEDDED, method.HIDDEN)
        weight, bias = p["gate.lstm.weight"][k], p["gate.lstm.bias"][k, 0]
        lstm.weight_ih_l0.data, lstm.weight_hh_l0.data = (w.clone() for w in weight.split(method.EMBEDDED, 1))
        lstm.bias_ih_l0.data, lstm.bias_hh_l0.data = bias.clone(), torch.zeros_like(bias)
        embedded = []
        for block, x in enumerate(inputs):
            h = x[k].mean((-1, -2))
            for name in (f"gate.{block}.pool", f"gate.{block}.embed"):
                h = F.linear(h if name.endswith("pool") else h.relu(), p[f"{name}.weight"][k], p[f"{name}.bias"][k, 0])
            embedded.append(h)
        hidden, _ = lstm(torch.stack(embedded))
        assert torch.allclose(decision.state[0][k], hidden[-1], atol=1e-5)
        logits = F.linear(hidden, p["gate.choice.weight"][k], p["gate.choice.bias"][k, 0])
        assert torch.equal(torch.stack([m[k] for m in decision.masks]).argmax(-1), logits.argmax(-1))


def test_permuting_the_samples_permutes_their_choices():
    gates = decisive(1)
    x = 3 * torch.randn(32, 1, 1, 8, 8, generator=generator("x"))
    order = torch.randperm(32, generator=generator("order"))
    first, second = (torch.stack(passed(gates, each)[1].masks).argmax(-1) for each in (x, x[order]))
    assert torch.equal(first[:, :, order], second)
    assert any(len(row.unique()) > 1 for row in first[:, 0]), "gates that never differ would pass for nothing"


def test_dealt_choices_are_the_twins_in_another_order_and_send_it_no_gradient():
    gates = decisive(1, 1)
    x = 3 * torch.randn(32, 1, 1, 8, 8, generator=generator("x")).expand(-1, 2, -1, -1, -1)
    for p in gates.parameters.values():
        p.requires_grad_()
    logits, decision = passed(gates, x)
    own, dealt = torch.stack(decision.masks).argmax(-1).unbind(1)
    assert torch.equal(own.sort(-1).values, dealt.sort(-1).values)
    assert not torch.equal(own, dealt)
    logits[1].sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in gates.parameters.values())


def test_every_gate_parameter_gets_gradient_from_the_cost_alone():
    gates = some_gates(2)
    for p in gates.parameters.values():
        p.requires_grad_()
    _, decision = passed(gates, torch.randn(16, 2, 1, 8, 8, generator=generator("x")))
    gates.penalty(gates.cost(decision)).sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in gates.parameters.values())


def test_the_cost_terms_sign_follows_the_target():
    gates = some_gates(3, fixed=1)
    penalty = gates.penalty(torch.tensor([2.5, 2.6000001, 4.0, 4.6875]))
    weight = gates.strength * 3 / 100
    assert penalty.tolist() == pytest.approx([-2.5 * weight, 2.6 * weight, 4 * weight, 0])


def test_rounding_each_sample_once_equals_running_every_choice():
    K, n = 2, 9
    x = torch.randn(K, n, 3, 4, 4, generator=generator("x"), requires_grad=True)
    w = torch.randn(5, 3, 3, 3, generator=generator("w"))
    masks = F.one_hot(torch.randint(len(CHOICES), (K, n), generator=generator("m")), len(CHOICES)).float()
    upstream = torch.randn(K, n, 5, 4, 4, generator=generator("g"))
    bits, found = torch.tensor([float(b) for b, _ in CHOICES]), []

    def conv(x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x.flatten(0, 1), w, padding=1).unflatten(0, (K, n))

    once, every = (masks.clone().requires_grad_() for _ in range(2))
    for mask, y in (
        (once, conv(method._Select.apply(x, once, *span(x, 1), bits, K))),
        (every, sum(conv(nearest(x, *span(x, 1), b)) * every[..., c, None, None, None] for c, b in enumerate(bits))),
    ):
        found.append((y, *torch.autograd.grad((y * upstream).sum(), (x, mask))))
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, atol=1e-4)
    per_sample = quantize_activation(x, masks @ bits)
    assert torch.allclose(conv(per_sample), found[1][0], atol=1e-5)


@given(st.floats(0.1, 6), st.integers(1, 8))
def test_a_target_below_the_floor_is_refused_with_the_floors_value(target, weight_bits):
    floor = cost.floor(weight_bits, CHOICES)
    if target >= floor:
        method.check_target(target, weight_bits, CHOICES)
    else:
        with pytest.raises(WorkbenchError, match=f"{floor:.3f}"):
            method.check_target(target, weight_bits, CHOICES)


def test_the_readmes_first_target_is_refused_where_a_gate_or_a_config_is_made():
    with pytest.raises(WorkbenchError, match=r"1\.758"):
        some_gates(1, target=1.5)
    with pytest.raises(WorkbenchError, match=r"1\.758"):
        Config.at("quick", progressive=(1.5, 2.0, 2.5, 3.0))


# --- training --------------------------------------------------------------------------------------------------------


def toy(K: int, n: int = 64) -> Task:
    x = torch.randn(200, 1, 8, 8, generator=generator("toy"))
    y = (x.mean((1, 2, 3)) > 0).long()
    index = torch.arange(n).expand(K, -1)
    rest = torch.arange(n, n + 40).expand(K, -1)
    return Task(x, [*range(K)], index, y[index], rest, y[rest], rest, y[rest], 16)


def schedule(K: int, steps: int, indicators) -> Schedule:
    return Schedule(torch.full((K, steps, 2), 8), indicators, streams(K, "rounding"))


def test_slices_train_as_if_alone():
    net, start = ResNet8(1, 4), ResNet8(1, 4).init(streams(3, "start"))
    both = method.fit(net, start, toy(3), schedule(3, 4, [Indicator(0.15, 0.4), None, None]), 4, 0.05, 1, 1)
    policy = Schedule(torch.full((1, 4, 2), 8), [None], [generator(1, "rounding")])
    alone = method.fit(net, {name: p[1:2] for name, p in start.items()}, toy(3).take([1]), policy, 4, 0.05, 1, 1)
    assert torch.allclose(both.loss[1, :1], alone.loss[0, :1], atol=1e-5)
    # Later a sum in another order may move a number to the next level: far less than seeds differ.
    seeds_differ = (both.loss[0] - both.loss[1]).abs()
    assert (both.loss[1] - alone.loss[0]).abs().mean() < 0.05 * seeds_differ.mean()
    assert torch.equal(start["head.weight"], ResNet8(1, 4).init(streams(3, "start"))["head.weight"])


def test_pfq_pays_for_the_bits_its_indicator_set():
    net, period, steps = ResNet8(1, 4), 2, 50
    policy = schedule(1, steps, [Indicator(10.0, 1.0)])  # any loss counts as flat
    run = method.fit(net, net.init(streams(1, "start")), toy(1), policy, steps, 0.05, period, 5)
    stages = method.staircase(run.loss[0].tolist(), 10.0, 1.0)
    assert (stages.diff().nonzero().flatten() + 1).tolist() == [5, 10, 15]
    expected = [cost.cp(b, b, g) for b, g in (method.STAGES[s] for s in stages) for _ in range(period)]
    assert run.cp[0].tolist() == pytest.approx(expected)
    assert policy.bits[0, -1].tolist() == [8, 8]


def test_fractrains_target_rises_with_the_indicator():
    gates = some_gates(1, target=2.6)
    gates.targets = torch.tensor([[1.8, 2.1, 2.4, 2.6]])
    gates.indicators = [Indicator(0.15, 0.4)]
    cp, signs = torch.tensor([2.2]), []
    for _ in range(16):
        signs.append(float(gates.penalty(cp)) > 0)
        gates.see(torch.tensor([1.0]))
    assert signs == [True] * 10 + [False] * 6  # above 1.8 and 2.1, below 2.4 and 2.6


def test_evaluation_is_at_eight_bits_whatever_was_trained():
    policy = Schedule(torch.full((2, 4, 2), 3), [None, None], streams(2))
    assert policy.at(0, 5).bits.tolist() == [3, 3]
    assert policy.evaluated(5).bits.tolist() == [8, 8]


# --- the experiment --------------------------------------------------------------------------------------------------

TINY = {"seeds": 2, "seed": 0, "train": 128, "epochs": 16, "gate_epochs": 16, "adapt_epochs": 16, "played": (1.8, 4.0)}


@pytest.fixture(scope="module")
def result():
    return experiment.run(Config.at("quick", **TINY))


def test_the_same_numbers_come_again(result):
    config = Config.at("quick", **TINY)
    again = experiment.first_arms(config.settings[0], config)
    arms = result.tables["arms"].set_index(["arm", "seed"])
    for row in again["arms"]:
        assert arms.loc[(row["arm"], row["seed"]), "test_loss"] == pytest.approx(row["test_loss"], rel=1e-5)


def test_controls_cost_what_pfq_costs(result):
    arms = result.tables["arms"].pivot(index="seed", columns="arm", values="cp")
    for control in (experiment.REVERSED, experiment.SHUFFLED):
        assert arms[control].tolist() == pytest.approx(arms[PFQ].tolist())
    assert arms[experiment.YOKED].mean() == pytest.approx(arms[PFQ].mean())
    assert arms[STATIC].tolist() == [6.25, 6.25]
    costs = [cost.cp(bits, bits, errors) for bits in range(2, 9) for errors in (6, 8)]
    nearest_cost = min(costs, key=lambda c: abs(c - arms[PFQ].mean()))
    assert arms[experiment.EQUAL].tolist() == pytest.approx([nearest_cost] * 2)
    dealt = arms["DFQ's choices dealt at random 2.6"]
    assert dealt.tolist() == pytest.approx(arms["DFQ 2.6"].tolist(), rel=1e-5)


def test_savings_by_hand(result):
    arms = result.tables["arms"].set_index(["arm", "seed"])
    table = result.tables["savings"].set_index(["arm", "seed"])
    for arm, reference in ((PFQ, STATIC), (BOTH, experiment.HIGHEST)):
        row, own, base = table.loc[(arm, 1)], arms.loc[(arm, 1)], arms.loc[(reference, 1)]
        assert row["reference"] == reference
        assert row["bits"] == pytest.approx(100 * (1 - own["cp"] / base["cp"]))
        assert row["bits"] + row["time"] == pytest.approx(100 * (1 - own["counted"] / base["counted"]))
    best = result.tables["looks"].sort_values("step")
    for (arm, seed), one in best.groupby(["arm", "seed"]):
        assert arms.loc[(arm, seed), "best_step"] == one.loc[one["validation"].idxmax(), "step"]


def test_every_contrast_and_claim_is_there_and_paired(result):
    ids = [row["id"] for row in result.rows]
    assert len(set(ids)) == len(ids)
    assert {f"fractrain.digits.noise20.pfq.{name}" for name in ("beats_yoked", "beats_equal", "saving_time")} <= {*ids}
    assert result.tables["contrasts"]["n"].eq(2).all()
    arms = result.tables["arms"].pivot(index="seed", columns="arm", values="test_loss")
    row = next(row for row in result.rows if row["id"].endswith("pfq.beats_static"))
    assert row["value"] == pytest.approx((arms[STATIC] - arms[PFQ]).mean())


def test_wrong_labels_are_wrong_and_as_many_as_said():
    y = torch.arange(10).repeat(500)
    noisy = experiment.wrong(y, 0.2, 1)
    assert (noisy != y).float().mean() == pytest.approx(0.2, abs=0.03)
    assert noisy.min() == 0
    assert noisy.max() == 9
    assert torch.equal(experiment.wrong(y, 0.0, 1), y)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40))
def test_mutual_information_is_symmetric_and_bounded_by_the_entropies(pairs):
    a, b = np.array(pairs).T
    own = [experiment.mutual_information(x, x) for x in (a, b)]
    found = experiment.mutual_information(a, b)
    assert found == pytest.approx(experiment.mutual_information(b, a), abs=1e-9)
    assert -1e-9 <= found <= min(own) + 1e-9


def test_mutual_information_by_hand():
    a = np.array([0, 0, 1, 1])
    assert experiment.mutual_information(a, a) == pytest.approx(1)
    assert experiment.mutual_information(a, np.array([0, 1, 0, 1])) == pytest.approx(0)


def test_figures_are_saved_with_their_tables(result, tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_OUT", str(tmp_path))
    names = ("staircases", "accuracy_and_cost", "contrasts", "gate_choices", "dependence", "adaptation")
    for name in (*names, "printed_costs", "bits_and_time", "energy"):
        getattr(views, name)(result)
        for ending in ("svg", "png", "csv"):
            assert (tmp_path / "fractrain" / f"{name}.{ending}").stat().st_size > 500


def test_the_indicators_explorer_shows_the_two_curves_checked_by_hand(result):
    explorer = views.explore_indicator(result)
    text = explorer(curve="constant")["text"]
    assert "after period 5, then after period 10, then after period 15" in text
    assert "never, then never, then never" in explorer(curve="steady fall")["text"]
    bits = explorer(curve="constant")["Bits"]["weights and inputs"]
    assert bits.tolist() == [3] * 5 + [4] * 5 + [6] * 5 + [8]
    spent = np.mean([cost.cp(b, b, dict(method.STAGES)[b]) for b in bits.astype(int).tolist()])
    assert explorer(curve="constant")["Cost"]["cp, % of 32 bits"] == f"{spent:.2f}"


def test_the_gates_explorer_counts_what_it_shows(result):
    explorer = views.explore_gates(result)
    for target in (1.8, 2.6, 4.0):
        drawn = explorer(target=target)
        errors = dict(CHOICES)
        spent = np.mean([cost.cp(4, int(b), errors[int(b)]) for b in drawn["Bits of the inputs"].flatten()])
        assert drawn["These samples"]["cp, %"] == f"{spent:.2f}"
        assert "1.758" in drawn["text"]
