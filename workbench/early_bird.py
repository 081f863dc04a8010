"""Early-bird tickets: when has a pruning mask stopped moving?

Masks are bool ``[T, n]``, one row an epoch (row 0 after the first epoch), True for kept. All distances are
fractions of the n entries that differ (Hamming). Epochs are counted from 1.

Sources: You et al., "Drawing Early-Bird Tickets" (ICLR 2020), section 3; You et al., "GEBT" (AAAI 2022),
algorithms 1 and 2. Papers and released codes differ in which masks are compared; both rules are here.
"""

from __future__ import annotations

from collections import deque
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from workbench import WorkbenchError, check_choice, check_number

Rule = Literal["code", "paper"]


def _as_masks(masks: Tensor, axes: int) -> Tensor:
    """As bool, refused where they are no masks of at least so many axes; never the caller's own memory."""
    binary = masks.dtype == torch.bool or bool(((masks == 0) | (masks == 1)).all())
    if masks.ndim < axes or masks.numel() == 0 or not binary:
        raise WorkbenchError(
            f"a mask of shape {list(masks.shape)} will not do: give 0 and 1 only, [{'T, ' * (axes > 1)}n]"
        )
    return masks == 1


def pairwise_distance(masks: Tensor) -> Tensor:
    """Distance of every pair of epochs' masks: bool ``[..., T, n]`` to ``[..., T, T]``.

    With signs s = +-1, two masks differ in (n - s_a . s_b) / 2 entries: one matrix product does all pairs. Counts are
    whole numbers until the division, so 2 of 20 is 0.1, and not below it.
    """
    signs, n = _as_masks(masks, 2).float().mul_(2).sub_(1), masks.shape[-1]
    return (n - signs @ signs.mT) / (2 * n)


def detector_distance(pairwise: Tensor, fifo: int, rule: Rule = "code") -> Tensor:
    """What the detector watches, ``[..., T, T]`` to ``[..., T]``; NaN until the FIFO is full.

    * ``"code"``: the farthest of the last ``fifo`` masks from the newest one.
    * ``"paper"`` (GEBT, algorithm 1): the largest of the last ``fifo`` distances between successive masks.
    """
    check_choice("rule", rule, get_args(Rule))
    check_number("fifo", fifo, 1, whole=True)
    if pairwise.ndim < 2 or pairwise.shape[-1] != pairwise.shape[-2]:
        raise WorkbenchError(f"distances of shape {list(pairwise.shape)} are none of every pair of epochs, [..., T, T]")
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
    check_number("fifo", fifo, 1, watched.shape[-1] - 1, whole=True)
    first = watched[..., fifo : fifo + 1]
    return torch.where(watched == 0, 0.0, watched / first)


def emergence(watched: Tensor, eta: float, after: int = 0) -> Tensor:
    """First epoch (from 1) later than ``after`` whose distance is below eta: ``[..., T]`` to ``[...]``, NaN: never."""
    check_number("eta", eta, 0)
    check_number("after", after, 0, whole=True)
    fires = (watched < eta) & (torch.arange(watched.shape[-1]) >= after)
    return torch.where(fires.any(-1), fires.float().argmax(-1) + 1.0, torch.nan)


# --- channels: the original Early-Bird tickets -------------------------------------------------------------


def _scales(network: nn.Module) -> list[nn.Parameter]:
    found = [m.weight for m in network.modules() if isinstance(m, nn.BatchNorm2d) and m.affine]
    if not found:
        raise WorkbenchError("the network has no BatchNorm2d with scales, by which channels are chosen")
    return found


def slim(network: nn.Module, strength: float) -> None:
    """Add the L1 subgradient of the BatchNorm scales to their gradients (network slimming; call after backward)."""
    check_number("strength", strength, 0)
    for scale in _scales(network):
        if scale.grad is None:
            raise WorkbenchError("a BatchNorm2d has no gradient yet: call slim after backward")
        scale.grad.add_(strength * scale.detach().sign())


def channel_mask(network: nn.Module, ratio: float, relative: bool = False) -> Tensor:
    """Keep the channels with the largest |gamma| of all BatchNorm2d layers together: bool ``[channels]``.

    Exactly ``int(ratio * channels)`` are dropped. Each layer's largest channel stays, or the network would be
    cut in two (the official code does cut it). Ties fall to the later channel, so a network whose scales are
    all equal has one definite mask; the official code keeps nothing there.

    The official code drops ``int(ratio * channels) + 1``: it keeps what is strictly above the sorted entry at
    that index. One channel in every mask moves the epoch of emergence: in 113 of 200 toy runs of 56 channels.

    ``relative`` divides by the layer's mean first. That is ours: in a small net the last layer's scales grow
    with the logits, and a global threshold then empties the layers before it.

    Raises:
        WorkbenchError: where the ratio leaves no channel to some layer, or a scale is not finite.
    """
    layers = [scale.detach().abs() for scale in _scales(network)]
    check_number("ratio", ratio, 0, 1)
    if relative:
        layers = [layer / layer.mean().clamp(min=torch.finfo(layer.dtype).tiny) for layer in layers]
    if not all(layer.isfinite().all() for layer in layers):
        raise WorkbenchError("a scale of a BatchNorm2d is not finite: the training has diverged")
    scales = torch.cat([layer.index_fill(0, layer.argmax(), torch.inf) for layer in layers])
    count = int(ratio * len(scales))
    if count > len(scales) - len(layers):
        raise WorkbenchError(
            f"ratio {ratio} drops {count} of {len(scales)} channels, but each of {len(layers)} layers keeps one: "
            f"at most {len(scales) - len(layers)} can go"
        )
    dropped = torch.argsort(scales, stable=True)[:count]
    return torch.ones(len(scales), dtype=torch.bool).index_fill_(0, dropped, False)


class EarlyBird:
    """Detector of an early-bird ticket: newest mask against each older one in a FIFO (EB: 5 masks, 0.1).

    It holds masks of finished epochs only and never fires before the FIFO is full, of two masks at least.
    """

    def __init__(self, fifo: int = 5, epsilon: float = 0.1) -> None:
        check_number("fifo", fifo, 2, whole=True)
        check_number("epsilon", epsilon, 0, 1)
        self.masks: deque[Tensor] = deque(maxlen=fifo)
        self.epsilon = epsilon

    def add(self, mask: Tensor) -> bool:
        """Push the mask of one more epoch; True once it is within epsilon of every other mask held."""
        mask = _as_masks(mask, 1)
        if self.masks and mask.shape != self.masks[-1].shape:
            raise WorkbenchError(f"a mask of shape {list(mask.shape)} after one of {list(self.masks[-1].shape)}")
        self.masks.append(mask)
        older = list(self.masks)[:-1]
        full = len(self.masks) == self.masks.maxlen
        return full and all(int((mask != old).sum()) <= self.epsilon * len(mask) for old in older)
