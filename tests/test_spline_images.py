"""Conv nets as units, detectors against the officially published rules written out, and the digits MLP."""

import copy
import itertools
import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from workbench import WorkbenchError, data, early_bird
from workbench.nets import ConvNet, mask_channels, train_conv
from workbench.papers.spline import images, method
from workbench.papers.spline.detectors import flipped, partition_distance
from workbench.papers.spline.images import Setup
from workbench.training import generator


@dataclass(frozen=True)
class Config:
    """The fields that the experiment's own Config has, small."""

    seed: int = 0
    rhos: tuple = (0.0,)
    scaled_rho: float = 0.05
    images: tuple = ("digits 8-6-8 6",)
    image_seeds: int = 2
    image_ratios: tuple = (0.5,)
    image_train: int = 300
    image_test: int = 200
    image_steps: tuple = (0, 2, 4)
    image_lr: float = 0.1
    image_retrain_lr: float = 0.01
    canvas: int = 4
    mlp_seeds: int = 2
    mlp_steps: int = 20
    detectors = {"partition": (3, 0.16), "mask": (4, 0.1)}  # noqa: RUF012


ARMS = images.criteria(Config())
PARTS = images.split(images.pools("digits"), 0, Config())
TRAIN, TEST = PARTS


def lived_in(widths=(6, 5, 7), inputs=1, dtype=torch.float32, seed=3):
    """A net whose normalisations have scales, shifts and statistics that are nobody's default."""
    torch.manual_seed(seed)
    net = ConvNet(widths, inputs=inputs)
    for module in net:
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)  # of either sign
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return net.to(dtype).eval()


# --- detectors ---------------------------------------------------------------------------------------------------


@given(st.integers(0, 10**6), st.integers(1, 3), st.integers(2, 5))
def test_partition_distance_is_the_count_of_flips(seed, layers, epochs):
    g = generator("signs", seed)
    signs = [torch.rand(2, epochs, 5 + 3 * at, generator=g) < 0.5 for at in range(layers)]
    found = partition_distance(signs)
    for k in range(2):
        for s in range(epochs):
            for t in range(epochs):
                by_hand = [np.mean([bool(a) != bool(b) for a, b in zip(x[k, s], x[k, t], strict=True)]) for x in signs]
                assert found[k, s, t].item() == pytest.approx(np.mean(by_hand), abs=1e-6)


def test_signs_are_compared_in_parts_without_loss(monkeypatch):
    signs = torch.rand(4, 1000, generator=generator("parts")) < 0.3
    whole = flipped(signs)
    monkeypatch.setattr("workbench.papers.spline.detectors.CHUNK", 37)
    torch.testing.assert_close(flipped(signs), whole)
    assert not flipped(signs[:1].expand(3, -1)).any(), "equal signs have distance 0, exactly"


def official_partition(history, lookback=3, threshold=0.16):
    """The released detector, epoch by epoch: ``history[t][layer]`` are the layer's outputs after epoch t."""
    before = []
    for epoch, outputs in enumerate(history):
        if epoch >= lookback:
            worst = 0
            for old in before:
                worst = max(worst, np.mean([((a > 0) != (b > 0)).mean() for a, b in zip(outputs, old, strict=True)]))
            if worst < threshold:
                return epoch + 1
            before = before[1:]
        before.append(outputs)
    return math.nan


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.floats(0.02, 1.0))
def test_the_partition_detector_fires_when_the_released_one_does(seed, cooling):
    rng, state, history = (
        np.random.default_rng(seed),
        [np.random.default_rng(seed).normal(size=n) for n in (40, 60)],
        [],
    )
    for epoch in range(12):
        state = [s + rng.normal(size=s.shape) * math.exp(-cooling * epoch) for s in state]
        history.append(state)
    signs = [torch.from_numpy(np.stack([epoch[layer] for epoch in history])) > 0 for layer in range(2)]
    (_, fired) = images.detect({"partition": partition_distance(signs)}, Config())["partition"]
    np.testing.assert_equal(fired, official_partition(history))


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.floats(0.02, 0.6))
def test_the_mask_detector_fires_when_the_fifo_of_early_bird_does(seed, flips):
    g, masks = generator("masks", seed), [torch.rand(64, generator=generator("first", seed)) < 0.5]
    for epoch in range(11):
        masks.append(masks[-1] ^ (torch.rand(64, generator=g) < flips * 0.7**epoch))
    bird = early_bird.EarlyBird(5, 0.1)
    fired = next((epoch for epoch, mask in enumerate(masks, 1) if bird.add(mask)), math.nan)
    pairwise = early_bird.pairwise_distance(torch.stack(masks))
    np.testing.assert_equal(images.detect({"mask": pairwise}, Config())["mask"][1], fired)


def test_masks_and_partitions_of_strangers_never_fire():
    """A detector that fires on networks that have nothing in common would find a ticket anywhere."""
    masks = torch.rand(40, 64, generator=generator("strangers")) < 0.5
    signs = [torch.rand(40, 5000, generator=generator("strangers", n)) < 0.5 for n in range(2)]
    pairwise = {"mask": early_bird.pairwise_distance(masks), "partition": partition_distance(signs)}
    for watched, fired in images.detect(pairwise, Config()).values():
        assert math.isnan(fired)
        assert watched[4:].min() > 0.3


def test_both_detectors_find_a_ticket_in_a_net_that_never_learns():
    """The released rules do, and so does ours: standing still is no sign of having learnt."""
    torch.manual_seed(0)
    net = ConvNet((8, 6, 8)).to(memory_format=torch.channels_last)
    start = copy.deepcopy(net.state_dict())
    nets = images.follow(net, TRAIN, 12, 0, 0.0)
    assert all(torch.equal(p, start[name]) for name, p in net.named_parameters())
    found = images.detect(images.distances(nets, images.canvas(TRAIN, 6)), Config())
    assert found["mask"][1] == found["mask by layer (ours)"][1] == 5, "the first epoch with a full FIFO"
    assert 4 <= found["partition"][1] <= 12, "only the running statistics move"


def test_the_canvas_is_spanned_by_two_training_images_of_different_classes():
    points = images.canvas(TRAIN, 5)
    a, b = points[20], points[4]  # alpha and beta alone
    assert points.shape == (25, 1, 8, 8)
    for at in range(25):
        torch.testing.assert_close(points[at], a * (at // 5) / 4 + b * (at % 5) / 4)
    rows = [int((TRAIN.x == image).flatten(1).all(1).nonzero()[0]) for image in (a, b)]
    assert TRAIN.y[rows[0]] != TRAIN.y[rows[1]]


def test_signs_are_those_of_torch_s_batch_norms():
    net, seen = lived_in(), []
    hooks = [m.register_forward_hook(lambda m, i, out: seen.append(out)) for m in net if isinstance(m, nn.BatchNorm2d)]
    net(TRAIN.x[:9])
    for hook in hooks:
        hook.remove()
    for found, out in zip(images.signs(net.train(), TRAIN.x[:9]), seen, strict=True):
        assert torch.equal(found, (out > 0).flatten())
    assert net.training


# --- filters as units --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inputs", [1, 3])
def test_folded_layers_compute_what_the_net_computes(inputs):
    net = lived_in(inputs=inputs, dtype=torch.float64)
    x = torch.rand(4, inputs, 8, 8, generator=generator("fold"), dtype=torch.float64)
    *blocks, (head, shift) = images.fold(net)
    h = x
    for at, (weight, bias) in enumerate(blocks):
        h = F.relu(F.conv2d(h, weight, bias, 2 if at else 1, padding=1))
    torch.testing.assert_close(h.mean((2, 3)) @ head.T + shift, net(x), rtol=0, atol=1e-12)


def kept(net, small):
    """Which channels of each layer are still there, found by their weights."""
    found, inputs = [], torch.ones(net.inputs, dtype=torch.bool)
    for old, new in zip(net, small, strict=True):
        if isinstance(old, nn.Conv2d):
            rows = old.weight[:, inputs].flatten(1)
            inputs = torch.tensor([bool((row == new.weight.flatten(1)).all(1).any()) for row in rows])
            found.append(inputs)
    return found


def dropped(net, rule):
    """Which channels of each layer go when a third does."""
    keep = kept(net, images.prune(net, 1 / 3, rule, 0.0, TRAIN, 0))
    return [set((~k).nonzero().flatten().tolist()) for k in keep]


@pytest.mark.parametrize("arm", [arm for arm in ARMS if arm != "scaled + merge (ours)"])
@pytest.mark.parametrize("inputs", [1, 3])
def test_a_pruned_net_is_the_net_with_channels_masked(arm, inputs):
    net = lived_in((8, 6, 10), inputs)
    train, x = replace(TRAIN, x=TRAIN.x.expand(-1, inputs, -1, -1)), TEST.x.expand(-1, inputs, -1, -1)
    small = images.prune(net, 0.5, *ARMS[arm], train, 0)
    keep = kept(net, small)
    assert [int(k.sum()) for k in keep] == list(small.widths) == [4, 3, 5]
    with torch.no_grad():
        gap = small(x) - mask_channels(net, torch.cat(keep))(x)
    assert gap.abs().max() < 1e-5


def test_scores_by_hand():
    net = lived_in((6, 6, 6))
    convs = [m for m in net if isinstance(m, nn.Conv2d)]
    norms = [m for m in net if isinstance(m, nn.BatchNorm2d)]
    lowest = lambda score: set(torch.as_tensor(score).argsort()[:2].tolist())  # noqa: E731
    with torch.no_grad():
        own = [
            [float(c.weight[i].norm() * (n.weight[i] / (n.running_var[i] + n.eps).sqrt()).abs()) for i in range(6)]
            for c, n in zip(convs, norms, strict=True)
        ]
    assert dropped(net, "in-norm") == [lowest(s) for s in own]
    assert dropped(net, "reversed norm") == [lowest([-v for v in s]) for s in own]
    assert dropped(net, "BatchNorm scale") == [lowest(n.weight.detach().abs()) for n in norms]
    last = [float(v * net[-1].weight.detach()[:, i].norm()) for i, v in enumerate(own[2])]
    assert dropped(net, "in*out norm")[2] == lowest(last)


def test_snip_by_finite_differences():
    net = lived_in((2, 2), dtype=torch.float64)
    few = replace(TRAIN, x=TRAIN.x[:20].double(), y=TRAIN.y[:20])
    found, step = images.snip(net, few), 1e-6
    for at, conv in enumerate(m for m in net if isinstance(m, nn.Conv2d)):
        total, weight = torch.zeros(2, dtype=torch.float64), conv.weight.data
        for index in np.ndindex(*weight.shape):
            value, losses = weight[index].item(), []
            for moved in (value + step, value - step):
                weight[index] = moved
                losses.append(F.cross_entropy(net(few.x), few.y).item())
            weight[index] = value
            total[index[0]] += abs((losses[0] - losses[1]) / (2 * step) * value)
        torch.testing.assert_close(found[at], total, rtol=1e-4, atol=1e-6)


def with_duplicates(scale, dtype):
    """A net whose first and fourth channels of every block draw one line; scaled through weights, shift and mean."""
    net = lived_in((6, 6, 6), dtype=dtype)
    for module in net:
        if isinstance(module, nn.Conv2d):
            module.weight.data[3] = module.weight.data[0] * 2
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean[3], module.running_var[3] = 2 * module.running_mean[0], module.running_var[0]
            module.weight.data[3], module.bias.data[3] = scale * module.weight.data[0] / 2, scale * module.bias.data[0]
    return net


@pytest.mark.parametrize("scale", [1.0, 0.3, 4.0])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-5)])
def test_merging_exact_duplicates_leaves_the_function_as_it_is(scale, dtype, tolerance):
    net, x = with_duplicates(scale, dtype), TEST.x.to(dtype)
    before = copy.deepcopy(net.state_dict())
    small = images.prune(net, 1 / 6, "merge", 0.05, TRAIN, 0).to(dtype)
    assert small.widths == (5, 5, 5)
    with torch.no_grad():
        assert (small(x) - net(x)).abs().max() < tolerance
        unmerged = images.prune(net, 1 / 6, "redundancy", 0.0, TRAIN, 0).to(dtype)
        assert (unmerged(x) - net(x)).abs().max() > 1e-3
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("scale", [0.3, -2.0])
def test_redundancy_takes_a_duplicated_line_of_either_sign(scale):
    net = with_duplicates(scale, torch.float64)
    small = images.prune(net, 1 / 6, "redundancy", 0.0, TRAIN, 0)
    for old, new in zip(net, small, strict=True):
        if isinstance(old, nn.BatchNorm2d):
            gone = set(old.running_mean.tolist()) - set(new.running_mean.double().tolist())
            assert gone <= set(old.running_mean[[0, 3]].tolist())
            assert len(gone) == 1


@pytest.mark.parametrize("seed", range(6))
def test_of_the_closest_pair_the_filter_that_matters_less_goes(seed):
    """Number by number, on the folded net: angles of filters, norms into and out of them."""
    net, gone = lived_in((5, 6, 7), seed=seed), []
    layers = images.fold(net)
    for (w, _), (after, _) in itertools.pairwise(layers):
        rows = w.flatten(1).tolist()
        size = [math.hypot(*row) for row in rows]
        importance = [size[i] * math.hypot(*after[:, i].flatten().tolist()) for i in range(len(rows))]
        cos = {
            (i, j): abs(sum(a * b for a, b in zip(rows[i], rows[j], strict=True))) / (size[i] * size[j])
            for i, j in itertools.combinations(range(len(rows)), 2)
        }
        pair = max(cos, key=cos.get)
        gone.append({min(pair, key=importance.__getitem__)})
    keep = kept(net, images.prune(net, 0.17, "redundancy", 0.0, TRAIN, 0))
    assert [set((~k).nonzero().flatten().tolist()) for k in keep] == gone


def test_the_layer_mask_is_what_pruning_by_batch_norm_scale_leaves():
    net = lived_in((8, 6, 10))
    keep, at = images.layer_mask(net), 0
    small = images.prune(net, images.TICKET, "BatchNorm scale", 0.0, TRAIN, 0)
    for old, new in zip(net, small, strict=True):
        if isinstance(old, nn.BatchNorm2d):
            assert torch.equal(old.weight[keep[at : at + len(old.weight)]], new.weight)
            at += len(old.weight)


def test_pruning_every_channel_is_refused():
    with pytest.raises(WorkbenchError, match="all 6 channels of convolution 1"):
        images.prune(lived_in(), 0.95, "in-norm", 0.0, TRAIN, 0)


# --- images and retraining ---------------------------------------------------------------------------------------


def test_training_and_test_images_are_never_the_same():
    pools = images.pools("digits")
    for seed in range(3):
        train, test = images.split(pools, seed, replace(Config(), image_train=10_000, image_test=10_000))
        assert (len(train.y), len(test.y)) == (1400, 397)
        joined = torch.cat([train.x, test.x]).flatten(1)
        assert torch.equal(joined.sum(1).sort().values, pools[0].x.flatten(1).sum(1).sort().values)
    assert (len(TRAIN.y), len(TEST.y)) == (300, 200)
    own = [
        data.Images(f"cifar10-{part}", torch.rand(400, 3, 32, 32), torch.arange(400) % 10) for part in ("train", "test")
    ]
    for part, pool in zip(images.split(tuple(own), 1, Config()), own, strict=True):
        assert part.name == pool.name
        assert all((pool.x == image).flatten(1).all(1).any() for image in part.x[:5])


def test_wrong_labels_at_the_test_images_change_nothing_but_accuracy():
    setup = Setup.read("digits 8-6-8 5")
    blind = (TRAIN, replace(TEST, y=(TEST.y + 1) % 10))
    seen, unseen = (images.conv_seed(setup, parts, 0, Config()) for parts in (PARTS, blind))
    assert str(seen["image_fired"]) == str(unseen["image_fired"])
    assert seen["image_costs"] == unseen["image_costs"]
    assert str(seen["image_distances"]) == str(unseen["image_distances"])
    drawn = [[(row["drawn"], row["epoch"]) for row in found["image_tickets"]] for found in (seen, unseen)]
    assert str(drawn[0]) == str(drawn[1])
    assert seen["image_curves"] != unseen["image_curves"]


def test_a_curve_is_training_stopped_at_each_step():
    net = lived_in((4, 4, 4))
    _, curve = images.retrain(net, PARTS, (0, 2, 5), 1, 0.05)
    for step, found in zip((0, 2, 5), curve, strict=True):
        alone = images.retrain(net, PARTS, (step,), 1, 0.05)[0].eval() if step else net
        with torch.no_grad():
            right = (alone(TEST.x).argmax(1) == TEST.y).float().mean().item()
        assert found == pytest.approx(100 * right, abs=1e-4)


def test_a_ticket_goes_on_for_the_epochs_that_are_left_then_retrains_like_all():
    nets = images.follow(lived_in((4, 4, 4)), TRAIN, 3, 7, 0.1)
    fired = {"partition": 2.0, "mask": math.nan}
    rows = {row["drawn"]: row for row in images.tickets(nets, fired, PARTS, 7, Config())}
    drawn = {"partition": (2, "BatchNorm scale"), "first epoch": (1, "BatchNorm scale")}
    drawn |= {"last epoch": (3, "BatchNorm scale"), "random, with partition": (2, "random")}
    assert set(rows) == {*drawn, "mask"}
    assert set(rows["mask"]) == {"drawn", "seed", "epoch"}, "no ticket, no accuracy"
    for name, (epoch, rule) in drawn.items():
        small = images.prune(nets[epoch - 1], 0.5, rule, 0.0, TRAIN, 7).to(memory_format=torch.channels_last)
        train_conv(small, TRAIN.x, TRAIN.y, 3 * (3 - epoch), 7, 0.1)
        train_conv(small, TRAIN.x, TRAIN.y, 4, 7, 0.01)
        assert rows[name]["epoch"] == epoch
        assert rows[name]["accuracy"] == images.accuracy(small, TEST)


@pytest.fixture(scope="module")
def result():
    config = Config()
    parts = [images.digits_mlp(config), *(images.conv_net(Setup.read(text), config) for text in config.images)]
    pairwise = {key: value for part in parts for key, value in part.pop("pairwise", {}).items()}
    return {name: [row for part in parts for row in part.get(name, [])] for name in parts[1]} | {"pairwise": pairwise}


def test_all_arms_lose_equally_much_and_every_seed_has_every_row(result):
    curves, costs = result["image_curves"], result["image_costs"]
    conv = [row for row in costs if row["net"] == "8-6-8"]
    assert {row["parameters"] for row in conv if row["ratio"]} == {9 * (4 + 12 + 12) + 2 * 11 + 4 * 10 + 10}
    assert {row["macs"] for row in conv if row["ratio"]} == {9 * (4 * 64 + 12 * 16 + 12 * 4) + 40}
    mlp = {row["ratio"]: (row["parameters"], row["macs"]) for row in costs if row["net"] == "64-64-64-10"}
    macs = {0.0: 64 * 64 * 2 + 640, 0.5: 64 * 32 + 32 * 32 + 320, 0.8: 64 * 13 + 13 * 13 + 130}
    assert mlp == {r: (m + 2 * round(64 - 64 * r) + 10, m) for r, m in macs.items()}
    assert len(conv) == 2 * (1 + len(ARMS))
    assert len(curves) == 3 * len(costs)
    assert all(0 <= row["accuracy"] <= 100 for row in curves)


def test_detectors_and_tickets_have_a_row_a_seed(result):
    fired = {(r["seed"], r["training"], r["detector"]): r["epoch"] for r in result["image_fired"]}
    names = ("partition", "mask", "mask by layer (ours)")
    assert set(fired) == {(s, "trained", n) for s in (0, 1) for n in names} | {(0, "untrained", n) for n in names}
    assert fired[0, "untrained", "mask"] == 5, "the control must be able to fire"
    for row in result["image_tickets"]:
        assert row["seed"] in (0, 1)
        if row["drawn"] in names:
            np.testing.assert_equal(row["epoch"], fired[row["seed"], "trained", row["drawn"]])
        if math.isnan(row["epoch"]):
            assert "accuracy" not in row
        else:
            assert row["parameters"] == 9 * (4 + 12 + 12) + 2 * 11 + 4 * 10 + 10
    pairwise = result["pairwise"]["digits", "8-6-8"]
    for name in names:
        curve = [r["distance"] for r in result["image_distances"] if r["seed"] == 0 and r["detector"] == name]
        back = Config.detectors["partition" if name == "partition" else "mask"][0]
        by_hand = [math.nan] * back + [pairwise[name][t, t - back : t].max().item() for t in range(back, 6)]
        np.testing.assert_allclose(curve[:6], by_hand)


def test_a_seed_is_the_same_again_whatever_runs_beside_it(result):
    parts = images.split(images.pools("digits"), 1, Config())
    alone = images.conv_seed(Setup.read(Config.images[0]), parts, 1, Config())
    for name in ("image_curves", "image_costs", "image_fired", "image_distances", "image_tickets"):
        mine = [row for row in result[name] if row["seed"] == 1 and row["net"] == "8-6-8"]
        assert str(mine) == str(alone[name]), name


def test_batches_of_the_mlp_are_its_points_in_turn():
    task = images.digits_task([4, 5])
    assert task.x.shape == (2, 64, 1000)
    assert task.test_x.shape == (2, 64, 797)
    assert not (task.x[0].T[:, None] == task.test_x[0].T[None, :50]).all(2).all()
    parts = task.split(128)
    assert torch.equal(torch.cat([part.x for part in parts], 2), task.x)
    assert torch.equal(torch.cat([part.y for part in parts], 1), task.y)
    net = method.MLP.init((64, 5, 10), [4, 5])
    found, _ = method.fit(net, task, 9, 0.01, batch=128)
    alone = net.sequential(1)
    optimiser = torch.optim.Adam(alone.parameters(), lr=0.01)
    for step in range(9):
        part = parts[step % 8]
        optimiser.zero_grad()
        F.cross_entropy(alone(part.x[1].T), part.y[1]).backward()
        optimiser.step()
    torch.testing.assert_close(found.weights[0][1], alone[0].weight.detach(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("text", ["digits 8-8", "digits 8-8 many", "mnist 8-8 3", "digits 1-8 3", "digits 8-8 0"])
def test_settings_that_cannot_run_are_refused(text):
    with pytest.raises(WorkbenchError, match="images"):
        Setup.read(text)
