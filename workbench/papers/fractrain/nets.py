"""ResNet-8, K models side by side, whose precision is decided outside of it: by a schedule or by gates.

Activations are ``[n, K C, H, W]``, so that a grouped convolution and one batch normalisation serve all models. Slice k
is `workbench.resnets.cifar_resnet(8)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from workbench.quantize import nearest, quantize_error, quantize_weight, span

Parameters = dict[str, Tensor]
Kept = dict[str, tuple[Tensor, ...]]
"""By layer: low and high end of the input's range, mean and variance of the output."""
BLOCKS = 3


class Precision(Protocol):
    """What a pass asks before it multiplies. Tensors are ``[K, ...]``; ``gated`` says: inside a residual block."""

    def choose(self, block: int, x: Tensor) -> None:
        """Called with each block's input ``[K, n, C, H, W]``."""

    def weight(self, w: Tensor, gated: bool) -> Tensor:
        """Quantised weights."""

    def input(self, x: Tensor, low: Tensor, high: Tensor, gated: bool) -> Tensor:
        """Quantised inputs ``[K, n, C, H, W]``."""

    def error(self, y: Tensor, gated: bool) -> Tensor:
        """The outputs ``[K, n, C, H, W]``, their gradient quantised."""


@dataclass(frozen=True)
class Uniform:
    """The same bits in all layers: of weights and inputs, and of errors, both ``[K]``; one generator a model."""

    bits: Tensor
    error_bits: Tensor
    generators: Sequence[torch.Generator]

    def choose(self, block: int, x: Tensor) -> None:
        """Nothing to choose."""

    def weight(self, w: Tensor, gated: bool) -> Tensor:
        """All weights are quantised."""
        return quantize_weight(w, self.bits)

    def input(self, x: Tensor, low: Tensor, high: Tensor, gated: bool) -> Tensor:
        """All inputs are quantised."""
        return nearest(x, low, high, self.bits.view(-1, 1, 1, 1, 1))

    def error(self, y: Tensor, gated: bool) -> Tensor:
        """All errors are quantised."""
        return quantize_error(y, self.error_bits, self.generators)


@dataclass(frozen=True)
class ResNet8:
    """Three residual blocks of ``width``, 2 and 4 ``width`` channels; `Precision` decides what is quantised."""

    channels: int = 1
    width: int = 4
    classes: int = 10

    @property
    def convolutions(self) -> dict[str, tuple[int, int, int, int]]:
        """Inputs, outputs, kernel and stride by name, in the order of `cifar_resnet`."""
        found, inputs = {"stem": (self.channels, self.width, 3, 1)}, self.width
        for block in range(BLOCKS):
            outputs, stride = self.width * 2**block, 2 if block else 1
            found[f"{block}.first"] = (inputs, outputs, 3, stride)
            found[f"{block}.second"] = (outputs, outputs, 3, 1)
            if block:
                found[f"{block}.shortcut"] = (inputs, outputs, 1, stride)
            inputs = outputs
        return found

    def head(self, generators: Sequence[torch.Generator]) -> Parameters:
        """A new last layer, one generator a model."""
        fan = 4 * self.width
        drawn = torch.stack([torch.rand(self.classes, fan, generator=g) for g in generators])
        return {"head.weight": (2 * drawn - 1) / fan**0.5, "head.bias": torch.zeros(len(generators), self.classes)}

    def init(self, generators: Sequence[torch.Generator]) -> Parameters:
        """Weights of He et al. (2015), one generator a model."""
        parameters = {}
        for name, (inputs, outputs, kernel, _) in self.convolutions.items():
            draws = [torch.randn(outputs, inputs, kernel, kernel, generator=g) for g in generators]
            parameters[f"{name}.weight"] = torch.stack(draws) * (2 / (inputs * kernel**2)) ** 0.5
            parameters[f"{name}.scale"] = torch.ones(len(generators), outputs)
            parameters[f"{name}.shift"] = torch.zeros(len(generators), outputs)
        return parameters | self.head(generators)

    def logits(self, parameters: Parameters, x: Tensor, precision: Precision, kept: Kept | None = None) -> Tensor:
        """``[n, K, channels, H, W]`` to ``[K, n, classes]``.

        Args:
            parameters: of `init`.
            x: images.
            precision: decides the bits.
            kept: None in training, where every batch has its own statistics. An empty dictionary is filled with
                this batch's; a filled one is used in their place.
        """
        n, K = x.shape[:2]
        kept = {} if kept is None else kept

        def models(x: Tensor) -> Tensor:
            return x.view(n, K, -1, *x.shape[2:]).transpose(0, 1)

        def layer(name: str, x: Tensor) -> Tensor:
            *_, kernel, stride = self.convolutions[name]
            scale, shift = (parameters[f"{name}.{part}"].view(-1) for part in ("scale", "shift"))
            gated, replayed, x = name.endswith(("first", "second")), name in kept, models(x)
            if replayed:
                low, high, mean, var = kept[name]
                x = x.clamp(low, high)
            else:
                low, high = span(x, 1)
                mean, var = torch.zeros_like(scale), torch.ones_like(scale)
                kept[name] = low, high, mean.detach(), var.detach()
            x = precision.input(x, low, high, gated).transpose(0, 1).flatten(1, 2)
            w = precision.weight(parameters[f"{name}.weight"], gated).flatten(0, 1)
            y = F.conv2d(x, w, stride=stride, padding=kernel // 2, groups=K)
            y = precision.error(models(y), gated).transpose(0, 1).reshape(y.shape)
            return F.batch_norm(y, kept[name][2], kept[name][3], scale, shift, not replayed, 1.0)

        x = F.relu(layer("stem", x.flatten(1, 2)), inplace=True)
        for block in range(BLOCKS):
            precision.choose(block, models(x))
            y = layer(f"{block}.second", F.relu(layer(f"{block}.first", x), inplace=True))
            x = F.relu(y + (layer(f"{block}.shortcut", x) if block else x), inplace=True)
        pooled = models(x.mean((2, 3)))
        return torch.baddbmm(parameters["head.bias"][:, None], pooled, parameters["head.weight"].mT)
