"""Adder layers: the response of a filter is minus the L1 distance between it and the patch it sees.

ShiftAddNet section 3.2, after AdderNet (Chen et al. 2020). Both gradients differ from autograd's, which would be signs:

* ``dW = sum g (x - w)``, full precision and not clipped; then each layer's is scaled to the length
  ``rate sqrt(numel)``, the local learning rate, which momentum and weight decay act upon later;
* ``dX = sum g clamp(w - x, -1, 1)``.

The forward pass has no multiplication. The backward pass has: both gradients are sums of products.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workbench.cost import Operations

RATE = 0.2
"""AdderNet's eta."""
SCRATCH = 600_000
"""Numbers in flight (2.4 MB): patches x filters x inputs of a tile, which stay in a core's cache."""


def _patches(x: Tensor, kernel: int, stride: int, padding: int) -> Tensor:
    """Patches as rows ``[P, k k inputs]``; what padding adds is zeros, and they count.

    Channels come last, so that a row of a patch is one piece of memory: twice as fast as `F.unfold`.
    """
    padded = F.pad(x.permute(0, 2, 3, 1), [0, 0, *[padding] * 4])
    windows = padded.unfold(1, kernel, stride).unfold(2, kernel, stride)  # [n, h', w', inputs, k, k]
    return windows.permute(0, 1, 2, 4, 5, 3).reshape(-1, kernel * kernel * x.shape[1])


def _unpatch(rows: Tensor, shape: torch.Size, kernel: int, stride: int, padding: int) -> Tensor:
    """The adjoint of `_patches`: every pixel of ``shape`` sums what its patches hold for it."""
    n, channels, *sides = shape
    out = rows.new_zeros(n, *(side + 2 * padding for side in sides), channels)
    high, wide = ((side + 2 * padding - kernel) // stride + 1 for side in sides)
    taps = rows.view(n, high, wide, kernel, kernel, channels)
    for i in range(kernel):
        for j in range(kernel):
            out[:, i : i + stride * high : stride, j : j + stride * wide : stride] += taps[:, :, :, i, j]
    return out[:, padding : padding + sides[0], padding : padding + sides[1]].permute(0, 3, 1, 2)


def _tiles(patches: Tensor, filters: Tensor) -> tuple[Tensor, list[slice]]:
    """Memory for differences ``[T, outputs, inputs k k]``, and slices of at most T patches."""
    rows = len(patches) if patches.is_meta else min(len(patches), max(1, SCRATCH // filters.numel()))
    parts = [slice(start, min(start + rows, len(patches))) for start in range(0, len(patches), rows)]
    return filters.new_empty(rows, *filters.shape), parts


def distances(patches: Tensor, filters: Tensor) -> Tensor:
    """L1 distances ``[P, O]`` of rows ``[P, K]`` and ``[O, K]``, without gradient.

    ``sum |x - w| = 2 sum max(x, w) - sum x - sum w`` takes two passes over memory instead of three.
    """
    scratch, parts = _tiles(patches, filters)
    larger = filters.new_empty(len(patches), len(filters))
    for part in parts:
        tile = scratch[: part.stop - part.start]
        torch.sum(torch.maximum(patches[part, None], filters, out=tile), -1, out=larger[part])
    return larger.add_(larger).sub_(patches.sum(1, keepdim=True)).sub_(filters.sum(1))


class _Adder(torch.autograd.Function):
    """Minus `distances` of every patch of an image, with AdderNet's gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, padding: int, rate: float | None) -> Tensor:
        kernel = weight.shape[2]
        patches, filters = _patches(x, kernel, stride, padding), weight.permute(0, 2, 3, 1).flatten(1)
        ctx.save_for_backward(patches, filters)
        ctx.shape, ctx.window, ctx.rate = x.shape, (kernel, stride, padding), rate
        high, wide = ((side + 2 * padding - kernel) // stride + 1 for side in x.shape[2:])
        out = distances(patches, filters).neg_().view(len(x), high, wide, len(weight))
        return out.permute(0, 3, 1, 2).contiguous()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        patches, filters = ctx.saved_tensors
        grad, dx, dw = grad.permute(0, 2, 3, 1).reshape(-1, len(filters)), None, None
        if ctx.needs_input_grad[0]:
            scratch, parts = _tiles(patches, filters)
            rows = torch.empty_like(patches)
            for part in parts:
                tile = torch.sub(filters, patches[part, None], out=scratch[: part.stop - part.start]).clamp_(-1, 1)
                torch.bmm(grad[part, None], tile, out=rows[part, None])
            dx = _unpatch(rows, ctx.shape, *ctx.window)
        if ctx.needs_input_grad[1]:
            dw = grad.T @ patches - filters * grad.sum(0)[:, None]
            if ctx.rate is not None:
                dw *= ctx.rate * dw.numel() ** 0.5 / dw.norm().clamp(min=1e-12)  # no gradient stays none
            kernel = ctx.window[0]
            dw = dw.view(len(filters), kernel, kernel, -1).permute(0, 3, 1, 2)
        return dx, dw, None, None, None


class Adder2d(nn.Conv2d):
    """A layer of adders, ``[n, inputs, h, w]`` to ``[n, outputs, h', w']``; templates start from N(0, 1).

    Args:
        inputs: channels.
        outputs: templates.
        kernel: side of a template.
        stride: of the windows.
        padding: zeros around the image, which count as inputs.
        rate: eta of the local learning rate; None is without.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int = 0, rate: float | None = RATE
    ) -> None:
        super().__init__(inputs, outputs, kernel, stride, padding, bias=False)
        nn.init.normal_(self.weight)
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Equation 2 of AdderNet."""
        return _Adder.apply(x, self.weight, self.stride[0], self.padding[0], self.rate)

    def training_operations(self, x: Tensor, out: Tensor) -> tuple[Operations, Operations, Operations]:
        """Of forward, dX and dW: two additions for a MAC forward; backward multiplies."""
        macs, size = float(out.numel() * self.weight[0].numel()), self.weight.numel()
        dx = Operations(multiplies=macs, adds=2 * macs, comparisons=2 * macs)
        dw = Operations(multiplies=macs + size, adds=macs + out.numel() + size)
        return Operations(adds=2 * macs), dx, dw
