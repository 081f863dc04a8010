"""ShiftAddNet: rounding and pruning against brute force, energies by hand, claims against planted tables."""

import math
from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch
from common import in_this_process
from torch import nn
from torch.nn import functional as F

from workbench import WorkbenchError, hardware
from workbench.cost import Operations
from workbench.data import Images
from workbench.evidence import CONTRADICTED, NOT_SEEN, NOT_TESTABLE, PARTLY, REPRODUCED, Interval, published
from workbench.papers.shiftaddnet import energy, experiment, robustness, trials
from workbench.papers.shiftaddnet.adder import RATE, Adder2d
from workbench.papers.shiftaddnet.experiment import FULL, MODES, Config, arms, part, run
from workbench.papers.shiftaddnet.method import KINDS, SmallNet
from workbench.papers.shiftaddnet.robustness import input_ranges, prune, quantise, weight_layers, weights_of, zeros
from workbench.papers.shiftaddnet.shift import ShiftPS2d, ShiftQ2d
from workbench.papers.shiftaddnet.trials import Arm, Setting, Split, costs, fit, matched
from workbench.quantize import reestimate
from workbench.training import generator

TINY = {"seeds": 2, "seed": 7, "settings": "digits 100 1", "width": 4, "batch": 50, "test": 60, "bits": 4}
TINY |= {"sparsities": (0.3, 0.7)}
CONFIG = Config.at("quick", **TINY)
SETTING = Setting.read("digits 100 1")
POWERS = ShiftQ2d | ShiftPS2d


@cache
def tiny():
    """One small run in this process, which the tests of the figures share."""
    return in_this_process(run, CONFIG)


@pytest.fixture(scope="module")
def result():
    return tiny()


@pytest.fixture(scope="module")
def split():
    return Split.draw(SETTING, 7, 60)


@pytest.fixture(scope="module")
def nets(split):
    """One network of each kind, a few steps from its start."""
    found = {kind: Arm(kind, 4).build(1, 7) for kind in KINDS}
    for net in found.values():
        fit(net, split.train_x, split.train_y, 2, 0.1, 50, 7)
        reestimate(net, [split.train_x])  # running statistics of so few steps leave every ReLU at 0
    return found


ABLATIONS = ("no BatchNorm", "no local rate", "adders frozen", "shifts frozen", "snapped")


def draws(*stream):
    return generator("shiftaddnet experiment test", *stream)


def state(net):
    return {name: value.clone() for name, value in net.state_dict().items()}


# --- settings, images, networks ------------------------------------------------------------------------------------


def test_settings_are_read():
    setting = Setting.read("cifar10 2000 10")
    assert (setting.dataset, setting.train, setting.epochs) == ("cifar10", 2000, 10)
    assert (setting.id, setting.title, setting.image) == ("cifar10_2000", "cifar10, 2,000 images, 10 epochs", (3, 16))
    assert SETTING.image == (1, 8)


@pytest.mark.parametrize(
    "text",
    ["", "digits", "digits 400", "digits 400 4 2", "digits many 4", "digits 400.5 4", "cora 400 4", "digits 99 4",
     "digits 1601 4", "cifar10 50001 4", "digits 400 0", "digits -400 4"],
)  # fmt: skip
def test_other_settings_are_refused_in_a_line(text):
    with pytest.raises(WorkbenchError, match="setting") as error:
        Setting.read(text)
    assert repr(text) in str(error.value)
    assert "digits" in str(error.value)
    assert "\n" not in str(error.value)


def test_training_and_test_digits_are_apart_and_of_the_seed(monkeypatch):
    pixels = torch.arange(1797.0).view(-1, 1, 1, 1).expand(-1, 1, 8, 8)  # a digit's pixels are its place
    monkeypatch.setattr(trials.data, "digits", lambda: Images("digits", pixels, torch.arange(1797) % 10))
    place = lambda x: (x[:, 0, 0, 0] * 0.37 + 0.3).round().long()  # noqa: E731
    for seed in (3, 8):
        split = Split.draw(Setting.read("digits 1600 1"), seed, 2000)
        train, test = place(split.train_x), place(split.test_x)
        assert torch.equal(torch.cat([train, test]).sort().values, torch.arange(1797)), "each once, all that are left"
        assert torch.equal(split.train_y, train % 10)
        assert torch.equal(split.test_y, test % 10)
    few, again, other = (Split.draw(SETTING, seed, 50) for seed in (3, 3, 8))
    assert (len(few.train_x), len(few.test_x)) == (100, 50)
    assert torch.equal(few.train_x, again.train_x)
    assert not torch.equal(few.train_x, other.train_x)
    assert not torch.equal(few.test_y, other.test_y)


def test_photographs_are_means_of_four_pixels_from_their_own_file(monkeypatch):
    def pool(train):
        at = torch.arange(300.0).view(-1, 1, 1, 1) + (1000 if train else 0)
        corner = torch.tensor([[0.0, 2.0], [4.0, 6.0]]).repeat(16, 16) / 10  # of mean 0.3
        return Images("cifar10", at + corner.expand(1, 3, 32, 32), torch.arange(300) % 10)

    monkeypatch.setattr(trials.data, "cifar10", pool)
    split, other = (Split.draw(Setting.read("cifar10 200 1"), seed, 40) for seed in (3, 4))
    for x, y, first, n in ((split.train_x, split.train_y, 1000, 200), (split.test_x, split.test_y, 0, 40)):
        assert x.shape == (n, 3, 16, 16)
        place = (x * 0.25 + 0.5 - 0.3 - first).round().long()
        assert torch.equal(place, place[:, :1, :1, :1].expand_as(place))
        assert len(place[:, 0, 0, 0].unique()) == n
        assert torch.equal(place[:, 0, 0, 0] % 10, y)
    assert not torch.equal(split.train_y, other.train_y)


def test_all_networks_of_a_seed_see_the_same_batches(split):
    def seen(kind, seed):
        found, net = [], Arm(kind, 4).build(1, 7)
        net.register_forward_pre_hook(lambda _, args: found.append(args[0]))
        fit(net, split.train_x, split.train_y, 2, 0.1, 50, seed)
        return found

    mult, add, other = seen("mult", 7), seen("shift-PS+add", 7), seen("mult", 8)
    assert len(mult) == 4
    assert all(torch.equal(a, b) for a, b in zip(mult, add, strict=True))
    assert not torch.equal(mult[0], other[0])
    for epoch in (mult[:2], mult[2:]):
        rows = torch.cat(epoch).flatten(1).tolist()
        assert sorted(rows) == sorted(split.train_x.flatten(1).tolist()), "every image once an epoch"
    assert not torch.equal(mult[0], mult[2])


def test_all_networks_of_a_part_share_its_images(monkeypatch):
    seen, own = [], trials.train_arm
    monkeypatch.setattr(
        trials, "train_arm", lambda arm, s, split, *rest: seen.append(split) or own(arm, s, split, *rest)
    )
    part("digits 100 1", {"a": Arm("mult", 2), "b": Arm("add", 2)}, 7, CONFIG)
    assert len(seen) == 2
    assert seen[0] is seen[1]


def test_a_start_is_of_the_seed_and_the_name_and_leaves_torchs_stream_alone():
    before = torch.get_rng_state()
    for kind in KINDS:
        own, again, other = (state(Arm(kind, 4).build(1, seed)) for seed in (7, 7, 8))
        assert all(torch.equal(own[name], again[name]) for name in own)
        assert any(not torch.equal(own[name], other[name]) for name in own)
    assert torch.equal(before, torch.get_rng_state())
    whole, frozen = (Arm("shift-Q+add", 4, variant).build(1, 7).state_dict() for variant in ("", "adders frozen"))
    assert all(torch.equal(whole[name], frozen[name]) for name in whole), "an ablation starts where the whole does"


def test_training_decays_no_powers_and_its_rate_falls_by_a_cosine(split, monkeypatch):
    made, sgd = [], torch.optim.SGD
    monkeypatch.setattr(torch.optim, "SGD", lambda *args: made.append(sgd(*args)) or made[-1])
    net = Arm("shift-PS+add", 4).build(1, 7)
    fit(net, split.train_x, split.train_y, 2, 0.1, 50, 7)
    decay = {id(p): group["weight_decay"] for group in made[0].param_groups for p in group["params"]}
    for layer in weight_layers(net):
        assert {decay[id(p)] for p in layer.parameters()} == {0.0 if isinstance(layer, ShiftPS2d) else 1e-4}
    assert len(decay) == len(list(net.parameters()))
    for group in made[0].param_groups:
        assert group["lr"] == pytest.approx(0.05 * (1 + math.cos(math.pi * 3 / 4)))
        assert group["momentum"] == 0.9
    assert not net.training


# --- equal weights, equal energy -----------------------------------------------------------------------------------

PRICE = {"FIX32": (3.1 + 0.1, 0.13 + 0.1, 2 * 0.1), "FIX8": (0.2 + 0.03, 0.024 + 0.03, 2 * 0.03)}
"""pJ of a MAC of a multiplication, shift and adder layer on the 45 nm ASIC."""


def by_hand(kind, w, image):
    """Weights, and nJ an image in both formats, of a small network of width w: multiplications or shift-Q+add."""
    channels, side = image
    ends, hidden = (9 * channels * w, side**2), ((9 * w * w, side**2), (18 * w * w, side**2 / 4))
    first = [ends, (20 * w, 1), *hidden]  # (weights, positions): stem, classifier, the two units
    second = [] if kind == "mult" else [(9 * w * w, side**2), (36 * w * w, side**2 / 4)]
    macs = [sum(weights * at for weights, at in rows) for rows in (first, second)]
    found = {"weights": sum(weights for weights, _ in first + second)}
    for format, (multiply, shift, add) in PRICE.items():
        found[format] = (macs[0] * (multiply if kind == "mult" else shift) + macs[1] * add) / 1e3
    return found


@pytest.mark.parametrize("image", [(1, 8), (3, 16)])
@pytest.mark.parametrize("kind", ["mult", "shift-Q+add"])
def test_costs_of_a_small_network_by_hand(kind, image):
    for width in (2, 7, 16):
        assert costs(kind, width, image) == pytest.approx(by_hand(kind, width, image), rel=1e-9)


@pytest.mark.parametrize("image", [(1, 8), (3, 16)])
@pytest.mark.parametrize("what", ["weights", "FIX32", "FIX8"])
def test_matched_widths_come_nearest_of_all(what, image):
    for kind, other in (("mult", "shift-Q+add"), ("shift-Q+add", "mult")):
        for width in (4, 16):
            target = by_hand(other, width, image)[what]
            off = {w: abs(math.log(by_hand(kind, w, image)[what] / target)) for w in range(1, 129)}
            assert matched(kind, (other, width), what, image) == min(off, key=off.get)


def test_the_experiments_networks_are_matched_and_named_so():
    config = Config.at("full")
    found = arms(config, Setting.read("cifar10 2000 10"))
    own, image = by_hand("shift-Q+add", 16, (3, 16)), (3, 16)
    for what, name in experiment.LIKE.items():
        arm = found[f"mult, {name}"]
        assert by_hand("mult", arm.width, image)[what] == pytest.approx(own[what], rel=0.25)
        assert arm.kind == "mult"
    narrow = found["shift-Q+add, mult's weights"]
    assert narrow.kind == "shift-Q+add"
    assert by_hand("shift-Q+add", narrow.width, image)["weights"] == pytest.approx(
        by_hand("mult", 16, image)["weights"], rel=0.1
    )
    assert not any(arm.variant for arm in found.values()), "ablations are of the first setting alone"
    main = arms(config, Setting.read(config.settings[0]))
    assert set(KINDS) <= set(main)
    assert {arm.variant for arm in main.values()} == {"", *ABLATIONS}


# --- ablations -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "variant", "frozen"),
    [("shift-Q+add", "adders frozen", Adder2d), ("shift-Q+add", "shifts frozen", ShiftQ2d),
     ("shift-PS+add", "shifts frozen", ShiftPS2d), ("shift-Q+add", "", type(None))],
)  # fmt: skip
def test_what_is_frozen_stays_and_all_else_moves(kind, variant, frozen, split):
    start = Arm(kind, 4, variant).build(1, 7)
    before = [weights_of(layer).clone() for layer in weight_layers(start.hidden)]
    latent = [[p.detach().clone() for p in layer.parameters()] for layer in weight_layers(start.hidden)]
    others = {name: p.detach().clone() for name, p in start.named_parameters() if not name.startswith("hidden")}
    net = trials.train_arm(Arm(kind, 4, variant), SETTING, split, 7, CONFIG)
    assert sum(isinstance(layer, frozen) for layer in weight_layers(net.hidden)) == (2 if variant else 0)
    for layer, old, stored in zip(weight_layers(net.hidden), before, latent, strict=True):
        if isinstance(layer, frozen):
            assert torch.equal(weights_of(layer), old)
            assert all(p.grad is None for p in layer.parameters())
        else:
            assert all(not torch.equal(p, was) for p, was in zip(layer.parameters(), stored, strict=True))
    assert all(not torch.equal(p, others[name]) for name, p in net.named_parameters() if name in others)


def test_fixed_shifts_do_not_move(nets):
    start = Arm("fixed+add", 4).build(1, 7)
    pairs = list(zip(weight_layers(start.hidden), weight_layers(nets["fixed+add"].hidden), strict=True))
    for before, after in pairs:
        assert torch.equal(weights_of(before), weights_of(after)) == isinstance(before, ShiftQ2d)


def test_without_batch_norm_no_unit_has_one():
    norms = lambda net: [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]  # noqa: E731
    whole, without = (Arm("add", 4, variant).build(1, 7) for variant in ("", "no BatchNorm"))
    assert len(norms(whole.hidden)) == 2
    assert norms(without.hidden) == []
    assert len(norms(without)) == len(norms(whole)) - 2 == 2, "stem and head, which multiply, keep theirs"


def test_without_the_local_rate_gradients_keep_their_own_length(split):
    lengths = {}
    for variant in ("", "no local rate"):
        net = Arm("add", 4, variant).build(1, 7)
        adders = [layer for layer in weight_layers(net) if isinstance(layer, Adder2d)]
        assert {layer.rate for layer in adders} == {None if variant else RATE}
        for scale in (1, 10):
            net.zero_grad()
            (scale * F.cross_entropy(net(split.train_x), split.train_y)).backward()
            lengths[variant, scale] = torch.stack([layer.weight.grad.norm() for layer in adders])
        sizes = torch.tensor([layer.weight.numel() ** 0.5 for layer in adders])
        assert torch.allclose(lengths[variant, 1], RATE * sizes, rtol=1e-4) == (variant == "")
    torch.testing.assert_close(lengths["", 10], lengths["", 1])
    torch.testing.assert_close(lengths["no local rate", 10], 10 * lengths["no local rate", 1], rtol=1e-4, atol=1e-4)


def test_snapped_networks_store_whole_exponents(split):
    for variant in ("", "snapped"):
        net = trials.train_arm(Arm("shift-PS", 4, variant), SETTING, split, 7, CONFIG)
        for layer in weight_layers(net):
            assert torch.equal(layer.shift, layer.shift.round()) == (variant == "snapped")
            assert (set(layer.sign.unique().tolist()) <= {-1, 0, 1}) == (variant == "snapped")


def test_accuracy_counts_every_image_of_every_piece():
    x, y = torch.randn(1203, 10, generator=draws("x")), torch.randint(10, (1203,), generator=draws("y"))
    expected = 100 * float((x.argmax(1) == y).double().mean())
    assert trials.accuracy(nn.Identity(), Split(x, y, x, y)) == pytest.approx(expected)


# --- few bits ------------------------------------------------------------------------------------------------------


def inputs_of(net, x, places):
    """What each layer is given, in all that its own hooks leave of it."""
    seen = []

    def note(_, args, __):
        seen.append(args[0].detach())

    hooks = [layer.register_forward_hook(note) for layer in places]  # behind all that change the inputs
    net(x)
    for hook in hooks:
        hook.remove()
    return seen


def test_ranges_are_quantiles_with_zero_among_them(nets, split):
    net = nets["shift-Q+add"]
    found = input_ranges(net, split.train_x)
    seen = inputs_of(net, split.train_x, weight_layers(net))
    for (low, high), x in zip(found, seen, strict=True):
        at = torch.quantile(x.flatten(), torch.tensor([0.0005, 0.9995]))
        assert low == pytest.approx(min(at[0].item(), 0), abs=1e-6)
        assert high == pytest.approx(max(at[1].item(), 0), abs=1e-6)
    assert found[1][0] == 0, "behind a ReLU"
    assert found[2][0] < 0 < found[2][1], "between shift and adder"
    assert not any(layer._forward_pre_hooks for layer in weight_layers(net))


def on_grid(x, low, high, bits):
    """Levels of x as integers, after asserting that x has at most 2^bits of them, multiples of the step."""
    levels = x.double().unique() / ((high - low) / (2**bits - 1))
    assert len(levels) <= 2**bits
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-3)
    assert levels.max() - levels.min() < 2**bits
    return levels.round()


@pytest.mark.parametrize("kind", KINDS)
def test_every_layer_sees_few_levels_and_zero_is_one(kind, nets, split):
    net, x = nets[kind], split.train_x
    before, ranges = state(net), input_ranges(net, x)
    for bits in (2, 4):
        twin = quantise(net, bits, x)
        layers = weight_layers(twin)
        own = weight_layers(net)
        seen = inputs_of(twin, x, layers)
        for layer, old, given, (low, high) in zip(layers, own, seen, ranges, strict=True):
            if isinstance(layer, POWERS):
                on_grid(given, low, high, bits)
                weights = weights_of(layer)
                kept = min(bits, old.bits)
                mantissa, exponent = torch.frexp(weights[weights != 0].abs())
                assert (mantissa == 0.5).all()
                assert (exponent <= 1).all()
                levels = 2 ** (kept - 1) - isinstance(layer, ShiftPS2d)  # which needs a code for zero
                assert (exponent > 1 - levels).all()
                continue
            ends = min(old.weight.min().item(), 0.0), max(old.weight.max().item(), 0.0)
            if isinstance(layer, Adder2d):  # one scale, for weights and inputs: the wider of both ranges
                low, high = ends = min(low, ends[0]), max(high, ends[1])
            on_grid(given, low, high, bits)
            on_grid(layer.weight, *ends, bits)
            step = (ends[1] - ends[0]) / (2**bits - 1)
            assert (layer.weight - old.weight).abs().max() <= 1.001 * step, "half a step, and half at the grid's end"
    after = state(net)
    assert all(torch.equal(before[name], after[name]) for name in before), "a copy was rounded"


def test_zero_stays_zero_and_one_level_is_enough_for_zeros():
    for low, high in ((-1.0, 0.7), (0.0, 3.0), (-2.0, 0.0), (0.0, 0.0)):
        grid = robustness.Grid(3, low, high)
        assert grid(torch.zeros(3)).tolist() == [0, 0, 0]
    assert robustness.Grid(2, -1.0, 2.0)(torch.tensor([-9, -0.6, 0.4, 1.6, 9])).tolist() == [-1, -1, 0, 2, 2]


def test_gradients_pass_straight_through(nets, split):
    x = torch.tensor([-9.0, 0.3, 9.0], requires_grad=True)
    robustness.Grid(2, -1.0, 2.0)(x).backward(torch.tensor([1.0, 2.0, 3.0]))
    assert x.grad.tolist() == [1, 2, 3]
    twin = quantise(nets["mult"], 4, split.train_x)
    layer, seen = weight_layers(twin)[1], []

    def note(_, args, out):
        seen.append(args[0])
        out.register_hook(lambda grad: seen.append(grad))

    layer.register_forward_hook(note)
    F.cross_entropy(twin(split.train_x), split.train_y).backward()
    latent = layer.parametrizations.weight.original
    expected = torch.nn.grad.conv2d_weight(seen[0], latent.shape, seen[1], layer.stride, layer.padding)
    torch.testing.assert_close(latent.grad, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["mult", "add", "shift-Q+add"])
def test_fine_tuning_moves_latent_weights_and_computes_with_rounded_ones(kind, nets, split):
    twin = quantise(nets[kind], 4, split.train_x)
    latent = [
        layer.parametrizations.weight.original for layer in weight_layers(twin) if hasattr(layer, "parametrizations")
    ]
    before = [w.detach().clone() for w in latent]
    fit(twin, split.train_x, split.train_y, 1, 0.1, 50, 7)
    for layer in weight_layers(twin):
        if hasattr(layer, "parametrizations"):
            grid, old = layer.parametrizations.weight[0].grid, before.pop(0)
            assert not torch.equal(layer.parametrizations.weight.original, old)
            on_grid(layer.weight.detach(), grid.low, grid.high, 4)
            assert len(layer.parametrizations.weight.original.unique()) > 2**4
    assert latent
    assert not before


def test_full_bits_clip_and_round_no_more(nets, split):
    net = nets["mult"]
    twin = quantise(net, FULL, split.train_x)
    ranges = input_ranges(net, split.train_x)
    seen = inputs_of(twin, split.train_x, weight_layers(twin))
    torch.testing.assert_close(seen[0], split.train_x.clamp(*ranges[0]), rtol=1e-6, atol=1e-6)
    for a, b in zip(weight_layers(net), weight_layers(twin), strict=True):
        torch.testing.assert_close(a.weight, b.weight, rtol=1e-6, atol=1e-7)
    off = [(quantise(net, b, split.train_x)(split.test_x) - net(split.test_x)).norm().item() for b in (2, 4, 8)]
    assert off[0] > off[1] > off[2]


def test_too_few_bits_are_refused(nets, split):
    with pytest.raises(WorkbenchError, match="1 bits"):
        quantise(nets["mult"], 1, split.train_x)


# --- few weights ---------------------------------------------------------------------------------------------------


def hidden_weights(net):
    return [weights_of(layer).clone() for layer in weight_layers(net.hidden)]


def ranked(weights, fraction):
    """Which entries numpy's sort calls the smallest."""
    flat = weights.abs().flatten().numpy()
    gone = np.zeros(len(flat), bool)
    gone[np.argsort(flat, kind="stable")[: round(fraction * len(flat))]] = True
    return torch.from_numpy(gone).view(weights.shape)


@pytest.mark.parametrize("kind", ["mult", "add"])
@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.9])
def test_the_smallest_weights_go(kind, share, nets):
    net = nets[kind]
    before, pruned = hidden_weights(net), prune(net, share, "all", draws("ties"))
    for old, new in zip(before, hidden_weights(pruned), strict=True):
        assert torch.equal(new, old.masked_fill(ranked(old, share), 0))
    total = sum(w.numel() for w in before)
    assert zeros(pruned) == sum(round(share * w.numel()) for w in before) / total
    assert zeros(pruned) == pytest.approx(share, abs=0.5 * len(before) / total)
    assert all(torch.equal(a, b) for a, b in zip(before, hidden_weights(net), strict=True)), "a copy was pruned"
    assert torch.equal(weights_of(weight_layers(pruned)[0]), weights_of(weight_layers(net)[0])), "the stem stays"


def test_a_share_of_all_is_taken_from_one_sort_of_layers(nets):
    net = nets["shift-Q+add"]
    layers, before = weight_layers(net.hidden), hidden_weights(net)
    total = sum(w.numel() for w in before)
    for which, share in (("shift", 0.2), ("shift", 0.375), ("add", 0.3), ("add", 0.6)):
        own = [isinstance(layer, Adder2d) == (which == "add") for layer in layers]
        there = sum(w.numel() for w, mine in zip(before, own, strict=True) if mine)
        pruned = prune(net, share, which, draws("ties"))
        assert zeros(pruned) == pytest.approx(share, abs=0.5 * len(layers) / total)
        for layer, old, new, mine in zip(layers, before, hidden_weights(pruned), own, strict=True):
            if mine:
                latent = layer.weight.detach()
                assert torch.equal(new == 0, ranked(latent, share * total / there) | (old == 0))
                assert torch.equal(new[new != 0], old[new != 0])
            else:
                assert torch.equal(new, old)
    assert total * 0.375 == sum(w.numel() for w, x in zip(before, layers, strict=True) if isinstance(x, ShiftQ2d))
    assert prune(net, 0.38, "shift", draws("ties")) is None
    assert prune(net, 0.63, "add", draws("ties")) is None
    assert prune(net, 0.63, "all", draws("ties")) is not None


def test_equal_powers_fall_by_lot():
    net = Arm("fixed+add", 8).build(1, 7)
    (shift, adder), before = weight_layers(net.hidden)[:2], hidden_weights(net)
    masks = [hidden_weights(prune(net, 0.8, "all", draws(name))) for name in ("a", "a", "b")]
    assert all(torch.equal(a, b) for a, b in zip(masks[0], masks[1], strict=True))
    assert not torch.equal(masks[0][0] == 0, masks[2][0] == 0), "another lot"
    assert torch.equal(masks[0][1], masks[2][1]), "adders have no ties"
    assert isinstance(shift, ShiftQ2d)
    assert isinstance(adder, Adder2d)
    for found in masks:  # whatever the lot: as many are left of each size, the largest
        left, size = found[0][found[0] != 0].abs(), before[0].abs().flatten().sort(descending=True).values
        assert torch.equal(left.sort(descending=True).values, size[: len(left)])
        assert len(left) == before[0].numel() - round(0.8 * before[0].numel())
    few = hidden_weights(prune(net, 0.3, "all", draws("a")))  # fewer than are 0 already
    assert (before[0] == 0).double().mean() > 0.35
    assert torch.equal(few[0], before[0])
    assert (few[1] == 0).double().mean() == pytest.approx(0.3, abs=1e-3)


def test_trained_exponents_fall_by_their_latent_size(nets):
    net = nets["shift-PS"]
    pruned = prune(net, 0.8, "all", draws("ties"))
    for old, new in zip(weight_layers(net.hidden), weight_layers(pruned.hidden), strict=True):
        before, after = weights_of(old), weights_of(new)
        gone, kept = (before != 0) & (after == 0), after != 0
        assert gone.any()
        assert old.shift[gone].max() <= old.shift[kept].min()
        assert torch.equal(after[kept], before[kept])
        assert int((after == 0).sum()) == round(0.8 * after.numel())


def test_zeros_by_hand():
    net = SmallNet("shift-PS+add", 2)  # 36 + 36 + 72 + 144 hidden weights
    with torch.no_grad():
        for layer in weight_layers(net):
            for p in layer.parameters():
                p.fill_(1)
        weight_layers(net.stem)[0].sign.zero_()
        assert zeros(net) == 0, "the stem is not hidden"
        weight_layers(net.hidden)[0].sign[0, 0, 0, :2] = torch.tensor([0.4, -0.4])
        weight_layers(net.hidden)[1].weight[1, 0, 0] = 0
        assert zeros(net) == 5 / 288
    assert robustness.kinds_of_layers(net) == ["all", "shift", "add"]
    assert [robustness.kinds_of_layers(SmallNet(kind, 2)) for kind in ("mult", "add")] == [["all"], ["all"]]


# --- energy by hand ------------------------------------------------------------------------------------------------


def residual(n):
    """Convolutions of the ResNet of 6 n + 2 layers for 32 x 32 images: (inputs, outputs, kernel, side of outputs)."""
    yield 3, 16, 3, 32
    inputs = 16
    for width, side in ((16, 32), (32, 16), (64, 8)):
        for at in range(2 * n):
            yield inputs, width, 3, side
            if at == 0 and inputs != width:
                yield inputs, width, 1, side
            inputs = width


def macs(layers):
    return sum(c * k * r * r * side * side for c, k, r, side in layers)


CONVOLUTIONS = list(residual(3))
SHIFTS, LINEAR = macs(CONVOLUTIONS), 640
ADDERS = macs((k, k, r, side) for _, k, r, side in CONVOLUTIONS[1:])
STEM = macs(CONVOLUTIONS[:1])


def test_resnet20_saves_what_the_arithmetic_says():
    assert round(SHIFTS / 1e6, 2) == 40.81
    assert round(ADDERS / 1e6, 2) == 42.99
    table = energy.energies().set_index(["network", "phase", "platform", "format", "kind"]).sort_index()
    cells = {
        ("asic45", "FIX32"): (3.1, 0.1, 0.13, 130.6, 18.0),
        ("fpga_zc706", "FIX32"): (19.6, 0.1, 0.1, 804.0, 16.8),
        ("asic45", "FIX8"): (0.2, 0.03, 0.024, 9.39, 4.78),
        ("fpga_zc706", "FIX8"): (0.2, 0.1, 0.025, 12.24, 13.70),
        ("asic45", "FP32"): (3.7, 0.9, 0.13, None, None),
    }
    for (platform, format), (multiply, add, shift, dense, ours) in cells.items():
        mult = (SHIFTS + LINEAR) * (multiply + add) / 1e6
        mixed = (SHIFTS * (shift + add) + ADDERS * 2 * add + LINEAR * (multiply + add)) / 1e6
        own = table.loc["resnet20", "inference", platform, format]
        assert own.loc["mult", "microjoules"] == pytest.approx(mult, rel=1e-9)
        assert own.loc["shift+add", "microjoules"] == pytest.approx(mixed, rel=1e-9)
        assert own.loc["shift+add", "saved"] == pytest.approx(100 * (1 - mixed / mult), rel=1e-9)
        alone = STEM * (multiply + add) + (SHIFTS - STEM) * 2 * add + LINEAR * (multiply + add)
        assert own.loc["add", "microjoules"] == pytest.approx(alone / 1e6, rel=1e-9)
        if dense:
            assert mult == pytest.approx(dense, rel=2e-3)
            assert mixed == pytest.approx(ours, rel=2e-3)
    assert table.loc[("resnet20", "inference", "fpga_zc706", "FIX8", "shift+add"), "saved"] == pytest.approx(
        -12, abs=0.5
    )
    assert table.loc[("resnet20", "inference", "asic45", "FIX8", "shift+add"), "saved"] == pytest.approx(49, abs=0.5)
    assert (table.xs("mult", level="kind")["saved"] == 0).all()


def test_training_is_three_products_and_shifts_multiply_in_one():
    table = energy.operations().set_index(["network", "kind", "phase"])
    dense = table.loc["resnet20", "mult", "training"]
    assert dense["multiplies"] * 1e6 == pytest.approx(3 * (SHIFTS + LINEAR) - STEM), "the stem has no dX"
    shift = table.loc["resnet20", "shift", "training"]
    assert shift["shifts"] * 1e6 == pytest.approx(2 * SHIFTS - STEM)
    assert shift["multiplies"] * 1e6 == pytest.approx(SHIFTS + 3 * LINEAR)
    both, templates = (
        table.loc["resnet20", "shift+add", "training"],
        sum(k * k * r * r for _, k, r, _ in CONVOLUTIONS[1:]),
    )
    assert both["multiplies"] * 1e6 == pytest.approx(SHIFTS + 3 * LINEAR + 2 * ADDERS + templates)
    assert both["comparisons"] * 1e6 == pytest.approx(2 * ADDERS)
    assert table.loc["resnet20", "fixed shift+add", "training"]["multiplies"] < both["multiplies"]
    forward = table.loc["resnet20", "shift+add", "inference"]
    assert (forward["shifts"] * 1e6, forward["multiplies"] * 1e6) == pytest.approx((SHIFTS, LINEAR))
    assert forward["adds"] * 1e6 == pytest.approx(SHIFTS + 2 * ADDERS + LINEAR)
    assert forward["norms"] * 1e6 == sum(k * side**2 for _, k, _, side in CONVOLUTIONS)


def test_each_operation_costs_its_own():
    price = lambda format, **done: energy.picojoules(Operations(**done), format, "asic45")  # noqa: E731
    assert price("FIX32", multiplies=2.0) == pytest.approx(6.2)
    assert price("FIX32", adds=3.0) == price("FIX32", comparisons=3.0) == pytest.approx(0.3)
    assert price("FIX8", shifts=5.0) == pytest.approx(0.12)
    assert price("FP32", shifts=1.0, adds=1.0) == pytest.approx(0.13 + 0.9), "a shift beside floats is fixed point"


def test_moving_data_costs_more_than_arithmetic_at_every_level(result):
    table = result.tables["moved"].set_index(["arm", "phase", "bits", "level"])["pj"].unstack()
    assert tuple(sorted(table.columns)) == tuple(sorted(hardware.LEVELS))
    assert (table > 0).all().all()
    assert len(table) == 4 * 2 * 2
    total = table.sum(axis=1)
    assert (total > 2 * table["compute"]).all()
    for arm in ("mult", "shift", "add", "shift+add"):
        for bits in (8, 32):
            assert total[arm, "training", bits] > 2 * total[arm, "inference", bits]
        assert total[arm, "inference", 32] > total[arm, "inference", 8]
    saved = 1 - total["shift+add"] / total["mult"]
    bare = result.tables["energies"].query("network == 'resnet20' and platform == 'asic45' and kind == 'shift+add'")
    bare = bare.set_index(["phase", "format"])["saved"] / 100
    for bits in (8, 32):
        assert saved["inference", bits] < bare["inference", f"FIX{bits}"], "all that moves hides what arithmetic saves"
    assert table.loc[("shift", "inference", 8), "DRAM"] < table.loc[("mult", "inference", 8), "DRAM"], "5-bit weights"


def imagenet(counts, bottleneck):
    """MACs of an ImageNet ResNet whose strides stand where its first publication has them."""
    found, inputs = 3 * 64 * 49 * 112**2, 64
    for stage, count in enumerate(counts):
        width, side = 64 << stage, 56 >> stage
        for at in range(count):
            outputs = 4 * width if bottleneck else width
            weights = inputs * width + 9 * width**2 + width * outputs if bottleneck else 9 * (inputs + width) * width
            found += side**2 * (weights + inputs * outputs * (at == 0 and inputs != outputs))
            inputs = outputs
    return found + 1000 * inputs


def test_counts_by_hand_beside_the_printed_ones(result):
    wide = [(3, 128, 32), (128, 128, 32), (128, 256, 16), (256, 256, 16), (256, 512, 8), (512, 512, 8)]
    known = {
        "resnet20": SHIFTS + LINEAR,
        "resnet32": macs(residual(5)) + LINEAR,
        "vgg_small": sum(9 * c * k * side**2 for c, k, side in wide) + 8192 * 10,
        "resnet18": imagenet((2, 2, 2, 2), False),
        "resnet50": imagenet((3, 4, 6, 3), True),
    }
    table = result.tables["counts"].set_index("id")
    assert set(table.index) == {i for i in published("shiftaddnet").index if ".count." in i}
    for key, cell in table.iterrows():
        _, _, network, what = key.split(".")
        ours = known[network] * (1 + (what == "additions")) / {"M": 1e6, "G": 1e9}[cell["unit"]]
        assert cell["analytic"] == pytest.approx(ours, rel=1e-9), key
        assert cell["error"] == pytest.approx(ours / cell["published"] - 1)
    verdicts = {row["id"].removeprefix("shiftaddnet.count."): row["verdict"] for row in result.rows}
    for key in ("resnet32.multiplications", "resnet32.additions", "resnet18.multiplications", "resnet50.additions"):
        assert verdicts[key] == REPRODUCED
    assert verdicts["resnet20.multiplications"] == verdicts["vgg_small.multiplications"] == PARTLY


def test_ratios_of_unit_energies_by_hand():
    table = energy.ratios().set_index(["platform", "format", "over"])["ratio"]
    expected = {
        ("asic45", "FIX32", "add"): 3.1 / 0.1, ("asic45", "FIX32", "shift"): 3.1 / 0.13,
        ("asic45", "FP32", "add"): 3.7 / 0.9, ("fpga_zc706", "FIX32", "add"): 196,
        ("fpga_zc706", "FIX8", "add"): 2, ("fpga_zc706", "FIX8", "shift"): 8,
    }  # fmt: skip
    for key, ratio in expected.items():
        assert table[key] == pytest.approx(ratio)
    assert len(table) == 10


# --- claims --------------------------------------------------------------------------------------------------------

ORDER = ["shift-PS, snapped", "add, no BatchNorm", "add, no local rate", "shift-Q+add, adders frozen"]
ORDER += ["shift-Q+add, shifts frozen", "add", "shift-PS", "shift-Q", "mult", "mult, equal weights"]
ORDER += ["mult, equal FIX32 energy", "mult, equal FIX8 energy", "shift-Q+add, mult's weights", "shift-Q+add"]
ORDER += ["shift-PS+add", "fixed+add"]
"""From the worst to the best, if every claim held."""
PLANTED = Config.at("quick", seeds=6, settings=("digits 240 8", "cifar10 200 1"), bits=(8, 4), sparsities=(0.3, 0.7))


def planted(gap, noise=0.05, config=PLANTED):
    """Tables in which each arm is ``gap`` points above the arm before it, and loses as much less by rounding."""
    rng, tables = np.random.default_rng(1), {"trained": [], "bits": [], "sparsity": []}
    for setting in map(Setting.read, config.settings):
        for seed in config.seed_list:
            shared = 5 * rng.normal()  # of the seed: pairing takes it away
            for place, arm in enumerate(ORDER):
                accuracy = 50 + gap * place + shared + noise * rng.normal()
                tables["trained"].append({"setting": setting.id, "arm": arm, "seed": seed, "accuracy": accuracy})
    lost = {"mult": 20.0, "add": 20 - gap, "shift-Q+add": 20 - gap}
    for seed in config.seed_list:
        for arm in config.robust:
            start, own = 60 + 5 * rng.normal(), {"arm": arm, "seed": seed}
            fall = lambda arm=arm: lost[arm] + noise * rng.normal()  # noqa: E731
            for mode in MODES:
                top = start + 10 * MODES.index(mode)  # each mode loses against its own reference
                row = own | {"mode": mode}
                tables["bits"].append(row | {"bits": FULL, "accuracy": top})
                tables["bits"] += [row | {"bits": bits, "accuracy": top - fall()} for bits in config.bits]
            for which in ("all", "shift", "add") if "+" in arm else ("all",):
                row = own | {"which": which, "zeros": 0.0}
                tables["sparsity"].append(row | {"share": 0.0, "accuracy": start})
                for share in config.sparsities[: 1 if which == "shift" else 2]:
                    tables["sparsity"].append(row | {"share": share, "accuracy": start - fall()})
    return {name: pd.DataFrame(rows) for name, rows in tables.items()}


def judged(tables, config=PLANTED):
    rows = [claim.row(found, "quick") for claim, found in experiment._contrasts(tables, config)]
    assert len({row["id"] for row in rows}) == len(rows)
    return {row["id"].removeprefix("shiftaddnet."): row for row in rows}


@pytest.mark.parametrize(("gap", "verdict"), [(2.0, REPRODUCED), (-2.0, CONTRADICTED)])
def test_claims_follow_what_was_planted(gap, verdict):
    rows = judged(planted(gap))
    for key, row in rows.items():
        assert row["verdict"] == verdict, key
        assert row["n"] == 6
        assert row["low"] < row["value"] < row["high"]
    steps = {
        "accuracy.digits_240.vs_mult": ("shift-Q+add", "mult"),
        "accuracy.cifar10_200.comparable": ("shift-Q+add", "mult"),
        "accuracy.digits_240.vs_equal_FIX8_energy": ("shift-Q+add", "mult, equal FIX8 energy"),
        "accuracy.digits_240.vs_shift": ("shift-Q+add", "shift-Q"),
        "accuracy.cifar10_200.vs_add": ("shift-Q+add", "add"),
        "accuracy.cifar10_200.narrow": ("shift-Q+add, mult's weights", "mult"),
        "accuracy.digits_240.ps_vs_shift": ("shift-PS+add", "shift-PS"),
        "accuracy.digits_240.ps_vs_q": ("shift-PS+add", "shift-Q+add"),
        "accuracy.digits_240.fixed": ("fixed+add", "shift-PS+add"),
        "learning.adders": ("shift-Q+add, shifts frozen", "shift-Q+add, adders frozen"),
        "learning.both_vs_adders": ("shift-Q+add", "shift-Q+add, shifts frozen"),
        "learning.both_vs_shifts": ("shift-Q+add", "shift-Q+add, adders frozen"),
        "ablation.batch_norm": ("add", "add, no BatchNorm"),
        "ablation.local_rate": ("add", "add, no local rate"),
        "ablation.snapping": ("shift-PS", "shift-PS, snapped"),
    }
    for key, (better, worse) in steps.items():
        expected = gap * (ORDER.index(better) - ORDER.index(worse))
        assert rows[key]["value"] == pytest.approx(expected, abs=0.15), key
    for key in ("bits.shift_add.4.plain", "bits.add.8.BatchNorm_anew", "bits.shift_add.8.fine_tuned",
                "sparsity.add.0.7.all", "sparsity.shift_add.0.7.add", "sparsity.shift_add.0.3.shift"):  # fmt: skip
        assert rows[key]["value"] == pytest.approx(gap, abs=0.15), key
    assert "sparsity.shift_add.0.7.shift" not in rows, "no such share there"
    assert "accuracy.cifar10_200.ps_vs_shift" not in rows
    assert len(rows) == 2 * 8 + 3 + 6 + 2 * 2 * 3 + 2 + 5


def test_a_difference_too_small_to_be_told_is_none():
    for gap in (0.02, -0.02):
        for key, row in judged(planted(gap, noise=0.02)).items():
            tied = key.endswith((".comparable", ".fixed"))
            assert row["verdict"] == (REPRODUCED if tied else NOT_SEEN), key
    loud = judged(planted(0.05, noise=20.0))
    assert {row["verdict"] for key, row in loud.items() if key.startswith("accuracy")} == {NOT_SEEN}


def test_the_rule_of_more_is_the_same_in_both_directions():
    rule = experiment.more(0.5)
    judge = lambda low, high: rule(Interval((low + high) / 2, low, high, ()), None)  # noqa: E731
    assert [judge(*ends) for ends in ((0.6, 2), (0.4, 2), (-0.4, 0.4), (-2, -0.4), (-2, -0.6))] == [
        REPRODUCED, NOT_SEEN, NOT_SEEN, NOT_SEEN, CONTRADICTED,
    ]  # fmt: skip


def test_points_lost_are_those_against_the_networks_own_reference():
    table = pd.DataFrame(
        {"arm": "mult", "seed": [1, 1, 2, 2], "mode": "plain", "bits": [32, 4, 4, 32], "accuracy": [90.0, 70, 50, 55]}
    )
    assert experiment.drops(table, "bits", 32)["drop"].tolist() == [0, 20, 5, 0]


def test_the_printed_rules_know_rounding_and_direction():
    found = lambda value: Interval(value, math.nan, math.nan, ())  # noqa: E731
    as_printed = lambda value, printed: energy.as_printed(found(value), printed)  # noqa: E731
    assert as_printed(69.1247, 69.12) == as_printed(3.858, 3.9) == as_printed(23.85, 24) == REPRODUCED
    assert as_printed(40.81, 41.17) == as_printed(37.5, 41.17) == as_printed(0.6076, 0.65) == PARTLY
    assert as_printed(37.0, 41.17) == as_printed(45.5, 41.17) == CONTRADICTED
    assert [energy.saves(found(value), 80) for value in (80.1, 80, 0.1, 0, -12)] == [
        REPRODUCED, PARTLY, PARTLY, CONTRADICTED, CONTRADICTED,
    ]  # fmt: skip


@pytest.mark.parametrize(("saved", "verdict"), [(85.0, REPRODUCED), (49.0, PARTLY), (-12.0, CONTRADICTED)])
def test_analytic_rows_follow_their_tables(saved, verdict, result):
    tables = {name: result.tables[name].copy() for name in ("counts", "ratios", "energies", "moved")}
    tables["energies"]["saved"] = saved
    tables["moved"]["pj"] = np.where(tables["moved"]["arm"] == "shift+add", 100 - saved, 100.0)
    tables["counts"]["analytic"] = tables["counts"]["published"] * 1.2
    tables["ratios"]["ratio"] = 1.0
    rows = {row["id"].removeprefix("shiftaddnet."): row for row in energy.rows("quick", tables)}
    own = {key: row for key, row in rows.items() if key.startswith("energy.")}
    assert len(own) == 2 * 2 * 2 * 3 + 2 * 2
    for row in own.values():
        assert row["value"] == pytest.approx(saved)
        assert row["verdict"] == verdict
    others = [row["verdict"] for key, row in rows.items() if not key.startswith("energy.")]
    assert others == [CONTRADICTED] * (8 + 6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"settings": ()}, "settings must"),
        ({"settings": "digits 240"}, "a setting reads like"),
        ({"settings": ("digits 240 8", "digits 240 9")}, "settings must differ"),
        ({"settings": "cifar10 2000 1"}, "settings must begin with digits"),
        ({"width": 1}, "width must"),
        ({"width": 65}, "width must"),
        ({"batch": 1}, "batch must"),
        ({"batch": 241}, "batch must"),
        ({"cifar_seeds": 1}, "cifar_seeds must"),
        ({"seeds": 1}, "seeds must"),
        ({"test": 0}, "test must"),
        ({"bits": (8, 1)}, "bits must"),
        ({"bits": 32}, "bits must"),
        ({"sparsities": (0.5, 1.0)}, "sparsities must"),
        ({"sparsities": 0.0}, "sparsities must"),
        ({"robust": ("mult", "add")}, "robust must"),
        ({"robust": ("mult", "shift-Q+add", "xor")}, "robust must"),
        ({"tune_epochs": 0}, "tune_epochs must"),
        ({"lr": 0.0}, "lr must"),
        ({"tune_lr": -1.0}, "tune_lr must"),
        ({"momentum": 0.9}, "unknown parameter"),
    ],
)
def test_what_cannot_run_is_refused(change, message):
    with pytest.raises(WorkbenchError, match=message):
        Config.at("quick", **change)


def test_every_scale_is_a_configuration():
    quick, full = (Config.at(scale) for scale in Config.SCALES)
    assert quick.seed == full.seed
    assert full.seeds >= 5
    assert full.cifar_seeds >= 5
    assert {Setting.read(text).dataset for text in full.settings} == {"digits", "cifar10"}
    assert {Setting.read(text).dataset for text in quick.settings} == {"digits"}


# --- the whole -----------------------------------------------------------------------------------------------------


def test_a_part_is_the_same_twice_and_another_with_another_seed(result):
    some = {name: Arm(name, 4) for name in ("mult", "add", "shift-Q+add")} | {
        "shift-PS, snapped": Arm("shift-PS", 4, "snapped")
    }
    found = {name: pd.DataFrame(rows) for name, rows in part(CONFIG.settings[0], some, 7, CONFIG).items()}
    for name, table in found.items():
        own = result.tables[name][result.tables[name]["arm"].isin(some)]
        same, other = (own[own["seed"] == seed].sort_values("arm", kind="stable") for seed in (7, 8))
        table = table.sort_values("arm", kind="stable")
        pd.testing.assert_frame_equal(table.reset_index(drop=True), same.reset_index(drop=True))
        assert table["accuracy"].tolist() != other["accuracy"].tolist()


def test_tables_are_whole(result):
    trained, bits, sparsity = (result.tables[name] for name in ("trained", "bits", "sparsity"))
    assert set(trained["arm"]) == set(arms(CONFIG, SETTING))
    assert trained.groupby("arm")["seed"].nunique().eq(2).all()
    assert len(bits) == 2 * 3 * 2 * 3
    assert set(sparsity["which"]) == {"all", "shift", "add"}
    assert (sparsity["zeros"] / 100 - sparsity["share"]).abs().max() < 0.01
    mixed = sparsity[sparsity["arm"] == "shift-Q+add"]
    assert set(mixed[mixed["which"] == "shift"]["share"]) == {0.0, 0.3}, "three eighths of the weights are shifts"
    own = trained[trained["arm"].isin(CONFIG.robust)].set_index(["arm", "seed"])["accuracy"]
    start = sparsity[(sparsity["share"] == 0) & (sparsity["which"] == "all")].set_index(["arm", "seed"])["accuracy"]
    assert start.sort_index().tolist() == own.sort_index().tolist(), "nothing pruned is the network itself"
    prices = result.tables["costs"].set_index("arm")
    assert not any(variant in name for variant in ABLATIONS for name in prices.index)
    for name, arm in (("mult", "mult"), ("shift-Q+add", "shift-Q+add")):
        assert prices.loc[name, ["weights", "FIX32", "FIX8"]].to_dict() == pytest.approx(by_hand(arm, 4, (1, 8)))


def test_the_ledger_holds_measured_analytic_and_printed_rows(result):
    rows = {row["id"]: row for row in result.rows}
    assert len(rows) == len(result.rows)
    assert {row["paper"] for row in result.rows} == {"shiftaddnet"}
    assert set(published("shiftaddnet").index) - set(rows) == {"shiftaddnet.saving"}, "which has a row a cell"
    assert rows["shiftaddnet.cifar10.resnet20.shiftaddnet"]["verdict"] == NOT_TESTABLE
    assert rows["shiftaddnet.energy.shift_add.inference.fpga_zc706.FIX8"]["verdict"] == CONTRADICTED
    assert rows["shiftaddnet.energy.shift_add.inference.asic45.FIX32"]["verdict"] == REPRODUCED
    assert rows["shiftaddnet.ratio.asic45.FP32.add"]["verified"] is False
    wide = result.tables["trained"].pivot(index="seed", columns="arm", values="accuracy")
    row = rows["shiftaddnet.accuracy.digits_100.vs_mult"]
    assert row["value"] == pytest.approx((wide["shift-Q+add"] - wide["mult"]).mean())
    summary = result.tables["summary"].set_index("quantity")
    assert {key for key, row in rows.items() if row["n"]} == set(summary.index)
    assert summary.loc[row["id"], "low"] == row["low"]
    assert result.parameters["paper"] == "shiftaddnet"
