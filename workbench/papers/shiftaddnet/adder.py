"""Adder layers: the response of a filter is minus the L1 distance between it and the patch it sees.

ShiftAddNet section 3.2, after AdderNet (Chen et al. 2020). Both gradients differ from autograd's, which would be signs:

* ``dW = sum g (x - w)``, full precision and not clipped; then each layer's is scaled to the length ``rate sqrt(numel)``,
  the local learning rate, which momentum and weight decay act upon later;
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
    """Patches as rows ``[P, inputs k k]``; what padding adds is zeros, and they count."""
    return F.unfold(x, kernel, padding=padding, stride=stride).transpose(1, 2).flatten(0, 1)


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
    """Minus `distances`, with AdderNet's gradients."""

    @staticmethod
    def forward(ctx: Any, patches: Tensor, filters: Tensor, rate: float | None) -> Tensor:
        ctx.save_for_backward(patches, filters)
        ctx.rate = rate
        return distances(patches, filters).neg_()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        patches, filters = ctx.saved_tensors
        grad, dx, dw = grad.contiguous(), None, None
        if ctx.needs_input_grad[0]:
            scratch, parts = _tiles(patches, filters)
            dx = torch.empty_like(patches)
            for part in parts:
                tile = torch.sub(filters, patches[part, None], out=scratch[: part.stop - part.start]).clamp_(-1, 1)
                torch.bmm(grad[part, None], tile, out=dx[part, None])
        if ctx.needs_input_grad[1]:
            dw = grad.T @ patches - filters * grad.sum(0)[:, None]
            if ctx.rate is not None:
                dw *= ctx.rate * dw.numel() ** 0.5 / dw.norm().clamp(min=1e-12)  # no gradient stays none
        return dx, dw, None


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
        kernel, stride, padding = self.kernel_size[0], self.stride[0], self.padding[0]
        side = [(length + 2 * padding - kernel) // stride + 1 for length in x.shape[2:]]
        rows = _Adder.apply(_patches(x, kernel, stride, padding), self.weight.flatten(1), self.rate)
        return rows.view(len(x), *side, self.out_channels).permute(0, 3, 1, 2).contiguous()

    def operations(self, x: Tensor, out: Tensor) -> tuple[Operations, Operations, Operations]:
        """Of forward, dX and dW: two additions for a MAC forward; backward multiplies."""
        macs, size = float(out.numel() * self.weight[0].numel()), self.weight.numel()
        dx = Operations(multiplies=macs, adds=2 * macs, comparisons=2 * macs)
        dw = Operations(multiplies=macs + size, adds=macs + out.numel() + size)
        return Operations(adds=2 * macs), dx, dw
