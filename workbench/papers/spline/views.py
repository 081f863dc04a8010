"""Spline pruning's result as figures, saved with their tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from IPython.display import Image
from matplotlib.collections import LineCollection, PolyCollection
from numpy.typing import NDArray
from torch import Tensor, nn

from workbench import hardware
from workbench.evidence import Result, interval_or_none, means
from workbench.explorer import Explorer
from workbench.figures import COLOURS, figure, save
from workbench.nets import ConvNet
from workbench.papers.spline.claims import LATE, SCRATCH, STEPS
from workbench.papers.spline.experiment import SQUARE, Cell, Config
from workbench.papers.spline.images import Setup
from workbench.papers.spline.method import Task
from workbench.papers.spline.partition import Partition, partition

ARMS = {
    "redundancy": ("blue", "o", "-"),
    "scaled + merge (ours)": ("green", "D", "-"),
    "in-norm": ("vermilion", "s", "--"),
    "SNIP": ("purple", "P", "--"),
    "BatchNorm scale": ("sky", "h", "--"),
    "random": ("orange", "^", ":"),
    "reversed norm": ("black", "v", "-."),
    SCRATCH: ("sky", "x", ":"),
}
SPREAD = {"accuracy": "half", "half": None}
"""Trained columns may move within their own interval when figures are verified: same seeds, another CPU."""


def shown(run: Sequence[str]) -> list[Cell]:
    """The cells that get pictures: those of the quick scale where they are run, else the first three."""
    return [Cell.read(text) for text in [text for text in Config.cells if text in run] or list(run[:3])]


def _title(cell: Cell) -> str:
    return f"{cell.dataset}, {cell.net}, {100 * cell.ratio:.0f} % pruned"


def pick(table: pd.DataFrame, cell: Cell) -> pd.DataFrame:
    """The rows of one cell."""
    return table[np.logical_and.reduce([table[name] == value for name, value in cell.labels.items()])]


# --- figures -----------------------------------------------------------------------------------------------------


def curves(result: Result) -> Image:
    """Accuracy over retraining, by criterion; every layer loses the same share of its units."""
    table = result.tables["curves"]
    table = means(table[table["scope"] == "layer"], ["dataset", "net", "ratio", "arm", "step"])
    drawn, axes = figure(9.6, 4.2, ncols=len(shown(result.parameters["cells"])), squeeze=False)
    for cell, ax in zip(shown(result.parameters["cells"]), axes[0], strict=True):
        dense = table[(table["dataset"] == cell.dataset) & (table["net"] == cell.net) & (table["arm"] == "dense")]
        ax.plot(np.arange(len(STEPS)), dense["accuracy"], color="black", linewidth=1, label="dense, trained on")
        for arm, (colour, marker, line) in ARMS.items():
            rows = pick(table, cell)
            rows = rows[rows["arm"] == arm]
            style = {"color": COLOURS[colour], "marker": marker, "linestyle": line, "capsize": 2, "markersize": 4}
            ax.errorbar(np.arange(len(rows)), rows["accuracy"], rows["half"], label=arm, **style)
        ax.set_xticks(range(len(STEPS)), STEPS)
        ax.set(title=_title(cell), xlabel="retraining steps")
        ax.title.set_size(9)
    axes[0, 0].set_ylabel("test accuracy (%)")
    drawn.legend(*axes[0, 0].get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=4)
    return save(drawn, table, "curves", result, SPREAD)


def contrasts(result: Result) -> Image:
    """Paired differences of accuracy in every cell: redundancy and our variant against norm, chance and SNIP."""
    rows = [row for row in result.rows if "_beats_" in row["id"] and row["unit"] == "points" and row["n"]]
    columns = ["id", "value", "low", "high", "n", "verdict"]
    table = pd.DataFrame(rows)[columns]
    parts = table["id"].str.extract(
        r"spline\.(?P<cell>.*)\.(?P<rule>redundancy|merge)_beats_(?P<other>.+)\.(?P<step>\d+)$"
    )
    table = table.join(parts).dropna(subset="rule").drop(columns="id")
    cells = list(dict.fromkeys(table["cell"]))
    pairs = [("in-norm", "30"), ("in-norm", str(LATE)), ("random", "30"), ("random", str(LATE))]
    drawn, axes = figure(10, 1.6 + 0.28 * len(cells), ncols=len(pairs), sharey=True)
    for (other, step), ax in zip(pairs, axes, strict=True):
        for shift, (rule, name) in enumerate((("redundancy", "redundancy"), ("merge", "scaled + merge (ours)"))):
            one = table[(table["rule"] == rule) & (table["other"] == other) & (table["step"] == step)]
            y = np.array([cells.index(cell) for cell in one["cell"]]) + 0.3 * (shift - 0.5)
            spread = [one["value"] - one["low"], one["high"] - one["value"]]
            style = {"color": COLOURS[ARMS[name][0]], "fmt": ARMS[name][1], "markersize": 4, "capsize": 2}
            ax.errorbar(one["value"], y, xerr=spread, label=name, **style)
        ax.axvline(0, color="black", linewidth=1)
        ax.set(title=f"minus {other}, {step} steps", xlabel="points")
        ax.title.set_size(9)
    axes[0].set_yticks(range(len(cells)), cells, fontsize=8)
    axes[0].invert_yaxis()
    drawn.legend(*axes[0].get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=2)
    slack = (table["high"] - table["low"]) / 2
    tolerance = {"value": "half", "low": None, "high": None, "half": None, "verdict": None}
    return save(drawn, table.assign(half=slack), "contrasts", result, tolerance)


def draw_partition(ax: Any, net: nn.Module, task: Task | None = None, before: nn.Module | None = None) -> Partition:
    """Regions, the area of class 1 and the exact boundary, over the first model's training points."""
    found = partition(net, SQUARE)
    ax.add_collection(PolyCollection([*found.won_by(1)], facecolor=COLOURS["orange"], alpha=0.3, edgecolor="none"))
    ax.add_collection(PolyCollection([*found.polygons()], facecolor="none", edgecolor="0.45", linewidth=0.4))
    if before is not None:
        ax.add_collection(LineCollection(partition(before, SQUARE).boundary().segments, colors="0.2", linestyles=":"))
    ax.add_collection(LineCollection(found.boundary().segments, colors=COLOURS["blue"], linewidth=1.8))
    if task is not None:
        for label, (marker, colour) in enumerate((("o", "blue"), ("^", "vermilion"))):
            x, y = task.x[0][:, task.y[0] == label]
            ax.scatter(x, y, s=4, marker=marker, color=COLOURS[colour], linewidths=0)
    ax.set(xlim=(-1, 1), ylim=(-1, 1), aspect="equal", xticks=(), yticks=())
    ax.grid(visible=False)
    return found


def boundaries(result: Result) -> Image:
    """Partition and exact decision boundary before pruning, after it and after retraining; the first seed."""
    networks, cells = result.extra["networks"], shown(result.parameters["cells"])
    columns = {
        "dense": ("dense", 0.0, 0),
        "redundancy": ("redundancy", None, 0),
        "redundancy, retrained": ("redundancy", None, 1),
        "in-norm": ("in-norm", None, 0),
        "in-norm, retrained": ("in-norm", None, 1),
    }
    drawn, axes = figure(2.1 * len(columns), 2.3 * len(cells), nrows=len(cells), ncols=len(columns), squeeze=False)
    rows = []
    for cell, line in zip(cells, axes, strict=True):
        task = Task.of(cell.dataset, [result.parameters["seed"]])
        dense = networks[cell.dataset, cell.net, 0.0, "dense", "layer"][0]
        for (name, (arm, ratio, after)), ax in zip(columns.items(), line, strict=True):
            net = networks[cell.dataset, cell.net, cell.ratio if ratio is None else ratio, arm, "layer"][after]
            found = draw_partition(ax, net, task, None if arm == "dense" else dense)
            length = np.linalg.norm(np.diff(found.boundary().segments, axis=1), axis=2).sum()
            area = sum(map(_area, found.won_by(1)))
            rows.append({**cell.labels, "network": name, "regions": len(found.maps), "boundary": length, "area": area})
            ax.set_title(f"{name}\n{len(found.maps)} regions", fontsize=8)
        line[0].set_ylabel(_title(cell), fontsize=8)
    return save(drawn, pd.DataFrame(rows), "boundaries", result, {"regions": 10.0, "boundary": 1.5, "area": 0.5})


def _area(polygon: NDArray) -> float:
    (x, y), (u, v) = polygon.T, np.roll(polygon, -1, 0).T
    return float((x * v - u * y).sum() / 2)


def regions(result: Result) -> Image:
    """Exact numbers of regions that each criterion leaves, before and after retraining."""
    table = result.tables["regions"]
    table = means(table[table["scope"] == "layer"], ["dataset", "net", "ratio", "arm", "step"], "regions")
    arms = ["dense", *(arm for arm in ARMS if arm in set(table["arm"]))]
    drawn, axes = figure(9.6, 3.4, ncols=len(shown(result.parameters["cells"])), squeeze=False)
    for cell, ax in zip(shown(result.parameters["cells"]), axes[0], strict=True):
        dense = (table["dataset"] == cell.dataset) & (table["net"] == cell.net) & (table["arm"] == "dense")
        rows = pd.concat([table[dense], pick(table, cell)])
        for shift, (step, name) in enumerate(((0, "just pruned"), (LATE, f"{LATE} steps later"))):
            one = rows[rows["step"] == step].set_index("arm").reindex(arms)
            y = np.arange(len(arms)) + 0.38 * (shift - 0.5)
            ax.barh(y, one["regions"], 0.36, xerr=one["half"], label=name, error_kw={"linewidth": 1})
        ax.set_yticks(range(len(arms)), arms if ax is axes[0, 0] else [], fontsize=8)
        ax.set(title=_title(cell), xlabel="regions in [-1, 1]²")
        ax.title.set_size(9)
        ax.invert_yaxis()
    drawn.legend(*axes[0, 0].get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=2)
    return save(drawn, table, "regions", result, {"regions": "half", "half": None})


def starts(result: Result) -> Image:
    """Small networks from torch's start and from lines through training points, one line a seed."""
    table = result.tables["starts"]
    wide = table.pivot(index=["dataset", "width", "seed"], columns="start", values="accuracy").reset_index()
    datasets = list(dict.fromkeys(wide["dataset"]))
    drawn, axes = figure(2.6 * len(datasets), 3.2, ncols=len(datasets), sharey=True, squeeze=False)
    for dataset, ax in zip(datasets, axes[0], strict=True):
        rows = wide[wide["dataset"] == dataset]
        ax.plot([0, 1], rows[["default", "through data"]].T, color="0.6", linewidth=0.7)
        for x, name in enumerate(("default", "through data")):
            found = interval_or_none(rows.set_index("seed")[name])
            ax.errorbar(x, found.mean, found.half_width, fmt="o", capsize=3, color=COLOURS["blue"])
        ax.set_xticks([0, 1], ["torch's", "through data"])
        ax.set(title=f"{dataset}, 2-{rows['width'].iloc[0]}-2", xlim=(-0.3, 1.3))
    axes[0, 0].set_ylabel("test accuracy (%)")
    summary = means(table, ["dataset", "width", "start"])
    return save(drawn, summary, "starts", result, SPREAD)


def detectors(result: Result) -> Image:
    """What the two detectors watch on the same training, and where each fires."""
    distance, fired = result.tables["distances"], result.tables["fired"]
    by = ["dataset", "net", "ratio", "detector", "step"]
    table = means(distance, by, "distance")
    cells = [Cell.read(text) for text in result.parameters["watched"]]
    drawn, axes = figure(4.2 * max(len(cells), 2) / 1.4, 3.8, ncols=len(cells), squeeze=False)
    for cell, ax in zip(cells, axes[0], strict=True):
        for name, colour, line in (("partition", "blue", "-"), ("mask", "vermilion", "--")):
            rows = pick(table, cell)
            rows = rows[rows["detector"] == name]
            ax.plot(rows["step"], rows["distance"], line, color=COLOURS[colour], label=f"{name} distance")
            low, high = rows["distance"] - rows["half"], rows["distance"] + rows["half"]
            ax.fill_between(rows["step"], low, high, color=COLOURS[colour], alpha=0.2, linewidth=0)
            ax.axhline(result.parameters[f"{name}_eta"], color=COLOURS[colour], linewidth=0.8, linestyle=":")
            at = pick(fired, cell)
            at = at.loc[at["detector"] == name, "step"]
            height = -0.02 if name == "partition" else -0.045
            ax.plot(at, np.full(len(at), height), "|", color=COLOURS[colour], label=f"{name} detector fires")
        ax.set(title=_title(cell), xlabel="training step", ylim=(-0.06, None))
        ax.title.set_size(9)
    axes[0, 0].set_ylabel("largest distance to the looks before")
    drawn.legend(*axes[0, 0].get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=2)
    return save(drawn, table, "detectors", result, {"distance": 0.03, "half": 0.03})


def tickets(result: Result) -> Image:
    """Retrained accuracy of tickets drawn where a detector fires, beside tickets drawn at the end of training."""
    table = means(result.tables["tickets"], ["dataset", "net", "ratio", "arm", "drawn"])
    cells = [Cell.read(text) for text in result.parameters["watched"]]
    drawn, axes = figure(4.2 * max(len(cells), 2) / 1.4, 3.2, ncols=len(cells), squeeze=False)
    for cell, ax in zip(cells, axes[0], strict=True):
        for shift, (arm, rows) in enumerate(pick(table, cell).groupby("arm", sort=False)):
            colour, marker, _ = ARMS[arm]
            order = rows.set_index("drawn").reindex(["partition", "mask", "end"])
            x = np.arange(3) + 0.12 * (shift - 0.5)
            ax.errorbar(x, order["accuracy"], order["half"], fmt=marker, color=COLOURS[colour], capsize=3, label=arm)
        ax.set_xticks(range(3), ["partition\nfires", "mask\nfires", "end"])
        ax.set_title(_title(cell), size=9)
    axes[0, 0].set_ylabel("test accuracy (%)")
    drawn.legend(*axes[0, 0].get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=2)
    return save(drawn, table, "tickets", result, SPREAD)


def throughput(result: Result) -> Image:
    """Regions a second of the exact engine against their number, and what grids of pixels miss of them."""
    table = result.tables["throughput"].assign(rate=lambda t: t["regions"] / t["seconds"])
    drawn, (left, right) = figure(9, 3.4, ncols=2)
    left.semilogx(table["regions"], table["rate"] / 1000, "o-")
    left.set(
        title="2-160-160-160-2, one core", xlabel="regions found", ylabel="thousand regions a second", ylim=(0, None)
    )
    for (cell, rows), marker in zip(
        result.tables["pixels"].groupby(["dataset", "net"], sort=False), "os^DvPX*", strict=False
    ):
        right.plot(
            rows["pixels"].astype(str), 100 * (1 - rows["seen"] / rows["regions"]), marker + "-", label=" ".join(cell)
        )
    right.set(
        title="regions that a grid of pixels misses",
        xlabel="pixels along a side",
        ylabel="% of the regions",
        ylim=(0, None),
    )
    right.legend(fontsize=8)
    save(drawn, result.tables["pixels"], "pixels", result, {"seen": 10.0, "regions": 10.0})
    return save(drawn, table, "throughput", result, {"seconds": None, "rate": None, "regions": 5.0})


def _image_panels(result: Result, table: str, width: float, height: float) -> tuple[Any, list[tuple[str, str, Any]]]:
    """A figure with a panel for each conv net that was trained."""
    names = result.tables[table][["dataset", "net"]].drop_duplicates().itertuples(index=False)
    names = [(dataset, net) for dataset, net in names]
    drawn, axes = figure(max(width * len(names), 5.5), height, ncols=len(names), squeeze=False)
    return drawn, [(*name, ax) for name, ax in zip(names, axes[0], strict=True)]


def image_curves(result: Result) -> Image:
    """Networks that see images: accuracy over retraining by criterion, each at each ratio."""
    table = means(result.tables["image_curves"], ["dataset", "net", "ratio", "arm", "step"])
    pruned = table[table["ratio"] > 0]
    panels = list(pruned[["dataset", "net", "ratio"]].drop_duplicates().itertuples(index=False))
    columns = min(len(panels), 4)
    lines = -(-len(panels) // columns)
    drawn, axes = figure(2.6 * columns, 2.7 * lines + 0.6, nrows=lines, ncols=columns, squeeze=False)
    for ax in axes.flat[len(panels) :]:
        ax.set_axis_off()
    for (dataset, net, ratio), ax in zip(panels, axes.flat, strict=False):
        own = (table["dataset"] == dataset) & (table["net"] == net)
        dense = table[own & (table["arm"] == "dense")]
        ax.plot(np.arange(len(dense)), dense["accuracy"], color="black", linewidth=1, label="dense, trained on")
        for arm, (colour, marker, line) in ARMS.items():
            rows = table[own & (table["ratio"] == ratio) & (table["arm"] == arm)]
            style = {"color": COLOURS[colour], "marker": marker, "linestyle": line, "capsize": 2, "markersize": 4}
            if len(rows):
                ax.errorbar(np.arange(len(rows)), rows["accuracy"], rows["half"], label=arm, **style)
        ax.set_xticks(range(len(dense)), dense["step"])
        ax.set_title(f"{dataset}, {net}, {100 * ratio:.0f} % pruned", size=9)
        ax.set_xlabel("retraining steps")
    for ax in axes[:, 0]:
        ax.set_ylabel("test accuracy (%)")
    named = {label: handle for ax in axes.flat for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    drawn.legend(named.values(), named.keys(), fontsize=8, loc="outside lower center", ncols=4)
    return save(drawn, table, "image_curves", result, SPREAD)


def image_detectors(result: Result) -> Image:
    """Conv nets: what each detector watches over epochs, and where it fires; also with weights that never move."""
    by = ["dataset", "net", "training", "detector", "epoch"]
    distance = result.tables["image_distances"]
    trained = means(distance[distance["training"] == "trained"], by, "distance")
    fired = result.tables["image_fired"]
    drawn, panels = _image_panels(result, "image_distances", 4.4, 3.9)
    for dataset, net, ax in panels:
        for height, (name, colour, line) in enumerate(
            (("partition", "blue", "-"), ("mask", "vermilion", "--"), ("mask by layer (ours)", "green", "-."))
        ):
            rows = trained[(trained["dataset"] == dataset) & (trained["net"] == net) & (trained["detector"] == name)]
            ax.plot(rows["epoch"], rows["distance"], line, color=COLOURS[colour], label=f"{name} distance")
            low, high = rows["distance"] - rows["half"], rows["distance"] + rows["half"]
            ax.fill_between(rows["epoch"], low, high, color=COLOURS[colour], alpha=0.2, linewidth=0)
            at = fired[(fired["dataset"] == dataset) & (fired["net"] == net) & (fired["detector"] == name)]
            at = at.loc[at["training"] == "trained", "epoch"].dropna()
            ax.plot(at, np.full(len(at), -0.02 * (height + 1)), "|", color=COLOURS[colour])
        for name, colour in (("partition", "blue"), ("mask", "vermilion")):
            ax.axhline(result.parameters[f"{name}_eta"], color=COLOURS[colour], linewidth=0.8, linestyle=":")
        ax.set(xlabel="epoch", ylim=(-0.08, None))
        ax.set_title(f"{dataset}, {net}: below zero, where each seed fires", size=9)
    panels[0][2].set_ylabel("largest distance to the epochs before")
    drawn.legend(*panels[0][2].get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=3)
    save(drawn, fired, "image_fired", result, {"epoch": 2.0})
    return save(drawn, trained, "image_detectors", result, {"distance": 0.05, "half": 0.05})


def image_tickets(result: Result) -> Image:
    """Conv nets: retrained accuracy of tickets by the epoch at which they were drawn."""
    rows = result.tables["image_tickets"]
    table = means(rows, ["dataset", "net", "drawn"])
    table = table.merge(means(rows, ["dataset", "net", "drawn"], "epoch")[["dataset", "net", "drawn", "epoch"]])
    drawn, panels = _image_panels(result, "image_tickets", 4.4, 3.2)
    for dataset, net, ax in panels:
        one = table[(table["dataset"] == dataset) & (table["net"] == net)]
        ax.errorbar(one["accuracy"], range(len(one)), xerr=one["half"], fmt="o", color=COLOURS["blue"], capsize=3)
        names = [
            f"{name} ({epoch:.1f})" if epoch == epoch else name
            for name, epoch in zip(one["drawn"], one["epoch"], strict=True)
        ]
        ax.set_yticks(range(len(one)), names, fontsize=8)
        ax.invert_yaxis()
        ax.set(xlabel="test accuracy (%)")
        ax.set_title(f"{dataset}, {net}: drawn by (mean epoch)", size=9)
    return save(drawn, table, "image_tickets", result, SPREAD | {"epoch": 2.0})


def image_costs(result: Result) -> Image:
    """Parameters and multiply-accumulates of one image, before and after channels are taken out."""
    table = result.tables["image_costs"].groupby(["dataset", "net", "ratio", "arm"], sort=False, as_index=False)
    table = table[["parameters", "macs"]].mean()
    one = table[table["arm"].isin(["dense", "redundancy"])]
    names = [
        f"{row.dataset}, {row.net}" + (f", {100 * row.ratio:.0f} % pruned" if row.ratio else "")
        for row in one.itertuples()
    ]
    drawn, axes = figure(9, 0.8 + 0.3 * len(names), ncols=2, sharey=True)
    for ax, column, label in zip(axes, ("parameters", "macs"), ("parameters", "MACs of one image"), strict=True):
        bars = ax.barh(range(len(one)), one[column])
        ax.bar_label(bars, [f"{value:,.0f}" for value in one[column]], fontsize=7, padding=2)
        ax.set(xscale="log", xlabel=label)
        ax.margins(x=0.2)
    axes[0].set_yticks(range(len(one)), names, fontsize=8)
    axes[0].invert_yaxis()
    return save(drawn, table, "image_costs", result)


def _sized(setup: Setup, ratio: float) -> tuple[ConvNet, Tensor]:
    """The conv net with the share ``ratio`` of every layer's channels gone, and an image of its size, on meta."""
    inputs, side = (1, 8) if setup.dataset == "digits" else (3, 32)
    with torch.device("meta"):
        net = ConvNet(tuple(width - round(ratio * width) for width in setup.widths), inputs=inputs)
        return net, torch.empty(1, inputs, side, side)


def energy(result: Result) -> Image:
    """Energy of one image by level of the memory, before and after channels are taken out."""
    setups = [Setup.read(text) for text in result.parameters["images"]]
    arms = {
        f"{setup.dataset}, {100 * ratio:.0f} % pruned" if ratio else f"{setup.dataset}, dense": hardware.breakdown(
            *_sized(setup, ratio)
        )
        for setup in setups
        for ratio in (0.0, *result.parameters["image_ratios"])
    }
    table = hardware.side_by_side(arms)
    drawn, axes = figure(8, 2.2 * len(setups) + 0.6, nrows=len(setups), squeeze=False)
    for setup, ax in zip(setups, axes[:, 0], strict=True):
        hardware.draw_breakdown(ax, table[table["arm"].str.startswith(f"{setup.dataset},")])
    drawn.legend(*axes[0, 0].get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=5)
    return save(drawn, table, "energy", result)


def explore_energy(result: Result) -> Explorer:
    """Where the energy of the last dense conv net goes, under bits, array, buffer and dataflow."""
    return hardware.explorer(*_sized(Setup.read(result.parameters["images"][-1]), 0.0), name="spline-energy")
