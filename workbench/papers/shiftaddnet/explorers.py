"""ShiftAddNet to play with: powers of two, an adder's response, energy by operation, robustness, an energy budget."""

from __future__ import annotations

import contourpy
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from workbench.cost import Operations
from workbench.evidence import Result, interval_or_none
from workbench.explorer import Bars, Choice, Counters, Explorer, Heatmap, Lines, Shapes, Slider
from workbench.papers.shiftaddnet import energy
from workbench.papers.shiftaddnet.experiment import FULL, MODES
from workbench.papers.shiftaddnet.shift import round_power
from workbench.papers.shiftaddnet.trials import Setting
from workbench.training import generator


def powers() -> Explorer:
    """A weight on the number line becomes a sign and a shift."""
    line = np.linspace(-1, 1, 401)

    def rounded(w: NDArray | float, bits: int, domain: str, dead: float) -> NDArray:
        w = torch.as_tensor(w, dtype=torch.float64)
        return torch.where(w.abs() < dead, 0.0, round_power(w, -(2 ** (bits - 1)) + 1, domain)).numpy()

    def drawn(bits: int, domain: str, dead: float) -> dict[str, NDArray]:
        return {"shift weight": rounded(line, bits, domain, dead), "weight itself": line}

    def value(w: float, bits: int, domain: str, dead: float) -> float:
        return float(rounded(w, bits, domain, dead))

    def product(w: float, bits: int, domain: str, dead: float) -> str:
        found = value(w, bits, domain, dead)
        if not found:
            return "nothing: the weight is 0"
        shift = f"x >> {-int(np.log2(abs(found)))}"
        return shift if found > 0 else f"-({shift})"

    def error(bits: int, domain: str, dead: float) -> float:
        return 100 * float(
            np.sqrt(np.mean((rounded(line, bits, domain, dead) - line) ** 2)) / np.sqrt(np.mean(line**2))
        )

    return Explorer(
        "shiftaddnet-powers",
        "Which shift does a weight become?",
        controls=[
            Slider("w", "weight", tuple(round(0.04 * k, 2) for k in range(-25, 26)), 0.36, "{:.2f}"),
            Slider("bits", "bits", (3, 4, 5), 4),
            Choice("domain", "nearest", ("log", "linear"), "log", ("by exponent", "by value")),
            Slider("dead", "smaller ones are 0 below", (0.0, 0.02, 0.05, 0.1, 0.2), 0.0, "{:g}"),
        ],
        scalars={
            "value": value,
            "product": product,
            "error": error,
            "least": lambda bits: 2.0 ** (-(2 ** (bits - 1)) + 1),
            "levels": lambda bits, domain, dead: len(np.unique(rounded(line, bits, domain, dead))),
        },
        panels=[
            Lines(drawn, "What a weight becomes", "weight", "shift weight", x=line, vlines={"w": "w"},
                  hlines={"becomes": "value"}),
            Counters(
                "This weight",
                {"becomes": "{value:g}", "its product with x": "{product}",
                 "root mean square error of all": "{error:.1f} %"},
            ),
        ],
        describe="{bits} bits, nearest {domain}, 0 below {dead}: the weight {w} becomes {value:g}, so its product with "
        "x is {product}. From -1 to 1 there are {levels} levels, the smallest {least:g} in size; rounding costs "
        "{error:.1f} % of the weights' size.",
    )  # fmt: skip


def response() -> Explorer:
    """One template in the plane: where do dot product and adder answer? And two templates, as a classifier."""
    at, other = np.linspace(-3, 3, 49), np.array([-1.25, -0.75])
    x, y = np.meshgrid(at, at)
    noise = torch.randn(2, 60, 2, generator=generator("clouds")).numpy()
    clouds = {"class A": np.array([1.0, 0.5]) + 0.55 * noise[0], "class B": np.array([-1.0, 0.25]) + 0.55 * noise[1]}

    def dot(w: NDArray, x: NDArray, y: NDArray) -> NDArray:
        return w[0] * x + w[1] * y

    def l1(w: NDArray, x: NDArray, y: NDArray) -> NDArray:
        return -np.abs(x - w[0]) - np.abs(y - w[1])

    def border(rule: object, a: float, b: float) -> NDArray:
        gap = rule(np.array([a, b]), x, y) - rule(other, x, y)
        lines = contourpy.contour_generator(x, y, gap).lines(0)
        return np.concatenate([np.concatenate([line, [[np.nan, np.nan]]]) for line in lines] or [np.empty((0, 2))])

    def right(rule: object, a: float, b: float) -> float:
        gaps = {name: rule(np.array([a, b]), *p.T) - rule(other, *p.T) for name, p in clouds.items()}
        return 100 * float(np.mean(np.concatenate([gaps["class A"] > 0, gaps["class B"] < 0])))

    steps = tuple(round(0.5 * k, 1) for k in range(-4, 5))
    return Explorer(
        "shiftaddnet-response",
        "How does an adder answer?",
        controls=[
            Slider("a", "template A, first number", steps, 1.0, "{:.1f}"),
            Slider("b", "template A, second number", steps, 0.5, "{:.1f}"),
        ],
        scalars={
            "by_dot": lambda a, b: right(dot, a, b),
            "by_l1": lambda a, b: right(l1, a, b),
        },
        panels=[
            Heatmap(lambda a, b: dot(np.array([a, b]), x, y), "Multiplications: dot product with A", "first input",
                    "second input", "response", x=at, y=at, limits=(-12, 12), vlines={"A": "a"}, hlines={"A": "b"}),
            Heatmap(lambda a, b: l1(np.array([a, b]), x, y), "Adder: minus the distance to A", "first input",
                    "second input", "response", x=at, y=at, limits=(-10, 0), vlines={"A": "a"}, hlines={"A": "b"}),
            Shapes(
                {
                    "class A": ("points", lambda: clouds["class A"]),
                    "class B": ("points", lambda: clouds["class B"]),
                    "border of the adders": ("line", lambda a, b: border(l1, a, b)),
                    "border of the dot products": ("edges", lambda a, b: border(dot, a, b)),
                },
                "Template A against B = (-1.25, -0.75): the larger answer wins", "first input", "second input",
                ((-3, 3), (-3, 3)),
            ),
            Counters("Points on the right side", {"adders": "{by_l1:.0f} %", "dot products": "{by_dot:.0f} %"}),
        ],
        describe="Template A at ({a}, {b}). A dot product grows without bound in A's direction; an adder answers most, "
        "with 0, at A itself. Against B the adders sort {by_l1:.0f} % of the points rightly, dot products "
        "{by_dot:.0f} %.",
    )  # fmt: skip


def operations(result: Result) -> Explorer:
    """Energy of an image by operation: which network, how many bits, which platform, inference or training."""
    names = {"multiplies": "multiply", "adds": "add", "shifts": "shift", "comparisons": "compare"}
    counted = result.tables["operations"].set_index(["network", "phase", "kind"]).sort_index()

    def spent(network: str, phase: str, platform: str, format: str) -> dict[str, NDArray]:
        work = counted.loc[(network, phase)].loc[[*energy.KINDS]]  # in millions
        price = {op: energy.picojoules(Operations(**{op: 1.0}), format, platform) for op in names}
        return {name: work[op].to_numpy() * price[op] for op, name in names.items()}

    def saved(network: str, phase: str, platform: str, format: str) -> float:
        total = sum(spent(network, phase, platform, format).values())
        return 100 * float(1 - total[[*energy.KINDS].index("shift+add")] / total[0])

    return Explorer(
        "shiftaddnet-energy",
        "What do shifts and additions save?",
        controls=[
            Choice("format", "numbers", energy.FORMATS, "FIX32"),
            Choice("platform", "platform", tuple(energy.PLATFORMS), "asic45", tuple(energy.PLATFORMS.values())),
            Choice("phase", "phase", tuple(energy.PHASES), "inference"),
            Choice("network", "network", energy.COMPARED, "resnet20", ("ResNet-20", "VGG-small")),
        ],
        scalars={
            "saved": saved,
            "word": lambda network, phase, platform, format: "saves"
            if saved(network, phase, platform, format) > 0
            else "costs more by",
            "size": lambda network, phase, platform, format: abs(saved(network, phase, platform, format)),
        },
        panels=[
            Bars(spent, "Energy of arithmetic", "µJ an image", bars=[*energy.KINDS]),
            Counters("shift+add against multiplications", {"saved": "{saved:.1f} %"}),
        ],
        describe="{network}, {phase}, {format} on {platform}, arithmetic alone: shift+add {word} {size:.1f} % against "
        "multiplications. Unit energies of the FPGA are from memory of the paper's table.",
    )  # fmt: skip


def robustness(result: Result) -> Explorer:
    """Accuracy in few bits and with few weights, by kind of layer."""
    few, pruned = result.tables["bits"], result.tables["sparsity"]
    places, kinds = [FULL, *result.parameters["bits"]], [*few["arm"].unique()]
    shares = [0.0, *result.parameters["sparsities"]]
    labels = ["float", *(f"{b} bits" for b in places[1:])]

    def rows(table: pd.DataFrame, key: str, values: list) -> dict[str, tuple[NDArray, ...]]:
        found = {}
        for kind in kinds:  # NaN where a network has no such layers
            own = table[table["arm"] == kind]
            spread = [interval_or_none(own[own[key] == value].set_index("seed")["accuracy"]) for value in values]
            found[kind] = tuple(np.array([getattr(s, end) for s in spread]) for end in ("mean", "low", "high"))
        return found

    def in_bits(mode: str) -> dict[str, tuple[NDArray, ...]]:
        return rows(few[few["mode"] == mode], "bits", places)

    def in_shares(which: str) -> dict[str, tuple[NDArray, ...]]:
        own = pruned[(pruned["which"] == which) | ((pruned["which"] == "all") & (pruned["arm"] == "mult"))]
        return rows(own, "share", shares)

    def accuracy(kind: str, mode: str, bits: int) -> float:
        return float(in_bits(mode)[kind][0][places.index(bits)])

    def left(kind: str, which: str, share: float) -> float:
        return float(in_shares(which)[kind][0][shares.index(share)])

    return Explorer(
        "shiftaddnet-robustness",
        "How few bits, how few weights?",
        controls=[
            Slider("bits", "bits", tuple(places[1:]), places[-1]),
            Choice("mode", "after rounding", MODES, "plain"),
            Slider("share", "hidden weights that are 0", tuple(shares[1:]), shares[2], "{:.0%}"),
            Choice("which", "taken from", ("all", "shift", "add"), "all",
                   ("all layers", "shift layers", "adder layers")),
        ],
        scalars={
            "place": lambda bits: places.index(bits),
            "percent": lambda share: 100 * share,
            "mult_bits": lambda mode, bits: accuracy("mult", mode, bits),
            "own_bits": lambda mode, bits: accuracy("shift-Q+add", mode, bits),
            "mult_left": lambda which, share: left("mult", which, share),
            "own_left": lambda which, share: left("shift-Q+add", which, share),
        },
        panels=[
            Lines(in_bits, "In few bits", "", "test accuracy (%)", x=labels, limits=(0, 100), vlines={"bits": "place"}),
            Lines(in_shares, "With few weights", "hidden weights that are 0 (%)", "test accuracy (%)",
                  x=[100 * s for s in shares], limits=(0, 100), vlines={"share": "percent"}),
            Counters("Accuracy of ShiftAddNet (Q) and multiplications",
                     {"in few bits": "{own_bits:.1f} and {mult_bits:.1f} %",
                      "with few weights": "{own_left:.1f|impossible} and {mult_left:.1f} %"}),
        ],
        describe="In {bits} bits, {mode}: ShiftAddNet (Q) {own_bits:.1f} %, multiplications {mult_bits:.1f} %. With "
        "{share} of all hidden weights 0, taken from {which}: "
        "{own_left:ShiftAddNet {:.1f} %|ShiftAddNet has not so many there}, "
        f"multiplications (from all layers) {{mult_left:.1f}} %. Networks shown: {', '.join(kinds)}.",
    )  # fmt: skip


def budget(result: Result) -> Explorer:
    """The most accurate network that an energy budget allows."""
    table = result.tables["trained"].merge(result.tables["costs"], on=["setting", "arm"])
    settings = {setting.id: setting.title for setting in map(Setting.read, result.parameters["settings"])}
    common = [
        *result.tables["costs"]
        .groupby("arm", sort=False)
        .filter(lambda rows: len(rows) == len(settings))["arm"]
        .unique()
    ]
    spans = {
        setting: rows.groupby("arm")[["FIX32", "FIX8"]].first().loc[common]
        for setting, rows in table.groupby("setting")
    }
    least, most = (min(s.min().min() for s in spans.values()), max(s.max().max() for s in spans.values()))
    steps = tuple(float(f"{v:.2g}") for v in np.geomspace(0.95 * least, 1.1 * most, 13))

    def affordable(setting: str, format: str, nanojoules: float) -> NDArray:
        return (spans[setting][format] <= nanojoules).to_numpy()

    def accuracies(setting: str, format: str, nanojoules: float) -> dict[str, tuple[NDArray, ...]]:
        own = table[table["setting"] == setting]
        spread = [interval_or_none(own[own["arm"] == arm].set_index("seed")["accuracy"]) for arm in common]
        can = affordable(setting, format, nanojoules)
        values = [np.where(can, [getattr(s, end) for s in spread], np.nan) for end in ("mean", "low", "high")]
        return {"test accuracy": tuple(values)}

    def best(setting: str, format: str, nanojoules: float) -> str:
        means = accuracies(setting, format, nanojoules)["test accuracy"][0]
        return common[int(np.nanargmax(means))] if np.isfinite(means).any() else "none"

    return Explorer(
        "shiftaddnet-budget",
        "How accurate for how much energy?",
        controls=[
            Slider("nanojoules", "budget an image", steps, steps[-1], "{:g} nJ"),
            Choice("format", "numbers", ("FIX32", "FIX8"), "FIX32"),
            Choice("setting", "trained on", tuple(settings), next(iter(settings)), tuple(settings.values())),
        ],
        scalars={
            "best": best,
            "many": lambda setting, format, nanojoules: int(affordable(setting, format, nanojoules).sum()),
        },
        panels=[
            Bars(accuracies, "Networks within the budget", "test accuracy (%)", bars=common, stacked=False),
            Counters("Within the budget", {"networks": "{many}", "highest mean": "{best}"}),
        ],
        describe="{setting}, {format}: {nanojoules} an image (45 nm ASIC, arithmetic alone) allow {many} of "
        f"{len(common)} networks; the highest mean accuracy has {{best}}. Intervals are 95 % over seeds.",
    )
