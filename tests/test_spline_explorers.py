"""What the explorers of spline pruning draw is what the method computes."""

import numpy as np
import pandas as pd
import pytest
import torch

from workbench.evidence import Result
from workbench.papers.spline import experiment, explorers, method
from workbench.papers.spline.experiment import SQUARE, Cell, Config
from workbench.papers.spline.method import MLP, Criterion, Task
from workbench.papers.spline.partition import partition

CONFIG = Config.at("quick", seed=3, cells=("circles 2-8-2 50", "X 2-6-5-2 50"), dense_steps=140, watched="X 2-6-5-2 50")


def trained(text="X 2-6-5-2 50"):
    cell = Cell.read(text)
    task = Task.of(cell.dataset, [3])
    return method.fit(MLP.init(cell.widths, [3]), task, 140, CONFIG.dense_lr)[0], task


def lengths(paths):
    steps = np.diff(paths, axis=0)
    return np.nansum(np.hypot(*steps.T))


@pytest.mark.parametrize("seed", range(4))
def test_joined_edges_are_all_edges_once(seed):
    found = partition(MLP.init([2, 9, 7, 2], [seed]).sequential(0), SQUARE)
    drawn = explorers._edges(found)
    perimeters = sum(lengths(np.concatenate([p, p[:1]])) for p in found.polygons())
    assert lengths(drawn) == pytest.approx((perimeters + 8) / 2, rel=1e-5)  # inner edges twice, the square's once
    rings = explorers._rings(found.polygons())
    assert len(drawn) < len(rings) / 2
    begin, end = drawn[:-1], drawn[1:]
    begin, end = (part[np.isfinite(end - begin).all(1)] for part in (begin, end))
    along = end - begin
    for polygon in found.polygons():
        for middle in (polygon + np.roll(polygon, -1, 0)) / 2:
            t = (((middle - begin) * along).sum(1) / (along**2).sum(1)).clip(0, 1)
            assert np.linalg.norm(begin + t[:, None] * along - middle, axis=1).min() < 1e-5


def test_the_pruned_network_is_the_method_s():
    explorer = explorers.pruning(CONFIG)
    drawn = explorer(dataset="X", rule="redundancy", ratio=0.5, step=30)
    dense, task = trained()
    pruned, accuracy = method.fit(method.prune(dense, 0.5, Criterion("redundancy"), task), task, 30, CONFIG.lr, (30,))
    found = partition(pruned.sequential(0), SQUARE)
    said = drawn["In numbers"]
    assert said["after"] == f"{100 * accuracy.item():.1f} %"
    assert said["regions, after"] == str(len(found.maps))
    assert said["regions, before"] == str(len(partition(dense.sequential(0), SQUARE).maps))
    boundary = found.boundary().segments
    assert lengths(drawn["After"]["decision boundary"]) == pytest.approx(
        np.linalg.norm(np.diff(boundary, axis=1), axis=2).sum(), rel=1e-4
    )
    points = drawn["After"]["points of class 1"]
    assert len(points) == int((task.y == 1).sum())


@pytest.mark.parametrize("removed", [0, 2, 3])
def test_the_outlined_pair_is_the_closest_of_those_left(removed):
    drawn = explorers.units(CONFIG)(dataset="X", rule="redundancy", rho=0.05, removed=removed)
    matrix = drawn["Distance of two units"]
    assert matrix.shape == (8, 8), "as large as the widest of the data sets' layers"
    assert np.isnan(matrix).all(0).sum() == removed + 2
    (row, column), _ = drawn["Distance of two units: cells"].astype(int)
    assert matrix[row, column] == np.nanmin(matrix)
    dense, _ = trained()
    whole = method.distance(dense.weights[0], dense.biases[0], 0.05)[0].numpy()
    assert matrix[row, column] == pytest.approx(whole[row, column], rel=1e-6)
    line = drawn["Their lines in the plane"]["unit that goes"]
    w, b = dense.weights[0][0][row].numpy(), dense.biases[0][0][row].item()
    np.testing.assert_allclose(line @ w + b, 0, atol=1e-5)


def test_detectors_fire_where_the_table_says():
    found = experiment.watch(Cell.read(CONFIG.watched[0]), CONFIG)
    tables = {name: pd.DataFrame(found[name]) for name in ("distances", "fired")}
    result = Result(tables, [], CONFIG.record("spline"), "", {"looks": found["looks"]})
    explorer = explorers.detectors(result)
    said = explorer(dataset="X", eta=0.16)["text"]
    own = tables["fired"][tables["fired"]["seed"] == 3].set_index("detector")["step"]
    assert f"the partition detector fires at step {own['partition']:.0f}" in said
    step = result.extra["looks"]["X", "2-6-5-2"][0][2]
    net = result.extra["looks"]["X", "2-6-5-2"][1][2]
    assert f"At step {step} the network has {len(partition(net, SQUARE).maps)} regions" in explorer(step=step)["text"]


def test_a_shorter_training_leaves_the_later_epochs_empty():
    distance = {"partition": torch.rand(6, 6), "mask": torch.rand(6, 6)}
    short = {kind: d[:4, :4] for kind, d in distance.items()}
    result = Result({}, [], {}, "", {"pairwise": {("digits", "8-8"): distance, ("cifar10", "8-9"): short}})
    drawn = explorers.epochs(result)(net="cifar10 8-9", back=1)
    assert np.isfinite(drawn["Distance of two epochs"]).sum() == 16
    watched = drawn["What the detector watches"]["farthest of the epochs before"]
    assert np.isfinite(watched).tolist() == [False, True, True, True, False, False]
