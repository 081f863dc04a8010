"""SmartDeal's result as figures, saved with their tables; its explorers are in `explorers`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from IPython.display import Image
from matplotlib.axes import Axes

from workbench import hardware
from workbench.evidence import Result, interval, means
from workbench.figures import COLOURS, figure, save
from workbench.papers.smartdeal import published
from workbench.papers.smartdeal.adapt import SHOWN
from workbench.papers.smartdeal.experiment import OURS
from workbench.papers.smartdeal.retrain import Setting

STYLES = {
    OURS: ("blue", "o", "-"),
    "power of two": ("vermilion", "s", "--"),
    "power of two, rows": ("orange", "^", "-."),
    "uniform 4 bit": ("green", "v", ":"),
    "uniform 3 bit": ("purple", "D", (0, (4, 1, 1, 1))),
}
"""Colour, marker and line of a format, the same in all figures."""


def _panels(result: Result, width: float, height: float) -> tuple[Any, list[tuple[str, Axes]]]:
    settings = [Setting.read(text) for text in result.parameters["settings"]]
    drawn, axes = figure(width * len(settings), height, ncols=len(settings), squeeze=False)
    for setting, ax in zip(settings, axes[0], strict=True):
        ax.set_title(setting.title, size=9)
    return drawn, list(zip([s.id for s in settings], axes[0], strict=True))


def _legend(drawn: Any, ax: Axes, columns: int = 5) -> None:
    drawn.legend(*ax.get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=columns)


def formats(result: Result) -> Image:
    """Accuracy after retraining against compression; formats of one level store as many bits."""
    table = means(result.tables["compressed"], ["setting", "level", "arm"])
    ratios = result.tables["compressed"].groupby(["setting", "level", "arm"], sort=False)["ratio"].mean().reset_index()
    table = table.merge(ratios)
    drawn, panels = _panels(result, 4.2, 3.6)
    for setting, ax in panels:
        own = table[table["setting"] == setting]
        dense = own[own["arm"] == "dense+"].iloc[0]
        ax.axhspan(dense["accuracy"] - dense["half"], dense["accuracy"] + dense["half"], color="0.9", linewidth=0)
        ax.axhline(dense["accuracy"], color="black", linewidth=1, label="dense+")
        levels = own[own["arm"] == OURS].sort_values("ratio")
        for shift, (arm, (colour, marker, _)) in enumerate(STYLES.items()):
            rows = own[own["arm"] == arm].set_index("level").loc[levels["level"]]
            x = np.arange(len(rows)) + 0.13 * (shift - 2)
            style = {"color": COLOURS[colour], "marker": marker, "linestyle": "none", "capsize": 2, "markersize": 5}
            ax.errorbar(x, rows["accuracy"], rows["half"], label=arm, **style)
        ax.set_xticks(range(len(levels)), [f"{row.ratio:.1f}x\n{row.level}" for row in levels.itertuples()], fontsize=8)
        ax.set(xlabel="compression, and SmartDeal's threshold", ylabel="test accuracy (%)")
        ax.set(xlim=(-0.5, len(levels) - 0.5), ylim=(max(0, own["accuracy"].min() - 6), None))
    _legend(drawn, panels[0][1], 6)
    return save(drawn, table, "formats", result, {"accuracy": "half", "half": None, "ratio": None})


def contrasts(result: Result) -> Image:
    """SmartDeal minus each simpler format of as many bits, paired by seed: right of 0 the basis pays."""
    compressed, rows = result.tables["compressed"], []
    levels = max(compressed[compressed["setting"] == s]["level"].nunique() for s in compressed["setting"].unique()) - 1
    drawn, panels = _panels(result, 4.2, 1.6 + 0.55 * levels)
    for setting, ax in panels:
        own = compressed[compressed["setting"] == setting]
        names, ticks = [level for level in own["level"].unique() if level], []
        for y, level in enumerate(names):
            wide = own[own["level"] == level].pivot(index="seed", columns="arm", values="accuracy")
            ratio = own[(own["level"] == level) & (own["arm"] == OURS)]["ratio"].mean()
            for shift, (arm, (colour, marker, _)) in enumerate(list(STYLES.items())[1:]):
                found = interval((wide[OURS] - wide[arm]).tolist())
                style = {"color": COLOURS[colour], "fmt": marker, "capsize": 2, "markersize": 4}
                ax.errorbar(
                    found.mean, y + 0.17 * (shift - 1.5), xerr=found.half_width, label=arm if not y else None, **style
                )
                row = {"setting": setting, "level": level, "against": arm, "difference": found.mean}
                rows.append(row | {"half": found.half_width, "n": len(found.samples), "ratio": ratio})
            ticks.append(f"{level}\n({ratio:.1f}x)")
        ax.axvline(0, color="black", linewidth=1)
        ticks = [
            f"{level}\n({r['ratio']:.1f}x)"
            for level in names
            for r in rows
            if r["level"] == level and r["setting"] == setting
        ][:: len(STYLES) - 1]
        ax.set_yticks(range(len(names)), ticks, fontsize=8)
        ax.set_ylim(len(names) - 0.5, -0.5)
        ax.set_xlabel("SmartDeal minus the other (points)", size=8)
    _legend(drawn, panels[0][1], 4)
    tolerance = {"difference": "half", "half": None, "ratio": None}
    return save(drawn, pd.DataFrame(rows), "contrasts", result, tolerance)


def frontier(result: Result) -> Image:
    """Relative error without retraining against bits a weight, formats at SmartDeal's bits."""
    table = means(result.tables["frontier"], ["setting", "threshold", "arm"], "error")
    bits = result.tables["frontier"].query("arm == @OURS").groupby(["setting", "threshold"])["bits_a_weight"].mean()
    table = table.merge(bits.reset_index())
    drawn, panels = _panels(result, 4.2, 3.4)
    for setting, ax in panels:
        for arm, (colour, marker, line) in STYLES.items():
            rows = table[(table["setting"] == setting) & (table["arm"] == arm)].sort_values("bits_a_weight")
            style = {"color": COLOURS[colour], "marker": marker, "linestyle": line, "capsize": 2, "markersize": 4}
            ax.errorbar(rows["bits_a_weight"], rows["error"], rows["half"], label=arm, **style)
        ax.set(xlabel="bits a weight", ylabel="relative error")
    _legend(drawn, panels[0][1])
    return save(drawn, table, "frontier", result, {"error": "half", "half": None, "bits_a_weight": None})


def statistics(result: Result) -> Image:
    """Accuracy of SmartDeal before retraining and after, by where batch normalisation's statistics are from."""
    columns = {
        "one_shot_running": ("not retrained, statistics of the dense net", "sky", "s"),
        "one_shot": ("not retrained, statistics anew", "blue", "o"),
        "accuracy_running": ("retrained, running statistics", "orange", "v"),
        "accuracy": ("retrained, statistics anew", "vermilion", "^"),
    }
    own = result.tables["compressed"].query("arm == @OURS")
    parts = [
        means(own, ["setting", "level"], column).rename(columns={column: "accuracy"}).assign(kind=column)
        for column in columns
    ]
    table = pd.concat(parts, ignore_index=True)
    drawn, panels = _panels(result, 4.2, 3.2)
    for setting, ax in panels:
        for shift, (column, (label, colour, marker)) in enumerate(columns.items()):
            rows = table[(table["setting"] == setting) & (table["kind"] == column)]
            y = np.arange(len(rows)) + 0.15 * (shift - 1.5)
            ax.errorbar(
                rows["accuracy"], y, xerr=rows["half"], fmt=marker, color=COLOURS[colour], capsize=2, label=label
            )
        ax.set_yticks(range(len(rows)), rows["level"], fontsize=8)
        ax.set(xlabel="test accuracy (%)", ylabel="threshold", xlim=(0, 102), ylim=(len(rows) - 0.5, -0.5))
    _legend(drawn, panels[0][1], 2)
    return save(drawn, table, "statistics", result, {"accuracy": "half", "half": None})


def adaptation(result: Result) -> Image:
    """Accuracy on turned digits by what may move; seeds as dots."""
    adapted = result.tables["adapted"]
    table = means(adapted, ["level", "arm"])
    drawn, ax = figure(7.5, 1.2 + 0.36 * len(table))
    names = [arm if not level else f"{arm} ({level})" for level, arm in zip(table["level"], table["arm"], strict=True)]
    places = {(row.level, row.arm): y for y, row in enumerate(table.itertuples())}
    at = [places[pair] for pair in zip(adapted["level"], adapted["arm"], strict=True)]
    ax.plot(adapted["accuracy"], at, ".", color="0.6", markersize=4)
    ax.errorbar(table["accuracy"], range(len(table)), xerr=table["half"], fmt="o", color=COLOURS["blue"], capsize=3)
    ax.set_yticks(range(len(table)), names, fontsize=8)
    ax.invert_yaxis()
    ax.set_xlabel("test accuracy on turned digits (%)")
    return save(drawn, table, "adaptation", result, {"accuracy": "half", "half": None})


def buckets(result: Result) -> Image:
    """Counters of a few coefficients over the steps of SD-training, and the coefficients."""
    table = result.tables["buckets"]
    drawn, axes = figure(9, 4, nrows=2, ncols=SHOWN // 2, sharex=True, sharey=True)
    for (entry, rows), ax in zip(table.groupby("entry"), axes.flat, strict=True):
        ax.bar(rows["step"], rows["counter"], width=1, color=COLOURS["sky"], label="bucket")
        size = rows["coefficient"].abs()
        exponent = np.log2(size.where(size > 0))
        sign = np.sign(rows["coefficient"])
        for value, colour, label in ((1, "blue", "log2 C, positive"), (-1, "vermilion", "log2 -C, negative")):
            ax.plot(rows["step"], exponent.where(sign == value), color=COLOURS[colour], linewidth=1.8, label=label)
        zero = rows[sign == 0]
        ax.plot(zero["step"], 0 * zero["step"], ".", color="black", markersize=3, label="C is zero")
        ax.set_title(f"coefficient {entry}", size=9)
    for ax in axes[-1]:
        ax.set_xlabel("step")
    _legend(drawn, axes.flat[0], 4)
    return save(drawn, table, "buckets", result, {"counter": None, "coefficient": None})


def cells(result: Result) -> Image:
    """Printed storage cells beside our count, in three ways of counting."""
    table = result.tables["published"]
    drawn, ax = figure(8, 5)
    ways = {"analytic": ("the code's formula", "blue", "o"), "without_mask": ("without mask", "orange", "s")}
    ways["basis16"] = ("without mask, 16-bit bases", "vermilion", "^")
    y = np.arange(len(table))
    for shift, (column, (label, colour, marker)) in enumerate(ways.items()):
        ax.plot(table[column] / table["published"], y + 0.2 * (shift - 1), marker, color=COLOURS[colour], label=label)
    ax.axvline(1, color="black", linewidth=1)
    ax.set_xscale("log")
    ax.set_xticks([0.25, 0.5, 1, 2, 4], ["1/4", "1/2", "1", "2", "4"])
    ax.minorticks_off()
    ax.set_yticks(y, table["id"].str.removeprefix("smartdeal."), fontsize=8)
    ax.invert_yaxis()
    ax.set_xlabel("recomputed / printed (from memory)")
    _legend(drawn, ax, 3)
    return save(drawn, table.drop(columns="remark"), "cells", result)


def training_storage(result: Result) -> Image:
    """What training keeps of ResNet-50's weights: dense and SmartDeal, in MB."""
    table = published.training_storage("resnet50", published.sparsity_of("resnet50"))
    table = table.assign(mb=table["bits"] / 8e6)
    drawn, ax = figure(8, 2.6)
    parts, left = list(dict.fromkeys(table["part"])), {"dense": 0.0, "SmartDeal": 0.0}
    for part, colour in zip(parts, [*[*COLOURS.values()][1:], "0.6"], strict=False):
        rows = table[table["part"] == part]
        ax.barh(rows["arm"], rows["mb"], left=[left[arm] for arm in rows["arm"]], color=colour, label=part)
        for arm, mb in zip(rows["arm"], rows["mb"], strict=True):
            left[arm] += mb
    for y, total in enumerate(left.values()):
        ax.text(total + 2, y, f"{total:.1f} MB", va="center", fontsize=8)
    ax.set_xlim(0, 1.12 * max(left.values()))
    ax.set_xlabel("MB kept by training, ResNet-50 at 58.6 % zeros")
    _legend(drawn, ax, 4)
    return save(drawn, table.drop(columns="bits"), "training_storage", result)


def energy(result: Result) -> Image:
    """Energy by level of the memory, dense weights and weights that are rebuilt beside the PEs."""
    table = result.tables["energy"]
    table = table[(table["accelerator"] == "45 nm") & (table["arm"] != "dense 32 bit")]
    drawn, axes = figure(9, 4.4, nrows=2, height_ratios=(3, 1))
    training = table["pass"].str.contains("training")
    for rows, ax, title in ((table[~training], axes[0], "inference"), (table[training], axes[1], "training step")):
        arms = {
            f"{name.split(',')[0]}, {arm}": own[["level", "operand", "pj"]]
            for (name, arm), own in rows.groupby(["pass", "arm"], sort=False)
        }
        hardware.draw_breakdown(ax, hardware.side_by_side(arms))
        ax.set_title(f"{title}, an image", size=9)
    _legend(drawn, axes[0])
    return save(drawn, table, "energy", result)


def chip(result: Result) -> Image:
    """The hardware model beside Eyeriss, a chip that was measured: AlexNet's convolutions, batch 4."""
    table = result.tables["eyeriss"]
    units = {"glb_mb": "buffer traffic (MB)", "dram_mb": "DRAM traffic (MB)", "processing_ms": "time (ms)"}
    drawn, axes = figure(9.5, 3.4, ncols=len(units))
    for (measure, label), ax in zip(units.items(), axes, strict=True):
        rows = table[table["measure"] == measure]
        x = np.arange(len(rows))
        ax.bar(x - 0.2, rows["published"], 0.4, color="0.7", label="published")
        ax.bar(x + 0.2, rows["model"], 0.4, color=COLOURS["blue"], label="model")
        ax.set_xticks(x, rows["layer"].str.replace(" (", "\n(").str.removeprefix("conv"), fontsize=7)
        ax.set(title=label, xlabel="convolution")
        ax.title.set_size(9)
    _legend(drawn, axes[0], 2)
    return save(drawn, table, "chip", result)
