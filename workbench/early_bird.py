"""Early-bird tickets: when has a pruning mask stopped moving?

Masks are bool ``[T, n]``, one row an epoch (row 0 after the first epoch), True for kept. All distances are
fractions of the n entries that differ (Hamming). Epochs are counted from 1.

Sources: You et al., "Drawing Early-Bird Tickets" (ICLR 2020), section 3; You et al., "GEBT" (AAAI 2022),
algorithms 1 and 2. Papers and released codes differ in which masks are compared; both rules are here.
"""

from __future__ import annotations

from collections import deque
from typing import Literal

import torch
from torch import Tensor, nn

Rule = Literal["code", "paper"]


def pairwise_distance(masks: Tensor) -> Tensor:
    """Distance of every pair of epochs' masks: bool ``[..., T, n]`` to ``[..., T, T]``.

    With signs s = +-1, two masks differ in (n - s_a . s_b) / 2 entries: one matrix product does all pairs. Counts are
    whole numbers until the division, so 2 of 20 is 0.1, and not below it.
    """
    signs, n = masks.float().mul_(2).sub_(1), masks.shape[-1]
    return (n - signs @ signs.mT) / (2 * n)


def detector_distance(pairwise: Tensor, fifo: int, rule: Rule = "code") -> Tensor:
    """What the detector watches, ``[..., T, T]`` to ``[..., T]``; NaN until the FIFO is full.

    * ``"code"``: the farthest of the last ``fifo`` masks from the newest one.
    * ``"paper"`` (GEBT, algorithm 1): the largest of the last ``fifo`` distances between successive masks.
    """
    T = pairwise.shape[-1]
    watched = torch.full(pairwise.shape[:-1], torch.nan)
    for t in range(fifo, T):
        if rule == "code":
            watched[..., t] = pairwise[..., t, t - fifo : t].amax(-1)
        else:
            successive = torch.arange(t - fifo + 1, t + 1)
            watched[..., t] = pairwise[..., successive, successive - 1].amax(-1)
    return watched


def normalise_by_first(watched: Tensor, fifo: int) -> Tensor:
    """Divide by the first recorded distance (GEBT's "normalised distance"); 0 / 0 counts as 0.

    A trap where the first distance is small: weight masks of a joint ticket start at almost zero.
    """
    first = watched[..., fifo : fifo + 1]
    return torch.where(watched == 0, 0.0, watched / first)


def emergence(watched: Tensor, eta: float, after: int = 0) -> Tensor:
    """First epoch (from 1) later than ``after`` whose distance is below eta: ``[..., T]`` to ``[...]``, NaN: never."""
    fires = (watched < eta) & (torch.arange(watched.shape[-1]) >= after)
    return torch.where(fires.any(-1), fires.float().argmax(-1) + 1.0, torch.nan)


# --- channels: the original Early-Bird tickets -------------------------------------------------------------


def slim(network: nn.Module, strength: float) -> None:
    """Add the L1 subgradient of the BatchNorm scales to their gradients (network slimming; call after backward)."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.grad.add_(strength * module.weight.detach().sign())


def channel_mask(network: nn.Module, ratio: float, relative: bool = False) -> Tensor:
    """Keep the channels with the largest |gamma| of all BatchNorm2d layers together: bool ``[channels]``.

    Exactly ``int(ratio * channels)`` are dropped. Each layer's largest channel stays, or the network would be
    cut in two (the official code does cut it). Ties fall to the later channel, so a network whose scales are
    all equal has one definite mask; the official code keeps nothing there.

    ``relative`` divides by the layer's mean first. That is ours: in a small net the last layer's scales grow
    with the logits, and a global threshold then empties the layers before it.
    """
    layers = [m.weight.detach().abs() for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    if relative:
        layers = [layer / layer.mean() for layer in layers]
    scales = torch.cat([layer.index_fill(0, layer.argmax(), torch.inf) for layer in layers])
    dropped = torch.argsort(scales, stable=True)[: int(ratio * len(scales))]
    return torch.ones(len(scales), dtype=torch.bool).index_fill_(0, dropped, False)


class EarlyBird:
    """Detector of an early-bird ticket: newest mask against each older one in a FIFO (EB: 5 masks, 0.1).

    It holds masks of finished epochs only and never fires before the FIFO is full.
    """

    def __init__(self, fifo: int = 5, epsilon: float = 0.1) -> None:
        self.masks: deque[Tensor] = deque(maxlen=fifo)
        self.epsilon = epsilon

    def add(self, mask: Tensor) -> bool:
        """Push the mask of one more epoch; True once it is within epsilon of every other mask held."""
        self.masks.append(mask)
        older = list(self.masks)[:-1]
        full = len(self.masks) == self.masks.maxlen
        return full and all(int((mask != old).sum()) <= self.epsilon * len(mask) for old in older)
