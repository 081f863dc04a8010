"""What a design is worth: its accuracy after a short fine-tuning, measured on a small task and never predicted.

The task: digits, each turned by up to 25 degrees and moved by up to a pixel, 400 of them to train on. On upright digits
pilots found all designs within two points of one another, which is the noise of the images; here the uncompressed
network reaches some 85 %, and designs lie between 50 and 86. Pilots ran on seed 900.
Of the fine-tunings with step sizes from 0.005 to 0.03 we took one that repairs much, and moves little when weights
change in the seventh digit.

Sums are rounded otherwise on another processor, and training makes such differences larger: in float32 they moved a row
of the table by some tenths of a point. So all is float64, and rounded layers multiply integers. Of twelve designs of
the pilot, logits then differed by less than 1e-12 among three kinds of processor, and no image was answered otherwise.

Every seed has its own images, distortions and trained network. Designs of a seed start from that network and see the
same batches. ``val`` chooses, ``test`` reports.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from workbench import data
from workbench.papers.adadeep.techniques import CONV, FC, Conv, Dense, Design, Net, compress
from workbench.recorded import state_hash
from workbench.training import generator, train

SPACES = (CONV, CONV, FC)
"""Techniques of the second and the third convolution, and of the first linear layer."""
DESIGNS: tuple[Design, ...] = tuple(product(*SPACES))
TRAIN, VAL = 400, 500
"""Digits to train on and to choose with; the other 897 are for the test."""
DEGREES, PIXELS = 25.0, 1.0
EPOCHS, LR, DECAY = 60, 0.05, 5e-4
TUNING, TUNING_LR, TUNING_DECAY = 6, 0.0125, 1e-4
BATCH, MOMENTUM = 50, 0.9


def distorted(x: Tensor, stream: torch.Generator) -> Tensor:
    """Images ``[n, c, h, w]``, each turned and moved by its own uniform amounts; bilinear, zeros outside."""
    draw = 2 * torch.rand(len(x), 3, generator=stream).to(x) - 1
    angle, shift = draw[:, 0] * math.radians(DEGREES), draw[:, 1:] * 2 * PIXELS / x.shape[-1]
    rows = [[angle.cos(), -angle.sin(), shift[:, 0]], [angle.sin(), angle.cos(), shift[:, 1]]]
    affine = torch.stack([torch.stack(row, 1) for row in rows], 1)
    return F.grid_sample(x, F.affine_grid(affine, list(x.shape), align_corners=False), align_corners=False)


@dataclass(frozen=True)
class Split:
    """Images float64 ``[n, 1, 8, 8]`` and labels of the three parts; no digit is in two of them."""

    x: Tensor
    y: Tensor
    val_x: Tensor
    val_y: Tensor
    test_x: Tensor
    test_y: Tensor

    @classmethod
    def draw(cls, seed: int) -> Self:
        """Those of a seed."""
        images = data.digits()
        order = torch.randperm(len(images.y), generator=generator(seed, "images"))
        found: list[Tensor] = []
        for name, part in zip(("train", "val", "test"), order.tensor_split([TRAIN, TRAIN + VAL]), strict=True):
            turned = distorted(images.x[part].double(), generator(seed, "distort", name))
            found += [(turned - 0.3) / 0.37, images.y[part]]
        return cls(*found)


def start(seed: int) -> Net:
    """The network before its training: weights as in He et al. (2015)."""
    net = Net().double()
    for at, layer in enumerate(m for m in net.modules() if isinstance(m, Conv | Dense)):
        noise = torch.randn(layer.weight.shape, dtype=torch.float64, generator=generator(seed, "start", at))
        layer.weight.data = noise * (2 / layer.weight[0].numel()) ** 0.5
        if layer.bias is not None:
            layer.bias.data.zero_()
    return net


def _batches(seed: int, stream: str, epochs: int) -> Iterator[Tensor]:
    for epoch in range(epochs):
        yield from torch.randperm(TRAIN, generator=generator(seed, stream, epoch)).split(BATCH)


def fit(net: Net, split: Split, seed: int, stream: str, epochs: int, lr: float, decay: float) -> None:
    """SGD with momentum and a cosine to zero, in place."""
    optimiser = torch.optim.SGD(net.parameters(), lr, MOMENTUM, weight_decay=decay)
    count = epochs * (TRAIN // BATCH)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, count)
    batches = _batches(seed, stream, epochs)

    def loss(_: int) -> Tensor:
        rows = next(batches)
        return F.cross_entropy(net(split.x[rows]), split.y[rows])

    net.train()
    train(loss, optimiser, count, after_step=lambda _: cosine.step(), label=stream)


def trained(seed: int, split: Split) -> Net:
    """The uncompressed network of a seed."""
    net = start(seed)
    fit(net, split, seed, "train", EPOCHS, LR, DECAY)
    return net


@torch.inference_mode()
def accuracy(net: Net, x: Tensor, y: Tensor) -> float:
    """In per cent."""
    net.eval()
    return 100 * float((net(x).argmax(1) == y).double().mean())


def measure(net: Net, split: Split, seed: int, design: Design) -> dict[str, Any]:
    """A design of a trained network: accuracies in per cent, before fine-tuning and after, and the weights' hash."""
    twin = compress(net, design, split.x)
    before = accuracy(twin, split.val_x, split.val_y)
    fit(twin, split, seed, "tune", TUNING, TUNING_LR, TUNING_DECAY)
    return {
        "seed": seed,
        **dict(zip(("conv2", "conv3", "fc"), design, strict=True)),
        "before": round(before, 4),
        "val": round(accuracy(twin, split.val_x, split.val_y), 4),
        "test": round(accuracy(twin, split.test_x, split.test_y), 4),
        "hash": state_hash(twin.state_dict()),
    }
