"""FracTrain's costs: what a choice of bits costs, and the printed training costs beside what they can be traced to.

FracTrain's "MACs" are BitOps / 1024, multiply-accumulates of 32 bits: M x images x (w b + w g + b g) / 1024 with w, b,
g bits of weights, inputs and errors. Its cp is the same as a percentage of training in 32 bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import pandas as pd
import torch

from workbench import hardware
from workbench.cost import Macs, as_published, count
from workbench.evidence import claims_from, equals, published
from workbench.resnets import cifar_resnet, imagenet_resnet

ITERATIONS, BATCH = 64_000, 128
IMAGENET_EPOCHS = 90 * 1_281_167
"""Images of a customary ImageNet training."""

CHOICES = ((3, 6), (4, 6), (4, 8), (6, 8), (6, 12))
"""Bits of (inputs, errors) that DFQ's gate chooses from on CIFAR."""


def cp(weight_bits: int, bits: int, error_bits: int) -> float:
    """Cost of a training step in percent of the same step in 32 bits."""
    return 100 * Macs(1, 1, 1).bitops(weight_bits, bits, error_bits) / (3 * 32 * 32)


def floor(weight_bits: int, choices: Sequence[tuple[int, int]] = CHOICES) -> float:
    """The lowest cp that a gate can reach: its cheapest choice everywhere. A target below is out of reach."""
    return min(cp(weight_bits, *choice) for choice in choices)


@cache
def macs(network: str) -> float:
    """MACs of one image's forward pass as the paper counts them, for example of ``"c10.resnet38"``."""
    data, depth = network.split(".resnet")
    with torch.device("meta"):
        if data == "imagenet":
            return as_published(count(imagenet_resnet(int(depth)), torch.empty(1, 3, 224, 224))).forward
        net = cifar_resnet(int(depth), {"c10": 10, "c100": 100}[data])
        return as_published(count(net, torch.empty(1, 3, 32, 32))).forward


def training_macs(network: str, cost: float, images: float = ITERATIONS * BATCH) -> float:
    """MACs of 32 bits that a training takes at a mean cp of ``cost`` percent."""
    return 3 * macs(network) * images * cost / 100


def energy(depth: int, bits: int, error_bits: int) -> pd.DataFrame:
    """Where the energy of a training step of `BATCH` CIFAR images goes, as `hardware.breakdown` has it."""
    with torch.device("meta"):
        net, images = cifar_resnet(depth), torch.empty(BATCH, 3, 32, 32)
    width = {"weight_bits": bits, "input_bits": bits, "error_bits": error_bits}
    return hardware.breakdown(net, images, training=True, **width)


def savings() -> pd.DataFrame:
    """Printed improvements beside the quotients of the printed counts: columns id, published, analytic, error.

    On CIFAR the paper prints a range over its three static baselines.
    """
    cells, rows = published("fractrain")["value"], []
    for key in cells.index[cells.index.str.contains("saving")]:
        network, name = key.rsplit(".", 1)
        quantity = "latency" if name.endswith("latency") else "macs"
        baselines = [cells[k] for b in ("wageubn", "dorefa", "sbm") if (k := f"{network}.{quantity}_{b}") in cells]
        baseline = min(baselines) if name.endswith("min") else max(baselines)
        analytic = 100 * (1 - cells[f"{network}.{quantity}_fractrain"] / baseline)
        rows.append((key, cells[key], analytic, analytic / cells[key] - 1))
    return pd.DataFrame(rows, columns=["id", "published", "analytic", "error"])


def budgets() -> pd.DataFrame:
    """Printed counts beside the full budget of 64,000 iterations of 128 images, where the mean cp is known.

    FracTrain's own cells are left out: their cp depends on when the indicator switched. Columns: ``id``,
    ``published``, ``analytic``, ``error`` (relative), ``iterations`` (those that the printed count would pay for),
    ``ninety_epochs`` (ImageNet), and ``remark``.
    """
    cells, rows = published("fractrain")["value"], []
    for key in cells.index[cells.index.str.contains("macs_") & ~cells.index.str.endswith("_fractrain")]:
        _, data, net, name = key.split(".")
        network, imagenet = f"{data}.{net}", data == "imagenet"
        cost = 3.0 if name == "macs_dfq" else cp(8, 8, 16 if imagenet else 8)
        full, epochs = training_macs(network, cost), float("nan")
        iterations = ITERATIONS * cells[key] / full
        if imagenet:
            epochs = training_macs(network, cost, IMAGENET_EPOCHS)
            remark = "neither this budget nor 90 epochs: we found no cause"
        elif abs(cells[key] / full - 1) <= 0.01:
            remark = "the full budget"
        else:
            remark = (
                f"pays for {iterations:,.0f} iterations: counted up to the best one, we infer, "
                "since methods of the same bits differ"
            )
        rows.append((key, cells[key], full, full / cells[key] - 1, iterations, epochs, remark))
    columns = ["id", "published", "analytic", "error", "iterations", "ninety_epochs", "remark"]
    return pd.DataFrame(rows, columns=columns)


def bits_and_time() -> pd.DataFrame:
    """What DFQ (cp 3 %) costs against SBM (8 bits), as printed: fewer bits times fewer counted iterations.

    Columns: ``network``, ``ratio`` of the printed counts, ``bits`` (cp 3 / 6.25, the share that bits explain) and
    ``time`` (the rest: how many iterations were counted, if the remarks of `budgets` are right).
    """
    cells, rows, bits = published("fractrain")["value"], [], 3.0 / cp(8, 8, 8)
    for network in ("c10.resnet38", "c100.resnet38", "c10.resnet74", "c100.resnet74"):
        ratio = cells[f"fractrain.{network}.macs_dfq"] / cells[f"fractrain.{network}.macs_sbm"]
        rows.append((network, ratio, bits, ratio / bits))
    return pd.DataFrame(rows, columns=["network", "ratio", "bits", "time"])


def rows(scale: str) -> list[dict[str, Any]]:
    """The ledger's analytic rows: one a cell of `savings` and of `budgets`.

    A row of `budgets` says that it assumes all iterations counted: the paper does not say that its cells do.
    """
    claims = claims_from(published("fractrain"), "analytic", equals())
    assumed = f", if all {ITERATIONS:,} iterations of {BATCH} images are counted, as we assume"
    for key in budgets()["id"]:
        claims[key] = replace(claims[key], claim=claims[key].claim + assumed)
    found = pd.concat([savings(), budgets()])
    return [claims[cell.id].row(cell.analytic, scale) for cell in found.itertuples()]
