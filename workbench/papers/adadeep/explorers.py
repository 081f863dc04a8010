"""AdaDeep to play with: a demand that ranks all measured designs anew, what a technique makes of a layer, and what the
agents believe.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workbench.evidence import Result
from workbench.explorer import Bars, Choice, Counters, Explorer, Heatmap, Lines, Parallel, Slider
from workbench.papers.adadeep import method
from workbench.papers.adadeep.measure import DESIGNS, SPACES
from workbench.papers.adadeep.method import Demand
from workbench.papers.adadeep.platforms import RESOURCES, part_cost, platform, platforms
from workbench.papers.adadeep.study import NONE, PERSONAS, Study
from workbench.papers.adadeep.techniques import CONV, FC, Shape, parts
from workbench.papers.adadeep.views import TECHNIQUES

LOSSES = (1.0, 2.0, 4.0, 8.0)
BUDGETS = (0.1, 0.2, 0.5, 1.0)
WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)
PLATFORMS = ("stm32f7", "tx2", "eyeriss", "sparse")
RANKED = 5
SHORT = ("conv 2", "conv 3", "linear")


def explore_demand(result: Result) -> Explorer:
    """Four sliders and a platform, ranking all measured designs."""
    study: Study = result.extra["study"]
    # One table of all seeds: accuracies relative to each seed's uncompressed network, their mean. An image is 0.04
    # points of it: rounded, so that a design right on a floor is on it in the browser's float32, too.
    lost = (study.val - study.val[:, [NONE]]).mean(0).round(decimals=4)

    @cache
    def of(loss: float, latency: float, storage: float, key: str) -> method.Terms:
        demand, spread = Demand(loss, latency, storage, 0.0, key), study.costs(key)
        return method.terms(demand, lost, 0.0, spread, spread[NONE])

    @cache
    def ranking(loss: float, latency: float, storage: float, energy: float, platform: str) -> Tensor:
        """The best feasible designs, best first."""
        demand, terms = Demand(loss, latency, storage, energy, platform), of(loss, latency, storage, platform)
        value = method.utility(demand, terms).where(terms.feasible, -torch.inf)
        order = value.argsort(descending=True, stable=True)[:RANKED]
        return order[terms.feasible[order]]

    @cache
    def shares(platform: str) -> Tensor:
        """Points of accuracy; latency, energy, storage in per cent of the uncompressed network's ``[D, 4]``."""
        spread = study.costs(platform)
        return torch.cat([lost[:, None], 100 * spread / spread[NONE]], 1)

    spaces = [space[::-1] for space in SPACES]  # the first technique on top
    techniques = [[space.index(t) for space, t in zip(spaces, design, strict=True)] for design in DESIGNS]

    def rows(platform: str) -> NDArray:
        return np.hstack([techniques, shares(platform).numpy()])

    def within(loss: float, latency: float, storage: float) -> NDArray:
        ends = np.full((len(SPACES) + 4, 2), (-np.inf, np.inf))
        ends[-4, 0], ends[-3, 1], ends[-1, 1] = -loss, 100 * latency, 100 * storage
        return ends

    def ranked(loss: float, latency: float, storage: float, energy: float, platform: str) -> NDArray:
        order, found = ranking(loss, latency, storage, energy, platform), np.full(RANKED, np.nan)
        found[: len(order)] = order
        return found

    every = np.concatenate([shares(key).numpy() for key in PLATFORMS])
    low, high = every.min(0), every.max(0)
    scales = {"accuracy": (low[0] - 1, high[0] + 1)}
    scales |= {resource: (0.9 * low[at], 1.1 * high[at]) for at, resource in enumerate(RESOURCES, start=1)}

    def chosen(loss: float, latency: float, storage: float, energy: float, platform: str) -> NDArray:
        """1 where the best design has a technique, 0 where it could have; NaN where the layer cannot."""
        image = np.array([[0.0 if t in space else np.nan for space in SPACES] for t in TECHNIQUES[::-1]])
        for design in ranking(loss, latency, storage, energy, platform)[:1].tolist():
            for layer, technique in enumerate(DESIGNS[design]):
                image[TECHNIQUES[::-1].index(technique), layer] = 1
        return image

    def name(loss: float, latency: float, storage: float, energy: float, platform: str) -> str:
        best = ranking(loss, latency, storage, energy, platform)[:1].tolist()
        return ", ".join(DESIGNS[best[0]]) if best else "none is feasible"

    def number(column: int) -> object:
        def value(loss: float, latency: float, storage: float, energy: float, platform: str) -> float:
            best = ranking(loss, latency, storage, energy, platform)[:1]
            return round(float(shares(platform)[best[0], column]), 1) + 0.0 if len(best) else float("nan")  # no -0

        return value

    return Explorer(
        "adadeep-demand",
        "Which design for which demand?",
        controls=[
            Slider("loss", "points of accuracy you can lose", LOSSES, 4.0),
            Slider("latency", "latency at most", BUDGETS, 0.5, "{:.0%}"),
            Slider("storage", "storage at most", BUDGETS, 0.5, "{:.0%}"),
            Slider("energy", "weight of energy", WEIGHTS, 0.75),
            Choice("platform", "platform", PLATFORMS, "stm32f7", [platforms()[p].name for p in PLATFORMS]),
        ],
        scalars={
            "best": name,
            "count": lambda loss, latency, storage, platform: int(of(loss, latency, storage, platform).feasible.sum()),
            "points": number(0),
            "time": number(1),
            "joules": number(2),
            "bytes": number(3),
        },
        panels=[
            Counters(
                "The best design",
                {"convolution 2, 3, linear": "{best}", "feasible": f"{{count}} of {len(DESIGNS)}",
                 "accuracy": "{points:+.1f|-}", "latency": "{time:.0f|-} %", "energy": "{joules:.0f|-} %",
                 "storage": "{bytes:.0f|-} %"},
            ),
            Heatmap(chosen, "Technique by layer", "layer", "technique", "chosen", x=SHORT, y=TECHNIQUES[::-1],
                    limits=(0, 1)),
            Parallel(rows, within, ranked, "All measured designs, a line each",
                     "accuracy in points above the uncompressed network, costs in % of it",
                     ("misses the demand", "meets it", "next four", "best"),
                     dict(zip(SHORT, spaces, strict=True)) | scales, log=RESOURCES),
        ],
        describe="On {platform}, at most {loss} points lost, latency at most {latency} and storage at most {storage} "
        "of the uncompressed network's, energy weighs {energy}: feasible are {count} designs. Best: {best}, with "
        "accuracy {points:+.1f|-} points, latency {time:.0f|-} %, energy {joules:.0f|-} %, storage {bytes:.0f|-} %.",
    )  # fmt: skip


def explore_technique() -> Explorer:
    """What each technique makes of one layer, on every platform."""
    kinds = {"conv": CONV, "linear": FC}
    sizes = (16, 32, 64, 128, 256)

    @cache
    def row(kind: str, inputs: int, outputs: int, side: int, platform_key: str) -> NDArray:
        """Weights, MACs, latency, energy, storage of each technique, as a share of the layer's own; NaN: none."""
        shape = Shape("conv", inputs, outputs, 3, side) if kind == "conv" else Shape("linear", inputs, outputs)
        on = replace(platform(platform_key), overhead=0.0)
        found = np.full((len(TECHNIQUES), 5), np.nan)
        for at, technique in enumerate(TECHNIQUES):
            if technique in kinds[kind] and technique != "gap":
                made = parts(technique, shape)
                costs = np.array([part_cost(p, on) for p in made]).sum(0)
                found[at] = [sum(p.nonzero for p in made), sum(p.nonzero * p.side**2 for p in made), *costs]
        return 100 * found / found[0]

    def bars(kind: str, inputs: int, outputs: int, side: int, platform: str) -> dict[str, NDArray]:
        found = row(kind, inputs, outputs, side, platform)
        return {name: found[:, at] for at, name in ((2, "latency"), (3, "energy"), (4, "storage"))}

    def counted(kind: str, inputs: int, outputs: int, side: int) -> dict[str, NDArray]:
        found = row(kind, inputs, outputs, side, "generic45")
        return {"weights": found[:, 0]}

    def quickest(kind: str, inputs: int, outputs: int, side: int, platform: str) -> str:
        return TECHNIQUES[int(np.nanargmin(row(kind, inputs, outputs, side, platform)[:, 2]))]

    def thriftiest(kind: str, inputs: int, outputs: int, side: int, platform: str) -> str:
        return TECHNIQUES[int(np.nanargmin(row(kind, inputs, outputs, side, platform)[:, 3]))]

    shown = [technique for technique in TECHNIQUES if technique != "gap"]
    keep = [TECHNIQUES.index(technique) for technique in shown]

    def without_gap(values: dict[str, NDArray]) -> dict[str, NDArray]:
        return {name: column[keep] for name, column in values.items()}

    return Explorer(
        "adadeep-technique",
        "What does a technique make of a layer?",
        controls=[
            Slider("inputs", "inputs", sizes, 64),
            Slider("outputs", "outputs", sizes, 128),
            Slider("side", "rows and columns of a feature map", (4, 8, 16, 32), 16),
            Choice("kind", "layer", ("conv", "linear"), "conv", ("3x3 convolution", "fully connected")),
            Choice("platform", "platform", PLATFORMS, "tx2", [platforms()[p].name for p in PLATFORMS]),
        ],
        scalars={"quickest": quickest, "thriftiest": thriftiest},
        panels=[
            Counters("On this platform", {"quickest": "{quickest}", "least energy": "{thriftiest}"}),
            Bars(lambda kind, inputs, outputs, side: without_gap(counted(kind, inputs, outputs, side)),
                 "Weights that are not zero", "% of the layer's own", shown, stacked=False),
            Bars(lambda kind, inputs, outputs, side, platform: without_gap(bars(kind, inputs, outputs, side, platform)),
                 "Cost on this platform", "% of the layer's own", shown, stacked=False),
        ],
        describe="A {kind} layer with {inputs} inputs and {outputs} outputs, on maps of side {side}, on {platform}: "
        "{quickest} is quickest and {thriftiest} takes the least energy. Accuracy is another matter.",
    )  # fmt: skip


def explore_agents(result: Result) -> Explorer:
    """What the two agents believe, walk by walk."""
    table = result.tables["q"]
    walks = tuple(range(1, int(table["walk"].max()) + 1, 4))
    values = table.set_index(["user", "walk", "layer", "technique"])["q"]
    study: Study = result.extra["study"]
    rewards = {user: study.rewards(demand, "val")[0] for user, demand in PERSONAS.items()}
    order = TECHNIQUES[::-1]
    limits = tuple(np.quantile(table["q"], [0.02, 0.98]).tolist())

    @cache
    def image(user: str, walk: int) -> NDArray:
        found = np.full((len(order), len(SPACES)), np.nan)
        for layer, space in enumerate(SPACES):
            for technique in space:
                found[order.index(technique), layer] = values[user, walk, layer, technique]
        return found

    def greedy(user: str, walk: int) -> list[int]:
        return [int(np.nanargmax(image(user, walk)[:, layer])) for layer in range(len(SPACES))]

    def design(user: str, walk: int) -> int:
        return DESIGNS.index(tuple(order[row] for row in greedy(user, walk)))

    def believed(user: str) -> dict[str, list[float]]:
        return {
            "believed": [float(np.nanmax(image(user, walk)[:, -1])) for walk in walks],
            "true": [float(rewards[user][design(user, walk)]) for walk in walks],
        }

    return Explorer(
        "adadeep-agents",
        "What do the agents believe?",
        controls=[
            Slider("walk", "walk", walks, walks[-1]),
            Choice("user", "user", tuple(PERSONAS), "sensor"),
        ],
        scalars={
            "choice": lambda user, walk: ", ".join(DESIGNS[design(user, walk)]),
            "reward": lambda user, walk: float(rewards[user][design(user, walk)]),
            "best": lambda user: float(rewards[user].max()),
            "optimum": lambda user: ", ".join(DESIGNS[int(rewards[user].argmax())]),
        },
        panels=[
            Counters("The agents' own choice", {"design": "{choice}", "reward": "{reward:.2f}",
                                                "best there is": "{best:.2f}"}),
            Heatmap(image, "Q-values along the greedy walk", "layer", "technique", "Q", x=SHORT, y=order, limits=limits,
                    cells=lambda user, walk: np.array([[row, layer] for layer, row in enumerate(greedy(user, walk))])),
            Lines(believed, "What they expect of their choice, and get", "walk", "reward", x=walks,
                  vlines={"here": "walk"}, hlines={"best": "best"}),
        ],
        describe="After walk {walk} for the {user} the agents would choose {choice}, with a reward of {reward:.2f}; "
        "the best design, {optimum}, has {best:.2f}. Outlined: the choice in each layer.",
    )  # fmt: skip
