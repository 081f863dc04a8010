"""CPT's result as figures (saved with their tables) and as explorers."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import torch
from IPython.display import Image
from numpy.typing import NDArray
from torch import Tensor

from workbench import hardware
from workbench.evidence import Result, interval, interval_or_none, means
from workbench.evidence import published as printed
from workbench.explorer import Choice, Counters, Explorer, Heatmap, Lines, Slider
from workbench.figures import COLOURS, figure, save
from workbench.papers.cpt import landscape, method, range_test
from workbench.papers.cpt import published as analytic
from workbench.papers.cpt.experiment import TEXT
from workbench.papers.cpt.method import CYCLES
from workbench.papers.cpt.published import ITERATIONS, NINETY_EPOCHS
from workbench.papers.cpt.vision import Setting
from workbench.quantize import nearest, span, stochastic
from workbench.training import generator

SHAPES = {
    "CPT": method.cyclic,
    "triangle": method.triangle,
    "reversed": method.reversed_ramps,
    "shuffled": lambda *of: method.shuffled(method.cyclic(*of), generator("shuffled")),
    "static": lambda iterations, low, high, cycles: method.static(iterations, high),
}
"""Schedules by name, each a function of iterations, lower and upper bound, and cycles."""
STYLES = {
    "CPT": ("blue", "o", "-"),
    "shuffled": ("vermilion", "s", "--"),
    "reversed": ("orange", "<", "-."),
    "triangle": ("purple", "^", "-."),
}
"""Colour, marker and line of the arms that cycle; static ones take what is left."""
OTHERS = (
    ("black", "D", "-"), ("green", "v", ":"), ("sky", "P", ":"), ("purple", "X", "--"), ("black", "*", ":"),
    ("yellow", "p", "--"), ("green", "h", "-."), ("sky", "d", "-."), ("purple", ">", ":"),
)  # fmt: skip


def _style(result: Result) -> dict[str, dict[str, Any]]:
    """Of every arm that was run, the same in all figures."""
    rest, found = iter(3 * OTHERS), {}
    for arm in result.tables["trained"]["arm"].unique():
        colour, marker, line = STYLES[arm] if arm in STYLES else next(rest)
        found[arm] = {"color": COLOURS[colour], "marker": marker, "linestyle": line}
    return found


def _settings(result: Result) -> dict[str, tuple[str, str]]:
    """Title and unit of the loss of each setting, by name."""
    found = {s.id: (s.title, "nats") for s in map(Setting.read, result.parameters["settings"])}
    return found | {TEXT: ("LSTM on Python's licence", "bits/character")}


def _panels(result: Result, width: float, height: float, sharey: bool = False) -> tuple[Any, list[tuple[str, Any]]]:
    settings = _settings(result)
    drawn, axes = figure(width * len(settings), height, ncols=len(settings), squeeze=False, sharey=sharey)
    for (title, _), ax in zip(settings.values(), axes[0], strict=True):
        ax.set_title(title, size=8)
    return drawn, list(zip(settings, axes[0], strict=True))


def _static(result: Result) -> str:
    return f"static {result.parameters['high']}"


# --- figures -----------------------------------------------------------------------------------------------------


def schedules(result: Result) -> Image:
    """Bits over the first cycles of the paper's training, and BitOps used up so far."""
    low, high, g = (result.parameters[name] for name in ("low", "high", "error_bits"))
    shown, rows = 4 * ITERATIONS // CYCLES, []
    drawn, (left, right) = figure(9, 3.4, ncols=2)
    style = {shape: STYLES.get(shape, OTHERS[0]) for shape in SHAPES}
    full = ITERATIONS * (high * high + 2 * high * g)
    for shape, schedule in SHAPES.items():
        bits = schedule(ITERATIONS, low, high, CYCLES).double()
        used = 100 * (bits * bits + 2 * bits * g).cumsum(0) / full
        line = {"color": COLOURS[style[shape][0]], "linestyle": style[shape][2]}
        if shape != "shuffled":
            left.plot(bits[:shown], label=shape, **line)
        else:
            left.plot(range(0, shown, 50), bits[:shown:50], ".", markersize=2, label=shape, color=line["color"])
        right.plot(np.arange(ITERATIONS)[::500], used[::500], label=f"{shape}: {used[-1]:.1f} %", **line)
        rows += [
            {"shape": shape, "iteration": i, "bits": int(bits[i]), "used": float(used[i])}
            for i in range(0, ITERATIONS, 500)
        ]
    left.set(title=f"the first 4 of {CYCLES} cycles", xlabel="iteration", ylabel="bits of weights and inputs")
    right.set(title="BitOps used", xlabel="iteration", ylabel=f"% of static {high}'s, errors at {g} bits")
    right.legend(fontsize=8)
    drawn.legend(*left.get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=5)
    return save(drawn, pd.DataFrame(rows), "schedules", result)


def cells(result: Result) -> Image:
    """Printed costs and savings beside our recomputation."""
    table = result.tables["published"].assign(percent=lambda t: 100 * t["error"])
    drawn, ax = figure(8, 10)
    y = np.arange(len(table))
    from_budget = table["remark"] == NINETY_EPOCHS
    for mask, colour, marker, label in (
        (~from_budget, "blue", "o", "as printed"),
        (from_budget, "vermilion", "s", "ImageNet: comes out for 6.4 epochs, not 90"),
    ):
        ax.plot(table["percent"][mask], y[mask], marker, color=COLOURS[colour], markersize=4, label=label)
    ax.axvline(0, color="black", linewidth=1)
    ax.set_yticks(y, table["id"].str.removeprefix("cpt."), fontsize=6)
    ax.invert_yaxis()
    ax.set(xlabel="recomputed minus printed, in % of the printed cell")
    ax.legend(fontsize=8)
    return save(drawn, table.drop(columns="remark"), "cells", result)


def energy(result: Result, network: str = "c100.resnet38") -> Image:
    """Mean energy of a training step of 128 images: static high bits and the cycle, by kind of multiplier."""
    low, high, g = (result.parameters[name] for name in ("low", "high", "error_bits"))
    arms = {
        f"{name}, {kind} multipliers": analytic.energy(network, *bounds, g, scalable)
        for scalable, kind in ((True, "bit-flexible"), (False, "8-bit"))
        for name, bounds in ((f"static {high}", (high, high)), (f"CPT {low} to {high}", (low, high)))
    }
    table = hardware.side_by_side(arms)
    drawn, ax = figure(9, 3)
    hardware.draw_breakdown(ax, table)
    drawn.legend(*ax.get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=5)
    return save(drawn, table, "energy", result)


def contrasts(result: Result) -> Image:
    """Test loss of every arm minus that of the static training at full bits, paired by seed: left is better."""
    trained, static, rows = result.tables["trained"], _static(result), []
    drawn, panels = _panels(result, 3.3, 3.6)
    for setting, ax in panels:
        wide = trained[trained["setting"] == setting].pivot(index="seed", columns="arm", values="test_loss")
        order = [arm for arm in trained["arm"].unique() if arm in wide and arm != static]
        style = _style(result)
        for y, arm in enumerate(order):
            found = interval((wide[arm] - wide[static]).tolist())
            marks = {key: style[arm][key] for key in ("color", "marker")}
            ax.errorbar(found.mean, y, xerr=found.half_width, capsize=3, **marks)
            row = {"setting": setting, "arm": arm, "difference": found.mean, "half": found.half_width}
            rows.append(row | {"n": len(found.samples)})
        ax.axvline(0, color="black", linewidth=1)
        ax.set_yticks(range(len(order)), order, fontsize=8)
        ax.invert_yaxis()
        ax.set_xlabel(f"test loss minus {static}'s ({_settings(result)[setting][1]})", size=8)
    return save(drawn, pd.DataFrame(rows), "contrasts", result, {"difference": "half", "half": None})


def costs(result: Result) -> Image:
    """What each arm reaches for its BitOps: accuracy, or bits a character."""
    trained, rows = result.tables["trained"], []
    drawn, panels = _panels(result, 3.3, 3.4)
    for setting, ax in panels:
        column = "test_loss" if setting == TEXT else "accuracy"
        own = trained[trained["setting"] == setting]
        table = means(own, ["setting", "arm"], column).rename(columns={column: "value"})
        table = table.merge(own.groupby("arm")["cost"].mean().reset_index())
        style = _style(result)
        for row in table.itertuples():
            marks = {key: style[row.arm][key] for key in ("color", "marker")}
            ax.errorbar(row.cost, row.value, row.half, capsize=2, linestyle="none", label=row.arm, **marks)
        if setting == TEXT:
            ax.invert_yaxis()
        ax.set(xlabel="BitOps (% of float32's)", ylabel="test bits/character" if setting == TEXT else "accuracy (%)")
        rows.append(table.assign(measure=column))
    drawn.legend(*panels[0][1].get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=5)
    return save(drawn, pd.concat(rows), "costs", result, {"value": "half", "half": None})


def curves(result: Result) -> Image:
    """Training loss over steps, at the precision of the moment."""
    table = means(result.tables["curves"], ["setting", "arm", "step"], "loss")
    table = table.sort_values("step", kind="stable")  # groups come in the order in which any setting first had them
    drawn, panels = _panels(result, 3.3, 3.4)
    for setting, ax in panels:
        own = table[table["setting"] == setting]
        style = _style(result)
        for arm, line in own.groupby("arm", sort=False):
            plain = {key: style[arm][key] for key in ("color", "linestyle")}
            ax.plot(line["step"], line["loss"], label=arm, linewidth=1.2, **plain)
        ax.set(xlabel="step", ylabel=f"training loss ({_settings(result)[setting][1]})")
    drawn.legend(*panels[0][1].get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=5)
    return save(drawn, table, "curves", result, {"loss": "half", "half": None})


def sharpness(result: Result) -> Image:
    """Rise of the training loss under random filter-normalised steps, by arm; seeds as dots."""
    trained = result.tables["trained"]
    table = means(trained, ["setting", "arm"], "sharpness")
    drawn, panels = _panels(result, 3.3, 3.6)
    for setting, ax in panels:
        rows, seeds = (t[t["setting"] == setting] for t in (table, trained))
        names = [*rows["arm"]]
        ax.plot(seeds["sharpness"], seeds["arm"].map(names.index), ".", color="0.6", markersize=3)
        ax.errorbar(rows["sharpness"], range(len(rows)), xerr=rows["half"], fmt="o", color=COLOURS["blue"], capsize=3)
        ax.set_yticks(range(len(names)), names, fontsize=8)
        ax.invert_yaxis()
        ax.set_xlabel(f"rise of training loss ({_settings(result)[setting][1]})", size=8)
    return save(drawn, table, "sharpness", result, {"sharpness": "half", "half": None})


def line(result: Result) -> Image:
    """Training loss along a filter-normalised random line, a thin curve a seed."""
    table, drawn_at = result.tables["line"], {}
    drawn, (ax, near) = figure(9, 3.6, ncols=2)
    style = _style(result)
    for arm, rows in table.groupby("arm", sort=False):
        plain = {key: style[arm][key] for key in ("color", "linestyle")}
        wide = rows.pivot(index="at", columns="seed", values="loss")
        for panel in (ax, near):
            panel.plot(wide.index, wide, linewidth=0.6, alpha=0.6, **plain)
            drawn_at[arm] = panel.plot(wide.index, wide.mean(axis=1), linewidth=2, label=arm, **plain)[0]
    ax.set(title=Setting.read(result.parameters["settings"][0]).title, ylabel="training loss (nats)")
    near.set(title="near the minimum", xlim=(-0.5, 0.5), ylim=(0, table.loc[table["at"].abs() <= 0.5, "loss"].max()))
    for panel in (ax, near):
        panel.set_xlabel("distance, in lengths of the weights")
    ax.legend(handles=[*drawn_at.values()], fontsize=8)
    return save(drawn, table, "line", result, {"loss": None})  # single nets: no two processors train the same


def plane(result: Result) -> Image:
    """Training loss on a plane through the weights of the first seed, the same colours for all arms."""
    table = result.tables["plane"]
    arms = [*table["arm"].unique()]
    drawn, axes = figure(2.9 * len(arms), 3.4, ncols=len(arms), sharey=True)
    levels = np.geomspace(max(table["loss"].min(), 1e-2), table["loss"].max(), 14)
    for arm, ax in zip(arms, axes, strict=True):
        wide = table[table["arm"] == arm].pivot(index="y", columns="x", values="loss")
        contours = ax.contour(wide.columns, wide.index, wide, levels=levels, cmap="viridis")
        ax.clabel(contours, fontsize=6, fmt="%.2g")
        ax.set(title=arm, xlabel="first direction", aspect="equal")
    axes[0].set_ylabel("second direction")
    return save(drawn, table, "plane", result, {"loss": None})  # single nets: no two processors train the same


def range_accuracy(result: Result) -> Image:
    """Training accuracy in the precision range test, on one training and on fresh networks."""
    table = means(result.tables["range"], ["mode", "bits"], "accuracy")
    bounds = result.tables["bounds"]
    drawn, (ax, gains) = figure(9, 3.4, ncols=2)
    wide = result.tables["range"].pivot(index=["mode", "seed"], columns="bits", values="accuracy").diff(axis=1)
    for mode, colour, marker in (("continuing", "blue", "o"), ("fresh", "vermilion", "s")):
        rows = table[table["mode"] == mode]
        ax.errorbar(
            rows["bits"], rows["accuracy"], rows["half"], marker=marker, capsize=3, color=COLOURS[colour], label=mode
        )
        found = bounds[bounds["mode"] == mode]["bits"]
        said = ", ".join(f"{b:.0f} bits {n} x" for b, n in found.value_counts().sort_index().items())
        said += f", none {found.isna().sum()} x" * bool(found.isna().sum())
        gains.plot(
            wide.columns, wide.loc[mode].T, marker, linestyle="-", linewidth=0.7, markersize=3, color=COLOURS[colour]
        )
        gains.plot([], [], color=COLOURS[colour], label=f"{mode}: {said}")
    gains.axhline(100 * result.parameters["range_threshold"], color="black", linewidth=1, linestyle=":")
    ax.set(xlabel="bits", ylabel="training accuracy (%)")
    gains.set(xlabel="bits", ylabel="gain over one bit less (points)", title="a line a seed; dotted: threshold")
    gains.title.set_size(9)
    ax.legend(fontsize=8)
    gains.legend(fontsize=8)
    save(drawn, bounds, "range_bounds", result, {"bits": 1.0})
    return save(drawn, table, "range_accuracy", result, {"accuracy": "half", "half": None})


def variance(result: Result) -> Image:
    """Log ratio of variances over seeds, another arm's over CPT's: right of 0 CPT varies less."""
    rows = [row for row in result.rows if ".variance_vs_" in row["id"]]
    table = pd.DataFrame(rows)[["id", "value", "low", "high", "n", "verdict"]]
    drawn, ax = figure(7.5, 1 + 0.32 * len(table))
    spread = [table["value"] - table["low"], table["high"] - table["value"]]
    ax.errorbar(table["value"], range(len(table)), xerr=spread, fmt="o", capsize=3, color=COLOURS["blue"])
    ax.axvline(0, color="black", linewidth=1)
    ax.set_yticks(
        range(len(table)), table["id"].str.removeprefix("cpt.").str.replace(".variance_vs_", ": "), fontsize=8
    )
    ax.invert_yaxis()
    ax.set_xlabel("ln (variance of the other / variance of CPT)")
    table = table.assign(half=(table["high"] - table["low"]) / 2)
    return save(
        drawn, table, "variance", result, dict.fromkeys(("value", "low", "high", "half"), "half") | {"verdict": None}
    )


def reestimation(result: Result) -> Image:
    """Accuracy of the same weights with running statistics and with statistics taken anew."""
    trained = result.tables["trained"].dropna(subset="accuracy")
    trained = trained.assign(gain=trained["accuracy"] - trained["accuracy_running"])
    table = means(trained, ["setting", "arm"], "gain")
    settings = [name for name in _settings(result) if name != TEXT]
    drawn, axes = figure(3.6 * len(settings), 3.4, ncols=len(settings), squeeze=False)
    for setting, ax in zip(settings, axes[0], strict=True):
        rows = table[table["setting"] == setting]
        ax.errorbar(rows["gain"], range(len(rows)), xerr=rows["half"], fmt="o", capsize=3, color=COLOURS["blue"])
        ax.axvline(0, color="black", linewidth=1)
        ax.set_yticks(range(len(rows)), rows["arm"], fontsize=8)
        ax.invert_yaxis()
        ax.set_title(_settings(result)[setting][0], size=8)
        ax.set_xlabel("points gained by re-estimation")
    return save(drawn, table, "reestimation", result, {"gain": "half", "half": None})


# --- explorers ---------------------------------------------------------------------------------------------------


def _printed_savings() -> dict[tuple[int, int, int], str]:
    """Savings in the paper's tables by lower bound, upper bound and error bits, in words."""
    cells, found = printed("cpt"), {}
    errors = {("c100", 8): 8, ("c100", 6): 6, ("imagenet", 8): 8, ("imagenet", 6): 6}
    for key, cell in cells[cells.index.str.contains(r"\.saving_")].iterrows():
        _, dataset, network, name = str(key).split(".")
        low, high = map(int, name.removeprefix("saving_").split("_"))
        at = low, high, errors.get((dataset, high), 8)
        found.setdefault(at, {}).setdefault(f"{cell['value']:g} %", []).append(network)
    shown = lambda nets: "all six networks" if len(nets) == 6 else ", ".join(nets)  # noqa: E731
    return {at: "; ".join(f"{v} ({shown(nets)})" for v, nets in values.items()) for at, values in found.items()}


def explore_schedules() -> Explorer:
    """A schedule's bits over time, its BitOps and what it saves, for a training of the paper's length."""
    drawn, ticks = 512, 65
    cells = _printed_savings()

    @cache
    def one_cycle(low: int, high: int, cycles: int, shape: str) -> tuple[NDArray, NDArray]:
        """Running sums of b and b b over one cycle of the paper's training, which repeats it exactly."""
        period = ITERATIONS // cycles
        bits = SHAPES["CPT" if shape == "shuffled" else shape](period, min(low, high), high, 1).double()
        return tuple(np.r_[0, sums.cumsum(0).numpy()] for sums in (bits, bits * bits))

    def total(low: int, high: int, cycles: int, shape: str, error_bits: int) -> float:
        first, second = one_cycle(low, high, cycles, shape)
        return (second[-1] + 2 * error_bits * first[-1]) * cycles

    def static(high: int, error_bits: int) -> float:
        return ITERATIONS * (high * high + 2 * high * error_bits)

    def used(low: int, high: int, cycles: int, shape: str, error_bits: int) -> dict[str, NDArray]:
        at = np.linspace(0, ITERATIONS, ticks)
        if shape == "shuffled":
            spent = total(low, high, cycles, shape, error_bits) * at / ITERATIONS
        else:
            period = ITERATIONS // cycles
            whole, rest = np.divmod(at.astype(int), period)
            first, second = one_cycle(low, high, cycles, shape)
            spent = (second[-1] * whole + second[rest]) + 2 * error_bits * (first[-1] * whole + first[rest])
        full = static(high, error_bits)
        return {"this schedule": 100 * spent / full, "static at the upper bound": 100 * at / ITERATIONS}

    def saving(low: int, high: int, cycles: int, shape: str, error_bits: int) -> float:
        return 100 * (1 - total(low, high, cycles, shape, error_bits) / static(high, error_bits))

    def in_paper(low: int, high: int, cycles: int, shape: str, error_bits: int) -> str:
        applies = shape == "CPT" and cycles == CYCLES
        return cells.get((low, high, error_bits), "not in its tables") if applies else "not in its tables"

    return Explorer(
        "cpt-schedules",
        "Which bits, when, and for how many BitOps?",
        controls=[
            Slider("low", "lower bound", (2, 3, 4, 5, 6), 3, "{} bits"),
            Slider("high", "upper bound", (4, 6, 8, 12, 16), 8, "{} bits"),
            Slider("cycles", "cycles", (1, 2, 4, 8, 32), CYCLES),
            Slider("error_bits", "bits of errors", (4, 6, 8, 16), 8, "{} bits"),
            Choice("shape", "shape", tuple(SHAPES), "CPT"),
        ],
        scalars={
            "saving": saving,
            "printed": in_paper,
            "start": lambda low, high: min(low, high),
            "total": lambda low, high, cycles, shape, error_bits: total(low, high, cycles, shape, error_bits)
            / (ITERATIONS * 3 * 32**2) * 100,
        },
        panels=[
            Lines(
                lambda low, high, cycles, shape: {"bits": SHAPES[shape](drawn, min(low, high), high, cycles)},
                "Bits of weights and inputs", "training (%)", "bits", x=np.arange(drawn) / drawn * 100,
                limits=(0, 17), hlines={"errors": "error_bits"},
            ),
            Lines(used, "BitOps used so far", "training (%)", "% of static's", x=np.linspace(0, 100, ticks)),
            Counters(
                "This schedule",
                {"saved against the static upper bound": "{saving:.2f} %", "of float32's BitOps": "{total:.2f} %",
                 "the paper prints": "{printed}"},
            ),
        ],
        describe=f"{{shape}}, {{low}} (in effect {{start:d}}) to {{high}}, {{cycles}} cycles in {ITERATIONS:,} "
        "iterations, errors of {error_bits}: {saving:.2f} % of the BitOps are saved. The paper prints: {printed}. "
        "Its tables hold "
        "3-8/8, 3-6/6, 4-8/8, 4-6/6, 5-8/8, 4-6/8 and 5-6/8 (bounds/errors) with 32 cycles.",
    )  # fmt: skip


def explore_levels() -> Explorer:
    """Numbers before and after rounding, where zero goes, and what stochastic rounding does on average."""
    noise = torch.randn(4096, generator=generator("numbers"))
    tensors: dict[str, Tensor] = {"inputs after a ReLU": noise.clamp(min=0), "weights, both signs": 0.6 * noise + 0.1}
    edges = {name: np.linspace(*span(x), 202) for name, x in tensors.items()}
    spots = np.linspace(0, 1, 121)

    @cache
    def rounded(tensor: str, bits: int, rounding: str, draws: int = 1) -> NDArray:
        x = tensors[tensor]
        if rounding == "nearest":
            return nearest(x, *span(x), bits).numpy()
        noise = generator("rounding", tensor, bits)
        return torch.stack([stochastic(x, bits, noise) for _ in range(draws)]).numpy()[
            -1 if draws == 1 else slice(None)
        ]

    def histogram(tensor: str, bits: int, rounding: str) -> dict[str, NDArray]:
        count = lambda x: 100 * np.histogram(np.clip(x, *edges[tensor][[0, -1]]), edges[tensor])[0] / len(x)  # noqa: E731
        return {"before": count(tensors[tensor].numpy()), "after": count(rounded(tensor, bits, rounding))}

    def becomes(tensor: str, bits: int, rounding: str) -> dict[str, NDArray]:
        low, high = span(tensors[tensor])
        x = torch.from_numpy(low + (high - low) * spots).float()
        ends = torch.tensor([low, high])  # so that the range is the tensor's
        own = generator("spots", tensor, bits)
        draw = lambda: stochastic(torch.cat([x, ends]), bits, own)[: len(x)].numpy()  # noqa: E731
        if rounding == "nearest":
            one = mean = nearest(x, low, high, bits).numpy()
        else:
            one, mean = draw(), np.mean([draw() for _ in range(200)], 0)
        return {"one rounding": one, "mean of 200": mean, "unrounded": x.numpy()}

    def zero(tensor: str, bits: int) -> float:
        low, high = span(tensors[tensor])
        return float(nearest(torch.zeros(1), low, high, bits))

    def off(tensor: str, bits: int, rounding: str) -> float:
        x = tensors[tensor].numpy()
        return float(np.sqrt(np.mean((rounded(tensor, bits, rounding) - x) ** 2)))

    places = {name: (e[1:] + e[:-1]) / 2 for name, e in edges.items()}
    return Explorer(
        "cpt-levels",
        "What do few bits do to numbers?",
        controls=[
            Slider("bits", "bits", tuple(range(1, 9)), 3),
            Choice("rounding", "rounding", ("nearest", "stochastic"), "nearest"),
            Choice("tensor", "numbers", tuple(tensors), "weights, both signs"),
        ],
        scalars={
            "zero": zero,
            "off": off,
            "levels": lambda tensor, bits, rounding: len(np.unique(rounded(tensor, bits, rounding).round(5))),
            "origin": lambda tensor: float(np.interp(0, places[tensor], np.linspace(0, 100, 201))),
        },
        panels=[
            Lines(
                histogram, "Histogram", "place in the range, lowest to largest (%)", "% of the numbers",
                x=np.linspace(0, 100, 201), vlines={"zero": "origin"},
            ),
            Lines(becomes, "What a number becomes", "place in the range (%)", "value", x=100 * spots,
                  vlines={"zero": "origin"}),
            Counters(
                "In numbers",
                {"levels used": "{levels}", "zero becomes": "{zero:.3f}", "root mean square error": "{off:.4f}"},
            ),
        ],
        describe="{tensor}, {bits} bits, {rounding} rounding: {levels} levels are used, zero becomes {zero:.3f} where "
        "it is rounded to the nearest, the error is {off:.4f} (root mean square).",
    )  # fmt: skip


def explore_range(result: Result) -> Explorer:
    """The range test's accuracies, and the bound that a threshold picks from each seed and from their mean."""
    table = result.tables["range"]
    wide = {mode: rows.pivot(index="seed", columns="bits", values="accuracy") for mode, rows in table.groupby("mode")}
    share = lambda values: (np.asarray(values) / 100).tolist()  # noqa: E731

    def spread(values: pd.DataFrame) -> tuple[NDArray, NDArray, NDArray]:
        found = [interval_or_none(values[bits]) for bits in values]
        return tuple(np.array([getattr(f, end) for f in found]) for end in ("mean", "low", "high"))

    def seeds(mode: str, threshold: int) -> list[float]:
        return [range_test.lower_bound(share(line), threshold / 100) for line in wide[mode].to_numpy()]

    def agree(mode: str, threshold: int) -> int:
        mean = range_test.lower_bound(share(wide[mode].mean()), threshold / 100)
        return sum(bound == mean or (bound != bound and mean != mean) for bound in seeds(mode, threshold))

    return Explorer(
        "cpt-range",
        "Which precision can training start from?",
        controls=[
            Slider("threshold", "threshold", (2, 5, 10, 15, 20, 25, 30, 40, 50), 20, "{} points"),
            Choice("mode", "network", ("continuing", "fresh"), "continuing", ("one, trained on", "fresh each time")),
        ],
        scalars={
            "bound": lambda mode, threshold: range_test.lower_bound(share(wide[mode].mean()), threshold / 100),
            "agree": agree,
            "seeds": lambda mode: len(wide[mode]),
        },
        panels=[
            Lines(
                lambda mode: {"training accuracy": spread(wide[mode])}, "The range test", "bits",
                "training accuracy (%)", x=range_test.BITS, limits=(0, 100), vlines={"lower bound": "bound"},
            ),
            Lines(
                lambda mode: {"gain over one bit less": spread(wide[mode].diff(axis=1).iloc[:, 1:])}, "Gains", "bits",
                "points", x=range_test.BITS[1:], hlines={"threshold": "threshold"}, vlines={"lower bound": "bound"},
            ),
        ],
        describe="{mode}, threshold {threshold}: {bound:the lower bound is {:.0f} bits|no gain is that large}, "
        "on {agree} of {seeds} seeds as on their mean.",
    )  # fmt: skip


def explore_landscape(result: Result) -> Explorer:
    """The loss around the weights of each arm: the plane, and a cut through it."""
    table, static = result.tables["plane"], _static(result)
    arms = tuple(table["arm"].unique())
    planes = {arm: rows.pivot(index="y", columns="x", values="loss").to_numpy() for arm, rows in table.groupby("arm")}
    at = [round(value, 4) + 0.0 for value in landscape.grid(result.parameters["plane_points"]).tolist()]  # no -0

    def cut(arm: str, y: float) -> dict[str, NDArray]:
        return {"chosen arm": planes[arm][at.index(y)], static: planes[static][at.index(y)]}

    return Explorer(
        "cpt-landscape",
        "How wide is the minimum?",
        controls=[
            Slider("y", "along the second direction", tuple(at), at[len(at) // 2], "{:.2f}"),
            Choice("arm", "arm", arms, "CPT"),
        ],
        scalars={
            "bottom": lambda arm: float(planes[arm].min()),
            "rim": lambda arm: float(planes[arm][[0, -1]].mean() + planes[arm][:, [0, -1]].mean()) / 2,
        },
        panels=[
            Heatmap(
                lambda arm: np.log10(planes[arm]), "Training loss around the weights", "first direction",
                "second direction", "log10 nats", x=at, y=at, hlines={"cut": "y"},
                limits=tuple(np.log10(table["loss"].agg(["min", "max"]))),
            ),
            Lines(cut, "Along the cut", "first direction", "training loss (nats)", x=at, log="y"),
        ],
        describe="{arm}, cut at {y}: the loss is {bottom:.3f} nats at the lowest point and {rim:.2f} on average at the "
        "edge of the plane, one length of the weights away.",
    )  # fmt: skip
