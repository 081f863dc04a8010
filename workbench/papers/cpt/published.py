"""CPT's printed training costs, recomputed without training from the networks and the schedules alone.

BitOps of a training = MACs x images x mean over iterations of (b b + 2 b g): b bits of weights and activations in the
forward product, b and g (errors) in both backward ones, the same in every layer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Any

import pandas as pd
import torch
from torch import nn

from workbench import hardware
from workbench.accelerator import generic
from workbench.cost import Macs, as_published, count, training_bitops
from workbench.evidence import claims_from, equals, published
from workbench.papers.cpt.method import cyclic
from workbench.resnets import cifar_resnet, imagenet_resnet, mobilenet_v2

ITERATIONS, BATCH = 64_000, 128
IMAGENET_EPOCHS = 90 * 1_281_167
"""Images of a customary ImageNet training."""

NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "imagenet.resnet18": (partial(imagenet_resnet, 18), 224),
    "imagenet.resnet34": (partial(imagenet_resnet, 34), 224),
    **{f"c100.resnet{depth}": (partial(cifar_resnet, depth, 100), 32) for depth in (38, 74, 110, 152, 164)},
    "c100.mobilenet_v2": (partial(mobilenet_v2, 100), 32),
}
"""By the middle of the ids, with the image's size. ResNet-164 has basic blocks, as the figure's costs show: with
bottlenecks they would be a third less."""

NINETY_EPOCHS = (
    "comes out for 64,000 iterations of 128 images, the CIFAR setting: 6.4 epochs of ImageNet. 90 epochs "
    "would cost 14 times that; ratios stay. We infer this from the numbers"
)
FROM_CELLS = "the printed saving is the quotient of the printed cells"
MEASURED = "no number is printed: the marker's position in the figure was measured, within 0.2 %"
SCALED = "the network is not known to us: the printed 8-bit cell times the schedule's ratio"


@cache
def macs(network: str) -> Macs:
    """MACs of one image as the paper counts them, of one of `NETWORKS`."""
    build, size = NETWORKS[network]
    with torch.device("meta"):
        return as_published(count(build(), torch.empty(1, 3, size, size)))


def bitops(macs: Macs, low: int, high: int, error_bits: int) -> float:
    """BitOps of the paper's training with bits cycling from ``low`` to ``high``; equal bounds are static."""
    return training_bitops(macs, cyclic(ITERATIONS, low, high), error_bits, BATCH)


def saving(low: int, high: int, error_bits: int) -> float:
    """Percent of BitOps that CPT saves against static ``high`` bits: the same for every network."""
    one = Macs(1, 1, 1)
    return 100 * (1 - bitops(one, low, high, error_bits) / bitops(one, high, high, error_bits))


def energy(network: str, low: int, high: int, error_bits: int, scalable: bool) -> pd.DataFrame:
    """Mean energy of one training step of `BATCH` images over the schedule: columns layer, product, level, operand, pj.

    ``scalable``: do the multipliers get cheaper with fewer bits, or are they 8 bits wide whatever comes?
    """
    build, size = NETWORKS[network]
    bits, steps = cyclic(ITERATIONS, low, high).unique(return_counts=True)
    width, share = bits.double()[:, None], steps / ITERATIONS  # all bits side by side; columns are for tilings
    with torch.device("meta"):
        net, images = build(), torch.empty(BATCH, 3, size, size)
    width = {"weight_bits": width, "input_bits": width, "error_bits": error_bits}
    layers = hardware.layers(net, images, training=True, **width)
    rows = [
        (layer.name, layer.product, *place, float((share * pj).sum()))
        for layer, cost in hardware.costs(layers, accelerator=generic(scalable=scalable))
        for place, pj in cost.pj.items()
    ]
    return pd.DataFrame(rows, columns=["layer", "product", "level", "operand", "pj"])


def table() -> pd.DataFrame:
    """Every printed cost and saving beside its recomputation, in the units of data/published/cpt.csv.

    Columns: ``id``, ``published``, ``analytic``, ``error`` (relative), ``ninety_epochs`` (ImageNet's counts if its 90
    epochs were counted) and ``remark``. Ids read ``static_<bits>_<error bits>`` and ``cyclic_<low>_<high>``.
    """
    cells, one, rows = published("cpt")["value"], Macs(1, 1, 1), []
    for key, printed in cells.items():
        network, (kind, *bounds) = key.split(".", 1)[1].rsplit(".", 1)[0], key.rsplit(".", 1)[1].split("_")
        if kind not in ("static", "cyclic", "saving"):
            continue
        low, high = (int(bound) for bound in bounds)
        language, epochs = network not in NETWORKS, float("nan")
        error_bits = 8 if language else high
        if kind == "static":
            high = low
        if kind == "saving":
            analytic, remark = saving(low, high, error_bits), "" if network.startswith("c100") else FROM_CELLS
        elif language:
            if key.endswith("static_8_8"):  # what the others are scaled by
                continue
            ratio = bitops(one, low, high, error_bits) / bitops(one, 8, 8, 8)
            analytic, remark = cells[f"cpt.{network}.static_8_8"] * ratio, SCALED
        else:
            analytic, remark = bitops(macs(network), low, high, error_bits) / 1e9, MEASURED
            if network.startswith("imagenet"):
                remark, epochs = NINETY_EPOCHS, analytic * IMAGENET_EPOCHS / (ITERATIONS * BATCH)
        rows.append((key, printed, analytic, analytic / printed - 1, epochs, remark))
    return pd.DataFrame(rows, columns=["id", "published", "analytic", "error", "ninety_epochs", "remark"])


def cifar_costs() -> pd.DataFrame:
    """GBitOps of every CIFAR-100 training in the paper's figure: columns network, schedule, gbitops."""
    schedules = {"static 8/8": (8, 8, 8), "CPT 3-8/8": (3, 8, 8), "static 6/6": (6, 6, 6), "CPT 3-6/6": (3, 6, 6)}
    networks = [network for network in NETWORKS if network.startswith("c100")]
    rows = [(n.split(".")[1], s, bitops(macs(n), *bits) / 1e9) for n in networks for s, bits in schedules.items()]
    return pd.DataFrame(rows, columns=["network", "schedule", "gbitops"])


def rows(scale: str) -> list[dict[str, Any]]:
    """The ledger's analytic rows: one a cell of `table`."""
    claims, rows = claims_from(published("cpt"), "analytic", equals()), []
    for cell in table().itertuples():
        claim = claims[cell.id]
        if cell.remark == NINETY_EPOCHS:
            claim = replace(claim, claim=f"{claim.claim}; {ITERATIONS:,} iterations of {BATCH} images")
        rows.append(claim.row(cell.analytic, scale))
    return rows
