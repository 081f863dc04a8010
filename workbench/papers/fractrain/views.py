"""FracTrain's result as figures (saved with their tables) and as explorers."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from IPython.display import Image
from numpy.typing import NDArray

from workbench import hardware
from workbench.evidence import Result, means
from workbench.explorer import Choice, Counters, Explorer, Heatmap, Lines, Slider
from workbench.figures import COLOURS, figure, save
from workbench.papers.fractrain import cost, method
from workbench.papers.fractrain.experiment import (
    BOTH,
    CHEAP,
    CHOICES,
    DFQ,
    EQUAL,
    FIXED,
    PFQ,
    REVERSED,
    SHUFFLED,
    STATIC,
    YOKED,
)
from workbench.papers.fractrain.method import STAGES
from workbench.papers.fractrain.nets import BLOCKS

SCHEDULES = (PFQ, STATIC, EQUAL, CHEAP, FIXED, REVERSED, YOKED, SHUFFLED)
EPSILONS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5)
ALPHAS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0)
MARKS = "osD^v"


def _settings(result: Result) -> list[tuple[str, float]]:
    return list(dict.fromkeys(zip(result.tables["arms"]["dataset"], result.tables["arms"]["noise"], strict=True)))


def _of(table: pd.DataFrame, setting: tuple[str, float]) -> pd.DataFrame:
    return table[(table["dataset"] == setting[0]) & (table["noise"] == setting[1])]


def _title(setting: tuple[str, float]) -> str:
    return f"{setting[0]}, {100 * setting[1]:.0f} % wrong labels"


def _arms(result: Result) -> pd.DataFrame:
    arms = result.tables["arms"]
    return arms[~arms["arm"].str.startswith("played")]


# --- figures -----------------------------------------------------------------------------------------------------


def staircases(result: Result) -> Image:
    """PFQ: training loss, the largest difference in the indicator's window beside its threshold, and the bits."""
    parameters, rows = result.parameters, []
    losses = result.tables["losses"]
    losses = losses[losses["arm"] == PFQ]
    settings = _settings(result)
    drawn, axes = figure(3.4 * max(2, len(settings)), 6.4, nrows=3, ncols=len(settings), sharex="col", squeeze=False)
    for setting, column in zip(settings, axes.T, strict=True):
        for shift, (seed, one) in enumerate(_of(losses, setting).groupby("seed", sort=False)):
            found = watched(one["loss"].tolist(), parameters["epsilon"], parameters["alpha"])
            style: dict[str, Any] = {"color": COLOURS["blue"], "alpha": 0.5, "linewidth": 1}
            column[0].plot(one["period"], one["loss"], **style)
            column[1].plot(one["period"], found["difference"], **style)
            column[2].plot(one["period"], found["bits"] + 0.04 * shift, drawstyle="steps-post", **style)
            if not shift:
                style = {"color": COLOURS["vermilion"], "drawstyle": "steps-mid", "label": "threshold, first seed"}
                column[1].plot(one["period"], found["threshold"], **style)
            labels = {"dataset": setting[0], "noise": setting[1], "seed": seed, "period": one["period"]}
            rows.append(pd.DataFrame({**labels, "loss": one["loss"].to_numpy(), **found}))
        column[0].set_title(_title(setting), size=9)
        column[1].set(yscale="log")
        column[2].set(xlabel="period", yticks=[b for b, _ in STAGES])
        column[1].legend(fontsize=8)
    for ax, label in zip(axes[:, 0], ("training loss", "largest difference", "bits"), strict=True):
        ax.set_ylabel(label)
    table = pd.concat(rows)
    # One switch a period earlier or later moves what follows it.
    tolerance = {"loss": 0.3, "difference": None, "threshold": None, "bits": None}
    return save(drawn, table, "staircases", result, tolerance)


def accuracy_and_cost(result: Result) -> Image:
    """Cost, test loss and accuracy of every arm; arms of one kind of network are compared, not the two kinds."""
    arms, columns = _arms(result), {"cp": "mean cp (%)", "test_loss": "test loss", "accuracy": "test accuracy (%)"}
    table = pd.concat(
        [
            means(arms, ["dataset", "noise", "arm"], name).rename(columns={name: "mean"}).assign(measure=name)
            for name in columns
        ]
    )
    settings, names = _settings(result), list(dict.fromkeys(arms["arm"]))
    names.sort(key=lambda arm: arm not in SCHEDULES)
    drawn, axes = figure(9, 1 + 0.27 * len(names), ncols=3, sharey=True)
    for ax, (measure, label) in zip(axes, columns.items(), strict=True):
        for shift, setting in enumerate(settings):
            rows = _of(table[table["measure"] == measure], setting).set_index("arm").reindex(names)
            y = np.arange(len(names)) + 0.5 * ((shift + 0.5) / len(settings) - 0.5)
            ax.errorbar(
                rows["mean"], y, xerr=rows["half"], fmt=MARKS[shift], markersize=4, capsize=2, label=_title(setting)
            )
        ax.axhline(sum(arm in SCHEDULES for arm in names) - 0.5, color="black", linewidth=0.8)
        ax.set_xlabel(label)
    axes[0].set_yticks(range(len(names)), names, fontsize=8)
    axes[0].invert_yaxis()
    drawn.legend(*axes[0].get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=3)
    return save(drawn, table, "accuracy_and_cost", result, {"mean": "half", "half": None})


def contrasts(result: Result) -> Image:
    """Paired differences of test loss: each method minus every arm of its kind."""
    table = result.tables["contrasts"].assign(half=lambda t: (t["high"] - t["low"]) / 2)
    settings = _settings(result)
    shown = table[table["measure"] == "test_loss"]
    height = 1.2 + 0.24 * len(_of(shown, settings[0]))
    drawn, axes = figure(3.4 + 2.6 * len(settings), height, ncols=len(settings), sharey=True, squeeze=False)
    for setting, ax in zip(settings, axes[0], strict=True):
        rows = _of(shown, setting)
        spread = [rows["mean"] - rows["low"], rows["high"] - rows["mean"]]
        ax.errorbar(rows["mean"], np.arange(len(rows)), xerr=spread, fmt="o", markersize=4, capsize=2)
        ax.axvline(0, color="black", linewidth=1)
        ax.set(title=_title(setting), xlabel="test loss, difference")
        ax.title.set_size(9)
        ax.set_yticks(range(len(rows)), [f"{a} − {b}" for a, b in zip(rows["arm"], rows["minus"], strict=True)], size=7)
    axes[0, 0].invert_yaxis()
    tolerance = {"mean": "half", "low": None, "high": None, "half": None}
    return save(drawn, table, "contrasts", result, tolerance)


def gate_choices(result: Result) -> Image:
    """How often the gates choose each precision, by block over training; DFQ at its last target, and FracTrain."""
    shares = result.tables["shares"]
    by = ["dataset", "noise", "arm", "block", "choice", "step"]
    table = shares.groupby(by, sort=False)["share"].mean().reset_index()
    last = f"{DFQ} {result.parameters['targets'][-1]:g}"
    setting = _settings(result)[0]
    drawn, axes = figure(8.4, 4.6, nrows=2, ncols=len(CHOICES), sharex=True, sharey=True)
    for arm, line in zip((last, BOTH), axes, strict=True):
        for (bits, errors), ax in zip(CHOICES, line, strict=True):
            rows = _of(table, setting)
            rows = rows[(rows["arm"] == arm) & (rows["choice"] == f"{bits}/{errors}")]
            image = rows.pivot(index="block", columns="step", values="share")
            mesh = ax.imshow(image, origin="lower", aspect="auto", vmin=0, vmax=1)
            places = range(0, image.shape[1], max(1, image.shape[1] // 4))
            ax.set_xticks(places, [image.columns[at] for at in places])
            ax.set_yticks(range(BLOCKS), range(1, BLOCKS + 1))
            ax.set_title(f"{arm}: {bits}/{errors} bits", size=9)
            ax.grid(visible=False)
        line[0].set_ylabel("block")
    for ax in axes[1]:
        ax.set_xlabel("training step")
    drawn.colorbar(mesh, ax=axes, label="share of validation images")
    # One seed's choices: a gate at the edge flips with the last bit of a sum.
    return save(drawn, table, "gate_choices", result, {"share": None})


def dependence(result: Result) -> Image:
    """Mutual information of choices with class and difficulty beside its 95 % point under permutation."""
    rows = result.tables["dependence"]
    rows = rows[~rows["arm"].str.startswith("played")]
    columns = ["entropy", "class", "class_chance", "difficulty", "difficulty_chance"]
    table = rows.groupby(["dataset", "noise", "arm", "block"], sort=False)[columns].mean().reset_index()
    settings = _settings(result)
    drawn, axes = figure(4.6 * max(1.4, len(settings)), 3.4, ncols=len(settings), sharey=True, squeeze=False)
    for setting, ax in zip(settings, axes[0], strict=True):
        one = _of(table, setting)
        x = np.arange(len(one))
        ax.bar(x - 0.2, one["class"], 0.38, label="with the class")
        ax.bar(x + 0.2, one["difficulty"], 0.38, label="with the difficulty")
        ax.plot(x - 0.2, one["class_chance"], "_", color="black", markersize=12, label="95 % of permutations")
        ax.plot(x + 0.2, one["difficulty_chance"], "_", color="black", markersize=12)
        ax.plot(x, one["entropy"], "x", color=COLOURS["orange"], label="entropy of the choice")
        names = [f"{arm}\nblock {block + 1}" for arm, block in zip(one["arm"], one["block"], strict=True)]
        ax.set_xticks(x, names, rotation=90, fontsize=7)
        ax.set_title(_title(setting), size=9)
    axes[0, 0].set_ylabel("bits")
    axes[0, 0].legend(fontsize=8)
    return save(drawn, table, "dependence", result, dict.fromkeys(columns, 0.5))


def adaptation(result: Result) -> Image:
    """Accuracy after a change of the task, by what the training after it cost."""
    rows = result.tables["adaptation"]
    table = means(rows, ["change", "arm"], "accuracy")
    table = table.merge(rows.groupby(["change", "arm"], sort=False)["cp"].mean().reset_index())
    arms = list(dict.fromkeys(table["arm"]))
    drawn, axes = figure(8, 3.4, ncols=2)
    for (change, one), ax in zip(table.groupby("change", sort=False), axes, strict=True):
        for row in one.itertuples():
            at = arms.index(row.arm)
            ax.errorbar(row.cp, row.accuracy, row.half, fmt=MARKS[at], color=f"C{at}", capsize=3, label=row.arm)
        ax.set(title=change, xlabel="mean cp after the change, %", ylabel="test accuracy (%)")
    axes[0].legend(fontsize=8, loc="lower right")
    tolerance = {"accuracy": "half", "half": None, "cp": 1.0}
    return save(drawn, table, "adaptation", result, tolerance)


def printed_costs(result: Result) -> Image:
    """Printed counts of MACs beside the full budget, and printed improvements beside quotients of printed counts."""
    budgets, improvements = result.tables["printed"], result.tables["improvements"]
    table = pd.concat([budgets, improvements])
    drawn, (left, right) = figure(9, 4.2, ncols=2)
    cifar = budgets[budgets["ninety_epochs"].isna()]
    for (net, rows), mark in zip(
        cifar.groupby(cifar["id"].str.split(".").str[1:3].str.join(" "), sort=False), "os^D", strict=False
    ):
        left.loglog(rows["published"], rows["analytic"], mark, label=net)
    ends = [cifar["published"].min(), cifar["analytic"].max()]
    left.plot(ends, ends, color="black", linewidth=1)
    left.xaxis.set_minor_formatter("")
    left.set(
        xlabel="printed (32-bit MACs)", ylabel="64,000 iterations of 128 images", title="CIFAR: all iterations counted"
    )
    left.legend(fontsize=8)
    y = np.arange(len(improvements))
    right.barh(y - 0.2, improvements["published"], 0.38, label="printed")
    right.barh(y + 0.2, improvements["analytic"], 0.38, label="quotient of printed counts")
    right.set_yticks(y, improvements["id"].str.removeprefix("fractrain."), fontsize=7)
    right.invert_yaxis()
    right.set(xlabel="saved (%)", title="improvements")
    drawn.legend(*right.get_legend_handles_labels(), fontsize=8, loc="outside lower right", ncols=2)
    return save(drawn, table, "printed_costs", result)


def bits_and_time(result: Result) -> Image:
    """What fewer bits save, and what counting up to the best iteration adds: printed cells and our runs."""
    printed = result.tables["bits_and_time"].assign(
        bits=lambda t: 100 * (1 - t["bits"]), counted=lambda t: 100 * (1 - t["ratio"])
    )
    printed["time"] = printed["counted"] - printed["bits"]
    ours = result.tables["savings"]
    ours = ours[ours["arm"].isin([PFQ, BOTH]) | ours["arm"].str.match(rf"{DFQ} [0-9.]+$")]
    by = ["dataset", "noise", "arm"]
    table = means(ours, by, "bits").rename(columns={"half": "bits_half"}).merge(
        means(ours, by, "time").rename(columns={"half": "time_half"})
    )  # fmt: skip
    names = [f"{a}, {_title((d, n))}" for d, n, a in zip(table["dataset"], table["noise"], table["arm"], strict=True)]
    names = [*(f"DFQ, {net} (printed)" for net in printed["network"]), *names]
    bits = np.concatenate([printed["bits"], table["bits"]])
    time = np.concatenate([printed["time"], table["time"]])
    spread = np.concatenate([np.zeros(len(printed)), table["time_half"]])
    drawn, ax = figure(7.6, 1.4 + 0.34 * len(names))
    y = np.arange(len(names))
    ax.barh(y - 0.2, bits, 0.38, label="fewer bits, all iterations counted")
    ax.barh(y + 0.2, time, 0.38, xerr=spread, label="counting up to the best iteration", error_kw={"linewidth": 1})
    ax.axvline(0, color="black", linewidth=1)
    ax.set_yticks(y, names, fontsize=8)
    ax.invert_yaxis()
    ax.set_xlabel("percent of the reference's cost saved")
    drawn.legend(*ax.get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=2)
    table = pd.concat([printed[["network", "bits", "time"]], table])
    tolerance = {"bits": "bits_half", "time": "time_half", "bits_half": None, "time_half": None}
    return save(drawn, table, "bits_and_time", result, tolerance)


def energy(result: Result, depth: int = 38) -> Image:
    """Energy of a training step of 128 images in each of PFQ's stages, by level of the memory."""
    arms = {f"{b} bits, errors {g}": cost.energy(depth, b, g) for b, g in STAGES}
    table = hardware.side_by_side(arms)
    drawn, ax = figure(8, 3)
    hardware.draw_breakdown(ax, table)
    drawn.legend(*ax.get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=5)
    return save(drawn, table, "energy", result)


# --- explorers ---------------------------------------------------------------------------------------------------


def watched(losses: list[float], epsilon: float, alpha: float) -> dict[str, NDArray]:
    """What the indicator sees at every period ``[periods]``: difference (NaN: no full window), threshold and bits."""
    indicator, rows = method.Indicator(epsilon, alpha), []
    for loss in losses:
        threshold, bits, before = indicator.epsilon, STAGES[indicator.stage][0], [*indicator.window]
        indicator.see(loss)
        window = [*before, loss][-method.WINDOW :]
        full = len(window) == method.WINDOW and indicator.seen > 0 and bits < STAGES[-1][0]
        difference = max(abs(old - loss) for old in window[:-1]) / indicator.scale if full else np.nan
        rows.append((difference, threshold, bits))
    found = np.array(rows, float).T
    return dict(zip(("difference", "threshold", "bits"), found, strict=True))


def explore_indicator(result: Result) -> Explorer:
    """Where PFQ would switch on a recorded loss curve, and what the training would cost."""
    losses = result.tables["losses"]
    setting = _settings(result)[0]
    rows = _of(losses[losses["arm"] == PFQ], setting)
    curves = {seed: one["loss"].to_numpy() for seed, one in list(rows.groupby("seed", sort=False))[:4]}
    # Two made-up ones that the reader checks by hand: it switches after periods 5, 10 and 15, and never.
    periods = len(next(iter(curves.values())))
    recorded = {f"seed {seed}": curve for seed, curve in curves.items()}
    recorded |= {"constant": np.ones(periods), "steady fall": np.linspace(3, 0.1, periods)}
    x = np.arange(1, periods + 1)

    @cache
    def seen(curve: str, epsilon: float, alpha: float) -> dict[str, NDArray]:
        return watched(recorded[curve].tolist(), epsilon, alpha)

    def switch(number: int) -> Any:
        def period(curve: str, epsilon: float, alpha: float) -> float:
            bits = seen(curve, epsilon, alpha)["bits"]
            later = bits >= STAGES[number][0]
            return float(x[later.argmax()] - 1) if later.any() else np.nan

        return period

    def spent(curve: str, epsilon: float, alpha: float) -> float:
        errors = dict(STAGES)
        return float(np.mean([cost.cp(int(b), int(b), errors[int(b)]) for b in seen(curve, epsilon, alpha)["bits"]]))

    return Explorer(
        "fractrain-indicator",
        "When does PFQ raise the bits?",
        controls=[
            Slider("epsilon", "threshold ε", EPSILONS, 0.15),
            Slider("alpha", "factor α after a switch", ALPHAS, 0.4),
            Choice("curve", "training loss", tuple(recorded), next(iter(recorded))),
        ],
        scalars={
            "first": switch(1),
            "second": switch(2),
            "third": switch(3),
            "cp": spent,
            "saved": lambda curve, epsilon, alpha: 100 * (1 - spent(curve, epsilon, alpha) / cost.cp(8, 8, 8)),
        },
        panels=[
            Lines(
                lambda curve: {"training loss": recorded[curve]}, "Training loss", "period", "loss", x=x,
                vlines={"1st": "first", "2nd": "second", "3rd": "third"},
            ),
            Lines(
                lambda curve, epsilon, alpha: {
                    "largest difference": seen(curve, epsilon, alpha)["difference"],
                    "threshold": seen(curve, epsilon, alpha)["threshold"],
                },
                "What the indicator watches", "period", "share of the first losses", x=x,
                vlines={"1st": "first", "2nd": "second", "3rd": "third"},
            ),
            Lines(
                lambda curve, epsilon, alpha: {"weights and inputs": seen(curve, epsilon, alpha)["bits"]},
                "Bits", "period", "bits", x=x, limits=(2, 9),
            ),
            Counters("Cost", {"cp, % of 32 bits": "{cp:.2f}", "saved against 8 bits, %": "{saved:.1f}"}),
        ],
        describe="Loss curve {curve}, ε = {epsilon}, α = {alpha}: the indicator switches "
        "{first:after period {:.0f}|never}, then {second:after period {:.0f}|never}, "
        "then {third:after period {:.0f}|never}; cp {cp:.2f} %, {saved:.1f} % saved.",
    )  # fmt: skip


def explore_gates(result: Result) -> Explorer:
    """Bits that DFQ's gates choose by sample and block, over training and by target; one seed."""
    parameters, setting = result.parameters, _settings(result)[0]
    kept = [one for one in result.extra["choices"] if (one["dataset"], one["noise"]) == setting]
    by_target = {float(one["arm"].split()[-1]): one for one in kept if one["arm"] != BOTH}
    targets, steps = tuple(sorted(by_target)), tuple(kept[0]["steps"])
    bits = np.array([b for b, _ in CHOICES])
    costs = np.array([cost.cp(parameters["weight_bits"], *choice) for choice in CHOICES])
    # Sorted by class, so that a reader sees whether a class has a precision of its own.
    orders = {target: np.argsort(one["y"].numpy(), kind="stable") for target, one in by_target.items()}

    def chosen(target: float, step: int) -> NDArray:
        return by_target[target]["choices"][steps.index(step)].numpy()[:, orders[target]]

    def spent(target: float, step: int) -> float:
        return float(costs[chosen(target, step)].mean())

    return Explorer(
        "fractrain-gates",
        "How many bits does a sample get?",
        controls=[
            Slider("step", "training step", steps, steps[-1]),
            Slider("target", "target cp, %", targets, parameters["targets"][0]),
        ],
        scalars={
            "cp": spent,
            "low": lambda target, step: 100 * float((chosen(target, step) == 0).mean()),
            "floor": lambda: cost.floor(parameters["weight_bits"], CHOICES),
        },
        panels=[
            Heatmap(
                lambda target, step: bits[chosen(target, step)], "Bits of the inputs", "sample, by class", "block",
                "bits", y=range(1, BLOCKS + 1), limits=(bits.min(), bits.max()),
            ),
            Lines(
                lambda target: {"cp": np.array([spent(target, step) for step in steps])}, "Cost over training",
                "training step", "cp of these samples, %", x=steps, vlines={"shown": "step"},
                hlines={"target": "target", "floor": "floor"}, limits=(float(costs.min()) - 0.1, float(costs.max())),
            ),
            Counters("These samples", {"cp, %": "{cp:.2f}", "at the fewest bits, %": "{low:.0f}"}),
        ],
        describe="After {step} steps with a target of {target} %: these samples cost {cp:.2f} %, "
        "{low:.0f} % of the choices are the fewest bits; no target under the floor of {floor:.3f} % can be reached.",
    )  # fmt: skip
