"""SmartDeal to play with: one filter taken apart, formats at equal bits, a bucket, and where bits and energy go."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from workbench.evidence import Result
from workbench.explorer import Bars, Choice, Counters, Explorer, Heatmap, Lines, Slider
from workbench.hardware import LEVELS, OPERANDS
from workbench.papers.smartdeal import published
from workbench.papers.smartdeal.bucket import BucketSwitch
from workbench.papers.smartdeal.decompose import alternate, power_of_two
from workbench.papers.smartdeal.experiment import OURS
from workbench.papers.smartdeal.retrain import Setting
from workbench.papers.smartdeal.storage import code_width, formula
from workbench.papers.smartdeal.views import STYLES
from workbench.training import generator

ITERATIONS = 12


def explore_decomposition(result: Result) -> Explorer:
    """One trained filter as coefficients times a basis, iteration by iteration."""
    table = result.tables["filters"]
    matrix = torch.tensor(table.pivot(index="row", columns="column", values="weight").to_numpy(), dtype=torch.float64)
    deviation = float(matrix.std())
    top = int(torch.frexp(power_of_two(matrix.abs().max())).exponent)

    @cache
    def steps(threshold: float, exponents: int, rows: str) -> list[tuple[Tensor, Tensor]]:
        found = alternate(matrix[None], threshold * deviation, rows == "on", ITERATIONS, 2.0 ** (top - exponents))
        return [(c[0], b[0]) for c, b in found]

    def history(threshold: float, exponents: int, rows: str, error: bool) -> NDArray:
        values = [
            100 * float((c @ b - matrix).norm() / matrix.norm() if error else (c == 0).double().mean())
            for c, b in steps(threshold, exponents, rows)
        ]
        return np.array(values + values[-1:] * (ITERATIONS + 1 - len(values)))  # converged: it stays there

    def exponent_map(threshold: float, exponents: int, rows: str) -> NDArray:
        """Sign times the number of doublings above the smallest exponent, plus one; 0 is zero."""
        c = steps(threshold, exponents, rows)[-1][0]
        shift = torch.frexp(c).exponent - (top - exponents)
        return (c.sign() * shift).T.numpy()

    def bits(threshold: float, exponents: int, rows: str) -> float:
        c = steps(threshold, exponents, rows)[-1][0]
        distinct = len(c[c != 0].abs().unique())
        return formula(int(c.count_nonzero()), c.numel(), 9, code_width(distinct))

    def off(threshold: float, exponents: int, rows: str) -> float:
        return float(history(threshold, exponents, rows, error=True)[-1])

    limit = float(matrix.abs().max())
    columns, places = ("left", "middle", "right"), ("first", "second", "third")
    return Explorer(
        "smartdeal-filter",
        "One filter as Ce times B",
        controls=[
            Slider("threshold", "threshold", (0.0, 0.1, 0.3, 0.5, 0.7, 1.0, 1.4), 0.5, "{:g} deviations"),
            Slider("exponents", "exponents at most", (1, 2, 3, 4, 6, 8), 8),
            Choice("rows", "remove rows", ("off", "on"), "off"),
        ],
        scalars={
            "off": off,
            "bits": bits,
            "ratio": lambda threshold, exponents, rows: 32 * matrix.numel() / bits(threshold, exponents, rows),
            "zeros": lambda threshold, exponents, rows: history(threshold, exponents, rows, error=False)[-1],
        },
        panels=[
            Counters(
                "This filter",
                {"relative error": "{off:.1f} %", "bits": "{bits:.0f}", "compression": "{ratio:.1f} x",
                 "zeros in Ce": "{zeros:.0f} %"},
            ),
            Heatmap(lambda: matrix.T.numpy(), "W as trained", "row: channel and kernel row", "column", "weight",
                    y=columns, limits=(-limit, limit)),
            Heatmap(exponent_map, "Ce", "row: channel and kernel row", "of B's row", "sign x (shift + 1)",
                    y=places),
            Heatmap(
                lambda threshold, exponents, rows: torch.matmul(*steps(threshold, exponents, rows)[-1]).T.numpy(),
                "Ce B", "row: channel and kernel row", "column", "weight", y=columns, limits=(-limit, limit),
            ),
            Heatmap(lambda threshold, exponents, rows: steps(threshold, exponents, rows)[-1][1].numpy(), "B", "column",
                    "row", "entry", x=columns, y=places),
            Lines(
                lambda threshold, exponents, rows: {
                    "relative error": history(threshold, exponents, rows, error=True),
                    "zeros in Ce": history(threshold, exponents, rows, error=False),
                },
                "By iteration", "iteration", "%", x=range(ITERATIONS + 1), limits=(0, 100),
            ),
        ],
        describe="Threshold {threshold}, {exponents} exponents at most, removal of rows {rows}: the filter takes "
        "{bits:.0f} bits, {ratio:.1f} times fewer than in FP32, with {zeros:.0f} % zeros and a relative error of "
        "{off:.1f} %. Iteration 0 is dense, so its error is no goal.",
    )  # fmt: skip


def explore_formats(result: Result) -> Explorer:
    """Error of every format where all store as many bits, without retraining."""
    table = result.tables["frontier"].groupby(["setting", "threshold", "arm"], sort=False).mean(numeric_only=True)
    names = {s.id: s.title for s in map(Setting.read, result.parameters["settings"])}
    thresholds = tuple(result.parameters["frontier"])

    def errors(setting: str) -> dict[str, NDArray]:
        return {arm: np.array([table.loc[(setting, t, arm), "error"] for t in thresholds]) for arm in STYLES}

    def at(setting: str, threshold: float) -> Mapping[str, list[float]]:
        return {"relative error": [float(table.loc[(setting, threshold, arm), "error"]) for arm in STYLES]}

    def best(setting: str, threshold: float) -> str:
        return min(STYLES, key=lambda arm: table.loc[(setting, threshold, arm), "error"])

    return Explorer(
        "smartdeal-formats",
        "What else could these bits have bought?",
        controls=[
            Slider("threshold", "SmartDeal's threshold", thresholds, thresholds[len(thresholds) // 2]),
            Choice("setting", "network", tuple(names), next(iter(names)), tuple(names.values())),
        ],
        scalars={
            "bits": lambda setting, threshold: float(table.loc[(setting, threshold, OURS), "bits_a_weight"]),
            "best": best,
            "own": lambda setting, threshold: float(table.loc[(setting, threshold, OURS), "error"]),
        },
        panels=[
            Counters("At this threshold", {"bits a weight": "{bits:.2f}", "nearest to the weights": "{best}"}),
            Lines(errors, "By threshold", "SmartDeal's threshold (deviations)", "relative error", x=thresholds,
                  vlines={"here": "threshold"}),
            Bars(at, "Here", "relative error", tuple(STYLES)),
        ],
        describe="{setting}, threshold {threshold}: with {bits:.2f} bits a weight for every format the one nearest to "
        "the trained weights is {best}; SmartDeal's relative error is {own:.3f}. Nothing is retrained.",
    )  # fmt: skip


def explore_bucket() -> Explorer:
    """One coefficient under bucket switching, pushed by noisy gradients."""
    count, epoch, smallest = 84, 14, 2.0**-5
    pushes = {"none": 0.0, "slowly down": 0.6, "down": 1.5}

    @cache
    def walk(bar: int, ignore: float, push: str) -> tuple[NDArray, NDArray]:
        c = nn.Parameter(torch.tensor([[[0.25]]]))
        switch, noise = BucketSwitch([c], smallest, bar=bar, ignore=ignore), generator("bucket")
        counters, values = [], []
        for step in range(count):
            if step % epoch == 0:
                switch.new_epoch()
            c.grad = pushes[push] + torch.randn(1, 1, 1, generator=noise)
            switch.step(1e-4)
            counters.append(float(switch.counters[0]))
            values.append(float(c.detach()))
        return np.array(counters), np.array(values)

    def places(values: NDArray) -> NDArray:
        """Signed: 0 is zero, 1 the smallest coefficient, and one more for each doubling."""
        size = np.abs(values)
        return np.sign(values) * (1 + np.log2(np.where(size > 0, size, smallest) / smallest))

    return Explorer(
        "smartdeal-bucket",
        "A bucket fills, and a coefficient jumps",
        controls=[
            Slider("bar", "bar", (1, 3, 7, 13, 15), 7, "{} steps"),
            Slider("ignore", "steps ignored up to", (0.0, 1e-4, 2e-4, 5e-4, 1e-3), 2e-4),
            Choice("push", "the gradient pushes", tuple(pushes), "slowly down"),
        ],
        scalars={
            "jumps": lambda bar, ignore, push: int((np.diff(walk(bar, ignore, push)[1], prepend=0.25) != 0).sum()),
            "end": lambda bar, ignore, push: walk(bar, ignore, push)[1][-1],
            "minus": lambda bar: -bar,
        },
        panels=[
            Lines(lambda bar, ignore, push: {"bucket": walk(bar, ignore, push)[0]}, "The bucket", "step", "steps, net",
                  x=range(1, count + 1), limits=(-15.5, 15.5), hlines={"bar": "bar", "-bar": "minus"}),
            Lines(lambda bar, ignore, push: {"C": places(walk(bar, ignore, push)[1])}, "The coefficient", "step",
                  "sign x places above 0", x=range(1, count + 1)),
            Counters("In 84 steps", {"jumps": "{jumps}", "C at the end": "{end:g}"}),
        ],
        describe=f"With a bar of {{bar}}, ignoring steps up to {{ignore}}, and the gradient pushing {{push}}, the "
        f"coefficient jumps {{jumps}} times in {count} steps, from 0.25 to {{end:g}}. Buckets are emptied "
        f"every {epoch} steps: a bar above that is never reached.",
    )  # fmt: skip


def explore_hardware() -> Explorer:
    """Bits and energy of an ImageNet network on an accelerator that rebuilds its weights."""
    networks, sparsities = {"resnet50": "ResNet-50", "vgg11": "VGG11"}, (0.0, 0.2, 0.4, 0.6, 0.8, 0.9)
    engines = ("dense 8 bit", OURS, "free rebuild")

    @cache
    def swept(network: str) -> dict[tuple[str, str, float, str, str], float]:
        table = published.energies(network, sparsities).set_index(
            ["accelerator", "arm", "sparsity", "level", "operand"]
        )
        return (table["pj"] / 1e9).to_dict()

    def spent(network: str, accelerator: str, sparsity: float, engine: str) -> dict[str, list[float]]:
        """mJ by operand, a list over levels."""
        arm, zeros = ("dense 8 bit", 0.0) if engine == "dense 8 bit" else (OURS, sparsity)
        found = {}
        for operand in OPERANDS:
            found[operand] = [swept(network).get((accelerator, arm, zeros, level, operand), 0.0) for level in LEVELS]
        if engine == "free rebuild":
            found["weights"][LEVELS.index("compute")] = 0.0
        return found

    def total(network: str, accelerator: str, sparsity: float, engine: str) -> float:
        return sum(map(sum, spent(network, accelerator, sparsity, engine).values()))

    def storage(network: str, sparsity: float, engine: str) -> dict[str, list[float]]:
        """MB by part."""
        size = published.sizes(network)
        if engine == "dense 8 bit":
            return {"weights": [size.weights / 1e6], "codes": [0.0], "mask": [0.0], "bases": [0.0]}
        nonzero = round((1 - sparsity) * size.coefficients)
        parts = {"weights": 32 * size.untouched, "codes": published.WIDTH * nonzero}
        parts |= {"mask": size.coefficients * bool(sparsity), "bases": 8 * size.basis}
        return {part: [bits / 8e6] for part, bits in parts.items()}

    def gain(network: str, accelerator: str, sparsity: float, engine: str) -> float:
        dense = total(network, accelerator, sparsity, "dense 8 bit")
        return dense / total(network, accelerator, sparsity, engine)

    return Explorer(
        "smartdeal-hardware",
        "Fewer bits to fetch, more work to rebuild: what is the deal?",
        controls=[
            Slider("sparsity", "zeros in Ce", sparsities, 0.6, "{:.0%}"),
            Choice("network", "network", tuple(networks), "resnet50", tuple(networks.values())),
            Choice("engine", "weights", engines, OURS),
            Choice("accelerator", "unit energies", tuple(published.ACCELERATORS), "45 nm"),
        ],
        scalars={
            "total": total,
            "gain": gain,
            "mb": lambda network, sparsity, engine: sum(map(sum, storage(network, sparsity, engine).values())),
        },
        panels=[
            Counters(
                "One image", {"energy": "{total:.2f} mJ", "dense 8 bit over this": "{gain:.2f} x",
                              "weights": "{mb:.1f} MB"},
            ),
            Bars(storage, "Stored weights", "MB", ("weights",)),
            Bars(spent, "Energy by level", "mJ", LEVELS),
        ],
        describe="{network} with {sparsity} zeros, weights: {engine}, unit energies of {accelerator}: {mb:.1f} MB of "
        "weights and {total:.2f} mJ an image; dense 8-bit weights take {gain:.2f} times the energy. Rebuilding is the "
        "weights' part of compute.",
    )  # fmt: skip
