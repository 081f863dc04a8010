"""How much of a plane changes sign between networks: samples, hand-made networks and the engine itself as oracles."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from workbench.papers.spline import overlay, truths
from workbench.papers.spline.experiment import SQUARE, Cell, Config, partition_change, unit_masks, watch
from workbench.papers.spline.method import MLP, Task, follow
from workbench.papers.spline.partition import partition


def nets(count, *hidden, first=0):
    batch = MLP.init([2, *hidden, 2], range(first, first + count))
    return [batch.sequential(k) for k in range(count)]


def line(weight, bias):
    """One unit, zero where weight . x + bias is."""
    net = nn.Sequential(nn.Linear(2, 1), nn.ReLU(), nn.Linear(1, 2)).double()
    net[0].weight.data, net[0].bias.data = torch.tensor([weight]).double(), torch.tensor([bias]).double()
    return net


@pytest.mark.parametrize("hidden", [(7,), (5, 4), (4, 3, 5)])
def test_networks_side_by_side_answer_as_each_alone(hidden):
    alone = nets(3, *hidden)
    x = torch.randn(50, 2, dtype=torch.float64)
    together = overlay.beside(alone)(x)
    torch.testing.assert_close(together, torch.cat([net(x) for net in alone], 1), rtol=0, atol=1e-12)


def test_a_line_that_moves_flips_the_strip_between():
    # x = -0.5, x = 0 and x = 0.5 in a square of side 2: a quarter of the area lies between neighbours.
    moved = [line([1.0, 0.0], shift) for shift in (0.5, 0.0, -0.5)]
    np.testing.assert_allclose(overlay.region_change(moved, SQUARE), [[0, 0.25, 0.5], [0.25, 0, 0.25], [0.5, 0.25, 0]])


def test_a_unit_that_turns_over_flips_everything_and_a_scaled_one_nothing():
    found = overlay.region_change([line([1.0, 2.0], 0.1), line([-1.0, -2.0], -0.1), line([4.0, 8.0], 0.4)], SQUARE)
    np.testing.assert_allclose(found[0], [0, 1, 0], atol=1e-12)


@pytest.mark.parametrize("hidden", [(8,), (6, 5)])
def test_the_exact_change_is_what_a_fine_sample_finds(hidden):
    pair = nets(2, *hidden, first=4)
    a, b = ([layer for layer in overlay.signs_on_grid(net, SQUARE, 600)] for net in pair)
    sampled = np.mean([(p != q).mean() for p, q in zip(a, b, strict=True)])
    assert overlay.region_change(pair, SQUARE)[0, 1] == pytest.approx(sampled, abs=3e-3)


@settings(max_examples=15)
@given(st.integers(0, 10**6), st.integers(2, 4))
def test_change_is_a_distance(seed, count):
    found = overlay.region_change(nets(count, 4, 3, first=seed), SQUARE)
    np.testing.assert_allclose(found, found.T, atol=1e-12)
    np.testing.assert_allclose(np.diag(found), 0, atol=1e-12)
    assert (found[:, :, None] <= found[:, None] + found[None] + 1e-12).all()
    assert found.max() <= 1


def test_pixels_never_see_more_regions_than_there_are_and_see_all_of_a_simple_net():
    (net,) = nets(1, 10, 10)
    exact = len(partition(net, SQUARE).maps)
    seen = [overlay.regions_on_grid(net, SQUARE, n) for n in (10, 40, 160)]
    assert seen == sorted(seen)
    assert seen[-1] <= exact
    assert overlay.regions_on_grid(line([1.0, 0.3], 0.1), SQUARE, 20) == 2


def test_the_area_won_by_a_class_is_where_it_wins():
    (net,) = nets(1, 12, 8, first=3)
    found = partition(net, SQUARE)
    x = torch.rand(4000, 2, dtype=torch.float64) * 2 - 1
    wins = net(x).argmax(1).numpy()
    areas = []
    for label in (0, 1):
        inside = np.zeros(len(x), dtype=bool)
        for polygon in found.won_by(label):
            edge, to = np.roll(polygon, -1, 0) - polygon, x.numpy()[:, None] - polygon
            inside |= (edge[:, 0] * to[..., 1] - edge[:, 1] * to[..., 0] > 1e-12).all(1)
            (px, py), (qx, qy) = polygon.T, np.roll(polygon, -1, 0).T
            areas.append((px * qy - py * qx).sum() / 2)
        assert (inside == (wins == label)).all()
    assert sum(areas) == pytest.approx(4, abs=1e-12)


def test_closed_forms_come_out():
    for claim, counted in truths.closed_forms():
        assert claim.row(counted, "quick")["verdict"] == "reproduced", claim.id
        assert claim.row(counted + 1, "quick")["verdict"] == "contradicted"


# --- the detectors on one training -----------------------------------------------------------------------------------


def test_masks_keep_the_largest_units_of_each_layer():
    batch = MLP.init([2, 6, 4, 2], [0, 1])
    masks = unit_masks([batch, batch.map(lambda p: 2 * p)], 0.5)
    assert masks.shape == (2, 2, 10)
    assert masks[..., :6].sum(-1).eq(3).all()
    assert masks[..., 6:].sum(-1).eq(2).all()
    assert masks[:, 0].equal(masks[:, 1])
    norms = batch.weights[0][0].norm(dim=1)
    assert norms[masks[0, 0, :6]].min() > norms[~masks[0, 0, :6]].max()


def test_changes_are_known_only_as_far_back_as_the_detector_looks():
    task, net = Task.of("X", [0, 1]), MLP.init([2, 5, 2], [0, 1])
    looks = follow(net, task, [5, 10, 15, 20, 25], 0.02)
    found = partition_change(looks, 1, 2)
    exact = overlay.region_change([look.sequential(1) for look in looks], SQUARE)
    known = np.isfinite(found.numpy())
    assert known.sum() == 2 + 3 * 3
    np.testing.assert_allclose(found.numpy()[known], exact[known], atol=1e-12)


def test_frozen_weights_find_a_ticket_at_the_first_look_that_can():
    """The trap of both detectors: nothing that stands still is told from what has settled."""
    config = Config.at("quick", dense_lr=1e-12, dense_steps=140, watched_seeds=4)
    found = watch(Cell.read("circles 2-6-2 50"), config)
    steps = {(row["detector"], row["step"]) for row in found["fired"]}
    assert steps == {("partition", 20 * 4), ("mask", 20 * 5)}
    assert min(row["change"] for row in found["strangers"]) > config.partition_eta
