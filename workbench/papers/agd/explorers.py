"""AGD to play with: a choice under a budget, a search step by step, the plane of cost and quality, pictures."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from workbench import hardware
from workbench.evidence import Result
from workbench.explorer import Bars, Choice, Counters, Explorer, Heatmap, Lines, Picture, Shapes, Slider
from workbench.papers.agd import experiment, students, views
from workbench.papers.agd.method import OPERATORS, WIDTHS, layer_macs
from workbench.papers.agd.tasks import Task

STEPS = 30
"""Steps of a search that an explorer shows."""


def _choice(result: Result) -> Choice:
    own = views.tasks(result)
    return Choice("task", "task", tuple(t.id for t in own), own[0].id, tuple(t.title for t in own))


def _task(result: Result, key: str) -> Task:
    return next(task for task in views.tasks(result) if task.id == key)


def explore_budget() -> Explorer:
    """One layer with a choice of four operators: gradient descent on quality plus a cost term, from the same start."""
    quality = torch.tensor([0.0, 0.5, 0.6, 1.0])  # what each operator is worth
    macs = torch.tensor([float(layer_macs(name, 8, 8)) for name in OPERATORS])
    weights = (0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
    budgets = (100, 200, 400, 600, 800)

    def descend(rule: str, weight: float, budget: int) -> NDArray:
        logits = torch.zeros(len(OPERATORS), requires_grad=True)
        optimiser, found = torch.optim.Adam([logits], 0.1), []
        for _ in range(200):
            p = logits.softmax(0)
            found.append(p.detach().numpy().copy())
            cost = (p @ macs / budget).log()
            loss = -(p @ quality) + weight * (cost.square() if rule == "log-ratio" else cost)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        return np.array(found).T

    cached = {(r, w, b): descend(r, w, b) for r in ("log-ratio", "fixed") for w in weights for b in budgets}

    def expected(rule: str, weight: float, budget: int) -> float:
        return float(cached[rule, weight, budget][:, -1] @ macs.numpy())

    return Explorer(
        "agd-budget",
        "What does a cost term do to a choice?",
        controls=[
            Choice("rule", "cost term", ("fixed", "log-ratio"), "fixed", ("weight x ln cost", "weight x (ln ratio)^2")),
            Slider("weight", "weight", weights, 0.4),
            Slider("budget", "budget in MACs a pixel", budgets, 400),
        ],
        scalars={
            "expected": expected,
            "chosen": lambda rule, weight, budget: OPERATORS[int(cached[rule, weight, budget][:, -1].argmax())],
        },
        panels=[
            Lines(
                lambda rule, weight, budget: dict(zip(OPERATORS, cached[rule, weight, budget][:, ::4], strict=True)),
                "Probabilities while the choice is trained", "step", "probability", x=range(0, 200, 4), limits=(0, 1),
            ),
            Counters("In the end", {"expected cost": "{expected:.0f} MACs", "most probable": "{chosen}"}),
        ],
        describe="{rule}, weight {weight}, budget {budget}: the choice ends at {expected:.0f} MACs a pixel, its most "
        "probable operator is {chosen}. A 1x1 costs 64, the depthwise block 400, a 3x3 576, the residual 1152 MACs.",
    )  # fmt: skip


def explore_search(result: Result) -> Explorer:
    """Operators and widths of every layer, step by step."""
    traces = result.extra["trace"]
    count = {key: len(trace.expected) for key, trace in traces.items()}
    shown = min(STEPS, *count.values())
    layers = max(trace.operators.shape[1] for trace in traces.values())
    at = {key: np.linspace(0, n - 1, shown).astype(int) for key, n in count.items()}

    def table(values: torch.Tensor, step: int) -> NDArray:
        padded = np.full((layers, values.shape[2]), np.nan)
        padded[: values.shape[1]] = values[step].numpy()
        return padded

    def share(values: torch.Tensor, task: str, step: int) -> float:
        return float(values[at[task][step - 1]]) / experiment.budget(_task(result, task))

    return Explorer(
        "agd-search",
        "What does the search come to like?",
        controls=[_choice(result), Slider("step", "moment of the search", range(1, shown + 1), (shown + 1) // 2)],
        scalars={
            "expected": lambda task, step: share(traces[task].expected, task, step),
            "argmax": lambda task, step: share(traces[task].argmax, task, step),
            "entropy": lambda task, step: float(traces[task].entropy[at[task][step - 1]]),
            "number": lambda task, step: int(at[task][step - 1]) + 1,
        },
        panels=[
            Heatmap(lambda task, step: table(traces[task].operators, at[task][step - 1]), "Operators", "operator",
                    "layer", "probability", x=OPERATORS, y=range(1, layers + 1), limits=(0, 1)),
            Heatmap(lambda task, step: table(traces[task].widths, at[task][step - 1]), "Widths", "channels", "layer",
                    "probability", x=[str(w) for w in WIDTHS], y=range(1, layers + 1), limits=(0, 1)),
            Counters("Cost over budget", {"expected": "{expected:.0%}", "of the argmax": "{argmax:.0%}",
                                          "entropy of operators": "{entropy:.2f} nats"}),
        ],
        describe="{task}, moment {step} (search step {number}): the expected cost is {expected:.0%} of the budget, the "
        f"plain argmax would cost {{argmax:.0%}}; the entropy of operators is {{entropy:.2f}} of {math.log(4):.2f}.",
    )  # fmt: skip


def explore_plane(result: Result) -> Explorer:
    """Cost and quality of all designs of the first seed, and the best that a budget allows."""
    points, own = views.plane_points(result), views.tasks(result)
    arms = ("random", "uniform", "searched", "pruned")
    wide = {t.id: points[(points["task"] == t.id) & points["arm"].isin(arms)] for t in own}
    budgets = tuple(round(0.2 * k, 1) for k in range(2, 11))

    def scaled(task: str) -> tuple[NDArray, NDArray]:
        rows = wide[task]
        best, worst = rows["score"].max(), rows["score"].min()
        x = rows["macs"].to_numpy() / experiment.budget(_task(result, task))
        return x, 2 * (rows["score"].to_numpy() - worst) / max(best - worst, 1e-9)

    def cloud(task: str, arm: str) -> NDArray:
        x, y = scaled(task)
        chosen = (wide[task]["arm"] == arm).to_numpy()
        return np.stack([x[chosen], y[chosen]], 1)

    def best(task: str, budget: float) -> int | None:
        x, y = scaled(task)
        allowed = x <= budget
        return int(np.where(allowed, y, -1).argmax()) if allowed.any() else None

    def told(column: str, task: str, budget: float) -> object:
        row = best(task, budget)
        return math.nan if row is None else wide[task].iloc[row][column]

    series = {arm: ("points", lambda task, arm=arm: cloud(task, arm)) for arm in arms}
    series["budget"] = ("line", lambda budget: [(budget, 0), (budget, 2)])
    return Explorer(
        "agd-plane",
        "Which design does a budget buy?",
        controls=[_choice(result), Slider("budget", "budget, as a share of ours", budgets, 1.0, "{:.0%}")],
        scalars={
            "arm": lambda task, budget: told("arm", task, budget),
            "design": lambda task, budget: told("design", task, budget),
            "score": lambda task, budget: told("score", task, budget),
            "within": lambda task, budget: int((scaled(task)[0] <= budget).sum()),
            "unit": lambda task: "dB PSNR" if _task(result, task).scale > 1 else "minus ln Fréchet distance",
        },
        panels=[
            Shapes(series, "Cost and quality, first seed", "cost / budget",
                   "quality, from the worst (0) to the best (2)", ((0, 2.2), (-0.1, 2.1))),
            Counters("Best within the budget", {"found by": "{arm:s|none}", "score": "{score:.2f|none}"}),
        ],
        describe="{task}: a budget of {budget} of ours allows {within} of the designs that were trained; the best of "
        "them: {arm:s|none}, {score:{:.2f}|no score} {unit}, {design:s|no design}. One seed, no interval.",
    )  # fmt: skip


def explore_pictures(result: Result) -> Explorer:
    """Input, the plain way, teacher and student side by side."""
    kept = result.extra["pictures"]
    arms = ("searched", "random 1", "uniform", "pruned", "searched, no teacher", "uniform, no teacher")

    def error(task: str, picture: int, arm: str) -> float:
        own = kept[task]
        return 100 * float(np.abs(own[arm][picture - 1] - own["teacher"][picture - 1]).mean())

    return Explorer(
        "agd-pictures",
        "Can you tell student from teacher?",
        controls=[
            _choice(result),
            Slider("picture", "test picture", tuple(range(1, experiment.PICTURES + 1)), 1),
            Slider("arm", "student", arms, arms[0], "{}"),
        ],
        scalars={"error": error, "plain": lambda task, picture: error(task, picture, "plain")},
        panels=[
            Picture(lambda task, picture: kept[task]["input"][picture - 1], "Input"),
            Picture(lambda task, picture: kept[task]["plain"][picture - 1], "Bicubic, or the input copied"),
            Picture(lambda task, picture: kept[task]["teacher"][picture - 1], "Teacher"),
            Picture(lambda task, picture, arm: kept[task][arm][picture - 1], "Student"),
            Counters("Mean difference to the teacher", {"student": "{error:.1f} %", "no network": "{plain:.1f} %"}),
        ],
        describe="{task}, picture {picture}: the student ({arm}) is {error:.1f} % of the range from the teacher, "
        "the picture without a network by {plain:.1f} %.",
    )


def explore_energy(result: Result) -> Explorer:
    """Energy of the narrow teacher on an accelerator."""
    task = views.tasks(result)[0]
    return hardware.explorer(*views.model(task, students.uniform(task)), name="agd-energy")


def explore_conventions(result: Result) -> Explorer:
    """What "FLOPs" of ESRGAN and CycleGAN are, by what is counted."""
    table = result.tables["conventions"].set_index("network")
    ways = {"useful MACs": "macs", "MACs of whole windows": "window_macs", "MACs, biases, activations": "mac_bias_act",
            "2 FLOPs a MAC": "flops"}  # fmt: skip
    return Explorer(
        "agd-conventions",
        "One network, how many FLOPs?",
        controls=[Choice("network", "network", tuple(table.index), table.index[0])],
        scalars={
            "least": lambda network: float(table.loc[network, [*ways.values()]].min()),
            "most": lambda network: float(table.loc[network, [*ways.values()]].max()),
        },
        panels=[
            Bars(lambda network: {"1e9 operations": [table.loc[network, c] for c in ways.values()]}, "By convention",
                 "1e9 operations for a 256x256 input", bars=[*ways], stacked=False),
        ],
        describe="{network}: from {least:.4g} to {most:.4g} G, by convention.",
    )  # fmt: skip
