"""SmartDeal's decomposition: a weight matrix as sparse power-of-two coefficients times a small basis, ``W = Ce B``.

Chen, Zhao, Wang, Xu, You, Li, Fu, Lin, Wang: "SmartDeal: Re-Modeling Deep Network Weights for Efficient Inference
and Training", TNNLS 2022, after "SmartExchange" (Zhao et al., ISCA 2020).

A layer is cut into M blocks, each a matrix ``[R, 3]`` with a basis ``[3, 3]`` of its own. All blocks are solved at
once; each goes exactly the way it would go alone, for a block that has converged is a fixed point.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor
from torch.nn import functional as F

from workbench import WorkbenchError, check_number

BASIS = 3
"""Rows and columns of a basis, and columns of a block."""
ROWS = 192
"""A block has at most so many rows: 64 input channels of a 3x3 convolution."""
LARGEST = 32.0
"""Coefficients are clipped to this magnitude."""
ROW_FACTOR = 5
"""A row goes when its L1 norm is below so many thresholds."""
TOLERANCE = 1e-10
SINGULAR = 1e12
"""Beyond this condition a 3x3 matrix counts as singular, and the smallest solution is taken, as lstsq does."""
MANTISSA = {torch.float32: 23, torch.float64: 52}


# --- a layer as blocks -------------------------------------------------------------------------------------------


def applies(shape: tuple[int, ...]) -> bool:
    """Is a weight of this shape decomposed? Linear layers, 1x1 and 3x3 convolutions are; the rest stays as it is."""
    return len(shape) == 2 or (len(shape) == 4 and tuple(shape[2:]) in ((1, 1), (3, 3)))


def has_rows(shape: tuple[int, ...]) -> bool:
    """May whole rows be removed? Only of 3x3 convolutions, where a row is one row of one channel's kernel."""
    return len(shape) == 4 and tuple(shape[2:]) == (3, 3)


def block_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """``(blocks a filter, rows R, zeros that pad a filter)`` of a weight.

    A filter (a row of a linear layer) has ``ceil(n / 3)`` rows of three, for a 3x3 convolution one a channel and
    kernel row; they are cut into as few blocks of at most `ROWS` as will do, all of the same height. The code cuts
    many widths that are no power of two into more blocks, see `code_block_shape`: of a 3x3 convolution with 160 or 320
    input channels it makes 4 or 8 a filter, this 3 or 5, so that this stores fewer bases.

    Raises:
        WorkbenchError: for a kernel that is not decomposed.
    """
    if not applies(shape):
        raise WorkbenchError(f"a weight of shape {tuple(shape)} is not decomposed: give a linear, 1x1 or 3x3 layer")
    size = torch.Size(shape[1:]).numel()
    rows = ceil(size / BASIS)
    blocks = ceil(rows / ROWS)
    height = ceil(rows / blocks)
    return blocks, height, blocks * height * BASIS - size


CODE_ROWS = {1280: 429, 2048: 684, 4096: 1368}
"""Rows of a filter of so many inputs where the code's table of vectors pads it by more than the next multiple of 3."""


def code_block_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """`block_shape` as the released code cuts (``factor_long``): a filter's rows, without their smallest prime factors.

    These are divided out one by one until at most `ROWS` are left; where a larger prime is left, it is the height. So
    512 inputs are 1 x 171 rows, 1024 are 2 x 171, 1280 are 3 x 143, 2048 are 4 x 171, and 25,088 are one block of 8363.
    Beside today's results, which were made with `block_shape`. Left out are two presets: 8364 rows are cut into 41 x
    204, and of 1638 rows, cut into 9 x 171, the code loses the last 99. Filters of fewer than three rows it transposes.

    Raises:
        WorkbenchError: for a kernel that is not decomposed.
    """
    block_shape(shape)
    size = torch.Size(shape[1:]).numel()
    total = ceil(size / BASIS) if has_rows(shape) else CODE_ROWS.get(size, ceil(size / BASIS))
    height = total
    while height > ROWS:
        factor = next(f for f in range(2, height + 1) if height % f == 0)
        if factor == height:
            break
        height //= factor
    return total // height, height, total * BASIS - size


def to_blocks(weight: Tensor) -> Tensor:
    """``[out, ...]`` to blocks ``[out x blocks, R, 3]``, padded with zeros."""
    _, height, padding = block_shape(weight.shape)
    return F.pad(weight.flatten(1), (0, padding)).reshape(-1, height, BASIS)


def from_blocks(blocks: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The weight of that shape, padding cut off."""
    _, _, padding = block_shape(shape)
    filters = blocks.reshape(shape[0], -1)
    return filters[:, : filters.shape[1] - padding].reshape(shape)


# --- the steps ---------------------------------------------------------------------------------------------------


def power_of_two(x: Tensor, smallest: float = 0.0) -> Tensor:
    """The nearest of 0 and ``+-2^k``, of two that are equally near the smaller; magnitude at most `LARGEST`.

    Nearest in the LINEAR domain: 0.36 becomes 0.25, for 0.375 is half-way to 0.5 (by logarithms it would be 0.5).
    With ``smallest``, a power of two, none is smaller: magnitudes up to half of it become 0. NaN stays NaN.
    """
    if x.dtype not in MANTISSA:
        raise WorkbenchError(f"powers of two need float32 or float64 numbers, not {x.dtype}")
    bits = MANTISSA[x.dtype]
    # A float's bits are sign, exponent and fraction f, for 2^k (1 + f). Adding just under one half to the fraction
    # carries into the exponent exactly where f > 1/2; then the fraction is cut off.
    as_integer = x.view(torch.int32 if bits == 23 else torch.int64)
    rounded = ((as_integer + (2 ** (bits - 1) - 1)) & -(2**bits)).view(x.dtype)
    if smallest:
        size = rounded.abs().clamp(min=smallest).copysign(x)
        rounded = torch.where(x.abs() > smallest / 2, size, 0.0)
    return rounded.clamp(-LARGEST, LARGEST).masked_fill_(x.isnan(), torch.nan)


def inverse(a: Tensor) -> Tensor:
    """Inverses of ``[M, 3, 3]``, pseudo-inverses where there are none."""
    found, info = torch.linalg.inv_ex(a)
    size = torch.linalg.matrix_norm(a) * torch.linalg.matrix_norm(found)
    bad = (info != 0) | ~(size < SINGULAR)
    if bad.any():
        found[bad] = torch.linalg.pinv(a[bad], rtol=1 / SINGULAR)
    return found


def fit_basis(coefficients: Tensor, blocks: Tensor) -> Tensor:
    """The bases ``[M, 3, 3]`` that minimise ``|Ce B - W|`` for these coefficients: no other B has a smaller error."""
    transposed = coefficients.mT
    return inverse(transposed @ coefficients) @ (transposed @ blocks)


def fit_coefficients(basis: Tensor, blocks: Tensor) -> Tensor:
    """The real coefficients ``[M, R, 3]`` that minimise ``|Ce B - W|`` for these bases."""
    return (inverse(basis).mT @ blocks.mT).mT  # columns in one piece, see `alternate`


def sparsify(coefficients: Tensor, threshold: Tensor | float, rows: bool) -> Tensor:
    """Zero whole rows whose L1 norm is below ``5 threshold`` (where ``rows``), then all entries below ``threshold``."""
    size = coefficients.abs()
    kept = size >= threshold
    if rows:
        kept &= size.sum(-1, keepdim=True) >= ROW_FACTOR * threshold
    return coefficients * kept


def alternate(
    blocks: Tensor, threshold: float, rows: bool = False, iterations: int = 30, smallest: float = 0.0
) -> Iterator[tuple[Tensor, Tensor]]:
    """Quantise Ce, refit B, refit Ce, sparsify, and again (SmartExchange, algorithm 1, as the code has it).

    Yields coefficients ``[M, R, 3]`` (zero or powers of two) and the bases fitted to them, once an iteration and once
    after the last: ``iterations`` of 30 make up to 31 pairs, as ``decompose_iternum`` of 31 does in the code. The first
    pair is dense: entries are zeroed after a fit of Ce, so errors compare only between
    pairs of equal sparsity. The error need NOT fall from pair to pair, since quantising and zeroing are no fits.

    Args:
        blocks: ``[M, R, 3]``.
        threshold: below it a coefficient is zeroed.
        rows: remove whole rows too.
        iterations: at most; fewer where no coefficient changes any more.
        smallest: the smallest magnitude of a coefficient, see `power_of_two`.
    """
    check_number("threshold", threshold, 0)
    check_number("iterations", iterations, 0, whole=True)
    if blocks.ndim != 3 or blocks.shape[-1] != BASIS or not blocks.isfinite().all():
        raise WorkbenchError(f"blocks of shape {tuple(blocks.shape)} must be finite numbers [M, R, {BASIS}]")
    blocks = blocks.mT.contiguous().mT  # columns in one piece of memory: sums over rows of three take a tenth
    real, before = blocks, None
    for _ in range(iterations + 1):
        coefficients = power_of_two(real, smallest)
        if before is not None and (coefficients - before).norm() <= TOLERANCE:
            return
        basis = fit_basis(coefficients, blocks)
        yield coefficients, basis
        real, before = sparsify(fit_coefficients(basis, blocks), threshold, rows), coefficients


# --- a layer's decomposition -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Decomposition:
    """A layer as ``coefficients [M, R, 3]`` and ``basis [M, 3, 3]``; ``shape`` is the weight's."""

    coefficients: Tensor
    basis: Tensor
    shape: tuple[int, ...]

    @property
    def weight(self) -> Tensor:
        """What the layer multiplies by: ``Ce B``, as a weight."""
        return from_blocks(self.coefficients @ self.basis, self.shape)


def decompose(
    weight: Tensor, threshold: float, rows: bool = False, iterations: int = 30, smallest: float = 0.0
) -> Decomposition:
    """The last pair of `alternate` for a layer's weight, its basis in 8 bits; rows go only where `has_rows`.

    Solved in float64: the normal equations square the condition of Ce.
    """
    blocks = to_blocks(weight.detach().double())
    found = alternate(blocks, threshold, rows and has_rows(weight.shape), iterations, smallest)
    ((coefficients, basis),) = deque(found, maxlen=1)
    coefficients = coefficients.to(weight.dtype).contiguous()
    return Decomposition(coefficients, eight_bits(basis.to(weight.dtype)), tuple(weight.shape))


def basis_step(basis: Tensor) -> int:
    """Exponent of the step between 8-bit numbers for a layer's bases: the least with every entry within 127 steps."""
    mantissa, exponent = torch.frexp(basis.abs().max() / 127)
    return int(exponent) - int(mantissa == 0.5) if mantissa else -126


def eight_bits(basis: Tensor) -> Tensor:
    """The nearest 8-bit integers times a power of two, one for the layer.

    The papers count 8 bits an entry and do not say how they come about; this is our choice. Every product of a
    coefficient and such an entry is then a shifted 8-bit integer.
    """
    step = 2.0 ** basis_step(basis)
    return (basis / step).round().clamp(-127, 127) * step
