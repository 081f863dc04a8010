"""Exercises on power-of-two coefficients."""

from collections.abc import Callable

import torch
from torch import Tensor

from workbench.exercises import Exercise
from workbench.papers.smartdeal import bucket
from workbench.papers.smartdeal.decompose import power_of_two

NUMBERS = torch.tensor([0.0, 0.36, -0.36, 0.8, 1.5, -3.0, 1.4, 0.09, -5.9, 12.0])
COEFFICIENTS = torch.tensor([1.0, -0.5, 0.25, -0.25, 0.0, 0.0, 8.0, -2.0])
PUSHES = torch.tensor([1.0, 1.0, -1.0, 1.0, 1.0, -1.0, -1.0, -1.0])


def _power(x: Tensor, exponent: Callable[[Tensor], Tensor]) -> Tensor:
    return torch.where(x == 0, x, x.sign() * 2.0 ** exponent(x.abs().clamp(min=1e-9)))


EXERCISES = {
    "smartdeal.bits": Exercise(
        "a block of 64 channels has 192 rows of three coefficients; 216 of them are not zero and use 5 exponents. How "
        "many bits are codes, mask and an 8-bit basis?",
        4 * 216 + 576 + 72,
        "864 of codes, 576 of mask, 72 of basis: 12.2 times fewer than in FP32, and the basis is the least of it.",
        [
            (3 * 216 + 576 + 72, "the sign is missing: 3 bits tell 5 exponents apart, and one more is the sign."),
            (4 * 216 + 72, "how would you know where the zeros are? One mask bit a coefficient."),
            (4 * 216 + 576, "the basis is missing: 9 numbers of 8 bits."),
            (4 * 576 + 72, "with a mask the zeros have no code."),
            (5 * 216 + 576 + 72, "5 exponents are told apart by 3 bits, not by 4."),
        ],
    ),
    "smartdeal.power_of_two": Exercise(
        "write f(x): each entry becomes the nearest of 0 and +-2^k, nearest by |difference|, of two equally near ones "
        "the smaller; zero stays zero.",
        power_of_two,
        "the boundary lies at 1.5 times a power of two, so 0.36 becomes 0.25.",
        [
            (
                lambda x: _power(x, lambda a: a.log2().round()),
                "you rounded the logarithm: 0.36 is nearer to 0.25 than to 0.5. The boundary is 1.5 x 2^k.",
            ),
            (lambda x: _power(x, lambda a: a.log2().floor()), "you rounded down: 0.8 is nearer to 1 than to 0.5."),
            (
                lambda x: _power(x, lambda a: a.log2().floor() + (a >= 1.5 * 2 ** a.log2().floor())),
                "ties go down: 1.5 becomes 1, and 12 becomes 8.",
            ),
            (lambda x: power_of_two(x).abs(), "the sign got lost."),
        ],
        [(NUMBERS,)],
    ),
    "smartdeal.switch": Exercise(
        "write f(c, d, smallest): the coefficients after their buckets ran full in direction d (+1: up, -1: down). A "
        "step towards larger magnitude doubles, the other halves; what falls below smallest becomes 0; from 0 it goes "
        "to d x smallest.",
        bucket.switched,
        "the sign changes only by way of zero, and powers of two stay powers of two.",
        [
            (
                lambda c, d, smallest: torch.where(c == 0, d * smallest, c * 2.0**d),
                "up is towards plus: pushed up, -0.5 becomes -0.25. And what falls below smallest becomes 0.",
            ),
            (
                lambda c, d, smallest: torch.where(c == 0, d * smallest, c * 2.0 ** (d * c.sign())),
                "what falls below smallest becomes 0, or it could shrink for ever and never change its sign.",
            ),
            (
                lambda c, d, smallest: bucket.switched(c, d, smallest) * (c != 0),
                "a zero inside the mask comes back, as d x smallest.",
            ),
            (
                lambda c, d, smallest: bucket.switched(c, -d, smallest),
                "the direction is the step's, not the gradient's: +1 moves up.",
            ),
        ],
        [(COEFFICIENTS, PUSHES, 0.25)],
    ),
}
