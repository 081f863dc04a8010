"""GEBT's result as figures (saved with their tables) and as explorers."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from IPython.display import Image
from matplotlib.figure import Figure

from workbench import early_bird, hardware
from workbench.evidence import Result, means, published
from workbench.explorer import Bars, Choice, Counters, Explorer, Heatmap, Lines, Slider
from workbench.figures import COLOURS, figure, save
from workbench.papers.gebt import cost
from workbench.papers.gebt.experiment import EMERGENCE_RATIOS

ARMS = {
    "GEB": ("blue", "o", "-"),
    "GEB + ADMM": ("sky", "s", "--"),
    "ours": ("green", "D", "-"),
    "random": ("orange", "^", ":"),
    "reversed": ("vermilion", "v", "-."),
    "oracle": ("purple", "P", "--"),
}
SPREAD = {"accuracy": "half", "half": None}
"""Trained columns may move within their own interval when figures are verified: same seeds, another CPU."""


def _panels(result: Result, width: float = 4.6, height: float = 3.8) -> tuple[Figure, list[tuple[str, Any]]]:
    """A figure with a panel for each data set."""
    datasets = list(result.parameters["datasets"])
    drawn, axes = figure(width * len(datasets), height, ncols=len(datasets), squeeze=False)
    return drawn, list(zip(datasets, axes[0], strict=True))


def _legend_below(drawn: Figure, ax: Any, columns: int) -> None:
    """The legend of ``ax`` under all panels, where no data lie."""
    drawn.legend(*ax.get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=columns)


def _errorbar(ax: Any, rows: pd.DataFrame, x: Any, arm: str, column: str = "accuracy") -> None:
    colour, marker, line = ARMS[arm]
    style = {"color": COLOURS[colour], "marker": marker, "linestyle": line, "capsize": 2, "markersize": 5}
    ax.errorbar(x, rows[column], rows["half"], label=arm, **style)


def edges(result: Result) -> Image:
    """What removing edges costs against the full graph, paired by seed: ticket, controls, ceiling."""
    rows = result.tables["edges"]
    full = rows[(rows["arm"] == "full") & (rows["start"] == "fresh")].set_index(["dataset", "seed"])["accuracy"]
    rows = rows.join(full.rename("full"), on=["dataset", "seed"])
    rows["difference"] = rows["accuracy"] - rows["full"]
    by = ["dataset", "arm", "start", "p_g"]
    table = means(rows, by, "difference").merge(means(rows, by).rename(columns={"half": "accuracy_half"}))
    drawn, panels = _panels(result)
    for dataset, ax in panels:
        one = table[(table["dataset"] == dataset) & (table["start"] == "fresh")]
        for shift, arm in enumerate(ARMS):
            group = one[one["arm"] == arm]
            _errorbar(ax, group, 100 * group["p_g"] + 0.6 * (shift - 2.5), arm, "difference")
        bare = one.loc[one["arm"] == "no edges", "difference"].iloc[0]
        ax.axhline(0, color="black", linewidth=1)
        ax.axhline(bare, color="black", linewidth=1, linestyle=":")
        ax.annotate("full graph", (0.01, 0), xycoords=("axes fraction", "data"), va="bottom", fontsize=8)
        ax.annotate("no edges", (0.01, bare), xycoords=("axes fraction", "data"), va="bottom", fontsize=8)
        ax.set(title=dataset, xlabel="edges removed (%)", ylabel="accuracy against the full graph (points)")
    _legend_below(drawn, panels[0][1], 3)
    spread = {"difference": "accuracy_half", "accuracy": "accuracy_half", "accuracy_half": None, "half": None}
    return save(drawn, table, "edges", result, spread)


def draw_epochs(result: Result) -> Image:
    """Accuracy against the epoch at which the ticket was drawn."""
    table = means(result.tables["draw"], ["dataset", "ticket", "start", "p_g", "p_w", "epoch"])
    drawn, panels = _panels(result)
    markers = iter("osD^vP*X" * 4)
    colours = list(COLOURS.values())[1:]
    for dataset, ax in panels:
        groups = table[table["dataset"] == dataset].groupby(["ticket", "start", "p_g", "p_w"], sort=False)
        for position, ((ticket, start, p_g, p_w), rows) in enumerate(groups):
            label = (
                f"edges {100 * p_g:.0f} %" if ticket == "geb" else f"joint {100 * p_g:.0f}/{100 * p_w:.0f} %, {start}"
            )
            style = {"color": colours[position % len(colours)], "marker": next(markers), "capsize": 2}
            ax.errorbar(rows["epoch"], rows["accuracy"], rows["half"], label=label, **style)
        ax.set(title=dataset, xlabel="epoch at which the ticket is drawn", ylabel="test accuracy (%)", xscale="log")
    _legend_below(drawn, panels[0][1], 2)
    return save(drawn, table, "draw_epochs", result, SPREAD)


def emergence(result: Result) -> Image:
    """When the detectors fire, against the share of edges removed, beside the published range."""
    rows = result.tables["emergence"].assign(fired=lambda t: t["epoch"].notna())
    by = ["dataset", "ticket", "rule", "p_g", "p_w"]
    table = means(rows, by, "epoch").merge(rows.groupby(by, sort=False)["fired"].sum().reset_index())
    cells = published("gebt")["value"]
    drawn, panels = _panels(result)
    for dataset, ax in panels:
        one = table[(table["dataset"] == dataset) & (table["ticket"] == "geb")]
        for (rule, group), arm in zip(one.groupby("rule", sort=False), ("GEB", "ours", "random"), strict=True):
            colour, marker, line = ARMS[arm]
            label = {"code": "farthest of last masks", "paper": "successive masks", "raw": "fraction of edges"}[rule]
            ax.errorbar(
                100 * group["p_g"], group["epoch"], group["half"].fillna(0), label=label, color=COLOURS[colour],
                marker=marker, linestyle=line, capsize=2,
            )  # fmt: skip
        if f"gebt.emergence.{dataset}.geb_first" in cells.index:
            bounds = [cells[f"gebt.emergence.{dataset}.geb_{end}"] for end in ("first", "last")]
            ax.axhspan(*bounds, color="black", alpha=0.1, label="published range")
        ax.set(title=dataset, xlabel="edges removed (%)", ylabel="epoch of emergence", ylim=(0, None))
    _legend_below(drawn, panels[0][1], 2)
    return save(drawn, table, "emergence", result, {"epoch": 2.0, "half": 3.0, "n": 2.0, "fired": 2.0})


def mask_distance(result: Result, ratio: float = 0.4) -> Image:
    """Pairwise distance of the masks of all epochs, first seed."""
    drawn, panels = _panels(result, 4.4, 3.8)
    tables = []
    for dataset, ax in panels:
        distance = result.extra["pairwise"][dataset][ratio].numpy()
        T = len(distance)
        image = ax.imshow(distance, origin="lower", extent=(0.5, T + 0.5, 0.5, T + 0.5), vmin=0)
        drawn.colorbar(image, ax=ax, label="fraction of edges that differ")
        ax.grid(visible=False)
        ax.set(title=f"{dataset}, {100 * ratio:.0f} % removed", xlabel="epoch", ylabel="epoch")
        some = np.unique(np.geomspace(1, T, 12).astype(int)) - 1  # the table keeps a readable few
        tables += [(dataset, ratio, a + 1, b + 1, distance[a, b]) for a in some for b in some if b < a]
    table = pd.DataFrame(tables, columns=["dataset", "p_g", "epoch_a", "epoch_b", "distance"])
    return save(drawn, table, "mask_distance", result, {"distance": 0.03})


def joint(result: Result) -> Image:
    """Joint tickets and what remains when either half of the ticket is replaced by chance."""
    table = means(result.tables["joint"], ["dataset", "p_g", "p_w", "arm", "start"])
    drawn, panels = _panels(result, 5.2, 4.6)
    for dataset, ax in panels:
        rows = table[(table["dataset"] == dataset)]
        pairs = rows[["p_g", "p_w"]].drop_duplicates().iloc[1:].itertuples(index=False)
        arms = list(dict.fromkeys(zip(rows["arm"], rows["start"], strict=True)))
        for shift, ((p_g, p_w), name) in enumerate(zip(pairs, ("blue", "orange", "green"), strict=False)):
            one = rows[((rows["p_g"] == p_g) & (rows["p_w"] == p_w)) | (rows["arm"] == "dense")]
            y = [arms.index(key) + 0.22 * (shift - 1) for key in zip(one["arm"], one["start"], strict=True)]
            ax.errorbar(
                one["accuracy"], y, xerr=one["half"], fmt="osD"[shift], color=COLOURS[name], capsize=2,
                label=f"{100 * p_g:.0f} % edges, {100 * p_w:.0f} % weights removed",
            )  # fmt: skip
        ax.set_yticks(range(len(arms)), [f"{arm} ({start})" for arm, start in arms], fontsize=8)
        ax.invert_yaxis()
        ax.set(title=dataset, xlabel="test accuracy (%)")
    _legend_below(drawn, panels[0][1], 1)
    return save(drawn, table, "joint", result, SPREAD)


def joint_distance(result: Result) -> Image:
    """The two distances that a joint detector watches, as raw fractions, first seed: the weights' starts at zero."""
    table = result.tables["joint_distance"]
    drawn, panels = _panels(result)
    for dataset, ax in panels:
        rows = table[table["dataset"] == dataset]
        first = rows[(rows["p_g"] == rows["p_g"].iloc[0]) & (rows["p_w"] == rows["p_w"].iloc[0])]
        ax.plot(first["epoch"], first["edges"], label="edge masks")
        ax.plot(first["epoch"], first["weights"], "--", label="weight masks")
        ax.axhline(result.parameters["joint_eta"], color="black", linewidth=1, linestyle=":", label="threshold, raw")
        ax.set(title=dataset, xlabel="epoch", ylabel="fraction that differs")
        ax.legend(fontsize=8)
    return save(drawn, table, "joint_distance", result, {"edges": 0.02, "weights": 0.01})


def grid(result: Result) -> Image:
    """Accuracy of inherited joint tickets over both ratios."""
    table = means(result.tables["grid"], ["dataset", "p_g", "p_w"])
    drawn, panels = _panels(result, 4.6, 3.6)
    for dataset, ax in panels:
        matrix = table[table["dataset"] == dataset].pivot(index="p_w", columns="p_g", values="accuracy")
        image = ax.imshow(matrix, origin="lower", aspect="auto")
        for (row, column), value in np.ndenumerate(matrix.to_numpy()):
            dark = value < matrix.to_numpy().mean()
            ax.text(column, row, f"{value:.1f}", ha="center", va="center", color="white" if dark else "black")
        ax.set_xticks(range(matrix.shape[1]), [f"{100 * p:.0f}" for p in matrix.columns])
        ax.set_yticks(range(matrix.shape[0]), [f"{100 * p:.0f}" for p in matrix.index])
        ax.grid(visible=False)
        ax.set(title=dataset, xlabel="edges removed (%)", ylabel="weights removed (%)")
        drawn.colorbar(image, ax=ax, label="test accuracy (%)")
    return save(drawn, table, "grid", result, SPREAD)


def convs(result: Result) -> Image:
    """GCN, GIN, GraphSAGE and GAT retrained on the drawn graph."""
    table = means(result.tables["convs"], ["dataset", "conv", "arm", "p_g"])
    drawn, panels = _panels(result)
    for dataset, ax in panels:
        rows = table[table["dataset"] == dataset]
        names, arms = list(rows["conv"].unique()), list(dict.fromkeys(zip(rows["arm"], rows["p_g"], strict=True)))
        for shift, (arm, p) in enumerate(arms):
            one = rows[(rows["arm"] == arm) & (rows["p_g"] == p)]
            x = [names.index(conv) + 0.15 * (shift - (len(arms) - 1) / 2) for conv in one["conv"]]
            label = "full graph" if arm == "full" else f"{arm}, {100 * p:.0f} % removed"
            ax.errorbar(x, one["accuracy"], one["half"], fmt="osD^v"[shift], capsize=2, label=label)
        ax.set_xticks(range(len(names)), [name.upper() for name in names])
        ax.set(title=dataset, ylabel="test accuracy (%)")
        ax.legend(fontsize=8)
    return save(drawn, table, "convs", result, SPREAD)


def admm(result: Result) -> Image:
    """How strong the sparsifier pulls beside the task, and how few edges the task touches at all."""
    table = means(result.tables["admm"], ["dataset", "search", "form", "p_g"], "ratio")
    rest = means(result.tables["untouched"], ["dataset"], "share")[["dataset", "share"]]
    table = table.merge(rest.rename(columns={"share": "edges_without_task_gradient"}))
    drawn, ax = figure(7.6, 4)
    for shift, (dataset, rows) in enumerate(table.groupby("dataset", sort=False)):
        columns = zip(rows["search"], rows["form"], rows["p_g"], strict=True)
        labels = [f"{search}\n{form}, {100 * p:.0f} %" for search, form, p in columns]
        untouched = rows["edges_without_task_gradient"].iloc[0]
        label = f"{dataset} ({untouched:.1f} % of edges never see a task gradient)"
        ax.plot(labels, rows["ratio"], "os"[shift], label=label)
    ax.axhline(1, color="black", linewidth=1)
    ax.set(yscale="log", ylabel="regulariser's over task's gradient", xlabel="form of the penalty, edges removed")
    ax.legend(fontsize=8)
    tolerance = {"ratio": "half", "half": None, "edges_without_task_gradient": 0.5}
    return save(drawn, table, "admm", result, tolerance)


def channels(result: Result) -> Image:
    """The original Early-Bird tickets: accuracy of physically pruned, retrained conv nets."""
    rows = result.tables["channels"]
    table = means(rows, ["p", "arm"])
    firing = means(rows, ["p", "arm"], "epoch")[["p", "arm", "epoch"]]
    costs = rows.groupby(["p", "arm"], sort=False)[["macs", "dense_macs", "ms", "dense_ms", "gap"]].mean().reset_index()
    table = table.merge(firing).merge(costs)
    drawn, ax = figure(6.4, 3.8)
    for shift, (arm, one) in enumerate(table.groupby("arm", sort=False)):
        ax.errorbar(1e-3 * one["macs"], one["accuracy"], one["half"], fmt="osD^"[shift], capsize=2, label=arm)
        for x, y, p in zip(1e-3 * one["macs"], one["accuracy"], one["p"], strict=True):
            ax.annotate(f"{100 * p:.0f} %", (x, y), xytext=(4, 4), textcoords="offset points", fontsize=7)
    dense = rows["dense"].mean()
    ax.axhline(dense, color="black", linewidth=1)
    ax.set(
        xlabel=f"thousand MACs an image (dense: {1e-3 * rows['dense_macs'].iloc[0]:.0f})", ylabel="test accuracy (%)"
    )
    ax.legend(fontsize=8)
    tolerance = SPREAD | {"epoch": 3.0, "macs": 2e5, "gap": 1e-5, "ms": None, "dense_ms": None}
    return save(drawn, table, "channels", result, tolerance)


def growth(result: Result) -> Image:
    """Time and memory of one epoch of graph training against the number of edges; a dense form's memory."""
    table = result.tables["growth"]
    drawn, (left, right) = figure(8.4, 3.6, ncols=2)
    left.loglog(table["edges"], table["epoch_ms"], "o-")
    slope = np.polyfit(np.log(table["edges"]), np.log(table["epoch_ms"]), 1)[0]
    left.set(title=f"time grows as edges^{slope:.2f}", xlabel="edges", ylabel="ms an epoch")
    right.loglog(table["edges"], table["peak_mb"], "o-", label="one weight an edge (measured)")
    right.loglog(table["edges"], table["dense_mb"], "s--", label="dense N x N, two copies alone")
    slope = np.polyfit(np.log(table["edges"]), np.log(table["peak_mb"]), 1)[0]
    right.set(title=f"memory grows as edges^{slope:.2f}", xlabel="edges", ylabel="MB")
    right.legend(fontsize=8)
    return save(drawn, table, "growth", result, {"epoch_ms": None, "peak_mb": 1.0})


def timing(result: Result) -> Image:
    """Wall time of the GCN before and after edges, features and units are really removed."""
    table = result.tables["timing"]
    columns = {"search_epoch_ms": "epoch of search", "train_epoch_ms": "epoch of training", "inference_ms": "inference"}
    drawn, panels = _panels(result, 5.2, 4)
    for dataset, ax in panels:
        rows = table[table["dataset"] == dataset]
        names = [
            ticket + (f" {100 * p_g:.0f}/{100 * p_w:.0f} %" if ticket != "dense" else "")
            for ticket, p_g, p_w in zip(rows["ticket"], rows["p_g"], rows["p_w"], strict=True)
        ]
        for shift, (column, label) in enumerate(columns.items()):
            y = np.arange(len(rows)) + 0.27 * (shift - 1)
            bars = ax.barh(y, rows[column].fillna(0), 0.27, label=label)
            ax.bar_label(bars, [f"{v:.1f}" if v == v else "" for v in rows[column]], fontsize=7, padding=2)
        ax.set_yticks(range(len(names)), names, fontsize=8)
        ax.invert_yaxis()
        ax.set(title=f"{dataset}: edges/weights removed", xlabel="ms, one core")
    _legend_below(drawn, panels[0][1], 3)
    return save(drawn, table, "timing", result, dict.fromkeys(columns))


def table2(result: Result) -> Image:
    """Published costs of Table 2 beside the recovered formula."""
    table = result.tables["table2"]
    drawn, ax = figure(5.2, 4.2)
    for (name, rows), marker in zip(table.groupby("dataset", sort=False), "os^", strict=True):
        ax.loglog(rows["published"], rows["macs"], marker, label=name, alpha=0.8)
    span = [table["published"].min(), table["published"].max()]
    ax.loglog(span, span, color="black", linewidth=1)
    worst = 100 * (table["macs"] / table["published"] - 1).abs().max()
    ax.set(title=f"largest difference {worst:.2f} %", xlabel="Table 2 (MFLOPs)", ylabel="formula (million MACs)")
    ax.legend()
    return save(drawn, table, "table2", result)


def costs(result: Result) -> Image:
    """One pass of dense and ticket under four counters."""
    rows = [
        (dataset, counter, p_g, p_w, part, macs / 1e6)
        for dataset in cost.NONZEROS
        for counter in cost.COUNTERS
        for p_g, p_w in ((0.0, 0.0), (0.2, 0.8))
        for part, macs in cost.gcn_macs(dataset, counter, p_g, p_w).items()
    ]
    table = pd.DataFrame(rows, columns=["dataset", "counter", "p_g", "p_w", "part", "macs"])
    total = table.groupby(["dataset", "counter", "p_g"], sort=False)["macs"].sum()
    drawn, axes = figure(9, 3.2, ncols=2, sharey=True)
    for dataset, ax in zip(cost.NONZEROS, axes, strict=True):
        for shift, (p, label) in enumerate(((0.0, "dense"), (0.2, "ticket: 20 % edges, 80 % weights removed"))):
            y = np.arange(len(cost.COUNTERS)) + 0.35 * (shift - 0.5)
            bars = ax.barh(y, [total[dataset, c, p] for c in cost.COUNTERS], 0.35, label=label)
            ax.bar_label(bars, fmt="%.1f", fontsize=7, padding=2)
        ax.set_yticks(range(len(cost.COUNTERS)), cost.COUNTERS, fontsize=8)
        ax.set(title=dataset, xlabel="million MACs a pass", xscale="log")
    axes[0].invert_yaxis()
    axes[1].legend(fontsize=7)
    return save(drawn, table, "costs", result)


def energy(result: Result) -> Image:
    """Energy of one pass of dense and ticket, by level of the memory, at the size of the paper's graphs."""
    arms = {
        f"{dataset}, {name}": hardware.breakdown(cost.layers(dataset, *pruned))
        for dataset in cost.NONZEROS
        for name, pruned in (("dense", (0.0, 0.0)), ("ticket", (0.2, 0.8)))
    }
    table = hardware.side_by_side(arms)
    drawn, ax = figure(8, 3)
    hardware.draw_breakdown(ax, table)
    drawn.legend(*ax.get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=5)
    return save(drawn, table, "energy", result)


# --- explorers -----------------------------------------------------------------------------------------------


def explore_masks(result: Result) -> Explorer:
    """Pairwise mask distances over epochs and the detector that reads them; first data set, first seed."""
    dataset = result.parameters["datasets"][0]
    pairwise = result.extra["pairwise"][dataset]
    epochs = np.arange(1, len(pairwise[EMERGENCE_RATIOS[0]]) + 1)

    @cache
    def watched(ratio: float, fifo: int, normalise: bool) -> np.ndarray:
        distance = early_bird.detector_distance(pairwise[ratio], fifo)
        return (early_bird.normalise_by_first(distance, fifo) if normalise else distance).numpy()

    def fires(ratio: float, fifo: int, normalise: bool, eta: float) -> float:
        below = watched(ratio, fifo, normalise) < eta
        return float(epochs[below.argmax()]) if below.any() else np.nan

    return Explorer(
        "gebt-masks",
        f"When has the mask of {dataset} stopped moving?",
        controls=[
            Slider("ratio", "edges removed", EMERGENCE_RATIOS, 0.4, "{:.0%}"),
            Slider("eta", "threshold η", (0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5), 0.1),
            Slider("fifo", "masks looked back on", tuple(range(1, 9)), result.parameters["fifo"]),
            Choice("normalise", "distance", (True, False), True, ("relative to the first", "fraction of edges")),
        ],
        scalars={"fires": fires},
        panels=[
            Heatmap(
                lambda ratio: pairwise[ratio].numpy(), "Mask distance of two epochs", "epoch", "epoch",
                "fraction of edges", x=epochs, y=epochs, vlines={"drawn": "fires"},
            ),
            Lines(
                lambda ratio, fifo, normalise: {"farthest of the last masks": watched(ratio, fifo, normalise)},
                "What the detector watches", "epoch", "distance ({normalise})", x=epochs,
                vlines={"drawn": "fires"}, hlines={"η = {eta}": "eta"},
            ),
        ],
        describe="With {ratio} of the edges removed, looking back on {fifo} masks, distance {normalise}, "
        "threshold {eta}: {fires:the ticket is drawn at epoch {:.0f}|no ticket is drawn}.",
    )  # fmt: skip


def explore_costs() -> Explorer:
    """What a ticket saves, under the paper's counter and three honest ones."""
    ratios = tuple(round(0.1 * step, 1) for step in range(10))
    tickets = {"dense": (0, 0), "edges only": (1, 0), "weights only": (0, 1), "joint ticket": (1, 1)}

    def parts(dataset: str, counter: str, p_g: float, p_w: float) -> dict[str, list[float]]:
        found = [cost.gcn_macs(dataset, counter, a * p_g, b * p_w) for a, b in tickets.values()]
        return {part: [f[part] / 1e6 for f in found] for part in ("aggregate", "transform")}

    def total(dataset: str, counter: str, p_g: float, p_w: float) -> float:
        return sum(cost.gcn_macs(dataset, counter, p_g, p_w).values()) / 1e6

    def saving(dataset: str, counter: str, p_g: float, p_w: float) -> float:
        return total(dataset, counter, 0, 0) / total(dataset, counter, p_g, p_w)

    return Explorer(
        "gebt-costs",
        "What does a ticket save, and who is counting?",
        controls=[
            Slider("p_g", "edges removed p_g", ratios, 0.2, "{:.0%}"),
            Slider("p_w", "weights removed p_w", ratios, 0.8, "{:.0%}"),
            Choice("counter", "count", cost.COUNTERS, cost.COUNTERS[0]),
            Choice("dataset", "graph", tuple(cost.NONZEROS), "cora"),
        ],
        scalars={"total": total, "saving": saving},
        panels=[
            Bars(parts, "One pass of a two-layer GCN", "million MACs", tuple(tickets)),
            Counters("This ticket", {"million MACs": "{total:.2f}", "times fewer than dense": "{saving:.2f}"}),
        ],
        describe="{dataset}, {p_g} of edges and {p_w} of weights removed, counted {counter}: "
        "{total:.2f} million MACs, {saving:.2f} times fewer than dense.",
    )


def explore_draws(result: Result) -> Explorer:
    """Accuracy against the epoch at which a GEB ticket is drawn, beside its controls."""
    draws = means(result.tables["draw"], ["dataset", "ticket", "p_g", "start", "epoch"])
    draws = draws[draws["ticket"] == "geb"]
    controls = means(result.tables["edges"], ["dataset", "arm", "start", "p_g"])
    controls = controls[controls["start"] == "fresh"]
    epochs, ratios = result.parameters["draw_epochs"], result.parameters["p_g"]

    def level(dataset: str, arm: str, p_g: float) -> pd.Series:
        at = (controls["dataset"] == dataset) & (controls["arm"] == arm)
        return controls[at & (controls["p_g"] == p_g)].iloc[0]

    def ticket(dataset: str, p_g: float) -> pd.DataFrame:
        return draws[(draws["dataset"] == dataset) & (draws["p_g"] == p_g)].sort_values("epoch")

    def curves(dataset: str, p_g: float) -> dict[str, Any]:
        rows = ticket(dataset, p_g)
        y, half = rows["accuracy"].to_numpy(), rows["half"].to_numpy()
        lines: dict[str, Any] = {"GEB ticket": (y, y - half, y + half)}
        for arm, p in (("full", 0.0), ("random", p_g), ("reversed", p_g), ("ours", p_g)):
            lines[arm] = np.full(len(y), level(dataset, arm, p)["accuracy"])
        return lines

    def best(dataset: str, p_g: float) -> float:
        return float(ticket(dataset, p_g)["accuracy"].iloc[-1])

    def chance(dataset: str, p_g: float) -> float:
        return float(level(dataset, "random", p_g)["accuracy"])

    return Explorer(
        "gebt-draws",
        "Does it matter when the ticket is drawn?",
        controls=[
            Slider("p_g", "edges removed p_g", ratios, ratios[0], "{:.0%}"),
            Choice("dataset", "graph", result.parameters["datasets"], result.parameters["datasets"][0]),
        ],
        scalars={"best": best, "chance": chance},
        panels=[
            Lines(
                curves,
                "Test accuracy after retraining",
                "epoch at which the ticket is drawn",
                "accuracy (%)",
                x=epochs,
                log="x",
            )
        ],
        describe="{dataset}, {p_g} of the edges removed: "
        "the last ticket reaches {best:.1f} %, a random mask {chance:.1f} %.",
    )
