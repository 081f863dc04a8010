"""SmartDeal's printed cells, recomputed without training: storage from the architectures, training state, energy.

Most cells we know from memory only (``verified`` is false for them): a disagreement may be ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from math import prod
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from workbench import hardware
from workbench.accelerator import Accelerator, generic, unit_energy
from workbench.dataflow import Layer
from workbench.evidence import NOT_SEEN, PARTLY, REPRODUCED, Interval, claims_from, equals, published
from workbench.papers.smartdeal.decompose import BASIS, applies, block_shape
from workbench.papers.smartdeal.nets import NETWORKS, weight_shape
from workbench.papers.smartdeal.storage import code_width, formula

WIDTH = code_width(8)
"""Bits of a coefficient in the papers' tables: sign, and one of 8 exponents."""
BATCH = 32
"""Images of a training step whose energy is counted."""
REMARKS = {
    "resnet50.stored_mb": "1.3 % too large; the 7x7 stem stays in FP32",
    "mobilenet_v2.stored_mb": "comes out as 2.116 if the bases had 16 bits; no mask, for there are no zeros",
    "mobilenet_v2.ratio": "comes out as 6.56 if the bases had 16 bits",
    "efficientnet_b0.fp32_mb": "our count is that of the usual 5.3 M parameters",
    "efficientnet_b0.stored_mb": "5x5 kernels stay in FP32; with 8 bits for them 2.97",
    "efficientnet_b0.ratio": "5x5 kernels stay in FP32; with 8 bits for them 7.06",
    "vgg11.fp32_mb": "the cell means 211 M weights; VGG11 for ImageNet has 133 M",
    "vgg11.stored_mb": "a mask of one bit a coefficient alone would take 26 MB of the cell's own 211 M weights",
    "vgg11.ratio": "11.5 MB and 46.3 x without a mask",
    "mlp2.stored_mb": "even without any coefficient: a mask of one bit each takes 0.033 MB",
    "mlp2.ratio": "without a mask the cell would need 86.8 % zeros",
}


# --- storage -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sizes:
    """Counts of a network: ``weights``, of which ``untouched`` are not decomposed; entries of Ce and B for the rest."""

    weights: int
    untouched: int
    coefficients: int
    basis: int

    @classmethod
    def of(cls, layers: Sequence[Layer]) -> Sizes:
        """Of a network's layers."""
        shapes = [weight_shape(layer) for layer in layers]
        dealt = [shape for shape in shapes if applies(shape)]
        blocks = [shape[0] * block_shape(shape)[0] for shape in dealt]
        entries = [M * block_shape(shape)[1] * BASIS for M, shape in zip(blocks, dealt, strict=True)]
        total = sum(map(prod, shapes))
        return cls(total, total - sum(map(prod, dealt)), sum(entries), BASIS**2 * sum(blocks))

    def bits(self, sparsity: float, mask: bool = True, basis_bits: int = 8, untouched_bits: int = 32) -> float:
        """The papers' formula at that share of zeros; without zeros no mask is needed."""
        nonzero = round((1 - sparsity) * self.coefficients)
        found = formula(nonzero, self.coefficients, self.basis, WIDTH, basis_bits)
        return found - self.coefficients * (not (mask and sparsity)) + untouched_bits * self.untouched


@cache
def sizes(network: str) -> Sizes:
    """Of one of `NETWORKS`."""
    return Sizes.of(NETWORKS[network]())


def table() -> pd.DataFrame:
    """Every storage cell beside its recomputation, in the cell's unit.

    Columns: id, published, analytic (by the code's formula), ``error`` (relative), ``without_mask``, ``basis16`` (no
    mask, bases of 16 bits) and remark. MB are 10^6 bytes.
    """
    cells, rows = published("smartdeal")["value"], []
    for key, printed in cells.items():
        _, network, *cell = str(key).split(".")
        if not cell or cell == ["sparsity"]:
            continue
        size, sparsity = sizes(network), cells.get(f"smartdeal.{network}.sparsity", 100.0) / 100
        dense, variants = 32 * size.weights, ({}, {"mask": False}, {"mask": False, "basis_bits": 16})
        stored = [size.bits(sparsity, **variant) for variant in variants]
        found = {
            "fp32_mb": [dense / 8e6] * 3,
            "ce_mb": [WIDTH * (1 - sparsity) * size.coefficients / 8e6] * 3,
            "stored_mb": [bits / 8e6 for bits in stored],
            "ratio": [dense / bits for bits in stored],
        }[cell[0]]
        rows.append(
            (key, printed, found[0], found[0] / printed - 1, *found[1:], REMARKS.get(f"{network}.{cell[0]}", ""))
        )
    return pd.DataFrame(rows, columns=["id", "published", "analytic", "error", "without_mask", "basis16", "remark"])


# --- what training stores ----------------------------------------------------------------------------------------


def training_storage(network: str, sparsity: float, bar: int = 7) -> pd.DataFrame:
    """Bits that a training keeps of a network's weights, by kind; columns arm, part, bits.

    Dense: weights and SGD's momentum, 32 bits each. SmartDeal: codes, mask and bases in 8 bits; then what the code's
    update needs besides, a 32-bit momentum for each unmasked coefficient and each entry of B, a 32-bit copy of B that
    small steps can move, and the buckets.
    """
    size = sizes(network)
    nonzero = round((1 - sparsity) * size.coefficients)
    buckets = (1 + bar.bit_length()) * nonzero
    rows = [
        ("dense", "weights", 32 * size.weights),
        ("dense", "momentum", 32 * size.weights),
        ("SmartDeal", "codes", WIDTH * nonzero),
        ("SmartDeal", "mask", size.coefficients * bool(sparsity)),
        ("SmartDeal", "bases", 8 * size.basis),
        ("SmartDeal", "untouched weights", 32 * size.untouched),
        ("SmartDeal", "momentum", 32 * (nonzero + size.basis + size.untouched)),
        ("SmartDeal", "bases in FP32", 32 * size.basis),
        ("SmartDeal", "buckets", buckets),
    ]
    return pd.DataFrame(rows, columns=["arm", "part", "bits"])


WEIGHT_PARTS = ("weights", "codes", "mask", "bases", "untouched weights")
"""Of `training_storage`, what is counted if only the weights are."""


# --- energy ------------------------------------------------------------------------------------------------------


def smartexchange28() -> Accelerator:
    """`generic` with the 28 nm unit energies of SmartExchange, which we know from memory.

    It has none for registers and deliveries, which keep their ratio to the buffer, nor for a shift: an addition's.
    """
    plain, buffer = generic(), unit_energy("sram", "small", "smartexchange28")
    scale, add = buffer / plain.buffer, unit_energy("add", "FIX8", "smartexchange28")
    return replace(
        plain,
        name="28 nm",
        multiply=unit_energy("multiply", "FIX8", "smartexchange28"),
        add=add,
        shift=add,
        register=tuple(scale * pj for pj in plain.register),
        network=scale * plain.network,
        buffer=buffer,
        dram=unit_energy("dram", "any", "smartexchange28"),
        source="SmartExchange (ISCA 2020), from memory",
    )


ACCELERATORS = {"45 nm": generic(), "28 nm": smartexchange28()}
UNITS = ("multiply", "add", "shift", "network", "buffer", "dram")
ARMS = {"dense 32 bit": 32, "dense 8 bit": 8, "SmartDeal": 8}
"""Bits of weights, inputs and errors. SmartDeal's weights are rebuilt to 8 bits beside the PEs."""


def rebuilt(layer: Layer, sparsity: float) -> tuple[float, float]:
    """``(weight_store, rebuild)`` of a layer that arrives as Ce and B, see `Layer`.

    A weight is a sum of three shifted entries of B, of which the zeros of Ce drop some: ``3 (1 - sparsity)`` pairs of a
    shift and an addition. Outside the array it takes the bits of the formula.
    """
    shape = weight_shape(layer)
    if not applies(shape):
        return 8.0, 0.0
    return Sizes.of([layer]).bits(sparsity) / prod(shape), BASIS * (1 - sparsity)


def _column(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]  # a row a state; columns are for tilings


def sparsity_of(network: str) -> float:
    """Share of zeros in the papers' table."""
    return published("smartdeal")["value"][f"smartdeal.{network}.sparsity"] / 100


def energies(
    network: str, sparsities: Sequence[float], images: int = 1, products: Sequence[str] = ("forward",)
) -> pd.DataFrame:
    """Energy of a pass over ``images``, in each layer's cheapest tiling, rows in place (`hardware.best`).

    With all of `hardware.PRODUCTS` it is a training step without its update; the first layer has no dX.

    Returns:
        Columns accelerator, arm, sparsity (0 of dense arms), level, operand, pj. Rebuilding is ``compute`` of
        ``weights``.
    """
    arms = [(arm, s) for arm in ARMS for s in (sparsities if arm == "SmartDeal" else (0.0,))]
    states = [(accelerator, *arm) for accelerator, arm in product(ACCELERATORS, arms)]
    machines = [ACCELERATORS[name] for name, *_ in states]
    machine = replace(
        machines[0],
        **{unit: _column([getattr(m, unit) for m in machines]) for unit in UNITS},
        register=tuple(_column(column) for column in zip(*(m.register for m in machines), strict=True)),
    )
    bits = _column([ARMS[arm] for _, arm, _ in states])
    swept: dict[Layer, dict[tuple[str, str], Tensor]] = {}  # layers of one shape cost the same
    totals: dict[tuple[str, str], Tensor] = {}
    for at, layer in enumerate(NETWORKS[network]()):
        ours = [rebuilt(layer, s) if arm == "SmartDeal" else (ARMS[arm], 0.0) for _, arm, s in states]
        store, pairs = (_column(column) for column in zip(*ours, strict=True))
        for each in products:
            if not at and each == "dx":
                continue
            same = replace(layer, name="", N=images, product=each)
            if same not in swept:
                wide = {"weight_bits": bits, "input_bits": bits, "output_bits": bits, "weight_store": store}
                own = replace(same, **wide, rebuild=0.0 if each == "dw" else pairs)
                swept[same] = hardware.best(own, machine).pj
            for place, pj in swept[same].items():
                totals[place] = totals.get(place, 0.0) + pj
    rows = [
        (*state, *place, float(pj.expand(len(states))[k]))
        for k, state in enumerate(states)
        for place, pj in totals.items()
    ]
    return pd.DataFrame(rows, columns=["accelerator", "arm", "sparsity", "level", "operand", "pj"])


PASSES = {
    "ResNet-50, inference": ("resnet50", 1, ("forward",)),
    "VGG11, inference": ("vgg11", 1, ("forward",)),
    "MobileNetV2, inference": ("mobilenet_v2", 1, ("forward",)),
    f"ResNet-50, training, {BATCH} images": ("resnet50", BATCH, hardware.PRODUCTS),
}


def energy_table() -> pd.DataFrame:
    """`energies` of all `PASSES`, named in the column ``pass``, an image."""
    tables = {name: energies(net, (sparsity_of(net),), *of) for name, (net, *of) in PASSES.items()}
    for name, (_, images, _) in PASSES.items():
        tables[name]["pj"] /= images
    return pd.concat(tables, names=["pass"]).reset_index("pass").reset_index(drop=True)


def energy_factors(table: pd.DataFrame) -> pd.DataFrame:
    """Energy of the dense arms over SmartDeal's, of `energy_table`: columns pass, accelerator, against, factor."""
    keys = ["pass", "accelerator"]
    wide = table.pivot_table(index=keys, columns="arm", values="pj", aggfunc="sum", sort=False)
    factors = wide.drop(columns="SmartDeal").div(wide["SmartDeal"], axis=0)
    return factors.rename_axis(columns="against").stack().rename("factor").reset_index()


# --- the ledger --------------------------------------------------------------------------------------------------


def reaches(found: Interval, printed: float | None) -> str:
    """A factor "up to" which something is saved: reproduced where it is reached, partly where half of the gain is."""
    if found.mean >= printed:
        return REPRODUCED
    return PARTLY if found.mean - 1 >= (printed - 1) / 2 else NOT_SEEN


def rows(scale: str, factors: pd.DataFrame) -> list[dict[str, Any]]:
    """The ledger's analytic rows: one a storage cell, and the abstract's three factors in two ways of counting each.

    ``factors`` are those of `energy_factors`.
    """
    cells = published("smartdeal")
    claims = claims_from(cells[~cells.index.str.endswith(".sparsity")], "analytic", equals())
    found = []
    for cell in table().itertuples():
        known = f"{cell.id.rsplit('.', 1)[0]}.sparsity" in cells.index or cell.id.endswith("fp32_mb")
        found.append(claims[cell.id].row(cell.analytic if known else None, scale))

    def best(step: str, against: str) -> float:
        rows = factors[factors["pass"].str.contains(step) & (factors["against"] == against)]
        return float(rows["factor"].max())

    networks = "the best of ResNet-50, VGG11 and MobileNetV2"
    counted = {
        "inference_energy": {
            ".dense8": (f"{networks}, against dense 8 bit on the same accelerator", best("inference", "dense 8 bit")),
        },
        "training_storage": {
            ".weights": ("ResNet-50 at 58.6 % zeros, the weights alone", storage_factor("resnet50", True)),
            ".state": ("ResNet-50 at 58.6 % zeros, with momentum and buckets", storage_factor("resnet50", False)),
        },
        "training_energy": {
            ".dense8": ("ResNet-50, against dense 8 bit", best("training", "dense 8 bit")),
            ".dense32": ("ResNet-50, against dense 32 bit", best("training", "dense 32 bit")),
        },
    }
    for name, ways in counted.items():
        claim = claims[f"smartdeal.{name}"]
        for ending, (text, value) in ways.items():
            own = replace(claim, id=claim.id + ending, claim=f"{claim.claim}: {text}", rule=reaches)
            found.append(own.row(value, scale))
    return found


def storage_factor(network: str, weights_only: bool) -> float:
    """How many times fewer bits a SmartDeal training keeps."""
    bits = training_storage(network, sparsity_of(network))
    if weights_only:
        bits = bits[bits["part"].isin(WEIGHT_PARTS)]
    totals = bits.groupby("arm")["bits"].sum()
    return float(totals["dense"] / totals["SmartDeal"])
