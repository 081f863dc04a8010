"""Spline pruning to play with: partitions, units and detectors, swept ahead."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from workbench import early_bird
from workbench.evidence import Result
from workbench.explorer import Choice, Counters, Explorer, Heatmap, Lines, Shapes, Slider
from workbench.papers.spline import method
from workbench.papers.spline.claims import STEPS
from workbench.papers.spline.experiment import SQUARE, Cell, Config
from workbench.papers.spline.method import MLP, Criterion, Task
from workbench.papers.spline.partition import Partition, partition
from workbench.papers.spline.views import pick, shown

PLAYED = {
    "redundancy": Criterion("redundancy"),
    "scaled + merge (ours)": Criterion("merge", 0.05),
    "smallest norm": Criterion("in-norm"),
    "random": Criterion("random"),
}
"""Rules that the explorer of partitions offers."""
RATIOS = (0.5, 0.7, 0.8, 0.9)
PLANE = {"x_label": "x", "y_label": "y", "limits": ((-1, 1), (-1, 1))}


def _rings(polygons: Iterable[NDArray]) -> NDArray:
    """Closed polygons, a row of NaN between two."""
    gap = np.full((1, 2), np.nan)
    return np.concatenate([gap, *(np.concatenate([p, p[:1], gap]) for p in polygons)])[1:-1]


def _paths(segments: NDArray) -> NDArray:
    """Segments ``[S, 2, 2]``, a row of NaN between two."""
    return np.insert(segments, 2, np.nan, axis=1).reshape(-1, 2)[:-1]


def _edges(found: Partition) -> NDArray:
    """The edges of all regions, each once, and joined where one goes straight on in the next: a fifth of the rows."""
    a = found.vertices
    ahead = np.roll(a, -1, 0)
    ahead[found.starts[1:] - 1] = a[found.starts[:-1]]
    d = ahead - a
    d *= np.where(d[:, :1] == 0, np.sign(d[:, 1:]), np.sign(d[:, :1])) / np.hypot(*d.T)[:, None]
    begin = (a * d).sum(1)
    begin, end = np.sort([begin, (ahead * d).sum(1)], axis=0)
    offset = a[:, 0] * d[:, 1] - a[:, 1] * d[:, 0]
    _, line = np.unique(np.round(np.column_stack([d, offset]), 6), axis=0, return_inverse=True)
    order = np.lexsort([begin, line.ravel()])
    shift = 10.0 * line.ravel()[order]  # lines apart, so that a running maximum does not see the one before
    reach = np.maximum.accumulate(end[order] + shift)
    first = np.flatnonzero(np.r_[True, (begin[order] + shift)[1:] > reach[:-1] + 1e-6])
    last = np.r_[first[1:], len(order)] - 1
    d, normal = d[order][first], offset[order][first]
    foot = normal[:, None] * np.column_stack([d[:, 1], -d[:, 0]])
    ends = [foot + t[:, None] * d for t in (begin[order][first], reach[last] - shift[last])]
    return _paths(np.stack(ends, 1))


def _points(task: Task, label: int) -> NDArray:
    return task.x[0][:, task.y[0] == label].T.numpy()


def pruning(config: Config) -> Explorer:
    """Partition and boundary of one network pruned by any rule at any ratio, over its retraining."""
    cells, tasks, dense = _trained(config)

    @cache
    def retrained(dataset: str) -> dict[tuple[str, float, int], MLP]:
        keys = [(rule, ratio) for rule in PLAYED for ratio in RATIOS]
        starts = [method.prune(dense[dataset], ratio, PLAYED[rule], tasks[dataset]) for rule, ratio in keys]
        path = method.follow(MLP.cat(starts), tasks[dataset].repeat(len(keys)), STEPS, config.lr)
        return {
            (*key, step): net.map(lambda p, k=k: p[k : k + 1])
            for step, net in zip(STEPS, path, strict=True)
            for k, key in enumerate(keys)
        }

    def net(dataset: str, rule: str, ratio: float, step: int) -> MLP:
        return retrained(dataset)[rule, ratio, step]

    @cache
    def found(*state: Any) -> Partition:
        return partition(net(*state).sequential(0), SQUARE)

    @cache
    def whole(dataset: str) -> Partition:
        return partition(dense[dataset].sequential(0), SQUARE)

    def accuracy(dataset: str, rule: str, ratio: float, step: int) -> float:
        return 100 * float(net(dataset, rule, ratio, step).accuracy(tasks[dataset])[0])

    def points(label: int) -> Any:
        return lambda dataset: _points(tasks[dataset], label)

    before = {
        "class 0": ("fill", lambda dataset: _rings(whole(dataset).won_by(0))),
        "edges of regions": (
            "edges",
            lambda dataset: _edges(whole(dataset)),
        ),
        "decision boundary": ("line", lambda dataset: _paths(whole(dataset).boundary().segments)),
        "points of class 0": ("points", points(0)),
        "points of class 1": ("points", points(1)),
    }
    after = {
        "class 0": ("fill", lambda dataset, rule, ratio, step: _rings(found(dataset, rule, ratio, step).won_by(0))),
        "edges of regions": (
            "edges",
            lambda dataset, rule, ratio, step: _edges(found(dataset, rule, ratio, step)),
        ),
        "decision boundary": (
            "line",
            lambda dataset, rule, ratio, step: _paths(found(dataset, rule, ratio, step).boundary().segments),
        ),
        "points of class 0": ("points", points(0)),
        "points of class 1": ("points", points(1)),
    }
    return Explorer(
        "spline-pruning",
        "What does pruning do to the partition?",
        controls=[
            Slider("ratio", "units removed", RATIOS, 0.5, "{:.0%}"),
            Slider("step", "retraining step", STEPS, 0),
            Choice("rule", "rule", tuple(PLAYED), "redundancy"),
            Choice("dataset", "data", tuple(cells), next(iter(cells))),
        ],
        scalars={
            "accuracy": accuracy,
            "regions": lambda dataset, rule, ratio, step: len(found(dataset, rule, ratio, step).maps),
            "dense": lambda dataset: 100 * float(dense[dataset].accuracy(tasks[dataset])[0]),
            "all": lambda dataset: len(whole(dataset).maps),
            "net": lambda dataset: cells[dataset].net,
        },
        panels=[
            Shapes(before, "Before", **PLANE),
            Shapes(after, "After", **PLANE),
            Counters(
                "In numbers",
                {"test accuracy, before": "{dense:.1f} %", "after": "{accuracy:.1f} %", "regions, before": "{all}",
                 "regions, after": "{regions}"},
            ),
        ],
        describe="{net} on {dataset}, {ratio} of the units removed by {rule}, {step} steps of retraining: "
        "{accuracy:.1f} % of the test points are right ({dense:.1f} % before), {regions} of {all} regions are left.",
    )  # fmt: skip


def _trained(config: Config) -> tuple[dict[str, Cell], dict[str, Task], dict[str, MLP]]:
    """By data set: the cell that is shown, the first seed's points and dense network."""
    cells = {cell.dataset: cell for cell in shown(config.cells)}
    tasks = {name: Task.of(name, [config.seed]) for name in cells}
    fit = lambda name, net: method.fit(net, tasks[name], config.dense_steps, config.dense_lr)[0]  # noqa: E731
    return cells, tasks, {name: fit(name, MLP.init(cell.widths, [config.seed])) for name, cell in cells.items()}


def units(config: Config) -> Explorer:
    """The distances of a layer's units, the pair that goes next, and the units' lines in the plane."""
    cells, tasks, dense = _trained(config)
    sizes = {name: cell.widths[1] for name, cell in cells.items()}
    smallest, largest = min(sizes.values()), max(sizes.values())
    rhos, rules = (0.0, 0.05, 0.25, 1.0), {"redundancy": "redundancy", "scaled (ours)": "scaled"}

    @cache
    def path(dataset: str, rule: str, rho: float) -> tuple[NDArray, list[int]]:
        net = dense[dataset]
        units = method.Units.of(net.weights[:1], net.biases[:1], [net.weights[1].mT @ net.weights[1]], rho)
        order, _ = units.remove(smallest - 2, rules[rule])
        return units.distance[0].numpy(), order[0].tolist()

    def left(dataset: str, rule: str, rho: float, removed: int) -> NDArray:
        distance, order = path(dataset, rule, rho)
        distance = np.where(np.isfinite(distance), distance, np.nan)
        distance[order[:removed]] = distance[:, order[:removed]] = np.nan
        return np.pad(distance, (0, largest - len(distance)), constant_values=np.nan)

    def pair(dataset: str, rule: str, rho: float, removed: int) -> tuple[int, int]:
        """The unit that goes next and its nearest neighbour among those left."""
        unit = path(dataset, rule, rho)[1][removed]
        return unit, int(np.nanargmin(left(dataset, rule, rho, removed)[unit]))

    def line(dataset: str, units: Iterable[int]) -> NDArray:
        """Where units are zero, clipped to the square: one segment each."""
        w, b = dense[dataset].weights[0][0].numpy(), dense[dataset].biases[0][0].numpy()
        paths = []
        for unit in units:
            norm = np.linalg.norm(w[unit])
            foot, along = -b[unit] * w[unit] / norm**2, np.array([-w[unit][1], w[unit][0]]) / norm
            paths.append(np.stack([foot - 4 * along, foot + 4 * along, [np.nan, np.nan]]))
        return np.concatenate(paths)[:-1]

    def others(dataset: str, rule: str, rho: float, removed: int) -> NDArray:
        gone = {*path(dataset, rule, rho)[1][:removed], *pair(dataset, rule, rho, removed)}
        return line(dataset, [unit for unit in range(sizes[dataset]) if unit not in gone])

    def leaver(dataset: str, rule: str, rho: float, removed: int) -> NDArray:
        return line(dataset, pair(dataset, rule, rho, removed)[:1])

    def neighbour(dataset: str, rule: str, rho: float, removed: int) -> NDArray:
        return line(dataset, pair(dataset, rule, rho, removed)[1:])

    def goes(dataset: str, rule: str, rho: float, removed: int) -> int:
        return pair(dataset, rule, rho, removed)[0] + 1

    def stays(dataset: str, rule: str, rho: float, removed: int) -> int:
        return pair(dataset, rule, rho, removed)[1] + 1

    def apart(dataset: str, rule: str, rho: float, removed: int) -> float:
        a, b = pair(dataset, rule, rho, removed)
        return float(path(dataset, rule, rho)[0][a, b])

    def cells_of_pair(dataset: str, rule: str, rho: float, removed: int) -> list[tuple[int, int]]:
        a, b = pair(dataset, rule, rho, removed)
        return [(a, b), (b, a)]

    names = [str(unit + 1) for unit in range(largest)]
    return Explorer(
        "spline-units",
        "Which unit goes next?",
        controls=[
            Slider("removed", "units removed", tuple(range(smallest - 2)), 0),
            Slider("rho", "weight of the offset ρ", rhos, 0.0),
            Choice("rule", "rule", tuple(rules), "redundancy"),
            Choice("dataset", "data", tuple(cells), next(iter(cells))),
        ],
        scalars={"goes": goes, "stays": stays, "apart": apart},
        panels=[
            Heatmap(left, "Distance of two units", "unit", "unit", "distance", x=names, y=names, limits=(0, 1),
                    cells=cells_of_pair),
            Shapes(
                {
                    "units that stay": ("edges", others),
                    "unit that goes": ("line", leaver),
                    "its nearest": ("line", neighbour),
                    "points of class 0": ("points", lambda dataset: _points(tasks[dataset], 0)),
                    "points of class 1": ("points", lambda dataset: _points(tasks[dataset], 1)),
                },
                "Their lines in the plane", "x", "y", ((-2, 2), (-2, 2)),
            ),
        ],
        describe="{dataset}, rule {rule}, ρ = {rho}, {removed} units of the first layer removed: next goes unit "
        "{goes}, its nearest is unit {stays}, {apart:.4f} away.",
    )  # fmt: skip


def detectors(result: Result) -> Explorer:
    """Both detectors over one training, and the partition that they judge at any look."""
    cells = {(cell := Cell.read(text)).dataset: cell for text in result.parameters["watched"]}
    looks = next(iter(result.extra["looks"].values()))[0]
    nets = {dataset: result.extra["looks"][dataset, cell.net][1] for dataset, cell in cells.items()}
    table = result.tables["distances"]
    table = table[table["seed"] == result.parameters["seed"]]
    thresholds = (0.005, 0.01, 0.02, 0.05, 0.1, 0.16, 0.2)

    def watched(dataset: str, detector: str) -> NDArray:
        rows = pick(table, cells[dataset])
        return rows.loc[rows["detector"] == detector, "distance"].to_numpy()

    def fires(detector: str) -> Any:
        def at(dataset: str, eta: float) -> float:
            below = watched(dataset, detector) < eta
            return float(looks[below.argmax()]) if below.any() else np.nan

        return at

    @cache
    def found(dataset: str, step: int) -> Partition:
        return partition(nets[dataset][looks.index(step)], SQUARE)

    return Explorer(
        "spline-detectors",
        "When has the partition stopped moving?",
        controls=[
            Slider("step", "training step", tuple(looks), looks[len(looks) // 4]),
            Slider("eta", "threshold", thresholds, 0.1),
            Choice("dataset", "data", tuple(cells), next(iter(cells))),
        ],
        scalars={
            "partition": fires("partition"),
            "mask": fires("mask"),
            "regions": lambda dataset, step: len(found(dataset, step).maps),
        },
        panels=[
            Lines(
                lambda dataset: {name: watched(dataset, name) for name in ("partition", "mask")},
                "What the detectors watch", "training step", "largest distance to the looks before", x=looks,
                vlines={"partition fires": "partition", "mask fires": "mask", "shown": "step"},
                hlines={"threshold {eta}": "eta"},
            ),
            Shapes(
                {
                    "class 0": ("fill", lambda dataset, step: _rings(found(dataset, step).won_by(0))),
                    "edges of regions": ("edges", lambda dataset, step: _edges(found(dataset, step))),
                    "decision boundary": (
                        "line", lambda dataset, step: _paths(found(dataset, step).boundary().segments)),
                },
                "The partition at this step", **PLANE,
            ),
        ],
        describe="{dataset}, threshold {eta}: the partition detector fires {partition:at step {:.0f}|never}, the mask "
        "detector {mask:at step {:.0f}|never}. At step {step} the network has {regions} regions.",
    )  # fmt: skip


def epochs(result: Result) -> Explorer:
    """Distance of any two epochs of a conv net's training, as partitions or as masks, and the detector on it."""
    pairwise = result.extra["pairwise"]
    labels = [f"{dataset} {net}" for dataset, net in pairwise]
    found = dict(zip(labels, pairwise.values(), strict=True))
    kinds = tuple(next(iter(found.values())))
    longest = max(len(next(iter(distances.values()))) for distances in found.values())
    epochs = np.arange(1, longest + 1)

    @cache
    def distance(net: str, kind: str) -> NDArray:
        own = found[net][kind].numpy()
        return np.pad(own, (0, longest - len(own)), constant_values=np.nan)

    @cache
    def watched(net: str, kind: str, back: int) -> NDArray:
        return early_bird.detector_distance(torch.from_numpy(distance(net, kind)), back).numpy()

    def fires(net: str, kind: str, back: int, eta: float) -> float:
        below = watched(net, kind, back) < eta
        return float(epochs[below.argmax()]) if below.any() else np.nan

    return Explorer(
        "spline-epochs",
        "When has a convolutional net's partition, or its mask, stopped moving?",
        controls=[
            Slider("eta", "threshold", (0.005, 0.01, 0.02, 0.05, 0.1, 0.16, 0.2, 0.3), 0.16),
            Slider("back", "epochs looked back on", (1, 2, 3, 4, 5), 3),
            Choice("kind", "distance of", kinds, kinds[0]),
            Choice("net", "net", tuple(labels), labels[0]),
        ],
        scalars={"fires": fires},
        panels=[
            Heatmap(
                distance, "Distance of two epochs", "epoch", "epoch", "fraction that differs", x=epochs, y=epochs,
                vlines={"fires": "fires"},
            ),
            Lines(
                lambda net, kind, back: {"farthest of the epochs before": watched(net, kind, back)},
                "What the detector watches", "epoch", "distance of {kind}", x=epochs,
                vlines={"fires": "fires"}, hlines={"threshold {eta}": "eta"},
            ),
        ],
        describe="{net}, distance of {kind}, looking back on {back} epochs, threshold {eta}: "
        "{fires:the detector fires at epoch {:.0f}|the detector never fires}.",
    )  # fmt: skip
