"""SmartDeal's alternation for one block after the other, in numpy's own least squares and logarithms."""

import math

import numpy as np

RCOND = 1e-9
"""What is singular up to rounding counts as singular; numpy's own limit lies within the rounding of a 3x3 product."""


def nearest_power(value):
    """Both neighbours are tried; of two equally near ones the smaller is taken."""
    if value == 0:
        return 0.0
    low = 2.0 ** math.floor(math.log2(abs(value)))
    size = min((low / 2, low, 2 * low), key=lambda p: (abs(p - abs(value)), p))
    return math.copysign(min(size, 32.0), value)


def decompose_block(w, threshold, rows, iterations):
    """Coefficients and basis of one block [R, 3] in float64."""
    real, basis, before = w.copy(), np.eye(3), None
    for _ in range(iterations):
        c = np.vectorize(nearest_power)(real)
        if before is not None and np.linalg.norm(c - before) <= 1e-10:
            break
        before = c
        basis = np.linalg.lstsq(c, w, rcond=RCOND)[0]
        real = np.linalg.lstsq(basis.T, w.T, rcond=RCOND)[0].T
        if rows:
            real[np.abs(real).sum(1) < 5 * threshold] = 0
        real[np.abs(real) < threshold] = 0
    c = np.vectorize(nearest_power)(real)
    return c, np.linalg.lstsq(c, w, rcond=RCOND)[0]


def primes(n):
    """Prime factors, smallest first."""
    found, divisor = [], 2
    while n > 1:
        while n % divisor == 0:
            found.append(divisor)
            n //= divisor
        divisor += 1
    return found


def official_height(rows):
    """Rows of a block: the product of the largest prime factors, of as many of them as make at most 192.

    Where not even the largest prime is at most 192, it is the height.
    """
    factors = primes(rows)
    products = [math.prod(factors[dropped:]) for dropped in range(len(factors))] or [1]
    return next((product for product in products if product <= 192), products[-1])
