"""The precision range test (CPT section 3.3): which precision can a training start from?

Bits are raised step by step from the lowest; the first whose training accuracy, averaged over some iterations, is
above the one before it by more than a threshold is the lower bound of the cycle. The paper's threshold is not known
to us: here it is a parameter. A training that continues while bits rise improves in any case, so that the control
trains a fresh network at every precision.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from workbench.papers.cpt.nets import Precision
from workbench.papers.cpt.vision import MOMENTUM, Setting, Split
from workbench.training import generator, train

if TYPE_CHECKING:
    from workbench.papers.cpt.experiment import Config

BITS = tuple(range(2, 9))
"""Precisions that are tried."""


def lower_bound(accuracy: Sequence[float], threshold: float, bits: Sequence[int] = BITS) -> float:
    """The first precision whose accuracy exceeds the one before by more than ``threshold``; NaN: there is none."""
    for before, after, found in zip(accuracy, accuracy[1:], bits[1:], strict=False):
        if after - before > threshold:
            return float(found)
    return math.nan


def watch(setting: Setting, seeds: Sequence[int], fresh: bool, config: Config) -> Tensor:
    """Training accuracy ``[S, precisions]``, mean over the second half of each precision's ``range_steps``.

    Args:
        setting: the data; its epochs and cycles do not matter.
        seeds: S of them.
        fresh: a new network for every precision, all side by side, instead of one that goes on.
        config: sizes and learning rate, which stays constant.
    """
    S, copies, T = len(seeds), len(BITS) if fresh else 1, config.range_steps
    net, split = setting.net, Split.draw(setting, seeds, config)
    own = net.init([generator(seed, "start") for seed in seeds])
    parameters = {name: value.repeat(copies, *[1] * (value.ndim - 1)) for name, value in own.items()}
    for value in parameters.values():
        value.requires_grad_()
    state, generators = net.state(copies * S), [generator(s, "rounding") for _ in range(copies) for s in seeds]
    optimiser = torch.optim.SGD(parameters.values(), config.lr, MOMENTUM)
    batches, right = split.batches(config.batch, len(BITS) * T, seeds), []
    errors = torch.full((copies * S,), config.error_bits)

    def loss(step: int) -> Tensor:
        bits = torch.tensor(BITS).repeat_interleave(S) if fresh else torch.full((S,), BITS[step // T])
        x, y = next(batches)
        y = y.repeat(copies, 1)
        precision = Precision(bits, errors, generators)
        logits = net.logits(parameters, state, x.repeat(copies, 1, 1, 1, 1), precision, 1.0)
        right.append((logits.argmax(1) == y).float().mean(1))
        return F.cross_entropy(logits, y, reduction="none").mean(1)

    train(loss, optimiser, T if fresh else len(BITS) * T, label="precision range test")
    found = torch.stack(right).view(-1, T, copies * S)[:, T // 2 :].mean(1)  # [precisions or 1, copies * S]
    return found.view(len(BITS), S).T
