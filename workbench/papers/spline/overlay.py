"""How much of the plane changes sign between networks, exactly; and what a grid of pixels makes of a partition.

The partition of several networks side by side is the overlay of their partitions: every region carries the signs
of all their units, so an area-weighted count of differing signs is an integral, not an estimate.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from workbench.papers.spline.partition import partition


def beside(nets: Sequence[nn.Sequential]) -> nn.Sequential:
    """One network whose units are those of ReLU networks ``Linear, ReLU, ..., Linear`` of equal depth.

    The first layers see the same input; behind them nothing is shared: weights are blocks along the diagonal.
    """
    layers: list[nn.Module] = []
    for at, parts in enumerate(zip(*nets, strict=True)):
        if not isinstance(parts[0], nn.Linear):
            layers.append(parts[0])
            continue
        weights = [part.weight.detach() for part in parts]
        weight = torch.block_diag(*weights) if at else torch.cat(weights)
        layer = nn.Linear(weight.shape[1], weight.shape[0], dtype=weight.dtype)
        layer.weight.data, layer.bias.data = weight, torch.cat([part.bias.detach() for part in parts])
        layers.append(layer)
    return nn.Sequential(*layers)


def region_change(nets: Sequence[nn.Sequential], polygon: ArrayLike) -> NDArray:
    """Share of the area on which a unit's sign differs between two networks, averaged over units, then layers.

    Args:
        nets: T networks of equal widths.
        polygon: ``[n, 2]``, where the plane is looked at.

    Returns:
        ``[T, T]``, symmetric, in [0, 1].
    """
    found, T = partition(beside(nets), polygon), len(nets)
    share = found.areas / found.areas.sum()
    change = np.zeros((T, T))
    for signs in found.patterns:
        on = (signs > 0).reshape(len(signs), T, -1).transpose(1, 0, 2).astype(np.float64)  # [T, R, units]
        on, weight = on.reshape(T, -1), np.repeat(share, on.shape[2])
        both = on @ (on * weight).T  # share of area times units that are on in both
        alone = np.diag(both)
        change += (alone[:, None] + alone - 2 * both) / on.shape[1] * len(share)
    return np.clip(change / len(found.patterns), 0, 1)


def signs_on_grid(net: nn.Sequential, polygon: ArrayLike, n: int) -> list[NDArray]:
    """Which units are on at the centres of n x n pixels over the polygon's box: bool ``[n * n, units]`` a layer."""
    low, high = np.min(polygon, 0), np.max(polygon, 0)
    axes = low + (high - low) * (np.arange(n)[:, None] + 0.5) / n
    x, signs = torch.tensor(np.stack(np.meshgrid(*axes.T), -1).reshape(-1, 2)), []
    with torch.no_grad():
        for module in net:
            if isinstance(module, nn.ReLU):
                signs.append((x > 0).numpy())
            x = module(x)
    return signs


def regions_on_grid(net: nn.Sequential, polygon: ArrayLike, n: int) -> int:
    """How many regions n x n pixels see: different patterns of signs at their centres."""
    patterns = np.hstack([np.packbits(layer, axis=1) for layer in signs_on_grid(net, polygon, n)])
    return len(np.unique(patterns, axis=0))
