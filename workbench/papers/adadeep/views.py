"""AdaDeep's result as figures, saved with their tables; its explorers are in `explorers`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from IPython.display import Image
from matplotlib.figure import Figure

from workbench import hardware
from workbench.dataflow import Layer
from workbench.evidence import Result, means
from workbench.figures import COLOURS, figure, save
from workbench.papers.adadeep import record, techniques
from workbench.papers.adadeep.experiment import MAIN, OURS, PAPERS_REWARD
from workbench.papers.adadeep.measure import DESIGNS, SPACES, Split
from workbench.papers.adadeep.platforms import RESOURCES, platforms
from workbench.papers.adadeep.study import NONE, PERSONAS, everywhere
from workbench.papers.adadeep.techniques import Conv, Dense

STYLES = {
    "mix": ("blue", "o", "-"),
    "one, chosen layers": ("orange", "s", "--"),
    "one, everywhere": ("vermilion", "^", ":"),
}
SEARCHES = {
    "random": ("black", ":"),
    "TPE": ("orange", "--"),
    "greedy": ("green", "-."),
    OURS: ("blue", "-"),
    PAPERS_REWARD: ("sky", (0, (4, 1, 1, 1))),
}
LAYERS = ("convolution 2", "convolution 3", "linear")
TECHNIQUES = tuple(dict.fromkeys(technique for space in SPACES for technique in space))
MARKS = {
    "svd": ("blue", "o"),
    "separable": ("vermilion", "s"),
    "prune": ("green", "v"),
    "bits8": ("sky", "d"),
    "bits4": ("orange", "D"),
    "deep": ("purple", "P"),
    "fire": ("yellow", "X"),
    "mlpconv": ("black", "<"),
    "gap": ("black", "*"),
}
UNITS = {"latency": "latency (µs)", "energy": "energy (µJ)", "storage": "storage (kB)"}


def _legend(drawn: Figure, ax: object, columns: int) -> None:
    drawn.legend(*ax.get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=columns)


def combinations(result: Result) -> Image:
    """Utility of each user's best design, by how many techniques it may have; chosen on other seeds."""
    table = means(result.tables["chosen"], ["user", "family"], "rescored")
    drawn, ax = figure(7.5, 3.6)
    for shift, (family, (colour, marker, _)) in enumerate(STYLES.items()):
        rows = table[table["family"] == family].set_index("user").loc[list(PERSONAS)]
        x = np.arange(len(rows)) + 0.16 * (shift - 1)
        style = {"fmt": marker, "color": COLOURS[colour], "capsize": 3, "label": family}
        ax.errorbar(x, rows["rescored"], rows["half"], **style)
    names = [f"{name}\n{demand.platform}" for name, demand in PERSONAS.items()]
    ax.set_xticks(range(len(PERSONAS)), names, fontsize=9)
    ax.axhline(0, color="black", linewidth=0.8)
    ax.set(ylabel="utility on the seed left out", xlabel="user and platform")
    _legend(drawn, ax, 3)
    return save(drawn, table, "combinations", result, {"rescored": "half", "half": None})


def designs(result: Result) -> Image:
    """All designs: accuracy against the three costs on the generic array; those with one technique are marked."""
    study = result.extra["study"]
    spread = study.costs(MAIN)
    accuracy = study.test.mean(0)
    frame = pd.DataFrame(DESIGNS, columns=["conv2", "conv3", "fc"]).assign(accuracy=accuracy)
    for at, resource in enumerate(RESOURCES):
        frame[resource] = spread[:, at]
    drawn, axes = figure(9.5, 3.6, ncols=3, sharey=True)
    for ax, resource in zip(axes, RESOURCES, strict=True):
        ax.plot(frame[resource], accuracy, ".", color="0.75", markersize=3, label="any mix")
        for technique, (colour, marker) in MARKS.items():
            row = frame.iloc[DESIGNS.index(everywhere(technique))]
            label = f"{technique} everywhere"
            ax.plot(row[resource], row["accuracy"], marker, color=COLOURS[colour], markersize=6, label=label)
        ax.plot(frame[resource][NONE], accuracy[NONE], "x", color="black", label="uncompressed")
        ax.set(xlabel=UNITS[resource], xscale="log")
        ticks = [t for t in (1, 2, 5, 10, 20, 50, 100, 200) if frame[resource].min() <= t <= frame[resource].max()]
        ax.set_xticks(ticks, [str(t) for t in ticks])
        ax.minorticks_off()
    axes[0].set_ylabel("test accuracy (%), mean of seeds")
    _legend(drawn, axes[0], 4)
    return save(drawn, frame.round(4), "designs", result)


def reductions(result: Result) -> Image:
    """Largest reductions that hold on the seed left out, by platform."""
    table = means(result.tables["reductions"], ["resource", "platform", "family"], "kept")
    drawn, axes = figure(10, 4.8, ncols=3, width_ratios=(4, 4, 2.2))
    for ax, resource in zip(axes, RESOURCES, strict=True):
        own = table[table["resource"] == resource]
        names = list(dict.fromkeys(own["platform"]))
        for shift, (family, (colour, marker, _)) in enumerate(STYLES.items()):
            rows = own[own["family"] == family].set_index("platform").loc[names]
            y = np.arange(len(names)) + 0.22 * (shift - 1)
            style = {"fmt": marker, "color": COLOURS[colour], "markersize": 4, "capsize": 2, "label": family}
            ax.errorbar(rows["kept"], y, xerr=rows["half"], **style)
        labels = [platforms()[name].name.split(" (")[0] for name in names] if resource != "storage" else ["all"]
        ax.set_yticks(range(len(names)), labels, fontsize=8)
        room = 0 if len(names) > 1 else 7
        ax.set(xlabel=f"times less {resource}", ylim=(len(names) - 0.5 + room, -0.5 - room))
        ax.axvline(1, color="black", linewidth=0.8)
        ax.set_xlim(left=0)
    axes[1].set_yticklabels([])
    _legend(drawn, axes[0], 3)
    return save(drawn, table, "reductions", result, {"kept": "half", "half": None})


def by_demand(result: Result) -> Image:
    """Technique by layer of each user's best design: how many of the seeds chose it."""
    chosen = result.tables["chosen"].query("family == 'mix'")
    n = chosen["seed"].nunique()
    rows = [
        {"user": user, "layer": layer, "technique": technique, "share": float((own[column] == technique).mean())}
        for user, own in chosen.groupby("user", sort=False)
        for layer, column in zip(LAYERS, ("conv2", "conv3", "fc"), strict=True)
        for technique in TECHNIQUES
    ]
    table = pd.DataFrame(rows)
    drawn, axes = figure(10, 3.4, ncols=len(PERSONAS), sharey=True)
    for ax, (user, own) in zip(axes, table.groupby("user", sort=False), strict=True):
        image = own.pivot(index="technique", columns="layer", values="share").loc[list(TECHNIQUES), list(LAYERS)]
        for at, space in enumerate(SPACES):
            image.iloc[[i for i, t in enumerate(TECHNIQUES) if t not in space], at] = np.nan
        ax.imshow(image, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        ax.set_facecolor("0.85")
        for (y, x), value in np.ndenumerate(image.to_numpy()):
            if value > 0:
                text = f"{round(value * n)}"
                ax.text(x, y, text, ha="center", va="center", fontsize=8, color="white" if value > 0.5 else "black")
        ax.set_xticks(range(3), ["conv 2", "conv 3", "linear"], fontsize=8)
        ax.set_title(f"{user} ({PERSONAS[user].platform})", size=9)
        ax.grid(visible=False)
    axes[0].set_yticks(range(len(TECHNIQUES)), TECHNIQUES, fontsize=8)
    return save(drawn, table, "by_demand", result)


def searches(result: Result) -> Image:
    """Regret of the best design so far: mean over users, and its interval over seeds."""
    by_seed = result.tables["searches"].groupby(["method", "seed", "evaluations"], sort=False)["regret"].mean()
    table = means(by_seed.reset_index(), ["method", "evaluations"], "regret")
    drawn, ax = figure(7.5, 3.8)
    for name, (colour, line) in SEARCHES.items():
        rows = table[table["method"] == name]
        ax.plot(rows["evaluations"], rows["regret"], linestyle=line, color=COLOURS[colour], label=name, linewidth=1.8)
        ends = (rows["regret"] - rows["half"], rows["regret"] + rows["half"])
        ax.fill_between(rows["evaluations"], *ends, color=COLOURS[colour], alpha=0.12, linewidth=0)
    ax.set(xlabel=f"designs measured, of {len(DESIGNS)}", ylabel="regret (reward)", ylim=(0, None), xlim=(1, None))
    _legend(drawn, ax, 5)
    return save(drawn, table, "searches", result, {"regret": "half", "half": None})


def learning(result: Result) -> Image:
    """Do the agents learn? Reward of their walks by tenth, and the error of the Q-values they replay."""
    table = means(result.tables["learning"], ["tenth"], "reward")
    losses = result.tables["losses"]
    drawn, axes = figure(9, 3.2, ncols=2)
    axes[0].errorbar(table["tenth"], table["reward"], table["half"], fmt="o-", color=COLOURS["blue"], capsize=3)
    axes[0].set(xlabel="tenth of the walks", ylabel="mean reward of a walk")
    axes[1].plot(losses["walk"], losses["loss"], color=COLOURS["vermilion"])
    axes[1].set(xlabel="walk", ylabel="squared error of Q", yscale="log")
    return save(drawn, table, "learning", result, {"reward": "half", "half": None})


def reward_forms(result: Result) -> Image:
    """What the paper's reward costs if it sees all designs, by its multiplier; and how often its choice is feasible."""
    forms = result.tables["forms"]
    table = means(forms.groupby(["multiplier", "seed"])["lost"].mean().reset_index(), ["multiplier"], "lost")
    table["feasible"] = 100 * forms.groupby("multiplier")["feasible"].mean().to_numpy()
    drawn, axes = figure(8.5, 3.2, ncols=2)
    x, names = range(len(table)), [f"{m:g}" for m in table["multiplier"]]
    axes[0].errorbar(x, table["lost"], table["half"], fmt="o-", color=COLOURS["blue"], capsize=3)
    axes[0].set(ylabel="reward lost")
    axes[1].bar(x, table["feasible"], color=COLOURS["sky"])
    axes[1].set(ylabel="choices that are feasible (%)", ylim=(0, 100))
    for ax in axes:
        ax.set_xticks(x, names)
        ax.set_xlabel("multiplier of the slack")
    return save(drawn, table, "reward_forms", result)


def again(result: Result) -> Image:
    """Rows of the recorded table beside the same designs measured now."""
    table = result.tables["again"]
    drawn, ax = figure(4.2, 3.8)
    ends = [table["test"].min() - 2, table["test"].max() + 2]
    ax.plot(ends, ends, color="black", linewidth=0.8)
    ax.plot(table["test"], table["test_again"], "o", color=COLOURS["blue"])
    ax.set(xlabel="test accuracy, recorded (%)", ylabel="measured now (%)", xlim=ends, ylim=ends)
    tolerance = dict.fromkeys(["val_again", "test_again", "hash_again"])
    return save(drawn, table, "again", result, tolerance)


def counts(result: Result) -> Image:
    """Printed counts of the introduction beside ours."""
    table = result.tables["published"]
    drawn, ax = figure(7, 2.6)
    names = table["id"].str.removeprefix("adadeep.").str.replace(".", " ")
    ax.barh(names, 100 * table["error"], color=COLOURS["blue"])
    for y, row in enumerate(table.itertuples()):
        text = f"{row.analytic:,} / {row.published:,.0f}"
        inside = row.error > 0.1
        ax.annotate(
            text,
            (max(100 * row.error, 0), y),
            xytext=(-4 if inside else 4, 0),
            textcoords="offset points",
            va="center",
            ha="right" if inside else "left",
            fontsize=8,
            color="white" if inside else "black",
        )
    ax.invert_yaxis()
    ax.set(xlabel="our count minus the printed one (%)")
    return save(drawn, table, "counts", result)


def energy(result: Result) -> Image:
    """Energy by level of the memory on the accelerator of `workbench.hardware`, of each user's most chosen design."""
    seed = result.parameters["seed"]
    net, x = record.network(seed), Split.draw(seed).x
    chosen = result.tables["chosen"].query("family == 'mix'").groupby("user", sort=False)
    picks = {user: own[["conv2", "conv3", "fc"]].value_counts().index[0] for user, own in chosen}
    named = {
        "uncompressed": ("none",) * 3,
        "4 bits everywhere": everywhere("bits4"),
        "deep everywhere": everywhere("deep"),
    }
    named |= {f"{user}: {', '.join(design)}": design for user, design in picks.items()}
    arms = {name: hardware.breakdown(layers(net, design, x)) for name, design in named.items()}
    table = hardware.side_by_side(arms)
    drawn, ax = figure(8.5, 3.8)
    hardware.draw_breakdown(ax, table)
    _legend(drawn, ax, 5)
    return save(drawn, table, "energy", result)


def layers(net: techniques.Net, design: techniques.Design, x: torch.Tensor) -> list[Layer]:
    """Layers of a design for `workbench.hardware`, each with the bits of its own weights; 32 count as 8 there, for that
    array multiplies 8 bits.
    """
    twin = techniques.compress(net, design, x).eval()
    bits = {}
    for name, module in twin.named_modules():
        if isinstance(module, Conv | Dense):
            bits[name], module.bits = min(module.bits, 8), 32  # what is counted need not be rounded
            if module.mask is not None:
                module.weight.data *= module.mask
    found = []
    for layer in hardware.layers(twin, x[:1]):
        own = bits[layer.name]
        store = min(own, (1 - layer.weight_zeros) * own + 1) if layer.weight_zeros else own
        found.append(replace(layer, weight_bits=own, weight_store=store))
    return found
