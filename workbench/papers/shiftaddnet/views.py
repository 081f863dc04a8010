"""ShiftAddNet's result as figures, saved with their tables."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from IPython.display import Image
from matplotlib.ticker import NullFormatter

from workbench import hardware
from workbench.evidence import Result, means
from workbench.figures import COLOURS, figure, save
from workbench.papers.shiftaddnet import energy
from workbench.papers.shiftaddnet.experiment import FULL, MODES
from workbench.papers.shiftaddnet.trials import Setting

STYLES = {
    "mult": ("black", "o", "-"),
    "shift-Q": ("orange", "s", "--"),
    "shift-PS": ("yellow", "P", "--"),
    "add": ("green", "^", "-."),
    "shift-Q+add": ("blue", "D", "-"),
    "shift-PS+add": ("sky", "v", ":"),
    "fixed+add": ("purple", "X", ":"),
}
"""Colour, marker and line of each kind of layer, the same in all figures."""
OPERATIONS = {"multiplies": "vermilion", "adds": "blue", "shifts": "orange", "comparisons": "sky"}
HALF = {"accuracy": "half", "half": None}


def _style(kind: str) -> dict[str, Any]:
    colour, marker, line = STYLES[kind]
    return {"color": COLOURS[colour], "marker": marker, "linestyle": line}


def _settings(result: Result) -> list[Setting]:
    return [Setting.read(text) for text in result.parameters["settings"]]


def _kind(arm: str) -> str:
    return arm.partition(",")[0]


def _plain(result: Result) -> pd.DataFrame:
    """Trained networks that are no ablations, with what each costs."""
    return result.tables["trained"].merge(result.tables["costs"], on=["setting", "arm"])


def accuracies(result: Result) -> Image:
    """Test accuracy of every network, with 95 % intervals and a dot a seed."""
    table = means(_plain(result), ["setting", "arm", "net"])
    settings = _settings(result)
    drawn, axes = figure(4.2 * len(settings), 4.2, ncols=len(settings), squeeze=False)
    for setting, ax in zip(settings, axes[0], strict=True):
        rows = table[table["setting"] == setting.id]
        seeds = result.tables["trained"].query("setting == @setting.id")
        names = [*rows["arm"]]
        seeds = seeds[seeds["arm"].isin(names)]
        ax.plot(seeds["accuracy"], seeds["arm"].map(names.index), ".", color="0.6", markersize=3)
        for y, row in enumerate(rows.itertuples()):
            ax.errorbar(row.accuracy, y, xerr=row.half, capsize=3, **_style(_kind(row.arm)))
        middle = rows["accuracy"].mean()
        ax.set_xlim(max(0, min(seeds["accuracy"].min(), middle) - 2), 100.5 if middle > 60 else None)
        labels = [f"{row.arm.replace(', ', ' at ')} ({row.net.rpartition(' ')[2]})" for row in rows.itertuples()]
        ax.set_yticks(range(len(rows)), labels, fontsize=8)
        ax.invert_yaxis()
        ax.set_title(setting.title, size=9)
        ax.set_xlabel("test accuracy (%); width in brackets", size=8)
    return save(drawn, table, "accuracies", result, HALF)


def accuracy_energy(result: Result) -> Image:
    """Accuracy over energy of inference, arithmetic alone, in 32 and in 8 bits."""
    settings, parts = _settings(result), []
    drawn, axes = figure(8.4, 3.1 * len(settings), nrows=len(settings), ncols=2, squeeze=False)
    for setting, pair in zip(settings, axes, strict=True):
        own = _plain(result).query("setting == @setting.id")
        for format, ax in zip(("FIX32", "FIX8"), pair, strict=True):
            table = means(own, ["arm", format]).rename(columns={format: "nanojoules"})
            parts.append(table.assign(setting=setting.id, measure=format))
            for kind in STYLES:
                rows = table[table["arm"].map(_kind) == kind].sort_values("nanojoules")
                style = _style(kind) | {"label": kind, "capsize": 2}
                if len(rows):
                    ax.errorbar(rows["nanojoules"], rows["accuracy"], rows["half"], **style)
            ax.set_xscale("log")
            ax.xaxis.set_major_formatter("{x:g}")
            ax.xaxis.set_minor_formatter(NullFormatter())
            low = table["accuracy"].min()
            ax.set_ylim(max(0, low - 0.25 * (100 - low)), min(101, table["accuracy"].max() + 0.2 * (100 - low)))
            ax.set_title(f"{setting.title}; {format}", size=9)
            ax.set(xlabel="nJ an image (45 nm ASIC, arithmetic)", ylabel="accuracy (%)")
    drawn.legend(*axes[0][0].get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=7)
    return save(drawn, pd.concat(parts), "accuracy_energy", result, HALF)


def contrasts(result: Result) -> Image:
    """Every measured claim on accuracy: the paired difference with its interval; right of 0 speaks for the claim."""
    rows = [row for row in result.rows if row["id"].startswith("shiftaddnet.accuracy.")]
    table = pd.DataFrame(rows)[["id", "value", "low", "high", "n", "verdict"]]
    table.insert(1, "setting", table["id"].str.split(".").str[2])
    settings = _settings(result)
    drawn, axes = figure(4.0 * len(settings), 3.8, ncols=len(settings), squeeze=False)
    for setting, ax in zip(settings, axes[0], strict=True):
        own = table[table["setting"] == setting.id]
        spread = [own["value"] - own["low"], own["high"] - own["value"]]
        ax.errorbar(own["value"], range(len(own)), xerr=spread, fmt="o", capsize=3, color=COLOURS["blue"])
        ax.axvline(0, color="black", linewidth=1)
        edge = max(3.0, 1.3 * own["value"].abs().max())
        ax.set_xlim(-edge, edge)
        ax.set_yticks(range(len(own)), own["id"].str.split(".").str[3].str.replace("_", " "), fontsize=8)
        ax.invert_yaxis()
        ax.set_title(setting.title, size=9)
        ax.set_xlabel("points for the claim (intervals may be cut)", size=8)
    table = table.assign(half=(table["high"] - table["low"]) / 2)
    loose = dict.fromkeys(("value", "low", "high"), "half") | {"half": None, "verdict": None}
    return save(drawn, table, "contrasts", result, loose)


def bits(result: Result) -> Image:
    """Accuracy in few bits: rounded, with BatchNorm's statistics anew, and fine-tuned in few bits."""
    table = means(result.tables["bits"], ["arm", "mode", "bits"])
    drawn, axes = figure(10, 3.4, ncols=len(MODES), sharey=True)
    places = [FULL, *result.parameters["bits"]]
    for mode, ax in zip(MODES, axes, strict=True):
        for at, (arm, rows) in enumerate(table[table["mode"] == mode].groupby("arm", sort=False)):
            x = [places.index(b) + 0.06 * at for b in rows["bits"]]  # side by side, so that intervals can be told apart
            ax.errorbar(x, rows["accuracy"], rows["half"], label=arm, capsize=2, markersize=4, **_style(arm))
        ax.set_xticks(range(len(places)), ["float", *map(str, places[1:])])
        ax.set(title=mode, xlabel="bits of weights and inputs", ylim=(0, 102))
    axes[0].set_ylabel("test accuracy (%)")
    drawn.legend(*axes[0].get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=6)
    return save(drawn, table, "bits", result, HALF)


def sparsity(result: Result) -> Image:
    """Accuracy over the share of all hidden weights that are 0, taken from all layers or from one sort of them."""
    table = means(result.tables["sparsity"], ["arm", "which", "share"])
    drawn, axes = figure(10, 3.4, ncols=3, sharey=True)
    names = {"all": "all layers", "shift": "all from shift layers", "add": "all from adder layers"}
    for which, ax in zip(names, axes, strict=True):
        shown = table[table["which"] == which]
        if which != "all":  # multiplications, for comparison
            shown = pd.concat([table[(table["which"] == "all") & (table["arm"] == "mult")], shown])
        for at, (arm, rows) in enumerate(shown.groupby("arm", sort=False)):
            style = _style(arm) | {"label": arm, "capsize": 2, "markersize": 4}
            ax.errorbar(100 * rows["share"] + 0.8 * at, rows["accuracy"], rows["half"], **style)
        ax.set(title=names[which], xlabel="hidden weights that are 0 (%)", ylim=(0, 102))
    axes[0].set_ylabel("test accuracy (%)")
    drawn.legend(*axes[0].get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=6)
    return save(drawn, table, "sparsity", result, HALF)


def learning(result: Result) -> Image:
    """Which layers learn, and what the ablations cost, in the main setting."""
    setting = _settings(result)[0]
    groups = {
        "shift-Q+add": ("shift-Q+add", "shift-Q+add, shifts frozen", "shift-Q+add, adders frozen", "fixed+add"),
        "add": ("add", "add, no BatchNorm", "add, no local rate"),
        "shift-PS": ("shift-PS", "shift-PS, snapped"),
    }
    trained = result.tables["trained"].query("setting == @setting.id")
    order = [arm for arms in groups.values() for arm in arms]
    table = means(trained[trained["arm"].isin(order)], ["arm"]).set_index("arm").loc[order].reset_index()
    drawn, ax = figure(7.5, 3.6)
    for y, row in enumerate(table.itertuples()):
        ax.errorbar(row.accuracy, y, xerr=row.half, capsize=3, **_style(_kind(row.arm)))
        own = trained[trained["arm"] == row.arm]["accuracy"]
        ax.plot(own, [y] * len(own), ".", color="0.6", markersize=3)
    ax.set_yticks(range(len(table)), table["arm"])
    ax.invert_yaxis()
    ax.set(xlabel="test accuracy (%)", xlim=(0, 102))
    ax.set_title(setting.title, size=9)
    return save(drawn, table, "learning", result, HALF)


def statistics(result: Result) -> Image:
    """Accuracy with BatchNorm's statistics taken anew (everywhere else) and with the running ones of training."""
    setting = _settings(result)[0]
    trained = _plain(result).query("setting == @setting.id")
    parts = [
        means(trained, ["arm"], column).rename(columns={column: "accuracy"}).assign(statistics=name)
        for name, column in (("anew", "accuracy"), ("running", "accuracy_running"))
    ]
    drawn, ax = figure(7.5, 3.4)
    for rows, colour, marker in zip(parts, ("blue", "vermilion"), ("o", "s"), strict=True):
        style = {"color": COLOURS[colour], "marker": marker, "linestyle": "none", "label": rows["statistics"].iloc[0]}
        ax.errorbar(rows["accuracy"], range(len(rows)), xerr=rows["half"], capsize=3, **style)
    ax.set_yticks(range(len(parts[0])), parts[0]["arm"].str.replace(", ", " at "), fontsize=8)
    ax.invert_yaxis()
    ax.set(xlabel="test accuracy (%)", xlim=(0, 102))
    ax.set_title(setting.title, size=9)
    drawn.legend(title="BatchNorm statistics", fontsize=8, title_fontsize=8, loc="outside lower center", ncols=2)
    return save(drawn, pd.concat(parts), "statistics", result, HALF)


# --- analytic ------------------------------------------------------------------------------------------------------


def counts(result: Result) -> Image:
    """Printed numbers of operations beside ours."""
    table = result.tables["counts"]
    drawn, ax = figure(7, 2.8)
    ax.plot(100 * table["error"], range(len(table)), "o", color=COLOURS["blue"])
    ax.axvline(0, color="black", linewidth=1)
    names = table["id"].str.removeprefix("shiftaddnet.count.").str.replace(".", ": ")
    printed = (
        f"{name}, {value:g} {unit}" for name, value, unit in zip(names, table["published"], table["unit"], strict=True)
    )
    ax.set_yticks(range(len(table)), [*printed], fontsize=8)
    ax.invert_yaxis()
    ax.set_xlabel("ours minus printed (% of the printed number)")
    return save(drawn, table, "counts", result)


def operations(result: Result) -> Image:
    """Millions of operations an image of ResNet-20, by kind of layer, forwards and in training."""
    table = result.tables["operations"].query("network == 'resnet20'")
    drawn, axes = figure(9, 3, ncols=2, sharey=True)
    for phase, ax in zip(energy.PHASES, axes, strict=True):
        rows = table[table["phase"] == phase]
        left = np.zeros(len(rows))
        for name, colour in OPERATIONS.items():
            ax.barh(rows["kind"], rows[name], left=left, color=COLOURS[colour], label=name)
            left = left + rows[name].to_numpy()
        ax.set(title=phase, xlabel="million operations an image")
    axes[0].invert_yaxis()
    drawn.legend(*axes[0].get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=4)
    return save(drawn, table, "operations", result)


def energies(result: Result) -> Image:
    """What ResNet-20 saves against multiplications, arithmetic alone: every platform, format and kind."""
    table = result.tables["energies"].query("network == 'resnet20' and kind != 'mult'")
    drawn, axes = figure(9, 5, nrows=2, ncols=2, sharex=True)
    kinds, bar = [kind for kind in energy.KINDS if kind != "mult"], 0.2
    colours = dict(zip(kinds, ("orange", "green", "blue", "purple"), strict=True))
    for phase, row in zip(energy.PHASES, axes, strict=True):
        for platform, ax in zip(energy.PLATFORMS, row, strict=True):
            for at, kind in enumerate(kinds):
                own = table.query("phase == @phase and platform == @platform and kind == @kind")
                x = np.arange(len(own)) + bar * (at - 1.5)
                ax.bar(x, own["saved"], bar, color=COLOURS[colours[kind]], label=kind)
            ax.axhline(0, color="black", linewidth=1)
            ax.axhline(80, color="black", linewidth=1, linestyle=":")
            ax.set_xticks(range(len(energy.FORMATS)), energy.FORMATS)
            ax.set_title(f"{phase}, {energy.PLATFORMS[platform]}", size=9)
        row[0].set_ylabel("saved (%)")
    drawn.legend(*axes[0][0].get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=4)
    return save(drawn, table, "energies", result)


def moved(result: Result) -> Image:
    """Energy of ResNet-20 by level of the memory, with all data movement."""
    table = result.tables["moved"]
    drawn, axes = figure(9.5, 4.6, nrows=2, ncols=2, sharey=True)
    for phase, row in zip(energy.PHASES, axes, strict=True):
        for bits, ax in zip(energy.WIDTHS, row, strict=True):
            own = table[(table["phase"] == phase) & (table["bits"] == bits)]
            hardware.draw_breakdown(ax, own)
            ax.margins(x=0.15)
            ax.set_title(f"{phase}, {bits} bits", size=9)
    axes[0][0].invert_yaxis()  # each panel inverted the axis that all share: an odd fifth time
    drawn.legend(*axes[0][0].get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=5)
    return save(drawn, table, "moved", result)
