"""DNA's result as figures, saved with their tables; its explorers are in `explorers`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from IPython.display import Image
from matplotlib.axes import Axes

from workbench import hardware
from workbench.evidence import Result, interval, means
from workbench.figures import COLOURS, figure, save
from workbench.papers.dna import cifar10
from workbench.papers.dna.accelerators import TEMPLATES, costs, itemised
from workbench.papers.dna.checks import compared
from workbench.papers.dna.study import JOINT, OPTIMUM, SEQUENTIAL, mean_over_searches, workload

STYLES = {
    "random": ("black", "x", ":"),
    "disguised": ("purple", "s", ":"),
    "fixed network": ("yellow", "P", "-."),
    "network first": ("vermilion", "v", "--"),
    "accelerator first": ("orange", "^", "--"),
    "alternating": ("green", "D", "--"),
    "evolution": ("sky", "p", "-"),
    "score function": ("blue", "o", "-"),
}
"""Colour, marker and line of a search, the same in all figures."""
SHOWN = {"conv3 everywhere": (0, 0, 0, 0), "sep3 everywhere": (1, 1, 1, 1), "conv3 skip conv3 skip": (0, 3, 0, 3)}
"""Networks that are looked into."""


def _panels(result: Result, width: float, height: float, rows: int = 1) -> tuple[Any, list[tuple[str, Any]]]:
    names = result.parameters["templates"]
    drawn, axes = figure(width * len(names), height, ncols=len(names), nrows=rows, squeeze=False)
    for name, ax in zip(names, axes[0], strict=True):
        ax.set_title(TEMPLATES[name].title, size=9)
    return drawn, list(zip(names, axes.T if rows > 1 else axes[0], strict=True))


def _legend(drawn: Any, ax: Axes, columns: int = 4) -> None:
    drawn.legend(*ax.get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=columns)


def pairs(result: Result) -> Image:
    """Every network on its fastest accelerator, and what matching wins: accuracy against frames per second."""
    table = result.tables["hardware"].assign(fps=lambda t: 1e3 / t["ms"])
    found = result.tables["matched"]
    drawn, panels = _panels(result, 4.0, 3.7)
    arms = {
        "separately optimised": ("separate_fps", "separate_accuracy", "vermilion", "v"),
        "matched, as accurate": ("fps", "fps_accuracy", "blue", "o"),
        "matched, as fast": ("accuracy_fps", "accuracy", "green", "^"),
    }
    rows = []
    for template, ax in panels:
        own, here = table[table["template"] == template], found[found["template"] == template]
        ax.plot(own["fps"], own["accuracy"], ".", color="0.75", markersize=4, label="a network")
        for arm, (x, y, colour, marker) in arms.items():
            style = {"color": COLOURS[colour], "marker": marker, "linestyle": "none", "markersize": 7, "alpha": 0.75}
            ax.plot(here[x], here[y], label=f"{arm} (one mark a table)", markeredgecolor="white", **style)
            seen = interval(here[y].tolist())
            rows.append(
                {"template": template, "arm": arm, "fps": here[x].mean(), "accuracy": seen.mean}
                | {"half": seen.half_width}
            )
        ax.set_xscale("log")
        ticks = [t for t in (500, 1000, 2000, 3000, 5000, 10000) if own["fps"].min() <= t <= own["fps"].max()]
        ax.set_xticks(ticks, [f"{t:,}" for t in ticks])
        ax.minorticks_off()
        ax.set(xlabel="frames per second", ylabel="test accuracy (%)")
    _legend(drawn, panels[0][1], 2)
    return save(drawn, pd.DataFrame(rows), "pairs", result, {"fps": None, "accuracy": "half", "half": None})


def regret(result: Result) -> Image:
    """Held-out regret of every sampling search against its questions; intervals over tables."""
    table = result.tables["searches"]
    own = mean_over_searches(table, ("template", "objective", "seed", "method", "questions"))
    table = means(own, ["template", "objective", "method", "questions"], "held_out")
    objectives = table[table["questions"] > 0]["objective"].unique()
    drawn, panels = _panels(result, 4.0, 6.2, rows=len(objectives))
    for template, axes in panels:
        for objective, ax in zip(objectives, axes, strict=True):
            here = table[(table["template"] == template) & (table["objective"] == objective)]
            for shift, (method, (colour, marker, line)) in enumerate(STYLES.items()):
                rows = here[(here["method"] == method) & (here["questions"] > 0)]
                x = rows["questions"] * 1.03 ** (shift - 3.5)
                style = {"color": COLOURS[colour], "marker": marker, "linestyle": line, "capsize": 2, "markersize": 4}
                ax.errorbar(x, rows["held_out"], rows["half"], label=method, linewidth=1.2, **style)
            for method, colour, line in ((JOINT, "blue", "-"), (OPTIMUM, "black", "--")):
                value = float(here[here["method"] == method]["held_out"].iloc[0])
                ax.axhline(value, color=COLOURS[colour], linestyle=line, linewidth=1, label=f"{method} (all is read)")
            ax.set_xscale("log", base=2)
            ticks = result.parameters["questions"]
            ax.set_xticks(ticks, [str(t) for t in ticks])
            ax.set_xlabel("questions asked")
            ax.set_ylabel(f"held-out regret, {objective}\n(points)")
            ax.set_ylim(0, None)
    _legend(drawn, panels[0][1][0])
    return save(drawn, table, "regret", result, {"held_out": "half", "half": None})


def unlimited(result: Result) -> Image:
    """Held-out regret with unlimited questions: both together, or one after the other."""
    table = result.tables["searches"]
    table = table[table["questions"] == 0]
    table = means(table, ["template", "objective", "method"], "held_out")
    objectives = list(table["objective"].unique())
    drawn, panels = _panels(result, 4.0, 1.5 + 0.75 * len(objectives))
    colours = dict(zip((OPTIMUM, JOINT, *SEQUENTIAL), ("black", "blue", *list(COLOURS)[2:]), strict=False))
    for template, ax in panels:
        for shift, (method, colour) in enumerate(colours.items()):
            rows = table[(table["template"] == template) & (table["method"] == method)]
            y = np.arange(len(objectives)) + 0.13 * (shift - 2.5)
            style = {"fmt": "o", "color": COLOURS[colour], "capsize": 2, "markersize": 4}
            ax.errorbar(rows["held_out"], y, xerr=rows["half"], label=method, **style)
        ax.set_yticks(range(len(objectives)), objectives, fontsize=8)
        ax.set(ylim=(len(objectives) - 0.5, -0.5), xlabel="held-out regret (points)")
    _legend(drawn, panels[0][1], 3)
    return save(drawn, table, "unlimited", result, {"held_out": "half", "half": None})


def macs(result: Result) -> Image:
    """Does the number of MACs say how fast a network is? Every network on its fastest accelerator."""
    table = result.tables["hardware"]
    drawn, panels = _panels(result, 3.8, 3.4)
    shares = list(dict.fromkeys(table["net"].map(lambda net: net.count("sep3"))))
    for template, ax in panels:
        own = table[table["template"] == template]
        number = own["net"].map(lambda net: net.count("sep3"))
        for count, colour in zip(sorted(shares), ("black", "blue", "sky", "orange", "vermilion"), strict=False):
            rows = own[number == count]
            ax.plot(rows["mmacs"], rows["ms"], ".", color=COLOURS[colour], markersize=5, label=f"{count} depthwise")
        r = np.corrcoef(np.log(own["mmacs"]), np.log(own["ms"]))[0, 1]
        ax.text(0.04, 0.95, f"r = {r:.2f} (logarithms)", transform=ax.transAxes, va="top", fontsize=8)
        ax.set(xscale="log", yscale="log", xlabel="million MACs", ylabel="ms between two images")
        ax.set_xticks([5, 10, 20, 40], ["5", "10", "20", "40"])
        ticks = [t for t in (0.1, 0.2, 0.5, 1.0, 2.0) if own["ms"].min() * 0.9 <= t <= own["ms"].max() * 1.1]
        ax.set_yticks(ticks, [f"{t:g}" for t in ticks])
        ax.minorticks_off()
    _legend(drawn, panels[0][1], 5)
    return save(drawn, table.drop(columns="accuracy"), "macs", result, {"rule": None})  # ties


def gradients(result: Result) -> Image:
    """Left, ours: each derivative beside its finite difference. Right: the released successor's are the cost itself."""
    ours = compared(workload(result.parameters["width"], result.parameters["size"]), TEMPLATES["asic"])
    theirs = result.tables["slopes"]
    drawn, (left, right) = figure(8.4, 3.6, ncols=2)
    for kind, colour in (("network", "blue"), ("accelerator", "orange")):
        rows = ours[ours["kind"] == kind]
        left.plot(rows["difference"], rows["derivative"], ".", color=COLOURS[colour], label=kind)
    ends = [ours["difference"].min(), ours["difference"].max()]
    left.plot(ends, ends, color="black", linewidth=0.8)
    left.set(xlabel="finite difference", ylabel="derivative")
    left.set_title("joint search: points by logit", size=9)
    left.legend(fontsize=8)
    right.plot(theirs["cost"], theirs["slope"], ".", color=COLOURS["purple"])
    right.plot([0, 10], [0, 10], color="black", linewidth=0.8)
    right.set(xlabel="cost of the sampled design", ylabel="derivative in a sampled probability")
    right.set_title("released successor: never below 0", size=9)
    tolerance = {"derivative": 1e-5, "difference": 1e-5}
    return save(drawn, ours.drop(columns="error"), "gradients", result, tolerance)


def supernet(result: Result) -> Image:
    """The supernet's searches and random networks at equal training, held out; tables as dots."""
    own = mean_over_searches(result.tables["supernet"], ("seed", "method"))
    table = means(own, ["method"], "held_out")
    drawn, (left, right) = figure(8.4, 2.9, ncols=2, width_ratios=(1.3, 1))
    places = {method: y for y, method in enumerate(table["method"])}
    left.plot(own["held_out"], own["method"].map(places), ".", color="0.6", markersize=5)
    left.errorbar(table["held_out"], range(len(table)), xerr=table["half"], fmt="o", color=COLOURS["blue"], capsize=3)
    left.set_yticks(range(len(table)), table["method"], fontsize=8)
    left.set(ylim=(len(table) - 0.5, -0.5), xlim=(0, None), xlabel="held-out regret (points)")
    for _, rows in result.tables["course"].groupby("seed"):
        right.plot(rows["epoch"], rows["entropy"], color=COLOURS["blue"], linewidth=1, alpha=0.6)
    right.set(xlabel="epoch", ylabel="entropy of the choices", ylim=(0, 1.05))
    return save(drawn, table, "supernet", result, {"held_out": "half", "half": None})


def fbnet(result: Result) -> Image:
    """The recorded runs in the FBNet-like space: accuracy and speed of every arm, and how the searches decided."""
    table = result.tables["cifar10"].assign(fps=lambda t: 1e3 / t["ms"])
    drawn, (left, right) = figure(8.4, 3.4, ncols=2, width_ratios=(1.3, 1))
    kinds = table["arm"].str.replace(r" \d", "", regex=True)
    for name in ("joint", "network first", "random"):
        colour, marker, line = STYLES.get(name, ("blue", "o", "-"))
        rows = table[kinds == name]
        style = {"color": COLOURS[colour], "marker": marker, "linestyle": "none"}
        left.plot(rows["fps"], rows["test"], label=f"{name} ({len(rows)})", **style)
        own = result.tables["cifar10_course"].query("arm == @name")
        for _, course in own.groupby("seed"):
            right.plot(course["epoch"], course["entropy"], color=COLOURS[colour], linestyle=line, linewidth=1)
    fps = np.geomspace(table["fps"].min(), table["fps"].max(), 50)
    best = float(table["worth"].max())
    equal = best - cifar10.OBJECTIVE.weight * np.log10(fps / 1e3)
    left.plot(fps, equal, color="0.6", linewidth=1, label="worth as much as the best")
    left.set(xscale="log", xlabel="frames per second", ylabel="test accuracy (%)")
    left.set_xticks([300, 500, 1000, 2000], ["300", "500", "1,000", "2,000"])
    left.minorticks_off()
    left.legend(fontsize=8)
    right.set(xlabel="epoch of the search", ylabel="entropy of the choices", ylim=(0, 1.05))
    return save(drawn, table, "fbnet", result)


def energy(result: Result) -> Image:
    """Energy by level of the memory of three networks, each on its accelerator of the least EDP."""
    names, tables = result.parameters["templates"], {}
    space = workload(result.parameters["width"], result.parameters["size"])
    drawn, axes = figure(8.4, 1.1 + 1.05 * len(names), nrows=len(names), squeeze=False)
    for name, ax in zip(names, axes[:, 0], strict=True):
        found = costs(space, TEMPLATES[name])
        designs = found.best_designs(torch.tensor(list(SHOWN.values())), "edp")
        arms = {
            label: itemised(space, TEMPLATES[name], design)[["level", "operand", "pj"]]
            for label, design in zip(SHOWN, designs, strict=True)
        }
        tables[name] = hardware.side_by_side(arms)
        hardware.draw_breakdown(ax, tables[name])
        ax.set_title(TEMPLATES[name].title, size=9)
    _legend(drawn, axes[0, 0], 5)
    table = pd.concat(tables, names=["template"]).reset_index("template")
    return save(drawn, table, "energy", result)
