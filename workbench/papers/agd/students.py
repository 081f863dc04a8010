"""Students and what they are compared with: distances, scores, the pruned teacher, eight bits."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from workbench import quantize
from workbench.papers.agd.method import Design, Generator, build, outputs
from workbench.papers.agd.tasks import Features, Images, Pairs, Task, frechet, psnr, ssim

UNIFORM = 8
"""The width of the stem, and of all layers in the teacher's shape at a third of its width: uniform scaling."""


def uniform(task: Task, width: int = UNIFORM) -> Design:
    """The narrow teacher: residual blocks of one width, where there is a choice. A design of the searched space."""
    return tuple(("residual", width if len(of) > 1 else of[0]) for of in task.skeleton.widths)


@dataclass(frozen=True)
class Perceptual:
    """The distance d(G(x), G0(x)) of section 3.3: pixels, features (content) and their Gram matrices (style).

    Weights are of the mean absolute difference of pixels and of the second features, and of the mean squared
    difference of all Gram matrices.
    """

    features: Features
    pixel: float = 1.0
    content: float = 0.0
    style: float = 0.0

    def __call__(self, made: Tensor, target: Tensor) -> Tensor:
        """Images [N, 3, H, W] both; no gradient goes to the target."""
        loss = self.pixel * (made - target).abs().mean()
        if self.content or self.style:
            ours, theirs = self.features(made), [each.detach() for each in self.features(target)]
            loss = loss + self.content * (ours[1] - theirs[1]).abs().mean()
            if self.style:
                pairs = zip(ours, theirs, strict=True)
                loss = loss + self.style * sum((gram(a) - gram(b)).square().mean() for a, b in pairs)
        return loss


def gram(x: Tensor) -> Tensor:
    """Products of channels, means over the image: [N, C, H, W] to [N, C, C]."""
    flat = x.flatten(2)
    return flat @ flat.transpose(1, 2) / flat.shape[2]


def distance(task: Task, features: Features) -> Perceptual:
    """The task's distance, of search and students alike."""
    weights = {"content": 0.05} if task.scale > 1 else {"content": 0.1, "style": 1.0}
    return Perceptual(features, **weights)


def score(task: Task, made: tuple[Tensor, ...], pairs: Pairs, images: Images, features: Features) -> float:
    """The measure that decides, of outputs for ``pairs``; more is better.

    Mean PSNR (dB) to the truth; in translation, where no method may know the truth, minus the logarithm of the Frechet
    distance of pooled features to the held-out reference.
    """
    if task.scale > 1:
        found = [psnr(a, b, task.crop) for a, b in zip(made, pairs.truths, strict=True)]
        return float(torch.cat(found).mean())
    seen = [features.pooled(x.clamp(0, 1)) for x in (torch.cat(made), images.reference)]
    return -math.log(frechet(*seen))


def fidelity(task: Task, made: tuple[Tensor, ...], pairs: Pairs) -> dict[str, float]:
    """Mean PSNR and SSIM to the truth; in translation nobody but us knows it."""
    couples = list(zip(made, pairs.truths, strict=True))
    return {
        "psnr": float(torch.cat([psnr(a, b, task.crop) for a, b in couples]).mean()),
        "ssim": float(torch.cat([ssim(a, b, task.crop) for a, b in couples]).mean()),
    }


def apply(net: Callable[[Tensor], Tensor], pairs: Pairs) -> tuple[Tensor, ...]:
    """Outputs of a network for all inputs of pairs."""
    return tuple(outputs(net, x) for x in pairs.inputs)


def prune(teacher: Generator, task: Task) -> Generator:
    """The teacher with channels of small weights removed, in the shape and at the cost of `uniform`.

    Blocks add to one stream, so a channel of the stream goes from all of them: by the L1 norm of the filters of all
    that write to it. Channels inside a block, of the tail and of the first convolution go by their own filters' norm.
    """
    small = build(task.skeleton, uniform(task), "pruned")

    def keep(count: int, *convs: nn.Conv2d) -> Tensor:
        norms = torch.stack([conv.weight.abs().sum((1, 2, 3)) for conv in convs]).sum(0)
        return norms.topk(count).indices.sort().values

    def copy(mine: nn.Conv2d, theirs: nn.Conv2d, rows: Tensor, columns: Tensor) -> None:
        mine.weight.data.copy_(theirs.weight[rows][:, columns])
        mine.bias.data.copy_(theirs.bias[rows])

    blocks = list(zip(small.body, teacher.body, strict=True))
    stream = keep(UNIFORM, teacher.stem[-1], *(block.second for block in teacher.body))
    tail, colours = keep(small.skeleton.tail, teacher.grow), torch.arange(3)
    before = colours
    for mine, theirs in zip(small.stem[:-1], teacher.stem[:-1], strict=True):
        chosen = keep(mine.out_channels, theirs)
        copy(mine, theirs, chosen, before)
        before = chosen
    copy(small.stem[-1], teacher.stem[-1], stream, before)
    for mine, theirs in blocks:
        inner = keep(UNIFORM, theirs.first)
        copy(mine.first, theirs.first, inner, stream)
        copy(mine.second, theirs.second, stream, inner)
    copy(small.grow, teacher.grow, tail, stream)
    copy(small.last, teacher.last, colours, tail)
    return small


def eight_bits(net: nn.Module, inputs: Tensor) -> nn.Module:
    """A copy with weights and inputs of all convolutions in 8 bits, ranges taken from ``inputs``."""
    twin = quantize.quantize(net, bits=8, error_bits=32).eval()
    quantize.reestimate(twin, inputs.split(500))
    return twin
