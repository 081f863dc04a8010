"""A2D to play with: a search as it decides, an episode beside its teacher, and the size that a budget asks for."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from workbench import ROOT
from workbench.evidence import Result, means
from workbench.explorer import Bars, Choice, Counters, Explorer, Heatmap, Lines, Slider
from workbench.figures import load
from workbench.papers.a2d.games import COLUMNS, ROWS
from workbench.papers.a2d.method import OPERATORS
from workbench.papers.a2d.trials import DISTILLED, FIXED, MOVES, SEARCHES, VANILLA

CATCHES = "catches of 10"
BY_CHANCE = 2.0
"""What a paddle that moves at random catches."""
FULL = ROOT / "figures" / "full" / "a2d"
SAVED = ("probabilities", "searches")
"""Figures whose tables hold what the explorer of a search shows."""


def explore_search(result: Result | None = None) -> Explorer:
    """Probabilities of operators and widths over a search, and what its episodes return meanwhile.

    Without a result those of the committed full run, which no reader needs to wait for.
    """
    if result is None:
        table, curves = (load(FULL / f"{name}.csv")[0] for name in SAVED)
    else:
        table, curves = result.tables["probabilities"], means(result.tables["during"], ["arm", "steps"], "return")
    shares = sorted(table["share"].unique())
    percents = tuple(round(100 * share, 1) for share in shares)
    wide = table.pivot_table(index=["arm", "choice", "candidate"], columns="share", values="probability", sort=False)
    cells = [choice for choice in table["choice"].unique() if choice.startswith("cell")]
    ends = sorted(curves["steps"].unique())

    def at(arm: str, choice: str, percent: float) -> NDArray:
        return wide.loc[(arm, choice)][shares[percents.index(percent)]].to_numpy()

    def entropies(arm: str) -> NDArray:
        """Mean over choices, in parts of the entropy of a uniform choice."""
        parts = []
        for _, rows in wide.loc[arm].groupby(level="choice", sort=False):
            p = rows.to_numpy()
            parts.append(-(p * np.log(np.maximum(p, 1e-12))).sum(0) / np.log(len(p)))
        return 100 * np.mean(parts, axis=0)

    def likeliest(arm: str, percent: float) -> str:
        picks = [
            wide.loc[(arm, choice)].index[at(arm, choice, percent).argmax()] for choice in ["stem", *cells, "units"]
        ]
        return " | ".join(picks)

    def returns(arm: str) -> dict[str, NDArray]:
        names = {"search": arm, "fixed path": FIXED.get(arm, "")}
        found = {}
        for label, name in names.items():
            rows = curves[curves["arm"] == name].set_index("steps").reindex(ends)
            y, half = rows["return"].to_numpy(float), rows["half"].to_numpy(float)
            found[label] = (y, y - half, y + half)
        return found

    def bars(choice: str) -> Bars:
        names = wide.loc[(SEARCHES[0], choice)].index
        title = {"stem": "Channels of stem and cells", "units": "Units of the linear layer"}[choice]
        return Bars(lambda arm, percent: {"probability": at(arm, choice, percent)}, title, "probability", list(names),
                    stacked=False)  # fmt: skip

    return Explorer(
        "a2d-search" if result else "a2d-search-full",
        "What does the search decide, and when?",
        controls=[
            Slider("percent", "of the search", percents, percents[len(percents) // 2], "{:.0f} %"),
            Choice("arm", "search", SEARCHES, DISTILLED),
        ],
        scalars={
            "undecided": lambda arm, percent: entropies(arm)[percents.index(percent)],
            "likeliest": likeliest,
            "done": lambda percent: percent / 100 * ends[-1],
        },
        panels=[
            Counters("Now", {"undecided": "{undecided:.0f} %", "likeliest design": "{likeliest}"}),
            Heatmap(
                lambda arm, percent: np.stack([at(arm, cell, percent) for cell in cells]),
                "Operators", "operator", "cell", "probability", x=tuple(OPERATORS), y=tuple(cells), limits=(0, 1),
            ),
            bars("stem"),
            bars("units"),
            Lines(lambda arm: {"entropy": entropies(arm)}, "Undecided", "% of the search", "% of a uniform choice",
                  x=percents, limits=(0, 105), vlines={"here": "percent"}),
            Lines(returns, "Return of the search's own episodes", "environment steps", CATCHES, x=ends,
                  limits=(0, 10.5), vlines={"here": "done"}),
        ],
        describe="Search {arm}, {percent} done: its choices are {undecided:.0f} % as uncertain as at the start, and "
        "the likeliest design (channels, cells, units) is {likeliest}. Probabilities are those of the first seed.",
    )  # fmt: skip


def explore_episode(result: Result) -> Explorer:
    """An episode step by step: the board, both policies, and how far apart they are."""
    frames = result.tables["frames"]
    arms = {arm: rows.reset_index(drop=True) for arm, rows in frames.groupby("arm", sort=False)}
    steps = range(min(map(len, arms.values())))

    def board(arm: str, step: int) -> NDArray:
        """Row 0 of the picture is the bottom row of the board."""
        row, picture = arms[arm].loc[step], np.zeros((ROWS, COLUMNS))
        for what, value in (("before", 0.35), ("ball", 1.0), ("paddle", 0.65)):
            picture[ROWS - 1 - int(row[f"{what}_row"]), int(row[f"{what}_column"])] = value
        return picture

    def policies(arm: str, step: int) -> dict[str, list[float]]:
        row = arms[arm].loc[step]
        return {who: [row[f"{who}_{move}"] for move in MOVES] for who in ("student", "teacher")}

    @cache
    def caught(arm: str) -> NDArray:
        """Catches before each step."""
        return np.concatenate([[0], arms[arm]["caught"].cumsum().to_numpy()[:-1]])

    return Explorer(
        "a2d-episode",
        "What does the student do, and what would its teacher do?",
        controls=[
            Slider("step", "step", tuple(steps), 4, "{}"),
            Choice("arm", "student trained", (VANILLA, DISTILLED), DISTILLED),
        ],
        scalars={
            "kl": lambda arm, step: float(arms[arm].loc[step, "kl"]),
            "caught": lambda arm, step: int(caught(arm)[step]),
            "mean": lambda arm: float(arms[arm]["kl"].mean()),
            "total": lambda arm: int(arms[arm]["caught"].sum()),
        },
        panels=[
            Heatmap(board, "The board", "column", "row from the bottom", "ball 1, paddle 0.65, ball before 0.35",
                    limits=(0, 1)),
            Bars(policies, "Next move", "probability", MOVES, stacked=False),
            Lines(lambda arm: {"KL": arms[arm]["kl"].to_numpy()[: len(steps)]}, "KL(teacher || student)", "step",
                  "nats", x=steps, vlines={"here": "step"}),
            Counters("So far", {"caught": "{caught}", "KL here": "{kl:.2f} nats", "whole episode": "{total} of 10"}),
        ],
        describe="Step {step} of an episode played by the student trained {arm}: {caught} balls are caught so far, "
        "{total} in the end. Here its policy is {kl:.2f} nats from the teacher's, {mean:.2f} on average.",
    )  # fmt: skip


def explore_sizes(result: Result | None = None) -> Explorer:
    """Return by size of agent, at a budget of environment steps or of MACs that the reader sets.

    Without a result that of the committed full run.
    """
    if result is None:
        curves, meta = load(FULL / "curves.csv")
        parameters = meta["parameters"]
    else:
        curves = means(result.tables["curves"], ["agent", "macs", "steps", "total_macs"], "return")
        parameters = result.parameters
    curves = curves.sort_values(["macs", "steps"])
    agents = list(dict.fromkeys(curves["agent"]))
    percents = (5, 10, 20, 35, 50, 75, 100)
    most = {"environment steps": ("steps", parameters["size_steps"]),
            "MACs": ("total_macs", parameters["size_macs"])}  # fmt: skip

    def score(budget: str, percent: int) -> NDArray:
        """Mean return of each agent when the budget is spent, between evaluations on a straight line."""
        column, end = most[budget]
        found = []
        for agent in agents:
            rows: pd.DataFrame = curves[curves["agent"] == agent]
            x, y = [0.0, *rows[column]], [BY_CHANCE, *rows["return"]]
            found.append(np.interp(percent / 100 * end, x, y))
        return np.array(found)

    return Explorer(
        "a2d-sizes" if result else "a2d-sizes-full",
        "Which size of agent suits a budget?",
        controls=[
            Slider("percent", "budget", percents, 20, "{} %"),
            Choice("budget", "budget of", tuple(most), "environment steps"),
        ],
        scalars={
            "spent": lambda budget, percent: percent / 100 * most[budget][1],
            "best": lambda budget, percent: agents[score(budget, percent).argmax()],
            "top": lambda budget, percent: score(budget, percent).max(),
        },
        panels=[
            Counters("At this budget", {"best agent": "{best}", "its return": "{top:.1f}", "budget": "{spent:,.0f}"}),
            Lines(lambda budget, percent: {"return": score(budget, percent)}, "Return by size",
                  "agent (conv + linear width)", CATCHES, x=agents, limits=(0, 10.5)),
        ],
        describe="With {percent} of the budget of {budget}, {spent:,.0f}, the best agent is {best}, at {top:.1f} "
        "catches of 10 on average over seeds.",
    )  # fmt: skip
