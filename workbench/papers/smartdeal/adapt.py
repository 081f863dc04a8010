"""SD-training: a decomposed network learns digits that are turned, with and without moving its coefficients.

It was trained on upright digits; the others, turned by some degrees, are learned without ever leaving the decomposed
form. That takes B, batch normalisation and the classifier already some way: what bucket switching adds is measured
against C that stands still.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workbench import data
from workbench.papers.smartdeal.bucket import (
    BucketSwitch,
    basis,
    coefficients,
    deal,
    dealt,
    smallest_coefficient,
)
from workbench.papers.smartdeal.retrain import Level, Setting, Split, accuracy, fit, hidden
from workbench.papers.smartdeal.storage import stored_bits
from workbench.training import generator

SHOWN = 6
"""Coefficients whose buckets are recorded."""


def turned(x: Tensor, degrees: float) -> Tensor:
    """Images ``[n, 1, h, w]`` turned about their centre, bilinear, zeros around."""
    angle = math.radians(degrees)
    matrix = torch.tensor([[math.cos(angle), -math.sin(angle), 0.0], [math.sin(angle), math.cos(angle), 0.0]])
    grid = F.affine_grid(matrix.expand(len(x), 2, 3), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)


def splits(seed: int, images: int, test: int, degrees: float) -> tuple[Split, Split]:
    """Upright digits to begin with, and others that are turned; the test digits are the same, and in neither."""
    pool = data.digits()
    order = torch.randperm(len(pool.y), generator=generator(seed, "images", "adapt"))
    first, second, held_out = order[:images], order[images : 2 * images], order[2 * images :][:test]

    def parts(rows: Tensor, degrees: float) -> tuple[Tensor, Tensor]:
        return (turned(pool.x[rows], degrees) - 0.3) / 0.37, pool.y[rows]

    return Split(*parts(first, 0), *parts(held_out, 0)), Split(*parts(second, degrees), *parts(held_out, degrees))


class Trace:
    """What the buckets of the first dealt layer do, step by step."""

    def __init__(self, switch: BucketSwitch) -> None:
        self.switch, self.counters, self.values = switch, [], []

    def note(self) -> None:
        """Keep this step's counters and coefficients."""
        self.counters.append(self.switch.counters[0].flatten().clone())
        self.values.append(self.switch.parameters[0].detach().flatten().clone())

    def rows(self) -> list[dict[str, Any]]:
        """Of a few coefficients, from those that switched most to one that never did: columns entry, step, ..."""
        counters, values = torch.stack(self.counters), torch.stack(self.values)
        switches = (values.diff(dim=0) != 0).sum(0)
        masked_in = self.switch.masks[0].flatten().nonzero().flatten()
        ranked = masked_in[switches[masked_in].argsort(descending=True, stable=True)]
        picks = ranked[torch.linspace(0, len(ranked) - 1, SHOWN).long()].tolist()
        return [
            {
                "entry": name,
                "step": step + 1,
                "counter": int(counters[step, at]),
                "coefficient": float(values[step, at]),
            }
            for name, at in enumerate(picks, 1)
            for step in range(len(values))
        ]


@dataclass(frozen=True)
class Arm:
    """How a network learns: ``moves`` names what may move of hidden layers, "W", or "C" and "B" at a level."""

    name: str
    moves: str
    level: str = ""

    def prepare(self, layers: list[nn.Module], config: Any) -> BucketSwitch | None:
        """Deal the layers and freeze what does not move, in place."""
        if not self.level:
            for layer in layers:
                layer.weight.requires_grad_("W" in self.moves)
            return None
        level = Level.read(self.level)
        thresholds = level.thresholds(layers)
        parts = level.decompose([layer.weight.detach() for layer in layers], thresholds)
        for layer, part in zip(layers, parts, strict=True):
            deal(layer, part)
            coefficients(layer).requires_grad_("C" in self.moves)
            basis(layer).requires_grad_("B" in self.moves)
        if "C" not in self.moves:
            return None
        smallest = map(smallest_coefficient, thresholds)
        return BucketSwitch(map(coefficients, layers), smallest, config.bar, config.ignore)


def arms(levels: Sequence[str]) -> list[Arm]:
    """All that are compared: of dense networks, and at each level."""
    dense = [Arm("dense", "W"), Arm("dense, convolutions frozen", "")]
    kinds = {"C and B frozen": "", "C frozen": "B", "bucket switching": "CB"}
    return dense + [Arm(name, moves, level) for level in levels for name, moves in kinds.items()]


def adapt(start: nn.Module, rotated: Split, seed: int, arm: Arm, epochs: int, config: Any) -> tuple[dict, Trace | None]:
    """A copy of the network learns turned digits; the row of the table, and what the buckets did.

    Columns: arm, level, ``accuracy``, ``switched`` (percent of unmasked coefficients that ended elsewhere than they
    began) and ``bits`` of the hidden layers. Bases are rounded to 8 bits before they are evaluated.
    """
    net = copy.deepcopy(start)
    layers = hidden(net)
    switch = arm.prepare(layers, config)
    trace = Trace(switch) if switch else None
    begun = [c.detach().clone() for c in switch.parameters] if switch else []

    def after_step(lr: float) -> None:
        if switch and trace:
            switch.step(lr)
            trace.note()

    schedule = {"batch": config.adapt_batch, "lr": config.retrain_lr, "decay": config.retrain_decay}
    apart, new_epoch = (switch.parameters, switch.new_epoch) if switch else ((), None)
    fit(
        net,
        rotated,
        seed,
        epochs,
        apart=apart,
        after_step=after_step,
        after_epoch=new_epoch,
        stream="adapt",
        **schedule,
    )
    bits, moved = 32 * sum(layer.weight.numel() for layer in layers), math.nan
    if arm.level:
        parts = [dealt(layer) for layer in layers]
        bits = stored_bits(parts)
        with torch.no_grad():
            for layer, part in zip(layers, parts, strict=True):
                basis(layer).copy_(part.basis)
    if switch:
        pairs = zip(switch.parameters, begun, strict=True)
        moved = 100 * sum(int((c != old).sum()) for c, old in pairs) / sum(int(mask.sum()) for mask in switch.masks)
    row = {"arm": arm.name, "level": arm.level, "accuracy": accuracy(net, rotated, anew=False)}
    return row | {"switched": moved, "bits": bits}, trace


def adapted(setting: Setting, seed: int, config: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of all arms for a seed, and of the trace of bucket switching at the first level."""
    upright, rotated = splits(seed, config.adapt_images, config.adapt_test, config.degrees)
    start = setting.build(seed)
    fit(start, upright, seed, setting.epochs, batch=config.adapt_batch, lr=config.lr, decay=config.decay)
    bits = 32 * sum(layer.weight.numel() for layer in hidden(start))
    first = {"arm": "not adapted", "level": "", "accuracy": accuracy(start, rotated, anew=False)}
    rows, traced = [first | {"switched": math.nan, "bits": bits}], []
    for arm in arms(config.adapt_levels):
        row, trace = adapt(start, rotated, seed, arm, setting.retraining, config)
        rows.append(row)
        if trace and arm.level == config.adapt_levels[0]:
            traced = trace.rows()
    return rows, traced
