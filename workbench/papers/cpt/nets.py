"""ResNet-8 with quantised convolutions, K models side by side.

Images are ``[K, channels, H, W, n]``: with the batch last, a shifted image is a few long rows of memory, and a
convolution is one batched product of ``[K, out, 9 in]`` with patches ``[K, 9 in, h w n]``. Slice k is the network
`workbench.resnets.cifar_resnet(8)`, quantised by `workbench.quantize.quantize`; tests compare the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from workbench.quantize import nearest, quantize_error, quantize_weight, span

Parameters = dict[str, Tensor]


@dataclass(frozen=True)
class Precision:
    """Bits ``[K]`` of weights and inputs, and of errors; one generator a model for stochastic rounding."""

    bits: Tensor
    error_bits: Tensor
    generators: Sequence[torch.Generator]


class _Patches(torch.autograd.Function):
    """``[K, C, H, W, n]`` to its 3x3 patches ``[K, 9 C, h w n]``, zeros around."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, stride: int) -> Tensor:
        K, C, H, W, n = ctx.shape = x.shape
        h, w = ctx.size = (H - 1) // stride + 1, (W - 1) // stride + 1
        ctx.stride = stride
        padded = F.pad(x, (0, 0, 1, 1, 1, 1))
        patches = x.new_empty(K, C, 9, h, w, n)
        for at, window in enumerate(_windows(padded, h, w, stride)):
            patches[:, :, at] = window
        return patches.view(K, 9 * C, -1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        K, C, H, W, n = ctx.shape
        parts = grad.view(K, C, 9, *ctx.size, n)
        padded = grad.new_zeros(K, C, H + 2, W + 2, n)
        for at, window in enumerate(_windows(padded, *ctx.size, ctx.stride)):
            window.add_(parts[:, :, at])
        return padded[:, :, 1:-1, 1:-1], None


def _windows(padded: Tensor, h: int, w: int, stride: int) -> list[Tensor]:
    """The nine views that a 3x3 kernel's entries multiply."""
    ends = stride * (h - 1) + 1, stride * (w - 1) + 1
    return [padded[:, :, i : i + ends[0] : stride, j : j + ends[1] : stride] for i in range(3) for j in range(3)]


@dataclass(frozen=True)
class ResNet8:
    """Three residual blocks of ``width``, 2 and 4 ``width`` channels; all convolutions are quantised.

    Batch normalisation and the last linear layer stay float32. Running statistics (mean, variance, range of every
    convolution's input) live in a dictionary beside the parameters.
    """

    channels: int = 1
    width: int = 4
    classes: int = 10

    @property
    def convolutions(self) -> dict[str, tuple[int, int, int, int]]:
        """Inputs, outputs, kernel and stride by name, in the order of `cifar_resnet`."""
        found, inputs = {"stem": (self.channels, self.width, 3, 1)}, self.width
        for at, stride in enumerate((1, 2, 2)):
            outputs = self.width * 2**at
            found[f"{at}.first"] = (inputs, outputs, 3, stride)
            found[f"{at}.second"] = (outputs, outputs, 3, 1)
            if stride > 1:
                found[f"{at}.shortcut"] = (inputs, outputs, 1, stride)
            inputs = outputs
        return found

    def init(self, generators: Sequence[torch.Generator]) -> Parameters:
        """Weights of He et al. (2015), one generator a model."""
        K, parameters = len(generators), {}
        for name, (inputs, outputs, kernel, _) in self.convolutions.items():
            fan = inputs * kernel**2
            draws = [torch.randn(outputs, fan, generator=g) for g in generators]
            parameters[f"{name}.weight"] = torch.stack(draws) * (2 / fan) ** 0.5
            parameters[f"{name}.scale"] = torch.ones(K, outputs)
            parameters[f"{name}.shift"] = torch.zeros(K, outputs)
        fan = 4 * self.width
        heads = [torch.rand(self.classes, fan, generator=g) for g in generators]
        parameters["head.weight"] = (2 * torch.stack(heads) - 1) / fan**0.5
        parameters["head.bias"] = torch.zeros(K, self.classes)
        return parameters

    def state(self, K: int) -> Parameters:
        """Running statistics before training."""
        state = {}
        for name, (_, outputs, *_) in self.convolutions.items():
            state |= {f"{name}.mean": torch.zeros(K, outputs), f"{name}.var": torch.ones(K, outputs)}
            state |= {f"{name}.low": torch.zeros(K, 1, 1, 1, 1), f"{name}.high": torch.zeros(K, 1, 1, 1, 1)}
        return state

    def logits(
        self, parameters: Parameters, state: Parameters, x: Tensor, precision: Precision, momentum: float = 0.0
    ) -> Tensor:
        """``[K, channels, H, W, n]`` to ``[K, classes, n]``.

        Args:
            parameters: of `init`, ``[K, ...]``.
            state: of `state`; changed in place where momentum is not 0.
            x: images.
            precision: bits of every model.
            momentum: weight of this batch in the running statistics: above 0 the batch's own statistics are used,
                as in training; at 0 the running ones, as in evaluation.
        """

        def layer(name: str, x: Tensor) -> Tensor:
            _, outputs, kernel, stride = self.convolutions[name]
            if momentum:
                low, high = span(x, 1)
                state[f"{name}.low"].lerp_(low, momentum)
                state[f"{name}.high"].lerp_(high, momentum)
            else:
                low, high = state[f"{name}.low"], state[f"{name}.high"]
                x = x.clamp(low, high)
            x = nearest(x, low, high, precision.bits.view(-1, 1, 1, 1, 1))
            patches = _Patches.apply(x, stride) if kernel == 3 else x[:, :, ::stride, ::stride].flatten(2)
            y = quantize_weight(parameters[f"{name}.weight"], precision.bits) @ patches
            y = quantize_error(y, precision.error_bits, precision.generators)
            mean, var, scale, shift = (
                part[f"{name}.{key}"].view(-1)
                for part, key in ((state, "mean"), (state, "var"), (parameters, "scale"), (parameters, "shift"))
            )
            y = F.batch_norm(y.view(1, len(mean), -1), mean, var, scale, shift, momentum > 0, momentum)
            size = ((side - 1) // stride + 1 for side in x.shape[2:4])
            return y.view(len(x), outputs, *size, -1)

        x = F.relu(layer("stem", x), inplace=True)
        for at in range(3):
            y = layer(f"{at}.second", F.relu(layer(f"{at}.first", x), inplace=True))
            x = F.relu(y + (layer(f"{at}.shortcut", x) if at else x), inplace=True)
        return parameters["head.weight"] @ x.flatten(2, 3).mean(2) + parameters["head.bias"][..., None]
