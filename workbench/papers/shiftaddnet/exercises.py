"""Exercises on shifts and additions."""

from collections.abc import Callable

import torch
from torch import Tensor

from workbench.exercises import Exercise
from workbench.papers.shiftaddnet import shift

WEIGHTS = torch.tensor([0.36, -0.36, 0.8, 0.0, -0.7, 0.001, 1.7, 0.3])
SEEN = torch.tensor([[0.5, 1.0, -2.0], [0.0, 3.0, 0.25], [-1.0, 0.5, 0.5], [2.0, -0.5, 1.0]])
TEMPLATES = torch.tensor([[1.0, -1.0, 0.5], [0.2, 0.4, -0.6]])
ASKED = torch.tensor([[1.0, -0.5], [0.3, 0.2], [-0.7, 1.0], [0.1, 0.4]])


def _clipped(w: Tensor, low: int, exponent: Callable[[Tensor], Tensor]) -> Tensor:
    return w.sign() * 2.0 ** exponent(w.abs().clamp(min=1e-9)).clamp(low, 0)


EXERCISES = {
    "shiftaddnet.saving": Exercise(
        "8-bit fixed point: multiplication 0.2 pJ, addition 0.03, shift 0.024. A convolution becomes a shift layer and "
        "an adder layer of its size. How many per cent of the arithmetic's energy are saved?",
        100 * (1 - (0.024 + 0.03 + 2 * 0.03) / (0.2 + 0.03)),
        "0.114 pJ in place of 0.23: a half. In 32 bits it would be nine tenths.",
        [
            (100 * (1 - (0.024 + 2 * 0.03) / 0.2), "the products of both have to be summed: that is an addition each."),
            (
                100 * (1 - (0.024 + 0.03 + 0.03) / 0.23),
                "an adder layer has two additions for a MAC: a difference, and a sum.",
            ),
            (100 * (1 - (0.024 + 0.03) / 0.23), "that is the shift layer alone; behind it stands an adder layer."),
            (100 * (0.024 + 0.03 + 2 * 0.03) / 0.23, "that is what is left; the question is what is saved."),
        ],
    ),
    "shiftaddnet.to_shift": Exercise(
        "write f(w, low): each entry becomes the signed power of two whose exponent is nearest to log2 |w|, exponents "
        "from low to 0; zero stays zero.",
        shift.round_power,
        "by exponent the boundary lies at the root of two: 0.36 becomes 0.5.",
        [
            (
                lambda w, low: shift.round_power(w, low, "linear"),
                "you took the nearest by value: 0.36 is nearer to 0.25. By exponent it is nearer to 0.5.",
            ),
            (lambda w, low: _clipped(w, low, lambda a: a.log2().floor()), "you rounded down; round to the nearest."),
            (lambda w, low: shift.round_power(w, low).abs(), "the sign got lost."),
            (
                lambda w, low: w.sign() * 2.0 ** w.abs().clamp(min=1e-9).log2().round(),
                "exponents end at low and at 0: 1.7 becomes 1, and 0.001 becomes 2^low.",
            ),
        ],
        [(WEIGHTS, -7)],
    ),
    "shiftaddnet.template_gradient": Exercise(
        "an adder layer answers y = -sum |x - w| to patches x [P, K] with templates w [O, K]; g [P, O] arrives at y. "
        "Write f(x, w, g): the gradient of w in the paper's full-precision form [O, K], before it is scaled.",
        lambda x, w, g: g.T @ x - w * g.sum(0)[:, None],
        "one product of matrices, and no tensor of size P x O x K.",
        [
            (
                lambda x, w, g: (g[:, :, None] * (x[:, None] - w).sign()).sum(0),
                "that is the true gradient, signs alone; the paper takes x - w itself.",
            ),
            (
                lambda x, w, g: (g[:, :, None] * (x[:, None] - w).clamp(-1, 1)).sum(0),
                "clipping is for the gradient of x; that of w is not clipped.",
            ),
            (lambda x, w, g: w * g.sum(0)[:, None] - g.T @ x, "the sign: a larger answer moves w towards x."),
            (lambda x, w, g: g.T @ x, "that is a convolution's; the template itself must be taken off, times sum g."),
        ],
        [(SEEN, TEMPLATES, ASKED)],
    ),
}
