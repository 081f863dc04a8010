"""AGD's result as figures, saved with their tables."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import torch
from IPython.display import Image
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from workbench import hardware
from workbench.evidence import Result, means
from workbench.figures import COLOURS, figure, save
from workbench.papers.agd import experiment, method, record, students
from workbench.papers.agd.method import OPERATORS, WIDTHS, Design
from workbench.papers.agd.tasks import Task

STYLES = {
    "searched": ("blue", "D"),
    "random, mean": ("orange", "o"),
    "random, best": ("orange", "s"),
    "uniform": ("green", "^"),
    "pruned": ("purple", "v"),
    "searched, no teacher": ("sky", "D"),
    "uniform, no teacher": ("sky", "^"),
    "searched, 8 bits": ("vermilion", "D"),
    "uniform, 8 bits": ("vermilion", "^"),
    "teacher": ("black", "*"),
    "bicubic": ("black", "x"),
    "copy": ("black", "x"),
}
"""Colour and marker of each arm, the same in all figures."""
RULES = {"log-ratio": "blue", "pressure": "orange", "fixed": "vermilion"}


def tasks(result: Result) -> list[Task]:
    """The tasks of a result."""
    return [Task.read(text) for text in result.parameters["tasks"]]


def by_arm(result: Result) -> pd.DataFrame:
    """One row a task, seed and arm: random designs as their mean, and as the best by validation."""
    arms = result.tables["arms"]
    drawn = arms["arm"].str.startswith("random")
    keys, columns = ["task", "seed"], ["score", "psnr", "ssim", "macs"]
    mean = arms[drawn].groupby(keys, sort=False)[columns].mean().reset_index().assign(arm="random, mean")
    best = arms.loc[arms[drawn].groupby(keys, sort=False)["validation"].idxmax()].assign(arm="random, best")
    table = pd.concat([arms[~drawn], mean, best], ignore_index=True)
    order = table["arm"].map([*STYLES].index)
    return table.assign(order=order).sort_values(["task", "order", "seed"], kind="stable")


def axis(task: Task) -> str:
    """What the score is."""
    return "PSNR on Y (dB)" if task.scale > 1 else "- ln (Fréchet distance)"


def panels(own: list[Task], width: float, height: float) -> tuple[Figure, list[Axes]]:
    """A panel a task, at most three in a row; ``width`` and ``height`` of each in inches."""
    rows = math.ceil(len(own) / 3)
    columns = math.ceil(len(own) / rows)
    drawn, axes = figure(width * columns, height * rows, nrows=rows, ncols=columns, squeeze=False)
    for spare in axes.flat[len(own) :]:
        spare.set_axis_off()
    return drawn, list(axes.flat[: len(own)])


def quality(result: Result) -> Image:
    """Every arm of every task, with 95 % intervals and a dot a seed."""
    rows, own = by_arm(result), tasks(result)
    parts = []
    for column in ("score", "psnr", "ssim"):
        part = means(rows, ["task", "arm"], column).rename(columns={column: "value"})
        parts.append(part.assign(measure=part["task"] + " " + column))
    table = pd.concat(parts, ignore_index=True)
    drawn, axes = panels(own, 4.3, 3.9)
    for task, ax in zip(own, axes, strict=True):
        shown = table[table["measure"] == f"{task.id} score"]
        seeds = rows[rows["task"] == task.id]
        names = [*shown["arm"]]
        ax.plot(seeds["score"], seeds["arm"].map(names.index), ".", color="0.6", markersize=3)
        for y, row in enumerate(shown.itertuples()):
            colour, marker = STYLES[row.arm]
            ax.errorbar(row.value, y, xerr=row.half, capsize=3, color=COLOURS[colour], marker=marker)
        ax.set_yticks(range(len(names)), names, fontsize=8)
        ax.invert_yaxis()
        near = seeds[~seeds["arm"].isin(["bicubic", "copy"])]["score"]  # the copy is far away
        room = 0.15 * (near.max() - near.min())
        ax.set_xlim(near.min() - room, near.max() + room)  # intervals may be cut
        ax.set_title(task.title, size=9)
        ax.set_xlabel(f"{axis(task)}; intervals may be cut", size=8)
    return save(drawn, table, "quality", result, {"value": "half", "half": None})


def contrasts(result: Result) -> Image:
    """Every paired difference with its interval; right of 0 speaks for the claim."""
    own = tasks(result)
    rows = [row for row in result.rows if row["id"].split(".")[-2:][0] in ("distil", "bits8") or ".vs_" in row["id"]]
    table = pd.DataFrame(rows)[["id", "value", "low", "high", "n", "verdict"]]
    table.insert(1, "task", table["id"].str.split(".").str[1])
    table["measure"] = table["task"]
    drawn, axes = panels(own, 4.1, 3.4)
    for task, ax in zip(own, axes, strict=True):
        shown = table[(table["task"] == task.id) & ~table["id"].str.endswith("vs_plain")]
        spread = [shown["value"] - shown["low"], shown["high"] - shown["value"]]
        ax.errorbar(shown["value"], range(len(shown)), xerr=spread, fmt="o", capsize=3, color=COLOURS["blue"])
        ax.axvline(0, color="black", linewidth=1)
        names = shown["id"].str.split(".").str[2:].str.join(", ").str.replace("_", " ")
        ax.set_yticks(range(len(shown)), names, fontsize=8)
        ax.invert_yaxis()
        ax.set_title(task.title, size=9)
        ax.set_xlabel(f"for the claim: {'dB' if task.scale > 1 else 'ln of distances'}", size=8)
    table = table.assign(half=(table["high"] - table["low"]) / 2)
    loose = dict.fromkeys(("value", "low", "high"), "half") | {"half": None, "verdict": None}
    return save(drawn, table, "contrasts", result, loose)


def search(result: Result) -> Image:
    """Probabilities of operators, mean over layers, and expected cost, step by step; the first seed of each task."""
    own, parts = tasks(result), []
    drawn, axes = figure(min(4.2, 14 / len(own)) * len(own), 5, ncols=len(own), nrows=2, squeeze=False, sharex="col")
    colours = dict(zip(OPERATORS, ("sky", "orange", "purple", "green"), strict=True))
    for task, (top, low) in zip(own, axes.T, strict=True):
        trace = result.extra["trace"][task.id]
        mean, width = trace.operators.mean(1), (trace.widths.mean(1) * torch.tensor(WIDTHS)).sum(1)
        steps = range(len(mean))
        for k, name in enumerate(OPERATORS):
            top.plot(steps, mean[:, k], color=COLOURS[colours[name]], label=name)
        top.set(title=task.title, ylim=(0, 1))
        for values, label, colour in (
            (trace.expected / experiment.budget(task), "expected", "blue"),
            (trace.argmax / experiment.budget(task), "of the argmax", "vermilion"),
        ):
            low.plot(steps, values, color=COLOURS[colour], label=label)
        low.axhspan(experiment.BAND, 1, color="0.85")
        low.set_xlabel("search step")
        table = pd.DataFrame(mean.numpy(), columns=[*OPERATORS]).assign(width=width, expected=trace.expected)
        parts.append(table.assign(task=task.id, step=steps))
    axes[0][0].set_ylabel("probability, mean of layers")
    axes[1][0].set_ylabel("cost / budget")
    axes[0][0].legend(fontsize=8)
    axes[1][0].legend(fontsize=8)
    table = pd.concat(parts, ignore_index=True)
    return save(drawn, table, "search", result, dict.fromkeys([*OPERATORS, "width", "expected"]))


def ends(result: Result) -> Image:
    """Where searches end, by rule of the cost term: what their plain argmax costs, a mark a seed."""
    rows = result.tables["search"]
    groups = [*rows.groupby(["task", "rule"], sort=False)]
    table = pd.concat(
        [means(rows, ["task", "rule"], c).rename(columns={c: "value"}).assign(measure=c) for c in
         ("expected", "argmax", "entropy")], ignore_index=True,
    )  # fmt: skip
    drawn, ax = figure(7.5, 0.5 + 0.5 * len(groups))
    for y, ((_, rule), part) in enumerate(groups):
        ax.plot(part["argmax"], [y] * len(part), "o", color=COLOURS[RULES[rule]], label="plain argmax" if not y else "")
        ax.plot(part["expected"], [y] * len(part), "|", color="black", markersize=12, label="expected" if not y else "")
    ax.axvspan(experiment.BAND, 1, color="0.85", label="the band")
    ax.set_yticks(range(len(groups)), [f"{t.replace('_', ' ')}, {r}" for (t, r), _ in groups], fontsize=8)
    ax.set_ylim(len(groups) - 0.5, -0.5)
    ax.set_xlabel("cost / budget")
    drawn.legend(*ax.get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=3)
    return save(drawn, table, "ends", result, {"value": "half", "half": None})


def plane_points(result: Result) -> pd.DataFrame:
    """Cost and score of everything trained on the first seed: columns task, arm, macs, score, design."""
    arms = result.tables["arms"]
    first = arms[(arms["seed"] == arms["seed"].min()) & ~arms["arm"].str.contains(",") & (arms["macs"] > 0)]
    points = pd.concat([first, result.tables["cloud"]], ignore_index=True)[["task", "arm", "macs", "score", "design"]]
    return points.assign(arm=points["arm"].str.replace(r"random \d+", "random", regex=True))


def plane(result: Result) -> Image:
    """Cost and quality of all designs trained on the first seed."""
    table, own = plane_points(result), tasks(result)
    drawn, axes = panels(own, 4.2, 3.6)
    for task, ax in zip(own, axes, strict=True):
        for arm in ("random", "uniform", "pruned", "searched", "teacher"):
            rows = table[(table["task"] == task.id) & (table["arm"] == arm)].sort_values("macs")
            colour, marker = STYLES.get(arm, ("orange", "o"))
            line = "-" if arm == "uniform" else "none"
            ax.plot(rows["macs"], rows["score"], color=COLOURS[colour], marker=marker, linestyle=line, label=arm)
        most = experiment.budget(task)
        ax.axvspan(experiment.BAND * most, most, color="0.85")
        ax.set_xscale("log")
        ax.set_xticks([5e3, 1e4, 2e4, 5e4], ["5,000", "10,000", "20,000", "50,000"])
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.set_title(task.title, size=9)
        ax.set(xlabel="MACs a pixel of the body", ylabel=axis(task))
    drawn.legend(*axes[0].get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=5)
    counts = table.groupby(["task", "arm"], sort=False).size().rename("designs").reset_index()
    return save(drawn, counts, "plane", result)


def pictures(result: Result) -> Image:
    """A test picture of each task: input, the plain way, teacher, and students at equal cost."""
    shown = ("input", "plain", "teacher", "searched", "uniform", "pruned", "searched, no teacher")
    own = tasks(result)
    drawn, axes = figure(1.55 * len(shown), 1.75 * len(own), nrows=len(own), ncols=len(shown), squeeze=False)
    for task, row in zip(own, axes, strict=True):
        for name, ax in zip(shown, row, strict=True):
            ax.imshow(result.extra["pictures"][task.id][name][2], interpolation="nearest")
            ax.set(xticks=[], yticks=[])
            ax.grid(False)
            if ax in axes[0]:
                ax.set_title(name.replace(", ", ",\n"), size=9)
        row[0].set_ylabel(task.title, size=9)
    table = pd.DataFrame([(task.id, name) for task in own for name in shown], columns=["task", "picture"])
    return save(drawn, table, "pictures", result)


def conventions(result: Result) -> Image:
    """The paper's networks by way of counting."""
    table = result.tables["conventions"]
    ways = {"macs": "useful MACs", "window_macs": "MACs of whole windows", "mac_bias_act": "... + biases + activations",
            "flops": "FLOPs: 2 a useful MAC"}  # fmt: skip
    drawn, ax = figure(8, 3.8)
    for at, (column, label) in enumerate(ways.items()):
        y = np.arange(len(table)) + 0.2 * (at - 1.5)
        colour = [*COLOURS.values()][at + 1]
        bars = ax.barh(y, table[column], 0.2, label=label, color=colour)
        ax.bar_label(bars, [f"{value:,.4g}" for value in table[column]], fontsize=7, padding=2)
    ax.set_yticks(range(len(table)), table["network"], fontsize=8)
    ax.invert_yaxis()
    ax.set(xscale="log", xlabel="1e9 operations for a 256x256 input")
    ax.margins(x=0.15)
    drawn.legend(*ax.get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=4)
    return save(drawn, table, "conventions", result)


def read_design(text: str) -> Design:
    """A design as it stands in tables: "3x3-8 residual-12"."""
    return tuple((name, int(width)) for name, width in (word.rsplit("-", 1) for word in text.split()))


def model(task: Task, design: Design) -> tuple[method.Generator, torch.Tensor]:
    """The network of a design and an input that gives a picture of 32x32."""
    return method.build(task.skeleton, design, "energy"), torch.zeros(1, 3, 32 // task.scale, 32 // task.scale)


def energy(result: Result) -> Image:
    """Energy of a picture of 32x32 in 8 bits, by level of the memory: teacher, uniform, and the searched designs."""
    task = tasks(result)[0]
    arms = result.tables["arms"]
    found = arms[(arms["task"] == task.id) & (arms["arm"] == "searched")].set_index("seed")["design"]
    x = model(task, students.uniform(task))[1]
    tables = {"teacher": [hardware.breakdown(record.teacher(task), x)]}
    tables["uniform"] = [hardware.breakdown(*model(task, students.uniform(task)))]
    tables["searched, mean of seeds"] = [hardware.breakdown(*model(task, read_design(text))) for text in found]
    sums = {arm: [t.groupby(["level", "operand"], sort=False)["pj"].sum() for t in own] for arm, own in tables.items()}
    table = pd.concat([_over_seeds(arm, own) for arm, own in sums.items()], ignore_index=True)
    drawn, ax = figure(7.5, 2.4)
    hardware.draw_breakdown(ax, table)
    ax.set_title(f"{task.title}: a picture of 32x32, 8 bits", size=9)
    drawn.legend(*ax.get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=5)
    return save(drawn, table.assign(measure=table["arm"]), "energy", result, {"pj": "half", "half": None})


def _over_seeds(arm: str, own: list[pd.Series]) -> pd.DataFrame:
    wide = pd.concat(own, axis=1)
    spread = wide.std(axis=1).fillna(0.0) if wide.shape[1] > 1 else 0.0 * wide.mean(axis=1)
    return wide.mean(axis=1).rename("pj").reset_index().assign(arm=arm, half=spread.to_numpy())
