"""A2D's result as figures, saved with their tables; its explorers are in `explorers`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from IPython.display import Image
from matplotlib.axes import Axes

from workbench import hardware
from workbench.evidence import Result, means
from workbench.figures import COLOURS, figure, save
from workbench.papers.a2d import atari
from workbench.papers.a2d.method import Agent, Design
from workbench.papers.a2d.record import DESIGN
from workbench.papers.a2d.trials import DISTILLED, FIXED, SEARCHES, STATES, VANILLA, WHERE, Size

STYLES = {
    VANILLA: ("vermilion", "s", "-"),
    DISTILLED: ("blue", "o", "-"),
    STATES: ("green", "D", "-"),
    FIXED[VANILLA]: ("orange", "s", "--"),
    FIXED[DISTILLED]: ("sky", "o", "--"),
}
"""Colour, marker and line of an arm, the same in all figures."""
CATCHES = "catches of 10"
COMPARED = {"return": "half", "half": None}


def _band(ax: Axes, rows: pd.DataFrame, x: str, arm: str, label: str) -> None:
    """A mean over seeds with its interval as a band."""
    colour, _, line = STYLES[arm]
    ax.plot(rows[x], rows["return"], linestyle=line, color=COLOURS[colour], label=label)
    low, high = rows["return"] - rows["half"], rows["return"] + rows["half"]
    ax.fill_between(rows[x], low, high, color=COLOURS[colour], alpha=0.15, linewidth=0)


def _baselines(ax: Axes, result: Result) -> None:
    """The random policy and the teacher as dotted lines."""
    known = result.tables["baselines"].groupby("policy")["return"].mean()
    for policy, place in (("random", "top"), ("teacher", "bottom")):
        ax.axhline(known[policy], color="0.5", linestyle=":", linewidth=1)
        where = {"xycoords": ("axes fraction", "data"), "xytext": (0, -2 if place == "top" else 1)}
        ax.annotate(
            policy, (0.01, known[policy]), textcoords="offset points", va=place, fontsize=8, color="0.35", **where
        )
    ax.set_ylim(0, 10.8)


def _steps(ax: Axes) -> None:
    """Environment steps in thousands along x."""
    ax.xaxis.set_major_formatter(lambda x, _: f"{x / 1000:g}k")
    ax.set_xlabel("environment steps")


def _legend(drawn: Any, ax: Axes, columns: int) -> None:
    drawn.legend(*ax.get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=columns)


def searches(result: Result) -> Image:
    """What a search's own episodes return, beside a fixed path of the same supernet."""
    table = means(result.tables["during"], ["arm", "steps"], "return")
    drawn, axes = figure(9, 3.8, ncols=2, sharey=True)
    for arm, ax in zip((VANILLA, DISTILLED), axes, strict=True):
        for name, label in ((arm, "search"), (FIXED[arm], "fixed path of the supernet")):
            _band(ax, table[table["arm"] == name], "steps", name, f"{label}, {arm}")
        ax.set_title(arm)
        _steps(ax)
        _baselines(ax, result)
    axes[0].set_ylabel(f"return during training ({CATCHES})")
    handles, labels = (a + b for a, b in zip(*(ax.get_legend_handles_labels() for ax in axes), strict=True))
    drawn.legend(handles, labels, fontsize=8, loc="outside lower center", ncols=2)
    return save(drawn, table, "searches", result, COMPARED)


def sizes(result: Result) -> Image:
    """Return of hand-designed agents against their MACs, at equal steps and at equal MACs of all training."""
    table = means(result.tables["sizes"], ["reading", "agent", "macs"], "return")
    parameters = result.parameters
    budgets = {
        "equal steps": f"after {parameters['size_steps']:,} environment steps each",
        "equal MACs": f"after {parameters['size_macs'] / 1e6:,.0f} million MACs of acting each",
    }
    drawn, axes = figure(9, 3.6, ncols=2, sharey=True)
    for (reading, title), ax in zip(budgets.items(), axes, strict=True):
        rows = table[table["reading"] == reading].sort_values("macs")
        ax.errorbar(rows["macs"], rows["return"], rows["half"], fmt="o-", color=COLOURS["blue"], capsize=3)
        for name, *point in zip(rows["agent"], rows["macs"], rows["return"] - rows["half"], strict=True):
            ax.annotate(name, point, xytext=(0, -11), textcoords="offset points", ha="center", fontsize=7)
        ax.set_xscale("log")
        ax.margins(x=0.14)
        ax.set_xlabel("MACs an observation (labels: conv + linear width)")
        ax.set_title(title, size=9)
        _baselines(ax, result)
    axes[0].set_ylabel(CATCHES)
    return save(drawn, table, "sizes", result, COMPARED)


def curves(result: Result) -> Image:
    """How agents of each size learn, over environment steps and over MACs."""
    table = means(result.tables["curves"], ["agent", "macs", "steps", "total_macs"], "return").sort_values(
        ["macs", "steps"], ignore_index=True
    )
    drawn, axes = figure(9, 3.8, ncols=2, sharey=True)
    colours, markers = list(COLOURS.values())[1:], "osD^vP"
    for (agent, rows), colour, marker in zip(table.groupby("agent", sort=False), colours, markers, strict=False):
        for ax, x in zip(axes, ("steps", "total_macs"), strict=True):
            ax.errorbar(rows[x], rows["return"], rows["half"], color=colour, marker=marker, markersize=4, capsize=2,
                        label=agent)  # fmt: skip
    for ax, label in zip(axes, ("environment steps", "MACs of acting, all steps together"), strict=True):
        ax.set_xscale("log")
        ax.set_xlabel(label)
        _baselines(ax, result)
    axes[0].set_ylabel(CATCHES)
    _legend(drawn, axes[0], 6)
    return save(drawn, table, "curves", result, COMPARED)


def band(result: Result) -> Image:
    """All designs of the budget band by their return, and which of them each search found."""
    table = result.tables["band"].sort_values("return")
    found = result.tables["searches"]
    found = found[found["arm"].isin(SEARCHES)]
    size = {"width_ratios": (4, 1), "ncols": 2, "sharey": True}
    drawn, (ax, right) = figure(8, 1.6 + 0.2 * len(table), **size)
    y = np.arange(len(table))
    ax.errorbar(table["return"], y, xerr=table["half"], fmt="o", color="0.45", markersize=4, capsize=2, label="trained")
    ax.axvline(table["return"].mean(), color="black", linewidth=1, linestyle=":", label="mean: a random choice")
    ax.set_yticks(y, table["design"], fontsize=7)
    ax.set_ylim(-0.7, len(table) - 0.3)
    ax.set_xlabel(f"{CATCHES}, after a short distillation")
    place = {design: i for i, design in enumerate(table["design"])}
    for x, arm in enumerate(SEARCHES):
        colour, marker, _ = STYLES[arm]
        counts = found[found["arm"] == arm]["design"].value_counts()
        at = [place[design] for design in counts.index]
        right.scatter([x] * len(at), at, 25 * counts, color=COLOURS[colour], marker=marker, label=f"search {arm}")
        for height, count in zip(at, counts, strict=True):
            right.annotate(count, (x, height), xytext=(7, -3), textcoords="offset points", fontsize=7)
    right.set_xticks([])
    right.set_xlim(-0.5, len(SEARCHES) - 0.3)
    right.set_xlabel("found by (seeds)")
    handles, labels = (
        a + b for a, b in zip(ax.get_legend_handles_labels(), right.get_legend_handles_labels(), strict=True)
    )
    drawn.legend(handles, labels, fontsize=8, loc="outside lower center", ncols=3)
    return save(drawn, result.tables["band"], "band", result, COMPARED)


def probabilities(result: Result) -> Image:
    """Operator probabilities of the cells over the search, of the first seed."""
    table = result.tables["probabilities"]
    cells = [choice for choice in table["choice"].unique() if choice.startswith("cell")]
    drawn, axes = figure(10, 1.2 + 1.9 * len(cells), nrows=len(cells), ncols=len(SEARCHES), sharex=True, sharey=True)
    axes = np.atleast_2d(axes)
    for column, arm in zip(axes.T, SEARCHES, strict=True):
        for cell, ax in zip(cells, column, strict=True):
            rows = table[(table["arm"] == arm) & (table["choice"] == cell)]
            wide = rows.pivot(index="candidate", columns="share", values="probability")
            wide = wide.loc[rows["candidate"].unique()]
            image = ax.imshow(wide, aspect="auto", vmin=0, vmax=1, extent=(0, 100, len(wide) - 0.5, -0.5))
            ax.set_yticks(range(len(wide)), wide.index, fontsize=7)
            ax.grid(visible=False)
            ax.set_title(f"{arm}, {cell}", size=8)
        column[-1].set_xlabel("% of the search")
    drawn.colorbar(image, ax=axes, label="probability", shrink=0.8)
    return save(drawn, table, "probabilities", result, {"probability": None})


def students(result: Result) -> Image:
    """Students on policy with and without the teacher."""
    table = means(result.tables["student_curves"], ["agent", "arm", "steps"], "return")
    agents = {"by hand": f"by hand ({Size.read(result.parameters['student']).name})", "derived": "found by the search"}
    drawn, axes = figure(9, 3.6, ncols=2, sharey=True)
    for (agent, title), ax in zip(agents.items(), axes, strict=True):
        for arm in (VANILLA, DISTILLED):
            _band(ax, table[(table["agent"] == agent) & (table["arm"] == arm)], "steps", arm, arm)
        _steps(ax)
        ax.set_title(title, size=9)
        _baselines(ax, result)
    axes[0].set_ylabel(CATCHES)
    _legend(drawn, axes[0], 2)
    return save(drawn, table, "students", result, COMPARED)


def costs(result: Result) -> Image:
    """MACs of Atari agents at 84x84x4, and of the nine candidates beside one another."""
    agents, candidates = result.tables["atari"], atari.candidates(16, 24)
    drawn, axes = figure(9, 3.2, ncols=2)
    for ax, names, values, label in (
        (axes[0], agents["agent"], agents["mmacs"], "million MACs a frame"),
        (axes[1], candidates["operator"], candidates["macs"] / 1e3, "thousand MACs, 16 channels on 8x3"),
    ):
        bars = ax.barh(names, values, color=COLOURS["sky"])
        ax.bar_label(bars, [f"{value:,.4g}" for value in values], fontsize=8, padding=3)
        ax.invert_yaxis()
        ax.margins(x=0.16)
        ax.set_xlabel(label)
    both = pd.concat([agents.rename(columns={"agent": "name"}),
                      candidates.rename(columns={"operator": "name"})], ignore_index=True)  # fmt: skip
    return save(drawn, both, "costs", result)


def energies() -> pd.DataFrame:
    """Energy of one observation by agent, level and operand, on the generic accelerator: columns agent, level, ..."""
    designs = {"teacher": DESIGN, "8 + 32": Design(8, (), 32), "2 + 8": Design(2, (), 8)}
    designs |= {"16 + 64, conv 3": Design(16, ("conv 3",), 64), "16 + 64, ir 3 e1": Design(16, ("ir 3 e1",), 64)}
    x = torch.empty(1, WHERE.planes, WHERE.rows, WHERE.columns)
    arms = {f"{name} ({design.macs(WHERE) / 1e3:.1f} k MACs)": hardware.breakdown(Agent(design, WHERE), x)
            for name, design in designs.items()}  # fmt: skip
    return hardware.side_by_side(arms)


def energy(result: Result) -> Image:
    """Energy of one decision by level of the memory."""
    table = energies()
    drawn, ax = figure(8, 3)
    hardware.draw_breakdown(ax, table)
    _legend(drawn, ax, 5)
    return save(drawn, table, "energy", result)
