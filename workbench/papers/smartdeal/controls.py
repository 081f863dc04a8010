"""SmartDeal's format, and what it must beat: simpler formats at the same number of stored bits.

Each control takes the weights of some layers and a budget of bits for all of them, keeps as many weights as fit, and
returns what is left of the weights with the bits that are written (`Stored`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from workbench import WorkbenchError
from workbench.papers.smartdeal.decompose import BASIS, Decomposition, from_blocks, power_of_two, to_blocks
from workbench.papers.smartdeal.storage import OFFSET, BitWriter, code_width, pack, stored_bits

EXPONENTS = 8
"""Powers of two a layer may use: with the sign 4 bits, as in the paper."""
CLIPS = (1.0, 0.85, 0.7)
"""Shares of a filter's largest weight that are tried as the end of its uniform grid."""


@dataclass(frozen=True)
class Stored:
    """Weights as they are computed with, the bytes they are read back from, and how many ``bits`` of those are used.

    ``zeros`` is the share of stored numbers (coefficients, or weights) that are zero.
    """

    weights: list[Tensor]
    packed: bytes
    bits: int
    zeros: float


def smartdeal(layers: Sequence[Decomposition]) -> Stored:
    """Decomposed layers."""
    zeros = share_of_zeros([layer.coefficients for layer in layers])
    return Stored([layer.weight for layer in layers], pack(layers), stored_bits(layers), zeros)


def share_of_zeros(tensors: Sequence[Tensor]) -> float:
    """Over all tensors together."""
    return 1 - sum(int(t.count_nonzero()) for t in tensors) / sum(t.numel() for t in tensors)


Control = Callable[[Sequence[Tensor], int], Stored]


def largest(scores: Sequence[Tensor], count: int) -> list[Tensor]:
    """Masks of the ``count`` largest entries over all tensors together, exactly as many, ties by position."""
    flat = torch.cat([score.flatten() for score in scores])
    kept = torch.zeros(len(flat), dtype=torch.bool)
    kept[flat.argsort(descending=True, stable=True)[:count]] = True
    return [part.view_as(score) for part, score in zip(kept.split([s.numel() for s in scores]), scores, strict=True)]


def _fits(bits: int, head: int, each: int, scores: Sequence[Tensor]) -> int:
    """How many entries of ``each`` bits fit behind the ``head``; not more than have a score above 0."""
    if bits < head:
        raise WorkbenchError(f"{bits} bits do not even hold the mask and scales ({head} bits): raise the budget")
    return min((bits - head) // each, sum(int((score > 0).sum()) for score in scores))


def _grid(weight: Tensor, exponents: int) -> tuple[Tensor, int]:
    """A layer's powers of two, so many at most, and the exponent of the largest."""
    top = int(torch.frexp(power_of_two(weight.abs().max())).exponent) - 1
    return power_of_two(weight, 2.0 ** (top - exponents + 1)), top


def power_of_two_pruned(weights: Sequence[Tensor], bits: int) -> Stored:
    """The largest weights, each in units of its layer's deviation, as powers of two: SmartDeal with B = I.

    One mask bit a weight, 4 bits a kept one (sign and one of 8 exponents), a byte a layer for its largest exponent.
    """
    out, width = BitWriter(), code_width(EXPONENTS)
    grids = [_grid(w, EXPONENTS) for w in weights]
    scores = [w.abs() / w.std() * (grid != 0) for w, (grid, _) in zip(weights, grids, strict=True)]
    head = sum(w.numel() for w in weights) + 8 * len(weights)
    found = []
    for (grid, top), kept in zip(grids, largest(scores, _fits(bits, head, width, scores)), strict=True):
        values = grid[kept]
        out.write([top + OFFSET], 8)
        out.write(kept.long(), 1)
        out.write((values < 0).long(), 1)
        out.write(top + 1 - torch.frexp(values).exponent.long(), width - 1)
        found.append(grid * kept)
    return Stored(found, out.bytes(), out.bits, share_of_zeros(found))


def row_pruned(weights: Sequence[Tensor], bits: int) -> Stored:
    """Rows of three with the largest L1 norm, in units of the layer's deviation, as powers of two.

    A row is what SmartDeal removes from a 3x3 convolution; here B = I. The mask has one bit a ROW, and what that saves
    keeps more rows. An entry takes 4 bits: sign, and zero or one of 7 exponents.
    """
    out, width = BitWriter(), code_width(EXPONENTS)
    rows = [to_blocks(w) for w in weights]
    grids = [_grid(w, EXPONENTS - 1) for w in rows]
    scores = [w.abs().sum(-1) / w[w != 0].std() * (grid != 0).any(-1) for w, (grid, _) in zip(rows, grids, strict=True)]
    head = sum(s.numel() for s in scores) + 8 * len(weights)
    found = []
    masks = largest(scores, _fits(bits, head, width * BASIS, scores))
    for weight, (grid, top), kept in zip(weights, grids, masks, strict=True):
        values = grid[kept].flatten()
        out.write([top + OFFSET], 8)
        out.write(kept.long(), 1)
        out.write((values < 0).long(), 1)
        out.write(torch.where(values == 0, 0, top + 2 - torch.frexp(values).exponent.long()), width - 1)
        found.append(from_blocks(grid * kept[..., None], tuple(weight.shape)))
    return Stored(found, out.bytes(), out.bits, share_of_zeros(found))


def uniform_pruned(bits_each: int) -> Control:
    """The largest weights on a uniform grid, symmetric, with one 16-bit scale a filter.

    Of three ends of the grid (`CLIPS`) each filter takes the one with the least error. Where all weights fit into the
    budget without a mask, there is none.
    """

    def control(weights: Sequence[Tensor], bits: int) -> Stored:
        out, total = BitWriter(), sum(w.numel() for w in weights)
        grids = [_uniform(w, bits_each) for w in weights]
        scales = 16 * sum(len(w) for w in weights)
        if scales + bits_each * total <= bits:
            masks: list[Tensor | None] = [None] * len(weights)
        else:
            scores = [w.abs() / w.std() * (codes != 0) for w, (codes, _) in zip(weights, grids, strict=True)]
            masks = [*largest(scores, _fits(bits, total + scales, bits_each, scores))]
        found = []
        for weight, (codes, scale), kept in zip(weights, grids, masks, strict=True):
            out.write(scale.flatten().half().view(torch.int16).long() & 0xFFFF, 16)
            if kept is not None:
                out.write(kept.long(), 1)
            out.write((codes if kept is None else codes[kept]).long() + 2 ** (bits_each - 1) - 1, bits_each)
            value = codes * scale
            found.append((value if kept is None else value * kept).view_as(weight))
        return Stored(found, out.bytes(), out.bits, share_of_zeros(found))

    return control


def _uniform(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Integers of the weight's shape, and the scale of every filter ``[out, 1, ...]`` in half precision."""
    steps = 2 ** (bits - 1) - 1
    end = weight.abs().amax(tuple(range(1, weight.ndim)), keepdim=True)
    best_error, best_scale = None, None
    for clip in CLIPS:
        scale = (clip * end / steps).clamp(min=2.0**-14).half().float()
        error = ((weight / scale).round().clamp(-steps, steps) * scale - weight).square().flatten(1).sum(1)
        error = error.view_as(end)
        better = torch.ones_like(error, dtype=torch.bool) if best_error is None else error < best_error
        best_scale = scale if best_scale is None else torch.where(better, scale, best_scale)
        best_error = error if best_error is None else torch.where(better, error, best_error)
    return (weight / best_scale).round().clamp(-steps, steps), best_scale


CONTROLS: dict[str, Control] = {
    "power of two": power_of_two_pruned,
    "power of two, rows": row_pruned,
    "uniform 4 bit": uniform_pruned(4),
    "uniform 3 bit": uniform_pruned(3),
}
"""By name."""
