"""Pruning by redundant lines: plain loops, torch's own modules and networks with planted duplicates as oracles."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench import WorkbenchError
from workbench.evidence import Interval, contrast
from workbench.papers.spline import claims, method
from workbench.papers.spline.experiment import SQUARE, Cell, Config, run
from workbench.papers.spline.method import MLP, RULES, Criterion, Task
from workbench.papers.spline.partition import partition

SEEDS = [3, 8, 21]
close = lambda a, b: torch.testing.assert_close(a, b, rtol=0, atol=1e-9)  # noqa: E731


def nets(*hidden, seeds=SEEDS):
    return MLP.init([2, *hidden, 2], seeds)


def points(seeds=SEEDS):
    return Task.of("X", seeds)


def one(net, k):
    return net.map(lambda p: p[k : k + 1])


# --- plain loops -------------------------------------------------------------------------------------------------


def line_distance(w, b, v, c, rho):
    """The distance of two units, number by number."""
    if not any(w) or not any(v):
        return math.inf
    size, other = math.hypot(*w), math.hypot(*v)
    cos = sum(p * q for p, q in zip(w, v, strict=True)) / (size * other)
    same, flipped = abs(b / size - c / other), abs(b / size + c / other)
    offset = min(same, flipped) if abs(cos) < 1e-9 else same if cos > 0 else flipped
    return 1 - abs(cos) + rho * offset


def removed_by_loop(weight, bias, out, count, rule, rho):
    """Units that go, and the outgoing weights that stay: one network, one layer, dictionaries and loops."""
    w, b, a = weight.tolist(), bias.tolist(), dict(enumerate(out.T.tolist()))
    size = [math.hypot(*row) for row in w]
    gone = []
    for _ in range(count):
        importance = {i: size[i] * math.hypot(*a[i]) for i in a}
        d = {(i, j): line_distance(w[i], b[i], w[j], b[j], rho) for i in a for j in a if i != j}
        nearest = {i: min((d[i, j], j) for j in a if j != i) for i in a}
        if rule == "redundancy":
            drop = min(min(d, key=d.get), key=importance.get)
        elif rule == "isolated":
            drop = max(a, key=lambda i: nearest[i][0])
        else:
            drop = min(a, key=lambda i: nearest[i][0] * importance[i])
        twin = nearest[drop][1]
        moved = a.pop(drop)
        if rule == "merge" and sum(p * q for p, q in zip(w[drop], w[twin], strict=True)) > 0:
            a[twin] = [old + size[drop] / size[twin] * new for old, new in zip(a[twin], moved, strict=True)]
        gone.append(drop)
    return gone, torch.tensor([a[i] for i in sorted(a)], dtype=torch.float64).T


# --- data and networks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dataset", method.DATASETS)
def test_every_seed_has_points_of_its_own_whatever_runs_beside_it(dataset):
    task, alone = Task.of(dataset, SEEDS), Task.of(dataset, SEEDS[1:2])
    assert task.x.shape == (3, 2, method.TRAIN)
    assert task.test_x.shape == (3, 2, method.TEST)
    assert torch.equal(task.x[1], alone.x[0])
    assert not torch.equal(task.x[0], task.x[1])
    assert not np.isin(task.x[0].numpy(), task.test_x[0].numpy()).any()
    assert 0.4 < task.test_y.double().mean() < 0.6
    assert task.x.abs().quantile(0.95) < 1.1
    assert task.x.abs().quantile(0.95) > 0.6


def test_the_classes_are_where_the_names_say():
    x, y = Task.of("X", SEEDS).x, Task.of("X", SEEDS).y
    assert torch.equal(y == 1, x[:, 1].abs() > x[:, 0].abs())
    rings = Task.of("circles", range(10))
    radius = rings.x.norm(dim=1)
    assert radius[rings.y == 0].median().item() == pytest.approx(0.4, abs=0.02)
    assert radius[rings.y == 1].median().item() == pytest.approx(0.8, abs=0.02)
    arms = Task.of("spiral", SEEDS)
    r, turned = arms.x.norm(dim=1), torch.atan2(arms.x[:, 1], arms.x[:, 0]) - 2.5 * math.pi * arms.x.norm(dim=1)
    far = r > 0.3
    assert ((turned - math.pi * arms.y).cos()[far] > 0.8).all(), "an arm is a line in (radius, angle)"


def test_forward_loss_and_accuracy_are_torch_s_own():
    net, task = nets(5, 4), points()
    for k in range(len(SEEDS)):
        alone = net.sequential(k)
        logits = alone(task.x[k].T)
        close(net(task.x)[k].T, logits)
        close(net.loss(task)[k], torch.nn.functional.cross_entropy(logits, task.y[k]))
        right = (alone(task.test_x[k].T).argmax(1) == task.test_y[k]).double().mean().item()
        assert net.accuracy(task)[k].item() == pytest.approx(right, abs=1e-6)


def test_networks_start_as_torch_s_linear_layers():
    net = nets(400, seeds=range(5))
    for w, b, inputs in zip(net.weights, net.biases, (2, 400), strict=True):
        for p in (w, b):
            assert p.abs().max() <= inputs**-0.5
            assert p.std() == pytest.approx((3 * inputs) ** -0.5, rel=0.3)


def test_training_side_by_side_is_training_one_by_one_with_torch():
    net, task = nets(6), points()
    start = copy.deepcopy(net)
    trained, accuracy = method.fit(net, task, 20, 0.01, (0, 20))
    close(net.weights[0], start.weights[0])
    for k in range(len(SEEDS)):
        alone = start.sequential(k)
        optimiser = torch.optim.Adam(alone.parameters(), lr=0.01)
        for _ in range(20):
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(alone(task.x[k].T), task.y[k]).backward()
            optimiser.step()
        close(trained.weights[0][k], alone[0].weight.detach())
        close(trained.biases[1][k], alone[2].bias.detach())
    close(accuracy[:, 0], start.accuracy(task))
    close(accuracy[:, 1], trained.accuracy(task))


def test_units_of_zeros_stay_zero_and_change_nothing():
    narrow, wide, task = nets(4), nets(9), points()
    both, _ = method.fit(MLP.cat([narrow, wide]), task.repeat(2), 15, 0.05)
    alone, _ = method.fit(narrow, task, 15, 0.05)
    close(both.weights[0][:3, :4], alone.weights[0])
    assert not both.weights[0][:3, 4:].any()
    assert not both.biases[0][:3, 4:].any()
    assert not both.weights[1][:3, :, 4:].any()
    assert [both.sequential(k)[0].out_features for k in range(6)] == [4] * 3 + [9] * 3


def test_data_aware_lines_pass_through_training_points():
    net, task = method.through_points(nets(7, 5), points()), points()
    for k in range(len(SEEDS)):
        alone = net.sequential(k)
        for layer in (0, 2):
            before = alone[layer](alone[:layer](task.x[k].T))
            nearest = before.abs().min(0).values
            assert nearest.max() < 1e-12
        again = method.through_points(one(nets(7, 5), k), points(SEEDS[k : k + 1]))
        close(again.biases[1][0], net.biases[1][k])


# --- distance ----------------------------------------------------------------------------------------------------


numbers = st.integers(-3, 3).map(float)
units = st.lists(st.tuples(numbers, numbers, numbers), min_size=2, max_size=6)
factors = st.sampled_from([0.1, 1.0, 7.0])


@given(units, st.sampled_from([0.0, 0.05, 1.0]), st.lists(factors, min_size=6, max_size=6), st.integers(0, 63))
def test_distance_is_the_loop_s_and_knows_lines_only(rows, rho, factor, flips):
    rows = torch.tensor(rows, dtype=torch.float64)
    found = method.distance(rows[None, :, :2], rows[None, :, 2], rho)[0]
    lines = [((a, b), c) for a, b, c in rows.tolist()]
    looped = [[line_distance(*p, *q, rho) for q in lines] for p in lines]
    close(found, torch.tensor(looped, dtype=torch.float64))
    scale = torch.tensor([f * (-1) ** (flips >> i & 1) for i, f in enumerate(factor[: len(rows)])])
    moved = rows * scale[:, None].double()
    close(method.distance(moved[None, :, :2], moved[None, :, 2], rho)[0], found)
    close(found, found.T)
    assert (found >= 0).all()


# --- which units go ----------------------------------------------------------------------------------------------


@settings(max_examples=15)
@given(
    st.integers(0, 10**6), st.sampled_from(["redundancy", "isolated", "scaled", "merge"]), st.sampled_from([0, 0.05])
)
def test_the_geometric_rules_remove_what_the_loop_removes(seed, rule, rho):
    net, task = nets(8, seeds=[seed, seed + 1]), points([seed, seed + 1])
    pruned = method.prune(net, 0.625, Criterion(rule, rho), task)
    for k in range(2):
        w, b, out = net.weights[0][k], net.biases[0][k], net.weights[1][k]
        gone, left = removed_by_loop(w, b, out, 5, rule, rho)
        stay = [i for i in range(8) if i not in gone]
        close(pruned.weights[0][k], w[stay])
        close(pruned.biases[0][k], b[stay])
        close(pruned.weights[1][k], left)


def test_scores_by_hand():
    task, net = points(), nets(10)
    w, out = net.weights[0], net.weights[1]
    loss = lambda change: net_with(net, change).loss(task)  # noqa: E731
    gradient = torch.zeros_like(w)
    for i in range(10):
        for j in range(2):
            step = torch.zeros_like(w)
            step[:, i, j] = 1e-5
            gradient[:, i, j] = (loss(step) - loss(-step)) / 2e-5
    scores = {
        "in-norm": w.square().sum(2),
        "in*out norm": w.square().sum(2) * out.square().sum(1),
        "reversed norm": -w.square().sum(2),
        "SNIP": (gradient * w).abs().sum(2),
    }
    for rule, score in scores.items():
        pruned = method.prune(net, 0.4, Criterion(rule), task)
        for k in range(len(SEEDS)):
            stay = score[k].argsort()[4:].sort().values
            close(pruned.weights[0][k], w[k, stay])


def net_with(net, change):
    return MLP([net.weights[0] + change, *net.weights[1:]], net.biases)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_removed_counts_are_exact_and_removal_is_torch_s_with_units_silenced(rule, scope):
    net, task = nets(10, 6), points()
    pruned = method.prune(net, 0.5, Criterion(rule, 0.05, scope), task)
    for k in range(len(SEEDS)):
        small = pruned.sequential(k)
        widths = [small[0].out_features, small[2].out_features]
        assert sum(widths) == 8
        assert min(widths) >= 1
        assert scope == "global" or widths == [5, 3]
        assert [int(w[k].any(0).sum()) for w in pruned.weights[1:]] == widths, "units of zeros have no outgoing weights"
        if rule == "merge":
            continue
        silenced = net.sequential(k)
        for layer in (0, 2):
            rows = silenced[layer].bias.data
            kept = torch.isin(rows, pruned.biases[layer // 2][k])
            assert kept.sum() == widths[layer // 2]
            silenced[layer].weight.data[~kept] = 0
            silenced[layer].bias.data[~kept] = 0
        close(small(task.x[k].T), silenced(task.x[k].T))
        close(pruned(task.x)[k].T, silenced(task.x[k].T))


@pytest.mark.parametrize("rule", RULES)
def test_a_batch_is_pruned_as_its_networks_one_by_one_and_never_looks_at_the_test_points(rule):
    net, task = nets(9, 7), points()
    criterion = Criterion(rule, 0.05)
    together = method.prune(net, 0.4, criterion, task)
    blind = copy.copy(task)
    blind.test_x, blind.test_y = torch.full_like(task.test_x, torch.nan), 1 - task.test_y
    for k in range(len(SEEDS)):
        alone = method.prune(one(net, k), 0.4, criterion, points(SEEDS[k : k + 1]))
        for a, b in zip(one(together, k).parameters, alone.parameters, strict=True):
            close(a, b)
    for a, b in zip(together.parameters, method.prune(net, 0.4, criterion, blind).parameters, strict=True):
        assert torch.equal(a, b)


def with_duplicates(scale, hidden=(6, 6)):
    """Networks whose first and fourth unit of every hidden layer are one line, with outgoing weights of their own."""
    net = nets(*hidden)
    for layer in range(len(hidden)):
        for p in (net.weights[layer], net.biases[layer]):
            p[:, 3] = scale * p[:, 0]
    return net


@pytest.mark.parametrize("scale", [1.0, 0.2, 5.0])
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_merging_exact_duplicates_leaves_the_function_as_it_is(scale, scope):
    net, task = with_duplicates(scale), points()
    pruned = method.prune(net, 1 / 6, Criterion("merge", 0.05, scope), task)
    assert [w.shape[1] for w in pruned.weights] == [5, 5, 2]
    close(pruned(task.x), net(task.x))
    unmerged = method.prune(net, 1 / 6, Criterion("scaled", 0.05, scope), task)
    assert (unmerged(task.x) - net(task.x)).abs().max() > 1e-3


def test_three_copies_merge_into_one():
    net, task = with_duplicates(2.0, (6,)), points()
    net.weights[0][:, 5], net.biases[0][:, 5] = net.weights[0][:, 0] / 3, net.biases[0][:, 0] / 3
    pruned = method.prune(net, 1 / 3, Criterion("merge", 0.05), task)
    assert pruned.weights[0].shape[1] == 4
    close(pruned(task.x), net(task.x))


@pytest.mark.parametrize("scale", [-2.0, 0.5])
def test_redundancy_drops_a_duplicated_line_first_and_no_region_with_it(scale):
    net, task = with_duplicates(scale, (7,)), points()
    pruned = method.prune(net, 1 / 7, Criterion("redundancy", 0.05), task)
    for k in range(len(SEEDS)):
        weaker = 0 if net.weights[0][k, 0].norm() * net.weights[1][k, :, 0].norm() < (
            net.weights[0][k, 3].norm() * net.weights[1][k, :, 3].norm()
        ) else 3  # fmt: skip
        close(pruned.weights[0][k], net.weights[0][k, [i for i in range(7) if i != weaker]])
        regions = [len(partition(n.sequential(k), SQUARE).maps) for n in (net, pruned)]
        assert regions[0] == regions[1]


def test_units_without_weights_go_first():
    net, task = nets(5), points()
    net.weights[0][:, 2] = 0
    for rule in ("redundancy", "scaled", "merge", "in-norm"):
        pruned = method.prune(net, 0.2, Criterion(rule, 0.05), task)
        assert torch.equal(pruned.weights[0], net.weights[0][:, [0, 1, 3, 4]]), rule


def test_bad_input_is_refused():
    with pytest.raises(WorkbenchError, match="choose one of X, circles"):
        Task.of("cross", SEEDS)
    with pytest.raises(WorkbenchError, match="choose one of redundancy"):
        Criterion("angle")
    with pytest.raises(WorkbenchError, match="each layer keeps one"):
        method.prune(nets(4), 0.9, Criterion("in-norm"), points())


# --- the experiment ----------------------------------------------------------------------------------------------


SMALL = {
    "seeds": 3,
    "cells": ("circles 2-8-2 50", "X 2-6-6-2 50"),
    "dense_steps": 30,
    "region_seeds": 2,
    "init_steps": 5,
    "watched": ("circles 2-6-2 50",),
    "watched_seeds": 3,
    "look_every": 5,
    "images": ("digits 4-4-6 6",),
    "image_seeds": 2,
    "image_train": 300,
    "image_test": 100,
    "image_steps": (0, 2),
    "canvas": 4,
    "mlp_seeds": 2,
    "mlp_steps": 5,
    "boxes": (0.05, 0.1),
}


@pytest.fixture(scope="module")
def result():
    return run(Config.at("quick", **SMALL))


def test_all_arms_of_a_cell_have_equal_parameters_and_start_from_one_dense_network(result):
    regions, curves = result.tables["regions"], result.tables["curves"]
    layer = regions[(regions["scope"] == "layer") & (regions["ratio"] > 0)]
    assert (layer.groupby(["dataset", "net"])["parameters"].nunique() == 1).all()
    by_hand = {"circles": 4 * 3 + 2 * 5, "X": 3 * 3 + 3 * 4 + 2 * 4}
    assert layer.groupby("dataset")["parameters"].first().to_dict() == by_hand
    arms = curves.groupby(["dataset", "net", "ratio", "scope", "arm"])["accuracy"].count()
    assert (arms == 3 * 5).all(), "three seeds, five steps"
    assert len(arms) == 2 * (1 + len(Config().criteria) + 1) + 4, "dense, criteria, from scratch; global where deep"


def test_regions_are_the_partition_s_of_the_networks_handed_out(result):
    regions = result.tables["regions"]
    for (dataset, net, ratio, arm, scope), alone in result.extra["networks"].items():
        rows = regions[
            (regions["dataset"] == dataset)
            & (regions["net"] == net)
            & (regions["ratio"] == ratio)
            & (regions["arm"] == arm)
            & (regions["scope"] == scope)
            & (regions["seed"] == 0)
        ].set_index("step")["regions"]
        assert rows.to_dict() == {step: len(partition(n, SQUARE).maps) for step, n in zip((0, 300), alone, strict=True)}


def evidence(tables):
    cells, watched = ([*map(Cell.read, SMALL[name])] for name in ("cells", "watched"))
    return claims.measured(tables, cells, watched, Config.at("quick", **SMALL))


def test_every_claim_can_fail_both_ways(result):
    """Rows with the opposite accuracies give the opposite difference, and every rule says yes to one and no to one."""
    mirrored = dict(result.tables)
    for name in ("curves", "regions", "starts", "tickets", "image_curves", "image_tickets"):
        value = "regions" if name == "regions" else "accuracy"
        mirrored[name] = result.tables[name].assign(**{value: -result.tables[name][value]})
    for (claim, found), (_, turned) in zip(evidence(result.tables), evidence(mirrored), strict=True):
        if claim.unit in ("points", "regions") and np.isfinite(found.mean):
            assert turned.mean == pytest.approx(-found.mean), claim.id
        near = Interval(1.1, 1.05, 1.15, (1.1, 1.1))
        far = Interval(900, 800, 990, (800.0, 990.0)), Interval(-900, -990, -800, (-990.0, -800.0))
        verdicts = {claim.rule(f, None) for f in (near, *far)}
        assert {"reproduced", "contradicted"} <= verdicts, claim.id
    ids = [row["id"] for row in result.rows]
    assert len(set(ids)) == len(ids)


def test_every_claim_of_the_abstract_has_rows(result):
    ids = " ".join(row["id"] for row in result.rows)
    detectors = ("partition_fires_early", "partition_ticket", "training_macs", "abstract.training_flops")
    pruning = ("redundancy_beats_in-norm", "global_redundancy", "more_regions", "beats_scratch", "start.")
    for part in (*detectors, *pruning):
        assert part in ids


def test_an_early_ticket_saves_the_training_that_its_channels_do_not_do(result):
    """By hand: dense until it fires, small from then on."""
    costs, drawn = (result.tables[name] for name in ("image_costs", "image_tickets"))
    dense = costs[(costs["arm"] == "dense") & (costs["net"] == "4-4-6")].set_index("seed")["macs"]
    (row,) = [row for row in result.rows if row["id"].endswith("partition.training_macs")]
    factors = []
    for ticket in drawn[drawn["drawn"] == "partition"].itertuples():
        if ticket.epoch == ticket.epoch:
            spent = ticket.epoch * dense[ticket.seed] + (6 - ticket.epoch) * ticket.macs
            factors.append(6 * dense[ticket.seed] / spent)
    assert row["value"] is None if len(factors) < 2 else row["value"] == pytest.approx(np.mean(factors))


def test_a_contrast_is_paired_by_seed(result):
    curves = result.tables["curves"]
    at = {"dataset": "X", "ratio": 0.5, "scope": "layer", "step": 30}
    shuffled = curves.sample(frac=1, random_state=0)
    found = contrast(shuffled, at | {"arm": "redundancy"}, at | {"arm": "random"})
    pick = lambda arm, seed: curves.query(  # noqa: E731
        "dataset == 'X' and ratio == 0.5 and scope == 'layer' and step == 30 and arm == @arm and seed == @seed"
    )["accuracy"].item()
    assert list(found.samples) == [pick("redundancy", s) - pick("random", s) for s in range(3)]


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("X 2-20-2", "reads like"),
        ("X 2-20-2 much", "reads like"),
        ("Y 2-20-2 50", "data are X"),
        ("X 3-20-2 50", "start and end with 2"),
        ("X 2-2 50", "start and end with 2"),
        ("X 2-4-2 90", "leave units"),
        ("X 2-4-2 0", "leave units"),
    ],
)
def test_cells_that_cannot_run_are_refused(cell, message):
    with pytest.raises(WorkbenchError, match=message):
        Config.at("quick", cells=cell)


def test_settings_that_cannot_run_are_refused():
    twice = ("X 2-4-2 50", "X 2-4-2 50")
    for bad in (
        {"rhos": (-1.0,)}, {"lr": 0.0}, {"dense_steps": 0}, {"region_seeds": 1}, {"cells": twice}, {"watched": "Z 2"},
        {"mask_fifo": 1}, {"mask_eta": 1.0}, {"look_every": 300}, {"image_steps": (3, 1)}, {"image_ratios": (1.0,)},
        {"images": "digits 8"}, {"image_train": 10}, {"canvas": 1}, {"boxes": (0.0,)},
    ):  # fmt: skip
        with pytest.raises(WorkbenchError, match=f"{next(iter(bad))}|cell|images"):
            Config.at("quick", **bad)
    assert len(Config.at("full").cells) == 32
