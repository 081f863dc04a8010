"""DNA to play with: a roofline, a pipeline of chunks with its bottleneck and energy, and regret by questions."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from workbench import hardware
from workbench.accelerator import generic
from workbench.evidence import Result, means
from workbench.explorer import Bars, Choice, Counters, Explorer, Lines, Shapes, Slider
from workbench.hardware import DATAFLOWS, LEVELS, OPERANDS
from workbench.papers.dna.accelerators import RULES, TEMPLATES, costs, itemised
from workbench.papers.dna.study import JOINT, OPTIMUM, mean_over_searches, workload
from workbench.papers.dna.views import SHOWN, STYLES

SIDES, BANDWIDTHS = (4, 8, 16, 32), (8, 16, 32, 64, 128)
KINDS = ("conv3", "depthwise", "conv1", "head")
PLACES = ("stem", "slot 1", "slot 2", "stride", "slot 3", "slot 4, head")  # with what waits as many as colours
ASKING = tuple(method for method in STYLES if method != "fixed network")


def explore_roofline(result: Result) -> Explorer:
    """Layers as dots under the roof of an array and a bandwidth: MACs a cycle against MACs a byte of DRAM."""
    space = workload(result.parameters["width"], result.parameters["size"])
    layers = space.layers((0, 1, 2, 1))
    sides, bandwidths = (torch.tensor(v, dtype=torch.float64)[:, None] for v in (SIDES, BANDWIDTHS))
    side, bandwidth = sides.repeat_interleave(len(BANDWIDTHS), 0), bandwidths.repeat(len(SIDES), 1)

    @cache
    def swept(dataflow: str) -> tuple[NDArray, NDArray]:
        """MACs a byte and MACs a cycle, ``[states, layers]``."""
        machine = generic(side, side, 64, dram_bandwidth=bandwidth)
        found = [hardware.best(layer, machine, dataflow) for layer in layers]
        size = torch.zeros(len(side), dtype=torch.float64)
        bits = [sum(pj for (level, _), pj in c.pj.items() if level == "DRAM") / machine.dram for c in found]
        intensity = [layer.macs * 8 / b + size for layer, b in zip(layers, bits, strict=True)]
        speed = [layer.macs / c.cycles + size for layer, c in zip(layers, found, strict=True)]
        return torch.stack(intensity, 1).numpy(), torch.stack(speed, 1).numpy()

    def at(array: int, bandwidth: int) -> int:
        return SIDES.index(array) * len(BANDWIDTHS) + BANDWIDTHS.index(bandwidth)

    def roof(array: int, bandwidth: int) -> NDArray:
        knee = np.log10(8 * array**2 / bandwidth)
        return np.array([[-1, np.log10(bandwidth / 8) - 1], [knee, np.log10(array**2)], [3, np.log10(array**2)]])

    def dots(kind: str, array: int, bandwidth: int, dataflow: str) -> NDArray:
        mine = [i for i, layer in enumerate(layers) if kind_of(layer) == kind]
        x, y = (np.log10(v[at(array, bandwidth), mine]) for v in swept(dataflow))
        return np.stack([x, y], 1)

    def bound(array: int, bandwidth: int, dataflow: str) -> int:
        return int((swept(dataflow)[0][at(array, bandwidth)] < 8 * array**2 / bandwidth).sum())

    def share(array: int, bandwidth: int, dataflow: str) -> float:
        speed = swept(dataflow)[1][at(array, bandwidth)]
        work = np.array([layer.macs for layer in layers])
        return float(100 * work.sum() / (work / speed).sum() / array**2)

    def series(kind: str) -> tuple:
        return "points", lambda array, bandwidth, dataflow: dots(kind, array, bandwidth, dataflow)

    return Explorer(
        "dna-roofline",
        "Which layers feel the array, and which the memory?",
        controls=[
            Slider("array", "rows and columns of PEs", SIDES, 16),
            Slider("bandwidth", "DRAM, bits a cycle", BANDWIDTHS, 64),
            Choice("dataflow", "what stays in place", DATAFLOWS, "row"),
        ],
        scalars={"bound": bound, "share": share},
        panels=[
            Shapes(
                {"roof": ("edges", roof)} | {kind: series(kind) for kind in KINDS},
                "Roofline",
                "log10 of MACs a byte of DRAM",
                "log10 of MACs a cycle",
                ((-1, 3), (-1, 3.2)),
            ),
            Counters("The network conv3 sep3 conv1 sep3",
                     {"under the slope": f"{{bound}} of {len(layers)} layers", "of the peak": "{share:.0f} %"}),
        ],
        describe="{array} by {array} PEs, {bandwidth} bits a cycle from DRAM, {dataflow} in place: "
        f"{{bound}} of {len(layers)} layers lie under the slope of the roof, so that DRAM limits them, and the whole "
        "network reaches {share:.0f} % of the peak.",
    )  # fmt: skip


def kind_of(layer: hardware.Layer) -> str:
    """What a layer is called here."""
    if layer.G > 1 and layer.C == 1:
        return "depthwise"
    return "head" if layer.Y == 1 else "conv3" if layer.R == 3 else "conv1"


def explore_pipeline(result: Result) -> Explorer:
    """Three networks, allotted to chunks by each rule, on their best accelerators: work, waiting, energy."""
    space = workload(result.parameters["width"], result.parameters["size"])
    templates = tuple(result.parameters["templates"])
    priced = cache(lambda template: costs(space, TEMPLATES[template]))

    @cache
    def found(template: str, rule: str, net: str) -> tuple[pd.DataFrame, str]:
        nets = torch.tensor([SHOWN[net]])
        (design,) = priced(template).best_designs(nets, "latency", [RULES.index(rule)])
        machines = [TEMPLATES[template].configurations[c] for c in design.chunks[: 1 if rule == RULES[0] else 2]]
        words = [f"{a[0]}x{a[1]} {dataflow}, {kb} KB" for a, dataflow, kb, _ in machines]
        return itemised(space, TEMPLATES[template], design), "; ".join(words)

    def by_chunk(template: str, rule: str, net: str) -> list[NDArray]:
        layers = found(template, rule, net)[0].drop_duplicates("layer")
        return [layers[layers["chunk"] == c]["cycles"].to_numpy() / 2e5 for c in (0, 1)]

    def slowest(template: str, rule: str, net: str) -> float:
        return float(max(chunk.sum() for chunk in by_chunk(template, rule, net)))

    def gantt(template: str, rule: str, net: str) -> dict[str, list[float]]:
        chunks, end = by_chunk(template, rule, net), slowest(template, rule, net)
        layers = found(template, rule, net)[0].drop_duplicates("layer")
        layers = layers.assign(slot=layers["slot"].clip(upper=len(PLACES) - 1))
        spent = layers.groupby(["slot", "chunk"])["cycles"].sum() / 2e5
        pieces = {name: [float(spent.get((slot, c), 0.0)) for c in (0, 1)] for slot, name in enumerate(PLACES)}
        return pieces | {"waits": [end - float(chunk.sum()) for chunk in chunks]}

    def energy(template: str, rule: str, net: str) -> dict[str, list[float]]:
        table = found(template, rule, net)[0].groupby(["operand", "level"])["pj"].sum() / 1e6
        return {operand: [float(table.get((operand, level), 0.0)) for level in LEVELS] for operand in OPERANDS}

    def bottleneck(template: str, rule: str, net: str) -> str:
        first, second = (chunk.sum() for chunk in by_chunk(template, rule, net))
        return "chunk 1" if first >= second else "chunk 2"

    return Explorer(
        "dna-pipeline",
        "A pipeline is as fast as its slowest chunk",
        controls=[
            Choice("net", "network", tuple(SHOWN), "sep3 everywhere"),
            Choice("rule", "second chunk", RULES, "depthwise apart"),
            Choice("template", "template", templates, templates[0], tuple(TEMPLATES[t].title for t in templates)),
        ],
        scalars={
            "slowest": slowest,
            "fps": lambda template, rule, net: 1e3 / slowest(template, rule, net),
            "bottleneck": bottleneck,
            "uj": lambda template, rule, net: sum(map(sum, energy(template, rule, net).values())),
            "machines": lambda template, rule, net: found(template, rule, net)[1],
            "busy": lambda template, rule, net: 100 * sum(map(np.sum, by_chunk(template, rule, net)))
            / (slowest(template, rule, net) * (1 if rule == RULES[0] else 2)),
        },
        panels=[
            Bars(gantt, "Work and waiting", "ms an image", ("chunk 1", "chunk 2"),
                 vlines={"bottleneck": "slowest"}),
            Counters("The fastest accelerator under this rule",
                     {"frames a second": "{fps:,.0f}", "bottleneck": "{bottleneck}", "chunks busy": "{busy:.0f} %"}),
            Bars(energy, "Energy of an image", "µJ", LEVELS),
        ],
        describe="{net} on the fastest {template} accelerator, rule {rule}: {bottleneck} is the bottleneck with "
        "{slowest:.3f} ms, so {fps:,.0f} frames a second and {uj:.0f} µJ each; chunks are busy {busy:.0f} % of the "
        "time. The chunks are {machines}.",
    )  # fmt: skip


def explore_regret(result: Result) -> Explorer:
    """Regret against questions, by search: on the table that was searched, and held out."""
    table, parameters = result.tables["searches"], result.parameters
    own = mean_over_searches(table, ("template", "objective", "seed", "method", "questions"))
    keys = ["template", "objective", "method", "questions"]
    score = {"held out": "held_out", "as searched": "regret"}
    found = {label: means(own, keys, column).set_index(keys) for label, column in score.items()}
    questions, templates = tuple(parameters["questions"]), tuple(parameters["templates"])
    objectives = tuple(table[table["questions"] > 0]["objective"].unique())

    def value(template: str, objective: str, scored: str, method: str, asked: int) -> float:
        column = score[scored]
        return float(found[scored].loc[(template, objective, method, asked), column])

    def lines(template: str, objective: str, scored: str) -> dict[str, NDArray]:
        return {m: np.array([value(template, objective, scored, m, q) for q in questions]) for m in ASKING}

    def best(template: str, objective: str, scored: str, asked: int) -> str:
        return min(ASKING, key=lambda m: value(template, objective, scored, m, asked))

    return Explorer(
        "dna-regret",
        "How good is a search, and at how many questions?",
        controls=[
            Slider("asked", "questions", questions, questions[0]),
            Choice("template", "template", templates, templates[0], tuple(TEMPLATES[t].title for t in templates)),
            Choice("objective", "objective", objectives, objectives[0]),
            Choice("scored", "regret", tuple(score), "held out"),
        ],
        scalars={
            "best": best,
            "joint": lambda template, objective, scored: value(template, objective, scored, JOINT, 0),
            "optimum": lambda template, objective, scored: value(template, objective, scored, OPTIMUM, 0),
        },
        panels=[
            Lines(lines, "By questions", "questions", "regret (points)", x=questions, log="x",
                  hlines={"joint, true gradient": "joint", "enumerated optimum": "optimum"}, vlines={"here": "asked"}),
            Bars(
                lambda template, objective, scored, asked: {
                    "regret": [value(template, objective, scored, m, asked) for m in ASKING]
                },
                "Here", "points", ASKING,
            ),
            Counters("Lowest regret here", {"search": "{best}", "joint, reads all": "{joint:.2f}"}),
        ],
        describe="{template}, objective {objective}, {asked} questions, regret {scored}: {best} misses least of the "
        "searches that ask; the joint search by true gradients, which reads the whole table, misses {joint:.2f} points "
        "and the enumerated optimum {optimum:.2f}.",
    )  # fmt: skip
